// Package conversion converts the kinds of the Proxmox provider between v1alpha1, in which many manifests
// are still written, and v1alpha2, which is stored.
//
// v1alpha1 can't say everything. As the provider does, a conversion to it keeps the whole in an annotation,
// from where it comes back, unless somebody has changed what v1alpha1 does say.
package conversion

import (
	"fmt"
	"reflect"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/json"
)

const (
	older = "infrastructure.cluster.x-k8s.io/v1alpha1"
	newer = "infrastructure.cluster.x-k8s.io/v1alpha2"

	// kept is the annotation that all providers of Cluster API use for this.
	kept = "cluster.x-k8s.io/conversion-data"
)

// convert converts an object to the version, in place.
func convert(object *unstructured.Unstructured, version string) error {
	switch {
	case object.GetAPIVersion() == version:
		return nil
	case object.GetAPIVersion() == older && version == newer:
		return up(object)
	case object.GetAPIVersion() == newer && version == older:
		return down(object)
	}
	return fmt.Errorf("%s %s can't be converted from %s to %s", object.GetKind(), object.GetName(), object.GetAPIVersion(), version)
}

// down converts to v1alpha1.
func down(object *unstructured.Unstructured) error {
	whole, err := json.Marshal(contentOf(object.Object))
	if err != nil {
		return err
	}
	downContent(object.GetKind(), object.Object)
	annotations := object.GetAnnotations()
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[kept] = string(whole)
	object.SetAnnotations(annotations)
	object.SetAPIVersion(older)
	return nil
}

// up converts to v1alpha2.
func up(object *unstructured.Unstructured) error {
	annotations := object.GetAnnotations()
	whole, ok := annotations[kept]
	given := runtime.DeepCopyJSON(contentOf(object.Object))
	upContent(object.GetKind(), object.Object)
	object.SetAPIVersion(newer)
	if !ok {
		return nil
	}
	delete(annotations, kept)
	object.SetAnnotations(annotations)
	var before map[string]any
	if err := json.Unmarshal([]byte(whole), &before); err != nil {
		return fmt.Errorf("annotation %s of %s %s: %w", kept, object.GetKind(), object.GetName(), err)
	}
	seen := runtime.DeepCopyJSON(before)
	downContent(object.GetKind(), seen)
	for key, value := range before {
		if reflect.DeepEqual(seen[key], given[key]) {
			object.Object[key] = value
		}
	}
	return nil
}

// contentOf is what is converted of an object.
func contentOf(object map[string]any) map[string]any {
	out := map[string]any{}
	for _, key := range []string{"spec", "status"} {
		if value, ok := object[key]; ok {
			out[key] = value
		}
	}
	return out
}

func upContent(kind string, object map[string]any) {
	eachPart(kind, object, parts{machine: upMachine, cluster: upCluster, status: upStatus})
}

func downContent(kind string, object map[string]any) {
	eachPart(kind, object, parts{machine: downMachine, cluster: downCluster, status: downStatus})
}

// parts are functions for the parts of objects that differ between the versions.
type parts struct {
	machine, cluster, status func(map[string]any)
}

func eachPart(kind string, object map[string]any, p parts) {
	spec := child(object, "spec")
	switch kind {
	case "ProxmoxMachine":
		p.machine(spec)
	case "ProxmoxMachineTemplate":
		p.machine(child(child(spec, "template"), "spec"))
	case "ProxmoxCluster":
		p.cluster(spec)
	case "ProxmoxClusterTemplate":
		p.cluster(child(child(spec, "template"), "spec"))
	}
	if status := child(object, "status"); status != nil {
		p.status(status)
	}
}

// child is the object in a field; nil, which can be read from, if there is none.
func child(in map[string]any, field string) map[string]any {
	out, _ := in[field].(map[string]any)
	return out
}

func upCluster(spec map[string]any) { delete(spec, "cloneSpec") }

func downCluster(spec map[string]any) { delete(spec, "zoneConfig") }

// firstDevice is the network device that v1alpha1 calls the default one.
const firstDevice = "net0"

func upMachine(spec map[string]any) {
	delete(spec, "target")
	network := child(spec, "network")
	var devices []any
	if device := child(network, "default"); device != nil {
		device["name"], device["defaultIPv4"], device["defaultIPv6"] = firstDevice, true, true
		devices = append(devices, device)
	}
	additional, _ := network["additionalDevices"].([]any)
	devices = append(devices, additional...)
	delete(network, "default")
	delete(network, "additionalDevices")
	for _, d := range devices {
		device, _ := d.(map[string]any)
		var pools []any
		for _, field := range []string{"ipv4PoolRef", "ipv6PoolRef"} {
			if pool := child(device, field); pool != nil {
				pools = append(pools, pool)
			}
			delete(device, field)
		}
		if pools != nil {
			device["ipPoolRef"] = pools
		}
	}
	if devices != nil {
		network["networkDevices"] = devices
	}
}

func downMachine(spec map[string]any) {
	network := child(spec, "network")
	delete(network, "zone")
	devices, _ := network["networkDevices"].([]any)
	delete(network, "networkDevices")
	var additional []any
	for _, d := range devices {
		device, _ := d.(map[string]any)
		// Which family a pool is of can't be told from here: the first is taken to be of IPv4.
		pools, _ := device["ipPoolRef"].([]any)
		for i, field := range []string{"ipv4PoolRef", "ipv6PoolRef"} {
			if i < len(pools) {
				device[field] = pools[i]
			}
		}
		for _, field := range []string{"ipPoolRef", "defaultIPv4", "defaultIPv6", "queues"} {
			delete(device, field)
		}
		if device["name"] != firstDevice {
			additional = append(additional, device)
			continue
		}
		for _, field := range []string{"name", "linkMtu", "routes", "routingPolicy"} {
			delete(device, field)
		}
		network["default"] = device
	}
	if additional != nil {
		network["additionalDevices"] = additional
	}
}

func upStatus(status map[string]any) {
	if status["ready"] == true {
		status["initialization"] = map[string]any{"provisioned": true}
	}
	rename(status, "inClusterIpPoolRef", "inClusterIPPoolRef")
	if addresses := child(status, "ipAddresses"); addresses != nil {
		status["ipAddresses"] = addressList(addresses)
	}
	// The conditions are of another kind; the controllers write theirs again.
	for _, field := range []string{"ready", "failureReason", "failureMessage", "conditions"} {
		delete(status, field)
	}
}

func downStatus(status map[string]any) {
	status["ready"] = child(status, "initialization")["provisioned"] == true
	rename(status, "inClusterIPPoolRef", "inClusterIpPoolRef")
	if addresses, ok := status["ipAddresses"].([]any); ok {
		status["ipAddresses"] = addressMap(addresses)
	}
	conditions, _ := status["conditions"].([]any)
	for _, c := range conditions {
		condition, _ := c.(map[string]any)
		delete(condition, "observedGeneration")
	}
	for _, field := range []string{"initialization", "inClusterZoneRef"} {
		delete(status, field)
	}
}

func rename(in map[string]any, from, to string) {
	if value, ok := in[from]; ok {
		in[to] = value
		delete(in, from)
	}
}
