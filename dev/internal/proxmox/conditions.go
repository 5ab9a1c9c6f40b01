package proxmox

// Condition types.
const (
	// ProxmoxAvailable of a ProxmoxCluster tells whether Proxmox can be reached.
	ProxmoxAvailable = "ProxmoxAvailable"
	// VirtualMachineProvisioned of a ProxmoxMachine tells how far its virtual machine has come. The
	// provider also uses its reason as the state from which it goes on.
	VirtualMachineProvisioned = "VirtualMachineProvisioned"
)

// Reasons of ProxmoxAvailable.
const (
	ProxmoxUnreachable          = "ProxmoxUnreachable"
	CredentialsNotFound         = "CredentialsNotFound"
	MissingControlPlaneEndpoint = "MissingControlPlaneEndpoint"
)

// Reasons of VirtualMachineProvisioned, in the order in which a machine goes through them, and those
// of failures. WaitingForDiskReconciliation, which comes second, is over before anybody could see it.
const (
	Cloning                               = "Cloning"
	WaitingForStaticIPAllocation          = "WaitingForStaticIPAllocation"
	WaitingForBootstrapDataReconciliation = "WaitingForBootstrapDataReconciliation"
	WaitingForVMPowerUp                   = "WaitingForVMPowerUp"
	WaitingForClusterAPIMachineAddresses  = "WaitingForClusterAPIMachineAddresses"
	WaitingForCloudInit                   = "WaitingForCloudInit"
	WaitingForBootstrapReady              = "WaitingForBootstrapReady"

	CloningFailed     = "CloningFailed"
	PoweringOnFailed  = "PoweringOnFailed"
	VMProvisionFailed = "VMProvisionFailed"
)
