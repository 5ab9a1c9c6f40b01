package datacenter

import (
	"bytes"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"github.com/siderolabs/talos/pkg/machinery/config/machine"
	"github.com/siderolabs/talos/pkg/machinery/constants"
)

// guest is what user data make of a virtual machine.
type guest struct {
	kind           guestKind
	hostname       string
	kubelet        string // version of the kubelet, with the v
	providerID     bool   // the Node gets its provider id
	labels         map[string]string
	caCert, caKey  []byte // of the Kubernetes API; workers have no key
	initsCluster   bool   // kubeadm init, or the Talos machine type init
	problem        string // why it never gets anywhere
	left           bool   // has left etcd for good
	schedulesPlain bool   // a control-plane machine without the taint
}

type guestKind int

const (
	kubeadm guestKind = iota
	talos
)

// nocloud is the platform of Talos on Proxmox: the image is the disk, so nothing is installed.
type nocloud struct{}

func (nocloud) String() string        { return "nocloud" }
func (nocloud) RequiresInstall() bool { return false }
func (nocloud) InContainer() bool     { return false }

// newGuest reads the user data. What real machines choke on becomes a problem of the guest, and no
// error: nobody tells the provider.
func newGuest(spec Spec, boot Boot) guest {
	if isCloudInit(boot.UserData) {
		script := scriptOf(boot.UserData)
		return guest{
			kind: kubeadm, hostname: spec.Key.Name, kubelet: boot.KubernetesVersion,
			initsCluster: strings.Contains(script, "kubeadm init --config"),
			// The templates of the Proxmox provider hand the id to the kubelet.
			providerID: boot.ProviderIDInMetadata || strings.Contains(script, "provider-id"),
		}
	}
	g := guest{kind: talos, hostname: spec.Key.Name}
	config, err := configloader.NewFromBytes(boot.UserData)
	if err == nil && config.Machine() == nil {
		err = fmt.Errorf("no machine section")
	}
	if err == nil {
		_, err = config.Validate(nocloud{})
	}
	if err != nil {
		g.problem = "Talos refuses its machine configuration: " + err.Error()
		return g
	}
	if h := config.NetworkHostnameConfig(); h != nil && h.Hostname() != "" {
		g.hostname = h.Hostname()
	}
	_, g.kubelet, _ = strings.Cut(afterLast(config.Machine().Kubelet().Image(), "/"), ":")
	g.labels = config.Machine().NodeLabels()
	// Without a cloud controller that reads the metadata, or the flag, a Talos node has no provider id.
	// Talos turns its own setting into the same argument of the kubelet that people give by hand.
	args := config.Machine().Kubelet().ExtraArgs()
	_, flag := args["provider-id"]
	external := config.Cluster().ExternalCloudProvider().Enabled() || slices.Contains(args["cloud-provider"], "external")
	g.providerID = flag || boot.ProviderIDInMetadata && external
	g.schedulesPlain = config.Cluster().ScheduleOnControlPlanes()
	g.initsCluster = config.Machine().Type() == machine.TypeInit
	if config.Machine().Type().IsControlPlane() != spec.ControlPlane {
		g.problem = fmt.Sprintf("its Talos machine type is %s", config.Machine().Type())
	}
	if ca := config.Cluster().IssuingCA(); ca != nil {
		g.caCert, g.caKey = ca.Crt, ca.Key
	}
	return g
}

// isCloudInit tells cloud-init (and Ignition) from a Talos machine configuration.
func isCloudInit(data []byte) bool {
	data = bytes.TrimSpace(data)
	for _, start := range []string{"#cloud-config", "## template: jinja", "Content-Type: multipart", "#!", "{"} {
		if bytes.HasPrefix(data, []byte(start)) && !bytes.HasPrefix(data, []byte("#!talos")) {
			return true
		}
	}
	return false
}

// scriptOf is the text of cloud-init or Ignition, whose files are data URLs.
func scriptOf(data []byte) string {
	if bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		if script, err := url.PathUnescape(string(data)); err == nil {
			return script
		}
	}
	return string(data)
}

func afterLast(s, sep string) string {
	return s[strings.LastIndex(s, sep)+1:]
}

// controlPlaneLabel and its taint are the same for kubeadm and Talos.
const controlPlaneLabel = constants.LabelNodeRoleControlPlane
