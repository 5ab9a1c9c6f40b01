package bootstrap

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/Masterminds/semver/v3"
	jsonpatch "github.com/evanphx/json-patch"
	"github.com/siderolabs/crypto/x509"
	"github.com/siderolabs/talos/pkg/machinery/config"
	"github.com/siderolabs/talos/pkg/machinery/config/configloader"
	"github.com/siderolabs/talos/pkg/machinery/config/configpatcher"
	"github.com/siderolabs/talos/pkg/machinery/config/encoder"
	"github.com/siderolabs/talos/pkg/machinery/config/generate"
	"github.com/siderolabs/talos/pkg/machinery/config/generate/secrets"
	"github.com/siderolabs/talos/pkg/machinery/config/machine"
	"github.com/siderolabs/talos/pkg/machinery/config/types/network"
	"github.com/siderolabs/talos/pkg/machinery/config/types/v1alpha1"
	"github.com/siderolabs/talos/pkg/machinery/constants"
	"github.com/siderolabs/talos/pkg/machinery/nethelpers"
	clusterv1 "sigs.k8s.io/cluster-api/api/core/v1beta2"

	"capstan.dev/capstan/dev/internal/talos/api"
)

// Errors in this file are worded as the original's, since they end as messages of the condition DataSecretAvailable.

// generateTypeNone takes the configuration from spec.data.
const generateTypeNone = "none"

// Input is all that a machine configuration depends on.
type Input struct {
	// Spec is the TalosConfig's.
	Spec api.TalosConfigSpec
	// Machine is the owner of the TalosConfig: its version, its name and the name of its infrastructure count.
	Machine *clusterv1.Machine
	// Cluster is the Machine's: its name, its endpoint and its network count.
	Cluster *clusterv1.Cluster
	// Secrets are the cluster's. They are not used with generateType none, whose data has its own.
	Secrets *secrets.Bundle
	// Now is when certificates start to be valid, with generateType none; otherwise the clock of Secrets counts.
	Now time.Time
}

// Render makes the machine configuration of one machine and a talosconfig without endpoints that matches it, which is
// empty for a worker's configuration in spec.data. It has no effects; two calls differ only in the talosconfig's
// client certificate.
//
// Render does not validate: a configuration that Talos refuses comes out without an error, as in the original.
func Render(in Input) (machineConfig, talosconfig string, err error) {
	generated, err := in.generated()
	if err != nil {
		return "", "", err
	}
	var patches []string // of our own, applied after the user's
	if generated {
		machineConfig, talosconfig, patches, err = in.generate()
	} else {
		machineConfig, talosconfig, err = in.userConfig()
	}
	if err != nil {
		return "", "", err
	}
	if machineConfig, err = applyJSONPatches(machineConfig, in.Spec.ConfigPatches); err != nil {
		return "", "", err
	}
	patches = slices.Concat(in.Spec.StrategicPatches, patches)
	if machineConfig, err = applyStrategicPatches(machineConfig, patches); err != nil {
		return "", "", err
	}
	return machineConfig, talosconfig, nil
}

// generated tells a configuration to generate from one in spec.data, and says if the spec is neither.
func (in Input) generated() (bool, error) {
	if in.Spec.GenerateType == generateTypeNone {
		if in.Spec.Data == "" {
			return false, errors.New("failed to specify config data with none generate type")
		}
		return false, nil
	}
	// "" and "join" are workers for Talos. The error is covered: the type is unknown then.
	if machineType, _ := machine.ParseType(in.Spec.GenerateType); machineType == machine.TypeUnknown {
		return false, fmt.Errorf("unknown generate type specified: %q", in.Spec.GenerateType)
	}
	return true, nil
}

// contract is the version of the configuration format; nil is the newest, and what an unset version means.
func (in Input) contract() (*config.VersionContract, error) {
	if in.Spec.TalosVersion == "" {
		return config.TalosVersionCurrent, nil
	}
	contract, err := config.ParseContractFromVersion(in.Spec.TalosVersion)
	if err != nil {
		return nil, fmt.Errorf("invalid talos-version: %w", err)
	}
	return contract, nil
}

// generate makes the configuration from the cluster's secrets. The patches that come with it must be applied last.
func (in Input) generate() (machineConfig, talosconfig string, patches []string, err error) {
	machineType, err := machine.ParseType(in.Spec.GenerateType)
	if err != nil {
		return "", "", nil, err
	}
	contract, err := in.contract()
	if err != nil {
		return "", "", nil, err
	}
	endpoint := in.Cluster.Spec.ControlPlaneEndpoint
	input, err := generate.NewInput(
		in.Cluster.Name,
		"https://"+net.JoinHostPort(endpoint.Host, strconv.Itoa(int(endpoint.Port))),
		kubernetesVersion(in.Machine),
		generateOptions(in, contract)...,
	)
	if err != nil {
		return "", "", nil, err
	}
	if talosconfig, err = renderTalosconfig(in.Cluster.Name, in.Secrets, nil); err != nil {
		return "", "", nil, err
	}
	provider, err := input.Config(machineType)
	if err != nil {
		return "", "", nil, err
	}
	raw := provider.RawV1Alpha1()
	if pods := in.Cluster.Spec.ClusterNetwork.Pods.CIDRBlocks; len(pods) > 0 {
		raw.ClusterConfig.ClusterNetwork.PodSubnet = pods
	}
	if services := in.Cluster.Spec.ClusterNetwork.Services.CIDRBlocks; len(services) > 0 {
		raw.ClusterConfig.ClusterNetwork.ServiceSubnet = services
	}
	if patches, err = in.setHostname(raw); err != nil {
		return "", "", nil, err
	}
	machineConfig, err = provider.EncodeString(encoder.WithComments(encoder.CommentsDisabled))
	return machineConfig, talosconfig, patches, err
}

func generateOptions(in Input, contract *config.VersionContract) []generate.Option {
	domain := in.Cluster.Spec.ClusterNetwork.ServiceDomain
	if domain == "" {
		domain = constants.DefaultDNSDomain
	}
	options := []generate.Option{
		generate.WithDNSDomain(domain),
		generate.WithVersionContract(contract),
		generate.WithSecretsBundle(in.Secrets),
	}
	if contract != nil && contract.Major < 1 && contract.Minor < 14 {
		options = append(options, generate.WithClusterDiscovery(false)) // no such thing in Talos before 0.14
	}
	return options
}

// kubernetesVersion is the version without its v.
func kubernetesVersion(m *clusterv1.Machine) string {
	if m.Spec.Version == "" {
		return constants.DefaultKubernetesVersion
	}
	return strings.TrimPrefix(m.Spec.Version, "v")
}

// setHostname puts the wanted host name into the configuration or, for Talos 1.12 and newer, returns it as a patch.
//
// Without a talosVersion the field of old is set although the configuration is the newest: such a machine refuses its
// configuration, as with the real provider.
func (in Input) setHostname(raw *v1alpha1.Config) ([]string, error) {
	var hostname string
	switch in.Spec.Hostname.Source {
	case api.HostnameSourceMachineName:
		hostname = in.Machine.Name
	case api.HostnameSourceInfrastructureName:
		hostname = in.Machine.Spec.InfrastructureRef.Name
	default:
		return nil, nil
	}
	legacy := &raw.MachineConfig.MachineNetwork //nolint:staticcheck // old versions read nothing else
	if *legacy == nil {
		*legacy = &v1alpha1.NetworkConfig{} //nolint:staticcheck // as above
	}
	if !hasHostnameDocument(in.Spec.TalosVersion) {
		(*legacy).NetworkHostname = hostname //nolint:staticcheck // as above
		return nil, nil
	}
	document := network.NewHostnameConfigV1Alpha1()
	off := nethelpers.AutoHostnameKindOff
	document.ConfigAuto = &off
	document.ConfigHostname = hostname
	patch, err := encoder.NewEncoder(document, encoder.WithComments(encoder.CommentsDisabled)).Encode()
	if err != nil {
		return nil, fmt.Errorf("encode the %s of %s: %w", network.HostnameKind, in.Machine.Name, err)
	}
	return []string{string(patch)}, nil
}

// hasHostnameDocument tells whether a version of Talos has the host name in a document of its own.
func hasHostnameDocument(talosVersion string) bool {
	version, err := semver.NewVersion(strings.TrimLeft(talosVersion, "v"))
	return err == nil && !version.LessThan(semver.New(1, 12, 0, "beta.0", ""))
}

// userConfig reads the configuration in spec.data. A talosconfig comes with it if it has the key to sign one.
func (in Input) userConfig() (machineConfig, talosconfig string, err error) {
	provider, err := loadUserConfig(in.Spec.Data)
	if err != nil {
		return "", "", err
	}
	machineConfig, err = provider.EncodeString(encoder.WithComments(encoder.CommentsDisabled))
	if err != nil {
		return "", "", err
	}
	if hasKey(provider.Machine().Security().IssuingCA()) {
		bundle := secrets.NewBundleFromConfig(secrets.NewFixedClock(in.Now), provider)
		// The original logs an error and goes on without a talosconfig.
		talosconfig, _ = renderTalosconfig(provider.Cluster().Name(), bundle, nil)
	}
	return machineConfig, talosconfig, nil
}

// loadUserConfig reads the configuration in spec.data.
func loadUserConfig(data string) (config.Provider, error) {
	provider, err := configloader.NewFromBytes([]byte(data))
	if err != nil {
		return nil, err
	}
	if provider.RawV1Alpha1() == nil { // here the original panics
		return nil, errors.New("spec.data has no v1alpha1 machine configuration")
	}
	return provider, nil
}

// authority is the Kubernetes CA that goes with the configuration: the cluster's, or the one in spec.data. It is nil if
// that has none with a key, as in a worker's.
func (in Input) authority() (*x509.PEMEncodedCertificateAndKey, error) {
	generated, err := in.generated()
	if err != nil {
		return nil, err
	}
	if generated {
		return in.Secrets.Certs.K8s, nil
	}
	provider, err := loadUserConfig(in.Spec.Data)
	if err != nil {
		return nil, err
	}
	if ca := provider.Cluster().IssuingCA(); hasKey(ca) {
		return ca, nil
	}
	return nil, nil
}

func hasKey(ca *x509.PEMEncodedCertificateAndKey) bool {
	return ca != nil && len(ca.Crt) > 0 && len(ca.Key) > 0
}

// renderTalosconfig makes a client configuration with a new administrator certificate.
func renderTalosconfig(clusterName string, bundle *secrets.Bundle, endpoints []string) (string, error) {
	input, err := generate.NewInput(clusterName, "https://localhost", "",
		generate.WithSecretsBundle(bundle), generate.WithEndpointList(endpoints))
	if err != nil {
		return "", err
	}
	talosconfig, err := input.Talosconfig()
	if err != nil {
		return "", err
	}
	data, err := talosconfig.Bytes()
	return string(data), err
}

// applyJSONPatches applies spec.configPatches, of which Talos allows none on several documents.
func applyJSONPatches(machineConfig string, patches []api.ConfigPatches) (string, error) {
	if len(patches) == 0 {
		return machineConfig, nil
	}
	data, err := json.Marshal(patches)
	if err != nil {
		return "", fmt.Errorf("failure marshalling config patches: %w", err)
	}
	patch, err := jsonpatch.DecodePatch(data)
	if err != nil {
		return "", fmt.Errorf("failure decoding config patches from talosconfig to rfc6902 patch: %w", err)
	}
	patched, err := configpatcher.JSON6902([]byte(machineConfig), patch)
	return string(patched), err
}

// applyStrategicPatches merges partial configurations into a configuration.
func applyStrategicPatches(machineConfig string, patches []string) (string, error) {
	if len(patches) == 0 {
		return machineConfig, nil
	}
	loaded := make([]configpatcher.Patch, 0, len(patches))
	for _, p := range patches {
		patch, err := configpatcher.LoadPatch([]byte(p))
		if err != nil {
			return "", fmt.Errorf("failure loading StrategicPatch: %w", err)
		}
		loaded = append(loaded, patch)
	}
	out, err := configpatcher.Apply(configpatcher.WithBytes([]byte(machineConfig)), loaded)
	if err != nil {
		return "", fmt.Errorf("failure applying StrategicPatches: %w", err)
	}
	provider, err := out.Config()
	if err != nil {
		return "", fmt.Errorf("failure converting result to bytes: %w", err)
	}
	machineConfig, err = provider.EncodeString(encoder.WithComments(encoder.CommentsDisabled))
	if err != nil {
		return "", fmt.Errorf("failure converting config to string: %w", err)
	}
	return machineConfig, nil
}
