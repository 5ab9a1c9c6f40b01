package bench

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/tools/txtar"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"
)

// controlPlanes and workers are the Machines of each Cluster. With a MachineSet, and what
// the Machines are made of, controllers make madePerOverlay objects of an overlay.
const (
	controlPlanes, workers = 3, 2
	madePerOverlay         = 3*(controlPlanes+workers) + 1
)

// controllers stand in for those of Cluster API and its providers: they write what those
// had written in the local management cluster when a cluster of Talos had converged.
type controllers struct {
	*testing.T
	client dynamic.Interface
	// recorded are those objects by kind; of what Machines are made of that of the control
	// plane is first.
	recorded map[string][]*unstructured.Unstructured
	// live are the objects that overlays declare, by namespace.
	live map[string][]*unstructured.Unstructured
}

// declaredKinds are those that controllers write to, and whether they have a status.
var declaredKinds = map[schema.GroupVersionKind]bool{
	{Group: "cluster.x-k8s.io", Version: "v1beta2", Kind: "Cluster"}:                                true,
	{Group: "cluster.x-k8s.io", Version: "v1beta2", Kind: "MachineDeployment"}:                      true,
	{Group: "cluster.x-k8s.io", Version: "v1beta2", Kind: "MachineHealthCheck"}:                     true,
	{Group: "controlplane.cluster.x-k8s.io", Version: "v1alpha3", Kind: "TalosControlPlane"}:        true,
	{Group: "infrastructure.cluster.x-k8s.io", Version: "v1alpha2", Kind: "ProxmoxCluster"}:         true,
	{Group: "infrastructure.cluster.x-k8s.io", Version: "v1alpha2", Kind: "ProxmoxMachineTemplate"}: false,
	{Group: "bootstrap.cluster.x-k8s.io", Version: "v1alpha3", Kind: "TalosConfigTemplate"}:         false,
}

func newControllers(t *testing.T) *controllers {
	t.Helper()
	client, err := dynamic.NewForConfig(env.Config("controllers"))
	if err != nil {
		t.Fatal(err)
	}
	c := &controllers{T: t, client: client, recorded: map[string][]*unstructured.Unstructured{}, live: map[string][]*unstructured.Unstructured{}}
	archive, err := txtar.ParseFile("../capi/testdata/progress/talos-converged.txtar")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range archive.Files {
		if file.Name != "live.yaml" && file.Name != "made.yaml" {
			continue
		}
		for document := range strings.SplitSeq(string(file.Data), "\n---\n") {
			u := &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(document), &u.Object); err != nil {
				t.Fatal(err)
			}
			c.recorded[u.GetKind()] = append(c.recorded[u.GetKind()], u)
		}
	}
	return c
}

// converge writes everything that there is once n clusters have converged.
func (c *controllers) converge(n int) {
	c.Helper()
	for kind := range declaredKinds {
		list, err := c.of(kind, "").List(c.Context(), metav1.ListOptions{})
		if err != nil {
			c.Fatal(err)
		}
		for i := range list.Items {
			u := &list.Items[i]
			c.live[u.GetNamespace()] = append(c.live[u.GetNamespace()], u)
		}
	}
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("c%04d", i)
	}
	parallel(16, all, func(namespace string) {
		for _, u := range c.live[namespace] {
			c.touch(u, namespace)
		}
		c.make(namespace)
	})
	if c.Failed() {
		c.FailNow()
	}
}

// touch writes to what an overlay declares: who owns it, a finalizer, the status.
func (c *controllers) touch(u *unstructured.Unstructured, namespace string) {
	cluster := c.declared(namespace, "Cluster", "talos")
	metadata := map[string]any{"finalizers": []string{"cluster.x-k8s.io/bench"}}
	if u != cluster {
		metadata["ownerReferences"] = []any{map[string]any{
			"apiVersion": cluster.GetAPIVersion(), "kind": cluster.GetKind(), "name": cluster.GetName(), "uid": cluster.GetUID(),
		}}
		metadata["labels"] = map[string]string{"cluster.x-k8s.io/cluster-name": cluster.GetName()}
	}
	c.patch(u, map[string]any{"metadata": metadata})
	if !declaredKinds[u.GroupVersionKind()] {
		return
	}
	r := c.take(u.GetKind(), 0, namespace, "")
	count := int64(workers)
	if u.GetKind() == "TalosControlPlane" {
		count = controlPlanes
	}
	counted(r.Object["status"], count, u.GetGeneration())
	if part, ok, _ := unstructured.NestedFieldNoCopy(r.Object, "status", "controlPlane"); ok {
		counted(part, controlPlanes, u.GetGeneration())
	}
	c.patch(u, map[string]any{"status": r.Object["status"]}, "status")
}

// declared returns what an overlay declares under a name.
func (c *controllers) declared(namespace, kind, name string) *unstructured.Unstructured {
	for _, u := range c.live[namespace] {
		if u.GetKind() == kind && u.GetName() == namespace+"-"+name {
			return u
		}
	}
	panic("overlay " + namespace + " has no " + kind + " " + name)
}

// make makes the Machines of an overlay's Cluster, and all that belongs to them.
func (c *controllers) make(namespace string) {
	uids := map[string]types.UID{}
	for _, u := range c.live[namespace] {
		uids[u.GetKind()+"/"+u.GetName()] = u.GetUID()
	}
	c.create(c.take("MachineSet", 0, namespace, ""), workers, uids)
	for i, count := range []int{controlPlanes, workers} {
		for j := range count {
			for _, kind := range []string{"Machine", "ProxmoxMachine", "TalosConfig"} {
				u := c.take(kind, i, namespace, fmt.Sprint("-", j))
				if kind == "TalosConfig" { // made from what is declared
					from, path := c.declared(namespace, "TalosControlPlane", "cp"), []string{"spec", "controlPlaneConfig", "controlplane"}
					if i == 1 {
						from, path = c.declared(namespace, "TalosConfigTemplate", "workers-v1"), []string{"spec", "template", "spec"}
					}
					spec, _, _ := unstructured.NestedMap(from.Object, path...)
					u.Object["spec"] = spec
				}
				if kind == "Machine" { // what was recorded had lost it
					if err := unstructured.SetNestedStringMap(u.Object, nodeInfo, "status", "nodeInfo"); err != nil {
						c.Error(err)
					}
				}
				c.create(u, 0, uids)
			}
		}
	}
}

var nodeInfo = map[string]string{
	"architecture": "amd64", "bootID": "6c9d52d9-7d0b-4b9e-a6a5-0b6a3b1a6cfe", "containerRuntimeVersion": "containerd://2.1.6",
	"kernelVersion": "6.18.15-talos", "kubeProxyVersion": "", "kubeletVersion": "v1.34.4", "machineID": "9a1b6c5f0e7d4c8fa0b1c2d3e4f5a6b7",
	"operatingSystem": "linux", "osImage": "Talos (v1.12.7)", "systemUUID": "263c5a45-9eb1-4212-9613-c924e0d9a2b6",
}

// take returns a recorded object as it would be in another namespace, for the Machine of
// a suffix.
func (c *controllers) take(kind string, i int, namespace, suffix string) *unstructured.Unstructured {
	content, err := json.Marshal(c.recorded[kind][i].Object)
	if err != nil {
		c.Fatal(err)
	}
	names := []string{"v1.35.4", "v1.34.4"}
	for _, name := range []string{"rec-workers-rmzq9-ds6gr", "rec-cp-v1-5r8zd", "rec-cp-db8qd", "rec-cp-bhn4w"} {
		names = append(names, name, namespace+strings.TrimPrefix(name, "rec")+suffix)
	}
	names = append(names, "rec-", namespace+"-")
	u := &unstructured.Unstructured{}
	if err := json.Unmarshal([]byte(strings.NewReplacer(names...).Replace(string(content))), &u.Object); err != nil {
		c.Fatal(err)
	}
	u.SetNamespace(namespace)
	return u
}

// create makes an object and writes its status.
func (c *controllers) create(u *unstructured.Unstructured, count int64, uids map[string]types.UID) {
	status := u.Object["status"]
	delete(u.Object, "status")
	u.SetResourceVersion("")
	u.SetUID("")
	u.SetFinalizers([]string{"cluster.x-k8s.io/bench"})
	refs := u.GetOwnerReferences()
	for i := range refs {
		refs[i].UID = uids[refs[i].Kind+"/"+refs[i].Name]
	}
	u.SetOwnerReferences(refs)
	if count > 0 {
		counted(u.Object["spec"], count, 0)
	}
	made, err := c.of(u.GroupVersionKind(), u.GetNamespace()).Create(c.Context(), u, metav1.CreateOptions{FieldManager: "manager"})
	if err != nil {
		c.Error(err)
		return
	}
	uids[made.GetKind()+"/"+made.GetName()] = made.GetUID()
	counted(status, count, made.GetGeneration())
	c.patch(made, map[string]any{"status": status}, "status")
}

func (c *controllers) patch(u *unstructured.Unstructured, content map[string]any, subresource ...string) {
	body, err := json.Marshal(content)
	if err != nil {
		c.Error(err)
		return
	}
	_, err = c.of(u.GroupVersionKind(), u.GetNamespace()).Patch(c.Context(), u.GetName(), types.MergePatchType, body,
		metav1.PatchOptions{FieldManager: "manager"}, subresource...)
	if err != nil {
		c.Error(err)
	}
}

func (c *controllers) of(kind schema.GroupVersionKind, namespace string) dynamic.ResourceInterface {
	resource, _ := meta.UnsafeGuessKindToResource(kind)
	if namespace == "" {
		return c.client.Resource(resource)
	}
	return c.client.Resource(resource).Namespace(namespace)
}

// counted sets the numbers of replicas, unless there are none, and the generations observed
// in what was recorded.
func counted(value any, count, generation int64) {
	switch value := value.(type) {
	case []any:
		for _, element := range value {
			counted(element, count, generation)
		}
	case map[string]any:
		for name, element := range value {
			switch {
			case name == "observedGeneration":
				value[name] = generation
			case strings.HasSuffix(strings.ToLower(name), "replicas") || name == "expectedMachines" || name == "currentHealthy":
				if count > 0 {
					value[name] = count
				}
			default:
				counted(element, count, generation)
			}
		}
	}
}
