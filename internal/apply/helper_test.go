package apply_test

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	"github.com/onsi/gomega"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/yaml"

	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/testenv"
)

var env *testenv.Env

func TestMain(m *testing.M) {
	log.SetLogger(logr.Discard())
	os.Exit(testenv.Run(m, &env))
}

// bed is what a test works in: a namespace, an Applier of a user of its own, and
// an owner.
type bed struct {
	*testing.T
	apply *apply.Applier
	ns    string
	user  string
	owner apply.Owner
}

func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{T: t, ns: env.Namespace(t)}
	b.user = "capstan-" + b.ns
	b.apply = newApplier(t, env.Config(b.user))
	b.owner = apply.Owner{FleetNamespace: b.ns, FleetName: "fleet", Overlay: "fleet-a-" + b.ns, Path: "clusters/a"}
	return b
}

func newApplier(t *testing.T, config *rest.Config) *apply.Applier {
	t.Helper()
	a, err := apply.New(apply.Options{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// parse reads manifests; NS stands for the test's namespace.
func (b *bed) parse(manifests string) []*unstructured.Unstructured {
	b.Helper()
	var objects []*unstructured.Unstructured
	for _, doc := range strings.Split(strings.ReplaceAll(manifests, "NS", b.ns), "\n---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
			b.Fatalf("%v\n%s", err, doc)
		}
		objects = append(objects, u)
	}
	return objects
}

// request makes a request for labelled manifests.
func (b *bed) request(manifests string) apply.Request {
	b.Helper()
	objects := b.parse(manifests)
	apply.Label(b.owner, objects)
	return apply.Request{Owner: b.owner, Objects: objects}
}

func (b *bed) dryRun(req apply.Request) apply.Report {
	b.Helper()
	report, err := b.apply.DryRun(context.Background(), req)
	if err != nil {
		b.Fatal(err)
	}
	return report
}

func (b *bed) run(req apply.Request) apply.Report {
	b.Helper()
	report, err := b.apply.Apply(context.Background(), req)
	if err != nil {
		b.Fatal(err)
	}
	return report
}

// must applies manifests, all of them, and returns them as known.
func (b *bed) must(req apply.Request) map[object.ID]types.UID {
	b.Helper()
	report := b.run(req)
	if err := report.Err(); err != nil {
		b.Fatal(err)
	}
	known := map[object.ID]types.UID{}
	for _, o := range report.Outcomes {
		if o.Ref.UID == "" {
			b.Fatalf("%s: %s without a UID", o.ID, o.Action)
		}
		known[o.ID] = o.Ref.UID
	}
	return known
}

// wantActions compares the actions of a report, given as "Kind name: Action".
func (b *bed) wantActions(report apply.Report, want ...string) {
	b.Helper()
	var got []string
	for _, o := range report.Outcomes {
		got = append(got, fmt.Sprintf("%s %s: %s", o.ID.Kind, o.ID.Name, o.Action))
	}
	if diff := cmp.Diff(want, got); diff != "" {
		b.Errorf("actions (-want +got):\n%s\n%v", diff, report.Err())
	}
}

// wantError checks that exactly one object failed, and how.
func (b *bed) wantError(report apply.Report, reason string, transient bool, parts ...string) {
	b.Helper()
	errs := report.Errors()
	if len(errs) != 1 {
		b.Fatalf("%d errors, want 1: %v", len(errs), report.Err())
	}
	b.checkError(errs[0], reason, transient, parts...)
}

func (b *bed) checkError(err *apply.Error, reason string, transient bool, parts ...string) {
	b.Helper()
	if err.Reason != reason || err.Transient != transient {
		b.Errorf("reason %s, transient %t; want %s, %t: %v", err.Reason, err.Transient, reason, transient, err)
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), strings.ReplaceAll(part, "NS", b.ns)) {
			b.Errorf("error %q does not say %q", err, part)
		}
	}
}

// counted are the user's requests to the API since a mark.
func (b *bed) counted(since testenv.Mark) []string {
	b.Helper()
	var all []string
	for _, r := range testenv.Counted(env.Requests(b.T, b.user, since)) {
		all = append(all, strings.ReplaceAll(r.String(), b.ns, "NS"))
	}
	return all
}

// live reads the object of a manifest past the code under test; nil if absent.
func (b *bed) live(manifest string) *unstructured.Unstructured {
	b.Helper()
	u := b.parse(manifest)[0]
	err := env.Client().Get(context.Background(), client.ObjectKeyFromObject(u), u)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		b.Fatal(err)
	}
	return u
}

// as writes manifests as another manager would: a server-side apply or, with
// update, a create or update.
func (b *bed) as(manager string, update bool, manifests string) {
	b.Helper()
	ctx, c := context.Background(), env.Client()
	for _, u := range b.parse(manifests) {
		var err error
		switch live := u.DeepCopy(); {
		case !update:
			err = c.Patch(ctx, u, client.Apply, client.FieldOwner(manager), client.ForceOwnership) //nolint:staticcheck // unstructured
		case c.Get(ctx, client.ObjectKeyFromObject(u), live) == nil:
			err = c.Patch(ctx, u, client.Merge, client.FieldOwner(manager))
		default:
			err = c.Create(ctx, u, client.FieldOwner(manager))
		}
		if err != nil {
			b.Fatal(err)
		}
	}
}

func field(u *unstructured.Unstructured, path ...string) any {
	value, _, _ := unstructured.NestedFieldNoCopy(u.Object, path...)
	return value
}

// managers lists the managers of an object as "name operation version".
func managers(u *unstructured.Unstructured) []string {
	var all []string
	for _, e := range u.GetManagedFields() {
		all = append(all, fmt.Sprintf("%s %s %s", e.Manager, e.Operation, e.APIVersion))
	}
	return all
}

const configMap = `{apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: NS}, data: {a: one}}`

// unlock takes finalizers off, so that a deletion completes.
func (b *bed) unlock(u *unstructured.Unstructured) {
	b.Helper()
	patch := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`))
	if err := env.Client().Patch(context.Background(), u, patch); err != nil && !apierrors.IsNotFound(err) {
		b.Fatal(err)
	}
}

func eventually(t *testing.T, done func() bool) {
	t.Helper()
	gomega.NewWithT(t).Eventually(done).WithTimeout(time.Minute).WithPolling(20 * time.Millisecond).Should(gomega.BeTrue())
}

func contains(s, part string) bool { return strings.Contains(s, part) }

func replace(s, old, value string) string { return strings.ReplaceAll(s, old, value) }
