package proxmox

import (
	"errors"
	"net/netip"
	"regexp"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"capstan.dev/capstan/dev/internal/ipam"
)

var errNoPool = errors.New("proxmox cluster must define at least one IP pool config")

func newCluster(cluster *ProxmoxCluster) (string, error) {
	if cluster.Spec.IPv4Config == nil && cluster.Spec.IPv6Config == nil {
		return errNoPool.Error() + " " + cluster.Name, errNoPool
	}
	if err := validateEndpoint(&cluster.Spec, cluster, cluster.Name); err != nil {
		return "cannot create proxmox cluster " + cluster.Name, err
	}
	return "", nil
}

func changedCluster(_, cluster *ProxmoxCluster) (string, error) {
	if err := validateEndpoint(&cluster.Spec, cluster, cluster.Name); err != nil {
		return "cannot update proxmox cluster " + cluster.Name, err
	}
	return "", nil
}

func newClusterTemplate(template *ProxmoxClusterTemplate) (string, error) {
	spec := &template.Spec.Template.Spec
	if spec.IPv4Config == nil && spec.IPv6Config == nil {
		return "proxmox cluster template must define at least one IP pool config " + template.Name, errNoPool
	}
	if err := validateEndpoint(spec, template, template.Name); err != nil {
		return "cannot create proxmox cluster template " + template.Name, err
	}
	return "", nil
}

func changedClusterTemplate(_, template *ProxmoxClusterTemplate) (string, error) {
	if err := validateEndpoint(&template.Spec.Template.Spec, template, template.Name); err != nil {
		return "cannot update proxmox cluster " + template.Name, err
	}
	return "", nil
}

// hostname is what the provider takes for one: a single label, or labels and a top-level domain.
var hostname = regexp.MustCompile(`(?i)^(` +
	`[a-z0-9]{1,253}|[a-z0-9][a-z0-9-]{1,251}[a-z0-9]` + `|` +
	`([a-z0-9]{1,63}|[a-z0-9][a-z0-9-]{1,61}[a-z0-9]\.)?(([a-z0-9]{1,63}|[a-z0-9][a-z0-9-]{1,61}[a-z0-9])\.)+?[a-z]{2,63}` +
	`)$`)

// validateEndpoint refuses a control-plane endpoint that is neither an address nor a host name, and one
// that could be given to a machine. Whoever manages the control plane elsewhere sets it later.
func validateEndpoint(spec *ClusterSpec, object runtime.Object, name string) error {
	if spec.ExternalManagedControlPlane {
		return nil
	}
	host := ""
	if spec.ControlPlaneEndpoint != nil {
		host = spec.ControlPlaneEndpoint.Host
	}
	if hostname.MatchString(host) {
		return nil
	}
	address, err := netip.ParseAddr(host)
	if err != nil {
		return invalid(object, name, field.Invalid(field.NewPath("spec", "controlplaneEndpoint"), host,
			"provided endpoint address is not a valid IP or FQDN"))
	}
	for _, c := range []struct {
		field  string
		config *IPConfig
	}{{"IPv4Config", spec.IPv4Config}, {"IPv6Config", spec.IPv6Config}} {
		if c.config == nil {
			continue
		}
		path := field.NewPath("spec", c.field, "addresses")
		set, err := ipam.ParseSet(c.config.Addresses)
		if err != nil {
			return invalid(object, name, field.Invalid(path, c.config.Addresses,
				"provided addresses are not valid IP addresses, ranges or CIDRs"))
		}
		if set.Contains(address) {
			return invalid(object, name, field.Invalid(path, c.config.Addresses, "addresses may not contain the endpoint IP"))
		}
	}
	return nil
}
