package live_test

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/onsi/gomega"
	rbacv1 "k8s.io/api/rbac/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/live"
	"capstan.dev/capstan/internal/object"
)

// parse reads a manifest in which NS is the namespace.
func (b *bed) parse(manifest string) *unstructured.Unstructured {
	b.Helper()
	u := &unstructured.Unstructured{}
	if err := yaml.Unmarshal([]byte(strings.ReplaceAll(manifest, "NS", b.ns)), &u.Object); err != nil {
		b.Fatal(err)
	}
	return u
}

// apply applies a manifest as we do.
func (b *bed) apply(manifest string) *unstructured.Unstructured {
	b.Helper()
	u, err := b.tryApply(manifest)
	if err != nil {
		b.Fatal(err)
	}
	return u
}

func (b *bed) tryApply(manifest string) (*unstructured.Unstructured, error) {
	u := b.parse(manifest)
	err := env.Client().Apply(b.Context(), client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(v1alpha1.FieldManager))
	return u, err
}

// patch merges something into an object as another manager does.
func (b *bed) patch(u *unstructured.Unstructured, manager, patch string, subresources ...string) {
	b.Helper()
	o, p := u.DeepCopy(), client.RawPatch(types.MergePatchType, []byte(patch))
	var err error
	if len(subresources) > 0 {
		err = env.Client().SubResource(subresources[0]).Patch(b.Context(), o, p, client.FieldOwner(manager))
	} else {
		err = env.Client().Patch(b.Context(), o, p, client.FieldOwner(manager))
	}
	if err != nil {
		b.Fatal(err)
	}
	u.Object = o.Object
}

func (b *bed) delete(u *unstructured.Unstructured) {
	b.Helper()
	if err := env.Client().Delete(b.Context(), u.DeepCopy()); err != nil {
		b.Fatal(err)
	}
}

// declare declares objects, and nothing else.
func (b *bed) declare(objects ...*unstructured.Unstructured) {
	refs := make([]v1alpha1.ObjectReference, 0, len(objects))
	for _, u := range objects {
		refs = append(refs, ref(u))
	}
	b.objects.Declare(b.overlay, refs)
}

func (b *bed) sights() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sighted
}

// sees waits until an object looks as it should, and returns how it does.
func (b *bed) sees(u *unstructured.Unstructured, as func(live.Seen) bool) live.Seen {
	b.Helper()
	var seen live.Seen
	b.Eventually(func() live.Seen {
		seen = b.objects.Seen(b.overlay)[object.IDOf(u)]
		return seen
	}).Should(gomega.Satisfy(as))
	return seen
}

func present(s live.Seen) bool { return s.Known && s.Present }
func absent(s live.Seen) bool  { return s.Known && !s.Present }
func blind(s live.Seen) bool   { return !s.Known && s.Why != "" }

// upTo tells whether a version has been delivered.
func upTo(version string) func(live.Seen) bool {
	return func(s live.Seen) bool {
		order, err := resourceversion.CompareResourceVersion(s.ResourceVersion, version)
		return s.Known && err == nil && order >= 0
	}
}

const configMap = `{apiVersion: v1, kind: ConfigMap, metadata: {name: a, namespace: NS, labels: {capstan.dev/overlay: fleet-a}}, data: {key: value}}`

// All that is declared is seen, whatever its kind; only what makes progress is looked at.
func TestSights(t *testing.T) {
	b := newBed(t, env.Config("live-"+t.Name()))
	declared := []*unstructured.Unstructured{
		b.apply(configMap), b.apply(cluster),
		b.apply(`{apiVersion: v1, kind: Namespace, metadata: {name: NS-more, labels: {capstan.dev/fleet: "01234567"}, annotations: {capstan.dev/drift: Report, other: x}}}`),
		b.apply(`{apiVersion: infrastructure.cluster.x-k8s.io/v1alpha2, kind: ProxmoxMachineTemplate, metadata: {name: a, namespace: NS, labels: {capstan.dev/overlay: fleet-a}},
spec: {template: {spec: {sourceNode: pve1, templateID: 100, network: {networkDevices: [{bridge: vmbr0}]}}}}}`),
	}
	b.declare(declared...)
	for _, u := range declared {
		seen := b.sees(u, present)
		if seen.UID != u.GetUID() || seen.ResourceVersion != u.GetResourceVersion() || seen.Deleting || seen.Sight.Owned == [32]byte{} {
			t.Errorf("%s %s is seen as %+v", u.GetKind(), u.GetName(), seen)
		}
		if mode := seen.Annotations[v1alpha1.DriftAnnotation]; (mode == "Report") != (u.GetKind() == "Namespace") || len(seen.Annotations) > 1 {
			t.Errorf("annotations of %s: %v", u.GetKind(), seen.Annotations)
		}
	}
	if view := b.complete(); len(view.Live) != 1 || view.Live[object.IDOf(declared[1])] == nil {
		t.Errorf("looked at: %v", view.Live)
	}
	b.objects.Forget(b.overlay)
	if seen := b.objects.Seen(b.overlay); len(seen) > 0 {
		t.Errorf("forgotten, and seen: %v", seen)
	}
}

// What of a declared object matters for drift is told of; what doesn't is not.
func TestSighted(t *testing.T) {
	b := newBed(t, env.Config("live-"+t.Name()))
	u := b.apply(cluster)
	b.declare(u)
	first := b.sees(u, present)
	b.Eventually(b.sights).Should(gomega.Equal(3)) // it was declared, came, and all was listed

	told := b.sights()
	for _, phase := range []string{"Pending", "Provisioning", "Provisioned", "Deleting", "Failed"} {
		b.patch(u, "manager", fmt.Sprintf(`{"status": {"phase": %q}}`, phase), "status")
	}
	if seen := b.sees(u, upTo(u.GetResourceVersion())); !reflect.DeepEqual(seen.Sight, first.Sight) || b.sights() != told {
		t.Errorf("a status changed: told %d times, %+v", b.sights()-told, seen)
	}

	for name, edit := range map[string]string{
		"a label of ours": `{"metadata": {"labels": {"capstan.dev/overlay": "fleet-b"}}}`,
		"a foreign field": `{"metadata": {"labels": {"team": "blue"}}}`,
		"a mode":          `{"metadata": {"annotations": {"capstan.dev/drift": "Report"}}}`,
	} {
		told, was := b.sights(), b.sees(u, upTo(u.GetResourceVersion()))
		b.patch(u, "kubectl-edit", edit)
		seen := b.sees(u, upTo(u.GetResourceVersion()))
		b.Eventually(b.sights).Should(gomega.BeNumerically(">", told), name)
		if reflect.DeepEqual(seen.Sight, was.Sight) && reflect.DeepEqual(seen.Annotations, was.Annotations) {
			t.Errorf("%s: seen as before: %+v", name, seen)
		}
	}

	told = b.sights()
	b.patch(u, "kubectl-edit", `{"metadata": {"finalizers": ["test.capstan.dev/hold"]}}`)
	b.delete(u)
	b.sees(u, func(s live.Seen) bool { return s.Deleting })
	b.Eventually(b.sights).Should(gomega.BeNumerically(">", told))
	b.patch(u, "kubectl-edit", `{"metadata": {"finalizers": null}}`)
	b.sees(u, absent)
}

// What lost our label, was deleted, or was made anew is told apart.
func TestGone(t *testing.T) {
	b := newBed(t, env.Config("live-"+t.Name()))
	u := b.apply(configMap)
	b.declare(u)
	first := b.sees(u, present)

	told := b.sights()
	b.patch(u, "kubectl-label", `{"metadata": {"labels": null}}`)
	if seen := b.sees(u, absent); !upTo(u.GetResourceVersion())(seen) {
		t.Errorf("without its label it is gone since %s, and seen as %+v", u.GetResourceVersion(), seen)
	}
	b.Eventually(b.sights).Should(gomega.BeNumerically(">", told))
	b.patch(u, "kubectl-label", `{"metadata": {"labels": {"capstan.dev/overlay": "fleet-a"}}}`)
	if seen := b.sees(u, present); seen.UID != first.UID {
		t.Errorf("with its label again it is another: %+v", seen)
	}

	b.delete(u)
	b.sees(u, absent)
	anew := b.create(configMap)
	if seen := b.sees(u, present); seen.UID != anew.GetUID() || seen.Sight.Owned != [32]byte{} {
		t.Errorf("made anew by another: %+v", seen)
	}
	told = b.sights()
	b.delete(anew)
	again := b.apply(configMap)
	b.sees(u, func(s live.Seen) bool { return s.UID == again.GetUID() })
	b.Eventually(b.sights).Should(gomega.BeNumerically(">", told))
}

// What was written after all that a watch has delivered isn't known to be gone.
func TestNotDelivered(t *testing.T) {
	b := newBed(t, env.Config("live-"+t.Name()))
	u := b.apply(configMap)
	never := u.DeepCopy()
	never.SetName("never")
	b.declare(u, never)
	seen := b.sees(never, absent)
	if !upTo(u.GetResourceVersion())(seen) {
		t.Errorf("listed after version %s, and complete up to %s", u.GetResourceVersion(), seen.ResourceVersion)
	}
	b.patch(u, "kubectl-edit", `{"data": {"key": "other"}}`)
	b.sees(never, upTo(u.GetResourceVersion()))
}

// Nothing of a Secret's content is kept.
func TestSecretNotKept(t *testing.T) {
	b := newBed(t, env.Config("live-"+t.Name()))
	u := b.apply(`{apiVersion: v1, kind: Secret, metadata: {name: a, namespace: NS, labels: {capstan.dev/overlay: fleet-a}, annotations: {note: hunter2}}, stringData: {password: hunter2}}`)
	b.patch(u, "kubectl-edit", `{"stringData": {"token": "hunter2-`+strings.Repeat("x", 1000)+`"}, "metadata": {"annotations": {"kubectl.kubernetes.io/last-applied-configuration": "hunter2"}}}`)
	b.declare(u)
	seen := b.sees(u, upTo(u.GetResourceVersion()))
	if len(seen.Sight.Foreign) == 0 {
		t.Fatalf("what somebody added isn't seen: %+v", seen)
	}
	kept := fmt.Sprint(texts(reflect.ValueOf(b.objects.Kept())))
	if !strings.Contains(kept, b.ns) {
		t.Fatalf("the object isn't found in what is kept: %s", kept)
	}
	for _, secret := range []string{"hunter2", "aHVudGVyM", "xxxx"} {
		if strings.Contains(kept, secret) {
			t.Errorf("kept: %s", kept)
		}
	}
}

// texts collects all strings and bytes that a value leads to.
func texts(v reflect.Value) (all []string) {
	switch v.Kind() {
	case reflect.String:
		return []string{v.String()}
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			return texts(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			all = append(all, texts(v.Field(i))...)
		}
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return []string{string(v.Bytes())}
		}
		for i := range v.Len() {
			all = append(all, texts(v.Index(i))...)
		}
	case reflect.Map:
		for _, key := range v.MapKeys() {
			all = append(all, texts(key)...)
			all = append(all, texts(v.MapIndex(key))...)
		}
	}
	return all
}

// A kind that may not be watched hides its own objects; neither others nor progress.
func TestForbiddenSight(t *testing.T) {
	user := env.Namespace(t) + "-live"
	may := []rbacv1.PolicyRule{{APIGroups: []string{"cluster.x-k8s.io"}, Resources: []string{"clusters", "machines", "machinesets"}, Verbs: []string{"list", "watch"}}}
	b := newBed(t, env.Restricted(t, user, "", may...))
	u, hidden := b.apply(cluster), b.apply(configMap)
	b.declare(u, hidden)
	if seen := b.sees(hidden, blind); !strings.Contains(seen.Why, "ConfigMap") || !strings.Contains(seen.Why, "forbidden") {
		t.Errorf("hidden: %s", seen.Why)
	}
	b.sees(u, present)
	b.complete()
	b.Eventually(func() string { return b.objects.Look(b.overlay).Failing }).Should(gomega.BeEmpty())

	told := b.sights()
	env.Grant(t, rbacv1.Subject{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: user}, "",
		rbacv1.PolicyRule{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"list", "watch"}})
	b.sees(hidden, present)
	b.Eventually(b.sights).Should(gomega.BeNumerically(">", told))
}

// Changes made while nothing could be heard are seen afterwards, and told of.
func TestSightsAfterSilence(t *testing.T) {
	config, wire := env.Config("live-"+t.Name()), &line{}
	config.Dial = wire.dial
	b := newBed(t, config)
	u := b.apply(configMap)
	other := b.apply(strings.Replace(configMap, "name: a", "name: b", 1))
	b.declare(u, other)
	was := b.sees(u, present)
	b.sees(other, present)
	wire.set(true)
	b.sees(u, blind)
	b.patch(u, "kubectl-edit", `{"data": {"key": "other"}}`)
	b.delete(other)
	told := b.sights()
	wire.set(false)
	if seen := b.sees(u, upTo(u.GetResourceVersion())); reflect.DeepEqual(seen.Sight, was.Sight) {
		t.Errorf("edited, and seen as before: %+v", seen)
	}
	b.sees(other, absent)
	b.Eventually(b.sights).Should(gomega.BeNumerically(">", told))
}

// A restart of the API server is survived.
func TestAPIServerRestart(t *testing.T) {
	config, wire := env.Config("live-"+t.Name()), &line{}
	config.Dial = wire.dial
	b := newBed(t, config)
	u := b.apply(configMap)
	b.declare(u)
	b.sees(u, present)
	wire.set(true) // the API server would wait a minute for its watches to end
	env.StopAPIServer(t)
	b.sees(u, blind)
	wire.set(false)
	env.StartAPIServer(t)
	b.sees(u, present)
	b.patch(u, "kubectl-edit", `{"data": {"key": "other"}}`)
	b.sees(u, upTo(u.GetResourceVersion()))
	b.delete(u)
	b.sees(u, absent)
}

const widgets = `{apiVersion: apiextensions.k8s.io/v1, kind: CustomResourceDefinition, metadata: {name: widgets.NS.capstan.dev}, spec: {
group: NS.capstan.dev, scope: Namespaced, names: {kind: Widget, plural: widgets, singular: widget, listKind: WidgetList}, versions: [
{name: v1, served: true, storage: false, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}},
{name: v2, served: true, storage: true, schema: {openAPIV3Schema: {type: object, x-kubernetes-preserve-unknown-fields: true}}}]}}`

const widget = `{apiVersion: NS.capstan.dev/v1, kind: Widget, metadata: {name: a, namespace: NS, labels: {capstan.dev/overlay: fleet-a}}, spec: {size: 1}}`

// serve has version v1 served or not.
func (b *bed) serve(crd *unstructured.Unstructured, served bool) {
	b.Helper()
	patch := fmt.Sprintf(`[{"op": "replace", "path": "/spec/versions/0/served", "value": %t}]`, served)
	if err := env.Client().Patch(b.Context(), crd.DeepCopy(), client.RawPatch(types.JSONPatchType, []byte(patch))); err != nil {
		b.Fatal(err)
	}
}

// established waits until objects of a CRD can be made.
func (b *bed) established(crd *unstructured.Unstructured) {
	b.Helper()
	b.Eventually(func() bool {
		var now apiextensionsv1.CustomResourceDefinition
		if err := env.Client().Get(b.Context(), client.ObjectKeyFromObject(crd), &now); err != nil {
			return false
		}
		return slices.ContainsFunc(now.Status.Conditions, func(c apiextensionsv1.CustomResourceDefinitionCondition) bool {
			return c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue
		})
	}).Should(gomega.BeTrue())
}

// A version that is no longer served is noticed, and when it is served again, too.
func TestVersionGone(t *testing.T) {
	b := newBed(t, env.Config("live-"+t.Name()))
	crd := b.create(widgets)
	b.established(crd)
	var u *unstructured.Unstructured
	b.Eventually(func() (err error) { u, err = b.tryApply(widget); return err }).Should(gomega.Succeed())
	b.declare(u)
	b.sees(u, present)

	b.serve(crd, false)
	if seen := b.sees(u, blind); !strings.Contains(seen.Why, "Widget") {
		t.Errorf("not served: %s", seen.Why)
	}
	b.serve(crd, true)
	b.sees(u, present)

	b.delete(crd)
	b.sees(u, blind)
	b.Eventually(func() error { _, err := b.tryApply(widgets); return err }).Should(gomega.Succeed())
	b.sees(u, absent)
	var again *unstructured.Unstructured
	b.Eventually(func() (err error) { again, err = b.tryApply(widget); return err }).Should(gomega.Succeed())
	if seen := b.sees(u, present); seen.UID != again.GetUID() {
		t.Errorf("made anew: %+v", seen)
	}
	b.delete(crd)
}

// A kind that comes later is seen as soon as it is there.
func TestKindComes(t *testing.T) {
	b := newBed(t, env.Config("live-"+t.Name()))
	u := b.parse(widget)
	b.declare(u)
	b.sees(u, blind)
	crd := b.create(widgets)
	b.sees(u, absent)
	b.Eventually(func() (err error) { u, err = b.tryApply(widget); return err }).Should(gomega.Succeed())
	b.sees(u, present)
	b.delete(crd)
}
