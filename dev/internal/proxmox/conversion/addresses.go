package conversion

import (
	"maps"
	"slices"
)

// families are the fields of the addresses of one network device.
var families = []string{"ipv4", "ipv6"}

// addressList makes the addresses by device, one of each family, a list of devices with lists of addresses.
func addressList(byDevice map[string]any) []any {
	out := make([]any, 0, len(byDevice))
	for _, name := range slices.Sorted(maps.Keys(byDevice)) {
		device := map[string]any{"net": name}
		for _, family := range families {
			if address, _ := child(byDevice, name)[family].(string); address != "" {
				device[family] = []any{address}
			}
		}
		out = append(out, device)
	}
	return out
}

// addressMap is the reverse; of more addresses it has the first.
func addressMap(list []any) map[string]any {
	out := map[string]any{}
	for _, item := range list {
		device, _ := item.(map[string]any)
		name, _ := device["net"].(string)
		addresses := map[string]any{}
		for _, family := range families {
			if all, _ := device[family].([]any); len(all) > 0 {
				addresses[family] = all[0]
			}
		}
		out[name] = addresses
	}
	return out
}
