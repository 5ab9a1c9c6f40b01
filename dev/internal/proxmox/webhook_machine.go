package proxmox

import (
	"cmp"
	"errors"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// minMTU is the least that IPv6 works with; the schema would allow less.
const minMTU = 1280

func newMachine(machine *ProxmoxMachine) (string, error) {
	if err := validateNetwork(machine); err != nil {
		return "cannot create proxmox machine " + machine.Name, invalid(machine, machine.Name, err)
	}
	return "", nil
}

func changedMachine(old, machine *ProxmoxMachine) (string, error) {
	if !slices.Equal(old.Spec.Tags, machine.Spec.Tags) {
		return "", apierrors.NewBadRequest("tags are immutable")
	}
	if err := validateNetwork(machine); err != nil {
		return "cannot update proxmox machine " + machine.Name, invalid(machine, machine.Name, err)
	}
	return "", nil
}

// validateNetwork returns the first thing that is wrong with the network of a machine.
func validateNetwork(machine *ProxmoxMachine) *field.Error {
	if machine.Spec.Network == nil {
		return nil
	}
	network := field.NewPath("spec", "network")
	devices := slices.Clone(machine.Spec.Network.NetworkDevices)
	slices.SortFunc(devices, func(a, b NetworkDevice) int { return cmp.Compare(a.Name, b.Name) })
	default4, default6 := 0, 0
	for i, device := range devices {
		path := network.Child("networkDevices", fmt.Sprint(i))
		if device.Name != fmt.Sprintf("net%d", i) {
			return field.Invalid(path.Child("name"), device.Name, "Non-consecutive proxmox interface name")
		}
		if device.DefaultIPv4 {
			default4++
		}
		if device.DefaultIPv6 {
			default6++
		}
		if default4 > 1 || default6 > 1 {
			return field.Invalid(path, device, "More than one default IPv4/IPv6 interface in NetworkDevices")
		}
		if mtu := device.MTU; mtu != nil && *mtu != 1 && *mtu < minMTU { // 1 is that of the bridge
			return field.Invalid(path.Child("mtu"), device, fmt.Sprintf("mtu must be at least %d or 1, but was %d", minMTU, *mtu))
		}
		if mtu := device.LinkMTU; mtu != nil && *mtu < minMTU {
			return field.Invalid(path.Child("linkMtu"), device, fmt.Sprintf("mtu must be at least %d, but was %d", minMTU, *mtu))
		}
		if err := validatePolicies(device.RoutingPolicy); err != nil {
			return field.Invalid(path.Child("routingPolicy"), device, err.Error())
		}
		if err := validateRoutes(device.Routes); err != nil {
			return field.Invalid(path.Child("routes"), device, err.Error())
		}
	}
	for i, vrf := range machine.Spec.Network.VRFs {
		if err := validateVRF(vrf); err != nil {
			return field.Invalid(network.Child("VirtualNetworkDevices", "VRFs", fmt.Sprint(i), "Table"), vrf, err.Error())
		}
	}
	return nil
}

func validatePolicies(policies []RoutingPolicy) error {
	for i, policy := range policies {
		if policy.Table == nil {
			return fmt.Errorf("routing policy [%d] requires a table", i)
		}
		if err := validatePolicy(policy); err != nil {
			return fmt.Errorf("routing policy [%d]: %w", i, err)
		}
	}
	return nil
}

func validateVRF(vrf VRF) error {
	for _, policy := range vrf.RoutingPolicy {
		if policy.Table != nil && *policy.Table != vrf.Table {
			return fmt.Errorf("VRF %s: device/rule routing table mismatch %d != %d", vrf.Name, vrf.Table, *policy.Table)
		}
		if err := validatePolicy(policy); err != nil {
			return fmt.Errorf("VRF %s: %w", vrf.Name, err)
		}
	}
	if err := validateRoutes(vrf.Routes); err != nil {
		return fmt.Errorf("VRF %s: %w", vrf.Name, err)
	}
	return nil
}

// validatePolicy refuses a policy whose address family nobody can tell.
func validatePolicy(policy RoutingPolicy) error {
	placeholder := isPlaceholder(policy.To) || isPlaceholder(policy.From)
	concrete := isConcrete(policy.To) || isConcrete(policy.From)
	if placeholder && !concrete && policy.Is6 == nil {
		return errors.New("is6 must be set when 'to'/'from' is a placeholder and neither provides an address family")
	}
	return nil
}

// validateRoutes refuses a route whose address family nobody can tell.
func validateRoutes(routes []Route) error {
	for i, route := range routes {
		if isPlaceholder(route.To) && !isConcrete(route.Via) && route.Is6 == nil {
			return fmt.Errorf("route [%d]: is6 must be set when 'to' is a placeholder and 'via' is unset", i)
		}
	}
	return nil
}

// isPlaceholder tells whether a target stands for every address, of either family.
func isPlaceholder(target string) bool { return target == "default" || target == "all" }

func isConcrete(target string) bool { return target != "" && !isPlaceholder(target) }
