package workload

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	. "github.com/onsi/gomega"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/watch"
	corev1apply "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	metadataclient "k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/apiutil"
)

var nodes = schema.GroupVersionResource{Version: "v1", Resource: "nodes"}

func TestTypedClientWithProtobuf(t *testing.T) {
	_, _, config := startCluster(t)
	config.ContentType = runtime.ContentTypeProtobuf
	clients := kubernetes.NewForConfigOrDie(config)
	ctx := t.Context()

	created, err := clients.CoreV1().Nodes().Create(ctx, node("a"), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if created.UID == "" || created.ResourceVersion == "" || created.CreationTimestamp.IsZero() || len(created.Status.Conditions) != 1 {
		t.Errorf("created %+v", created)
	}
	if _, err := clients.CoreV1().Nodes().Create(ctx, node("a"), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Errorf("creating twice: %v", err)
	}

	stale := created.DeepCopy()
	created.Labels["zone"] = "one"
	created.Status = corev1.NodeStatus{}
	updated, err := clients.CoreV1().Nodes().Update(ctx, created, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if len(updated.Status.Conditions) != 1 || updated.Labels["zone"] != "one" {
		t.Errorf("an update changes the status, or not the labels: %+v", updated)
	}
	if _, err := clients.CoreV1().Nodes().Update(ctx, stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("updating what is old: %v", err)
	}
	updated.Status.Phase, updated.Labels["zone"] = corev1.NodeRunning, "two"
	updated, err = clients.CoreV1().Nodes().UpdateStatus(ctx, updated, metav1.UpdateOptions{})
	if err != nil || updated.Status.Phase != corev1.NodeRunning || updated.Labels["zone"] != "one" {
		t.Errorf("updating the status gives %+v, error %v", updated, err)
	}
	again, err := clients.CoreV1().Nodes().Update(ctx, updated, metav1.UpdateOptions{})
	if err != nil || again.ResourceVersion != updated.ResourceVersion {
		t.Errorf("an update without change stores a new version (error %v)", err)
	}

	list, err := clients.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: "zone=one", FieldSelector: "metadata.name=a"})
	if err != nil || len(list.Items) != 1 || list.ResourceVersion == "" {
		t.Errorf("list %+v, error %v", list, err)
	}
	list, err = clients.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: "zone=two"})
	if err != nil || len(list.Items) != 0 {
		t.Errorf("list of another zone %+v, error %v", list, err)
	}
	uid := types.UID("other")
	if err := clients.CoreV1().Nodes().Delete(ctx, "a", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}}); !apierrors.IsConflict(err) {
		t.Errorf("deleting another incarnation: %v", err)
	}
	if err := clients.CoreV1().Nodes().Delete(ctx, "a", metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Error(err)
	}
	if err := clients.CoreV1().Nodes().Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := clients.CoreV1().Nodes().Get(ctx, "a", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after deletion: %v", err)
	}
}

func TestPodsAndNamespaces(t *testing.T) {
	_, _, config := startCluster(t)
	config.ContentType = runtime.ContentTypeProtobuf
	clients := kubernetes.NewForConfigOrDie(config)
	ctx := t.Context()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "web-"},
		Spec:       corev1.PodSpec{NodeName: "a", Containers: []corev1.Container{{Name: "web", Image: "web"}}},
	}
	if _, err := clients.CoreV1().Pods("missing").Create(ctx, pod, metav1.CreateOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("creating in a missing namespace: %v", err)
	}
	if _, err := clients.CoreV1().Namespaces().Create(ctx,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "apps"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	dry, err := clients.CoreV1().Pods("apps").Create(ctx, pod, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil || !strings.HasPrefix(dry.Name, "web-") {
		t.Errorf("dry run gives %v, error %v", dry, err)
	}
	first, err := clients.CoreV1().Pods("apps").Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	pod.Finalizers = []string{"example.com/hold"}
	held, err := clients.CoreV1().Pods("apps").Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	on, err := clients.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=a,status.phase!=Running"})
	if err != nil || len(on.Items) != 2 {
		t.Errorf("%d pods on node a (error %v), want 2", len(on.Items), err)
	}
	if err := clients.PolicyV1().Evictions("apps").Evict(ctx, &policyv1.Eviction{
		ObjectMeta: metav1.ObjectMeta{Namespace: "apps", Name: first.Name}, DeleteOptions: &metav1.DeleteOptions{}}); err != nil {
		t.Error(err)
	}
	if _, err := clients.CoreV1().Pods("apps").Get(ctx, first.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after eviction: %v", err)
	}

	// The namespace waits for what it holds.
	if err := clients.CoreV1().Namespaces().Delete(ctx, "apps", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	namespace, err := clients.CoreV1().Namespaces().Get(ctx, "apps", metav1.GetOptions{})
	if err != nil || namespace.Status.Phase != corev1.NamespaceTerminating {
		t.Errorf("namespace %+v, error %v; want Terminating", namespace, err)
	}
	if _, err := clients.CoreV1().Pods("apps").Create(ctx, pod, metav1.CreateOptions{}); !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		t.Errorf("creating in a namespace that goes: %v", err)
	}
	held, err = clients.CoreV1().Pods("apps").Get(ctx, held.Name, metav1.GetOptions{})
	if err != nil || held.DeletionTimestamp == nil {
		t.Fatalf("pod with a finalizer: %+v, error %v", held, err)
	}
	held.Finalizers = append(held.Finalizers, "example.com/late")
	if _, err := clients.CoreV1().Pods("apps").Update(ctx, held, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("adding a finalizer to what is being deleted: %v", err)
	}
	if _, err := clients.CoreV1().Pods("apps").Patch(ctx, held.Name, types.JSONPatchType,
		[]byte(`[{"op":"remove","path":"/metadata/finalizers"}]`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := clients.CoreV1().Namespaces().Get(ctx, "apps", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the empty namespace stays: %v", err)
	}
}

func TestSecretAndStrictness(t *testing.T) {
	_, cluster, config := startCluster(t)
	ctx := t.Context()
	secret := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "default"}, StringData: map[string]string{"a": "b"}}
	if err := cluster.Client().Create(ctx, secret); err != nil {
		t.Fatal(err)
	}
	if string(secret.Data["a"]) != "b" || secret.Type != corev1.SecretTypeOpaque || len(secret.StringData) > 0 {
		t.Errorf("secret %+v", secret)
	}
	dynamicClient := dynamic.NewForConfigOrDie(config)
	wrong := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "v1", "kind": "Node", "metadata": map[string]any{"name": "x"}, "spec": map[string]any{"podCIDRsss": "x"},
	}}
	if _, err := dynamicClient.Resource(nodes).Create(ctx, wrong, metav1.CreateOptions{FieldValidation: "Strict"}); !apierrors.IsBadRequest(err) ||
		!strings.Contains(err.Error(), `unknown field "spec.podCIDRsss"`) {
		t.Errorf("an unknown field: %v", err)
	}
	wrong.Object["spec"] = map[string]any{"podCIDR": int64(3)}
	if _, err := dynamicClient.Resource(nodes).Create(ctx, wrong, metav1.CreateOptions{}); !apierrors.IsBadRequest(err) {
		t.Errorf("a field of the wrong type: %v", err)
	}
}

// TestWatch follows one selection through everything that can happen to it.
func TestWatch(t *testing.T) {
	_, cluster, config := startCluster(t)
	c := cluster.Client()
	clients := kubernetes.NewForConfigOrDie(config)
	ctx := t.Context()
	before, err := clients.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	n := node("a")
	n.Labels["zone"] = "one"
	if err := c.Create(ctx, n); err != nil {
		t.Fatal(err)
	}
	if err := c.Create(ctx, node("elsewhere")); err != nil {
		t.Fatal(err)
	}
	n.Spec.Unschedulable = true
	if err := c.Update(ctx, n); err != nil {
		t.Fatal(err)
	}
	n.Labels["zone"] = "two"
	if err := c.Update(ctx, n); err != nil {
		t.Fatal(err)
	}
	n.Labels["zone"] = "one"
	if err := c.Update(ctx, n); err != nil {
		t.Fatal(err)
	}
	if err := c.Delete(ctx, n); err != nil {
		t.Fatal(err)
	}

	w, err := clients.CoreV1().Nodes().Watch(ctx, metav1.ListOptions{ResourceVersion: before.ResourceVersion, LabelSelector: "zone=one"})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	var got []watch.EventType
	var versions []string
	for len(got) < 5 {
		event := <-w.ResultChan()
		got = append(got, event.Type)
		versions = append(versions, event.Object.(*corev1.Node).ResourceVersion)
	}
	want := []watch.EventType{watch.Added, watch.Modified, watch.Deleted, watch.Added, watch.Deleted}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	for i := 1; i < len(versions); i++ {
		if versions[i] == versions[i-1] {
			t.Errorf("two events of version %s", versions[i])
		}
	}
}

func TestWatchTooOld(t *testing.T) {
	_, cluster, config := startCluster(t)
	ctx := t.Context()
	n := node("a")
	if err := cluster.Client().Create(ctx, n); err != nil {
		t.Fatal(err)
	}
	for range 2*historyLimit + 1 {
		n.Spec.Unschedulable = !n.Spec.Unschedulable
		if err := cluster.Client().Update(ctx, n); err != nil {
			t.Fatal(err)
		}
	}
	if held := len(cluster.store.history); held > 2*historyLimit {
		t.Errorf("history holds %d changes", held)
	}
	for _, version := range []string{"2", "99999999999999"} {
		w, err := kubernetes.NewForConfigOrDie(config).CoreV1().Nodes().Watch(ctx, metav1.ListOptions{ResourceVersion: version})
		if err != nil {
			t.Fatal(err)
		}
		event := <-w.ResultChan()
		w.Stop()
		if event.Type != watch.Error || !apierrors.IsResourceExpired(apierrors.FromObject(event.Object)) {
			t.Errorf("watch from version %s gives %v %v", version, event.Type, event.Object)
		}
	}
}

// TestInformers: the caches of client-go and controller-runtime follow the cluster, and find
// it again after it was away.
func TestInformers(t *testing.T) {
	cloud, ca := startCloud(t), newCA(t, ecdsaKey(t))
	cluster, config := cloud.Cluster(demo), adminConfig(t, cloud, demo, ca)
	config.Timeout = 0
	g := NewWithT(t)
	g.Expect(cluster.Serve(ca, "v1.34.4")).To(Succeed())
	g.SetDefaultEventuallyTimeout(30 * time.Second)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()

	factory := informers.NewSharedInformerFactory(kubernetes.NewForConfigOrDie(config), 0)
	lister := factory.Core().V1().Nodes().Lister()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())

	objects, err := cache.New(config, cache.Options{})
	g.Expect(err).NotTo(HaveOccurred())
	go func() { _ = objects.Start(ctx) }()
	g.Expect(objects.WaitForCacheSync(ctx)).To(BeTrue())

	names := func() ([]string, error) {
		list := &corev1.NodeList{}
		if err := objects.List(ctx, list); err != nil {
			return nil, err
		}
		partial := &metav1.PartialObjectMetadataList{}
		partial.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("NodeList"))
		if err := objects.List(ctx, partial); err != nil {
			return nil, err
		}
		var names []string
		for _, n := range list.Items {
			_, err := lister.Get(n.Name)
			same := func(p metav1.PartialObjectMetadata) bool { return p.Name == n.Name }
			if err == nil && slices.ContainsFunc(partial.Items, same) {
				names = append(names, n.Name)
			}
		}
		return names, nil
	}
	g.Expect(names()).To(BeEmpty())
	c := cluster.Client()
	a := node("a")
	g.Expect(c.Create(ctx, a)).To(Succeed())
	g.Eventually(names).Should(ConsistOf("a"))
	a.Spec.Unschedulable = true
	g.Expect(c.Update(ctx, a)).To(Succeed())
	g.Eventually(func() (bool, error) {
		n := &corev1.Node{}
		err := objects.Get(ctx, types.NamespacedName{Name: "a"}, n)
		return n.Spec.Unschedulable, err
	}).Should(BeTrue())

	cluster.Halt()
	g.Expect(c.Create(ctx, node("b"))).To(Succeed())
	g.Expect(c.Delete(ctx, a)).To(Succeed())
	g.Expect(cluster.Serve(ca, "v1.34.4")).To(Succeed())
	g.Eventually(names).Should(ConsistOf("b"))
}

// TestWatchList: the initial events end with a bookmark that says so, and changes follow.
func TestWatchList(t *testing.T) {
	_, cluster, config := startCluster(t)
	ctx := t.Context()
	if err := cluster.Client().Create(ctx, node("a")); err != nil {
		t.Fatal(err)
	}
	w, err := kubernetes.NewForConfigOrDie(config).CoreV1().Nodes().Watch(ctx, metav1.ListOptions{
		SendInitialEvents: ptr.To(true), AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if first := <-w.ResultChan(); first.Type != watch.Added || first.Object.(*corev1.Node).Name != "a" {
		t.Errorf("the first event is %v %v", first.Type, first.Object)
	}
	mark := <-w.ResultChan()
	n, ok := mark.Object.(*corev1.Node)
	if !ok || mark.Type != watch.Bookmark || n.Annotations[metav1.InitialEventsAnnotationKey] != "true" || n.ResourceVersion == "" {
		t.Errorf("the second event is %v %v", mark.Type, mark.Object)
	}
	if err := cluster.Client().Create(ctx, node("b")); err != nil {
		t.Fatal(err)
	}
	if next := <-w.ResultChan(); next.Type != watch.Added || next.Object.(*corev1.Node).Name != "b" {
		t.Errorf("the third event is %v %v", next.Type, next.Object)
	}
}

func TestDynamicAndMetadataClients(t *testing.T) {
	_, cluster, config := startCluster(t)
	ctx := t.Context()
	if err := cluster.Client().Create(ctx, node("a")); err != nil {
		t.Fatal(err)
	}
	dynamicClient := dynamic.NewForConfigOrDie(config)
	got, err := dynamicClient.Resource(nodes).Patch(ctx, "a", types.MergePatchType,
		[]byte(`{"metadata":{"labels":{"x":"y"}},"status":{"phase":"Running"}}`), metav1.PatchOptions{})
	if err != nil || got.GetLabels()["x"] != "y" {
		t.Errorf("patched: %v, error %v", got, err)
	}
	if phase, _, _ := unstructured.NestedString(got.Object, "status", "phase"); phase != "" {
		t.Errorf("a patch changes the status to %s", phase)
	}
	got, err = dynamicClient.Resource(nodes).Patch(ctx, "a", types.StrategicMergePatchType,
		[]byte(`{"status":{"conditions":[{"type":"DiskPressure","status":"False"}]}}`), metav1.PatchOptions{}, "status")
	if err != nil {
		t.Fatal(err)
	}
	if conditions, _, _ := unstructured.NestedSlice(got.Object, "status", "conditions"); len(conditions) != 2 {
		t.Errorf("conditions %v, want those of before too", conditions)
	}

	metadataClient := metadataclient.NewForConfigOrDie(config)
	list, err := metadataClient.Resource(nodes).List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 || list.Items[0].Labels["x"] != "y" {
		t.Errorf("metadata %+v, error %v", list, err)
	}
	if err := metadataClient.Resource(nodes).Delete(ctx, "a", metav1.DeleteOptions{}, ""); err != nil {
		t.Error(err)
	}
	if err := metadataClient.Resource(nodes).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
}

// TestClients does the same over the network and without.
func TestClients(t *testing.T) {
	_, cluster, config := startCluster(t)
	remote, err := client.New(config, client.Options{Scheme: cluster.Client().Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]client.Client{"remote": remote, "direct": cluster.Client()} {
		t.Run(name, func(t *testing.T) {
			g := NewWithT(t)
			ctx := t.Context()
			namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
			g.Expect(c.Create(ctx, namespace)).To(Succeed())

			// Patches.
			n := node(name)
			g.Expect(c.Create(ctx, n)).To(Succeed())
			base := n.DeepCopy()
			n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}}
			g.Expect(c.Patch(ctx, n, client.StrategicMergeFrom(base))).To(Succeed())
			g.Expect(n.Spec.Taints).To(HaveLen(1))
			base = n.DeepCopy()
			n.Status.Phase = corev1.NodeRunning
			g.Expect(c.Status().Patch(ctx, n, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))).To(Succeed())
			g.Expect(n.Status.Phase).To(Equal(corev1.NodeRunning))
			n.Labels["late"] = "yes"
			err := c.Patch(ctx, n, client.MergeFromWithOptions(base, client.MergeFromWithOptimisticLock{}))
			g.Expect(apierrors.IsConflict(err)).To(BeTrue(), "error %v", err)

			// Server-side apply merges lists by their keys, knows owners, and takes back what is dropped.
			apply := func(manager string, ports ...int32) error {
				spec := corev1apply.ServiceSpec()
				for _, port := range ports {
					spec.WithPorts(corev1apply.ServicePort().WithPort(port).WithProtocol(corev1.ProtocolTCP).WithName(fmt.Sprint("p", port)))
				}
				return c.Apply(ctx, corev1apply.Service("web", name).WithSpec(spec), client.FieldOwner(manager))
			}
			g.Expect(apply("one", 1)).To(Succeed())
			g.Expect(apply("two", 2)).To(Succeed())
			service := &corev1.Service{}
			g.Expect(c.Get(ctx, types.NamespacedName{Namespace: name, Name: "web"}, service)).To(Succeed())
			g.Expect(service.Spec.Ports).To(HaveLen(2))
			version := service.ResourceVersion
			g.Expect(apply("two", 2)).To(Succeed())
			g.Expect(c.Get(ctx, types.NamespacedName{Namespace: name, Name: "web"}, service)).To(Succeed())
			g.Expect(service.ResourceVersion).To(Equal(version), "applying the same again")
			g.Expect(apply("one")).To(Succeed())
			g.Expect(c.Get(ctx, types.NamespacedName{Namespace: name, Name: "web"}, service)).To(Succeed())
			g.Expect(service.Spec.Ports).To(HaveLen(1))
			conflict := c.Apply(ctx, corev1apply.Service("web", name).WithSpec(corev1apply.ServiceSpec().WithPorts(
				corev1apply.ServicePort().WithPort(2).WithProtocol(corev1.ProtocolTCP).WithName("other"))), client.FieldOwner("three"))
			g.Expect(apierrors.IsConflict(conflict)).To(BeTrue(), "error %v", conflict)

			// Unstructured and metadata only.
			u := &unstructured.Unstructured{}
			u.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Service"))
			g.Expect(c.Get(ctx, types.NamespacedName{Namespace: name, Name: "web"}, u)).To(Succeed())
			u.SetLabels(map[string]string{"a": "b"})
			g.Expect(c.Update(ctx, u)).To(Succeed())
			partial := &metav1.PartialObjectMetadata{}
			partial.SetGroupVersionKind(u.GroupVersionKind())
			g.Expect(c.Get(ctx, client.ObjectKeyFromObject(u), partial)).To(Succeed())
			g.Expect(partial.Labels).To(HaveKeyWithValue("a", "b"))
			services := &unstructured.UnstructuredList{}
			services.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("ServiceList"))
			g.Expect(c.List(ctx, services, client.InNamespace(name), client.MatchingLabels{"a": "b"})).To(Succeed())
			g.Expect(services.Items).To(HaveLen(1))

			// Draining.
			pod := &corev1.Pod{
				ObjectMeta: metav1.ObjectMeta{Namespace: name, Name: "p"},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
			}
			g.Expect(c.Create(ctx, pod)).To(Succeed())
			pod.Status.Phase = corev1.PodRunning
			g.Expect(c.Status().Update(ctx, pod)).To(Succeed())
			g.Expect(c.SubResource("eviction").Create(ctx, pod, &policyv1.Eviction{})).To(Succeed())
			g.Expect(apierrors.IsNotFound(c.Get(ctx, client.ObjectKeyFromObject(pod), pod))).To(BeTrue())

			g.Expect(c.DeleteAllOf(ctx, &corev1.Service{}, client.InNamespace(name))).To(Succeed())
			g.Expect(apierrors.IsNotFound(c.Get(ctx, client.ObjectKeyFromObject(u), u))).To(BeTrue())
			g.Expect(apierrors.IsNotFound(c.Delete(ctx, u))).To(BeTrue())
		})
	}
}

func widgetCRD() *apiextensionsv1.CustomResourceDefinition {
	return &apiextensionsv1.CustomResourceDefinition{
		ObjectMeta: metav1.ObjectMeta{Name: "widgets.example.com"},
		Spec: apiextensionsv1.CustomResourceDefinitionSpec{
			Group: "example.com", Scope: apiextensionsv1.NamespaceScoped,
			Names: apiextensionsv1.CustomResourceDefinitionNames{Plural: "widgets", Kind: "Widget"},
			Versions: []apiextensionsv1.CustomResourceDefinitionVersion{{
				Name: "v1alpha1", Served: true, Storage: true,
				Schema:       &apiextensionsv1.CustomResourceValidation{OpenAPIV3Schema: &apiextensionsv1.JSONSchemaProps{Type: "object"}},
				Subresources: &apiextensionsv1.CustomResourceSubresources{Status: &apiextensionsv1.CustomResourceSubresourceStatus{}},
			}},
		},
	}
}

// TestCustomKinds creates a definition and then an object through a RESTMapper that has to
// discover it, as Cluster API does for ClusterResourceSets.
func TestCustomKinds(t *testing.T) {
	g := NewWithT(t)
	_, cluster, config := startCluster(t)
	ctx := t.Context()
	httpClient, err := rest.HTTPClientFor(config)
	g.Expect(err).NotTo(HaveOccurred())
	mapper, err := apiutil.NewDynamicRESTMapper(config, httpClient)
	g.Expect(err).NotTo(HaveOccurred())
	c, err := client.New(config, client.Options{Scheme: cluster.Client().Scheme(), Mapper: mapper, HTTPClient: httpClient})
	g.Expect(err).NotTo(HaveOccurred())

	widget := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "example.com/v1alpha1", "kind": "Widget",
		"metadata": map[string]any{"name": "w", "namespace": "default"},
		"spec":     map[string]any{"size": int64(1)}, "status": map[string]any{"ready": true},
	}}
	g.Expect(meta.IsNoMatchError(c.Create(ctx, widget.DeepCopy()))).To(BeTrue())
	crd := widgetCRD()
	g.Expect(c.Create(ctx, crd)).To(Succeed())
	g.Expect(crd.Status.Conditions).To(ContainElement(HaveField("Type", apiextensionsv1.Established)))

	g.Expect(c.Create(ctx, widget)).To(Succeed())
	g.Expect(widget.GetGeneration()).To(Equal(int64(1)))
	g.Expect(widget.Object).NotTo(HaveKey("status"))
	widget.Object["status"] = map[string]any{"ready": true}
	g.Expect(c.Status().Update(ctx, widget)).To(Succeed())
	g.Expect(widget.GetGeneration()).To(Equal(int64(1)))
	g.Expect(unstructured.SetNestedField(widget.Object, int64(2), "spec", "size")).To(Succeed())
	g.Expect(c.Update(ctx, widget)).To(Succeed())
	g.Expect(widget.GetGeneration()).To(Equal(int64(2)))
	g.Expect(widget.Object).To(HaveKey("status"))

	applied := &unstructured.Unstructured{Object: map[string]any{
		"apiVersion": "example.com/v1alpha1", "kind": "Widget",
		"metadata": map[string]any{"name": "applied", "namespace": "default"},
		"spec":     map[string]any{"size": int64(3), "colors": []any{"red"}},
	}}
	g.Expect(c.Apply(ctx, client.ApplyConfigurationFromUnstructured(applied.DeepCopy()), client.FieldOwner("me"))).To(Succeed())
	unstructured.RemoveNestedField(applied.Object, "spec", "colors")
	g.Expect(c.Apply(ctx, client.ApplyConfigurationFromUnstructured(applied.DeepCopy()), client.FieldOwner("me"))).To(Succeed())
	g.Expect(cluster.Client().Get(ctx, client.ObjectKeyFromObject(applied), applied)).To(Succeed())
	g.Expect(applied.Object["spec"]).To(Equal(map[string]any{"size": int64(3)}))

	direct, err := cluster.Client().RESTMapper().RESTMapping(schema.GroupKind{Group: "example.com", Kind: "Widget"})
	g.Expect(err).NotTo(HaveOccurred())
	g.Expect(direct.Resource.Resource).To(Equal("widgets"))

	g.Expect(c.Delete(ctx, crd)).To(Succeed())
	g.Expect(apierrors.IsNotFound(c.Get(ctx, client.ObjectKeyFromObject(widget), widget))).To(BeTrue())
}

func TestDiscovery(t *testing.T) {
	_, _, config := startCluster(t)
	lists, err := kubernetes.NewForConfigOrDie(config).Discovery().ServerPreferredResources()
	if err != nil {
		t.Fatal(err)
	}
	scopes := map[string]bool{}
	for _, list := range lists {
		for _, r := range list.APIResources {
			scopes[list.GroupVersion+"/"+r.Name] = r.Namespaced
		}
	}
	for name, namespaced := range map[string]bool{
		"v1/nodes": false, "v1/endpoints": true, "apps/v1/deployments": true, "networking.k8s.io/v1/ingresses": true,
		"networking.k8s.io/v1/networkpolicies": true, "networking.k8s.io/v1/ingressclasses": false,
		"autoscaling/v2/horizontalpodautoscalers": true, "rbac.authorization.k8s.io/v1/clusterroles": false,
		"discovery.k8s.io/v1/endpointslices": true, "storage.k8s.io/v1/csistoragecapacities": true,
		"storage.k8s.io/v1/storageclasses": false, "node.k8s.io/v1/runtimeclasses": false,
		"apiextensions.k8s.io/v1/customresourcedefinitions": false, "coordination.k8s.io/v1/leases": true,
	} {
		if got, found := scopes[name]; !found || got != namespaced {
			t.Errorf("%s: found %v, namespaced %v", name, found, got)
		}
	}
	for _, name := range []string{"v1/bindings", "v1/componentstatuses", "v1/apigroups", "policy/v1/evictions", "authentication.k8s.io/v1/tokenreviews"} {
		if _, found := scopes[name]; found {
			t.Errorf("%s is served, but is not stored", name)
		}
	}
}

func TestWhoMayAsk(t *testing.T) {
	cloud, _, config := startCluster(t)
	get := func(config *rest.Config, path string) error {
		c, err := rest.HTTPClientFor(config)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := c.Get(config.Host + path)
		if err != nil {
			return err
		}
		defer func() { _ = answer.Body.Close() }()
		if answer.StatusCode != http.StatusOK {
			return apierrors.NewGenericServerResponse(answer.StatusCode, "get", schema.GroupResource{}, "", "", 0, false)
		}
		return nil
	}
	if err := get(config, "/"); err != nil {
		t.Errorf("the administrator: %v", err)
	}
	anonymous := rest.CopyConfig(config)
	anonymous.CertData, anonymous.KeyData = nil, nil
	if err := get(anonymous, "/api/v1/nodes"); !apierrors.IsUnauthorized(err) {
		t.Errorf("without certificate: %v", err)
	}
	if err := get(anonymous, "/readyz"); err != nil {
		t.Errorf("health without certificate: %v", err)
	}
	stranger := adminConfig(t, cloud, demo, newCA(t, ecdsaKey(t)))
	stranger.CAData = config.CAData
	if err := get(stranger, "/"); err == nil {
		t.Error("a certificate of another CA is accepted")
	}
	elsewhere := rest.CopyConfig(config)
	elsewhere.ServerName = ServerName(types.NamespacedName{Namespace: "fleet", Name: "unknown"})
	if err := get(elsewhere, "/"); err == nil {
		t.Error("a cluster that is not there answers")
	}
}

// TestHTTP1 is for clients that speak nothing newer.
func TestHTTP1(t *testing.T) {
	_, _, config := startCluster(t)
	config.NextProtos = []string{"http/1.1"}
	if _, err := kubernetes.NewForConfigOrDie(config).CoreV1().Namespaces().Get(t.Context(), "kube-system", metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
}

func TestServerName(t *testing.T) {
	long := strings.Repeat("x", 70)
	for key, want := range map[types.NamespacedName]string{
		{Namespace: "fleet", Name: "demo"}: "demo.fleet.devcluster",
		{Namespace: "fleet", Name: "a.b"}:  "a.b.fleet.devcluster",
	} {
		if got := ServerName(key); got != want {
			t.Errorf("ServerName(%s) is %s, want %s", key, got, want)
		}
	}
	one, two := ServerName(types.NamespacedName{Namespace: "fleet", Name: long}), ServerName(types.NamespacedName{Namespace: "other", Name: long})
	if len(one) > 63 || one == two {
		t.Errorf("names of long clusters: %s, %s", one, two)
	}
}

func TestNewRefusesTheWorld(t *testing.T) {
	if _, err := New(Options{Address: "0.0.0.0:0"}); err == nil {
		t.Error("listens for everybody")
	}
}

func TestIntegersSurvive(t *testing.T) {
	object, err := parse([]byte("spec: {replicas: 9007199254740993}"))
	if err != nil {
		t.Fatal(err)
	}
	if got, _, err := unstructured.NestedInt64(object.Object, "spec", "replicas"); err != nil || got != 9007199254740993 {
		t.Errorf("got %v, error %v", got, err)
	}
}

// TestOptimisticLocking: of many who count at the same time nobody gets lost.
func TestOptimisticLocking(t *testing.T) {
	_, cluster, config := startCluster(t)
	ctx := t.Context()
	if err := cluster.Client().Create(ctx, node("a")); err != nil {
		t.Fatal(err)
	}
	const people, times = 8, 10
	ended := make(chan error, people)
	count := func(n *corev1.Node) int64 { return int64(len(n.Spec.PodCIDRs)) }
	for range people {
		c, err := client.New(config, client.Options{Scheme: cluster.Client().Scheme()})
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			for range times {
				err := retry.RetryOnConflict(wait.Backoff{Steps: 10000}, func() error {
					n := &corev1.Node{}
					if err := c.Get(ctx, types.NamespacedName{Name: "a"}, n); err != nil {
						return err
					}
					n.Spec.PodCIDRs = append(n.Spec.PodCIDRs, fmt.Sprint(count(n)))
					return c.Update(ctx, n)
				})
				if err != nil {
					ended <- err
					return
				}
			}
			ended <- nil
		}()
	}
	for range people {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	n := &corev1.Node{}
	if err := cluster.Client().Get(ctx, types.NamespacedName{Name: "a"}, n); err != nil || count(n) != people*times {
		t.Errorf("counted to %d (error %v), want %d", count(n), err, people*times)
	}
}
