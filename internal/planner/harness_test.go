package planner_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/go-logr/logr"
	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/log"
	"sigs.k8s.io/yaml"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/apply"
	"capstan.dev/capstan/internal/inventory"
	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/plan"
	"capstan.dev/capstan/internal/planner"
	"capstan.dev/capstan/internal/render"
	"capstan.dev/capstan/internal/testenv"
	"capstan.dev/capstan/internal/tree"
)

var env *testenv.Env

func TestMain(m *testing.M) {
	log.SetLogger(logr.Discard())
	os.Exit(testenv.Run(m, &env))
}

// canary begins every value that a stranger must not learn.
const canary = "canary-"

// variables are those that come from Secrets, placeholders what a stranger's render
// has in their place.
var (
	variables    = map[string]string{"PASSWORD": canary + "password", "TOKEN": canary + "token", "SAME": canary + "token", "PORT": "64430"}
	placeholders = map[string]string{"@p-1f0c@": variables["PASSWORD"], "@p-2b7e@": variables["TOKEN"], "@p-3d11@": variables["SAME"], "@p-4a90@": variables["PORT"]}
)

// bed is a Fleet of a test, with what a stranger is told about it.
type bed struct {
	*testing.T
	ns, user string
	fleet    *v1alpha1.Fleet
	digester object.Digester
	// applier is the agent's when it looks at pull requests; bodies are what it has
	// sent.
	applier *apply.Applier
	bodies  *recorder
	// merger applies what is merged.
	merger *apply.Applier
	around *planner.Neighbours
	mark   testenv.Mark
}

func newBed(t *testing.T) *bed {
	t.Helper()
	b := &bed{T: t, ns: env.Namespace(t), bodies: &recorder{}, around: planner.NewNeighbours(), digester: object.NewDigester([]byte("key"))}
	b.user = "planner-" + b.ns
	b.fleet = &v1alpha1.Fleet{ObjectMeta: metav1.ObjectMeta{Namespace: b.ns, Name: "fleet"}}
	b.merger = newApplier(t, env.Config("agent-"+b.ns))
	b.as(env.Config(b.user))
	b.mark = env.Mark(t)
	return b
}

// as has pull requests looked at with other rights.
func (b *bed) as(config *rest.Config) {
	config.Wrap(b.bodies.wrap)
	b.applier = newApplier(b.T, config)
}

func newApplier(t *testing.T, config *rest.Config) *apply.Applier {
	t.Helper()
	a, err := apply.New(apply.Options{Config: config})
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// recorder keeps the bodies of requests.
type recorder struct {
	next http.RoundTripper
	mu   sync.Mutex
	sent []string
}

func (r *recorder) wrap(next http.RoundTripper) http.RoundTripper {
	r.next = next
	return r
}

func (r *recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	body := []byte{}
	if req.Body != nil {
		var err error
		if body, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		req.Body = io.NopCloser(bytes.NewReader(body))
	}
	r.mu.Lock()
	r.sent = append(r.sent, string(body))
	r.mu.Unlock()
	return r.next.RoundTrip(req)
}

// treeOf has one overlay with all manifests in a file; NS stands for the namespace.
func (b *bed) treeOf(path, manifests string) tree.Tree {
	return tree.FromMap(map[string]string{
		path + "/kustomization.yaml": "resources: [all.yaml]",
		path + "/all.yaml":           b.in(manifests),
	})
}

func (b *bed) in(text string) string { return strings.ReplaceAll(text, "NS", b.ns) }

func (b *bed) owner(path string) apply.Owner {
	return apply.Owner{FleetNamespace: b.ns, FleetName: "fleet", Overlay: planner.OverlayName("fleet", path), Path: path}
}

// merged applies manifests as the agent does, and returns what it records.
func (b *bed) merged(path, manifests string) *v1alpha1.ClusterOverlay {
	b.Helper()
	owner := b.owner(path)
	built, err := planner.Build(b.Context(), planner.BuildInput{
		Tree: b.treeOf(path, manifests), Owner: owner, Substitution: &render.Substitution{Values: variables}, Digester: b.digester,
	})
	if err != nil {
		b.Fatal(err)
	}
	report, err := b.merger.Apply(b.Context(), built.Request(owner))
	if err != nil || report.Err() != nil {
		b.Fatal(err, report.Err())
	}
	o := &v1alpha1.ClusterOverlay{ObjectMeta: metav1.ObjectMeta{Namespace: b.ns, Name: owner.Overlay, UID: types.UID(owner.Overlay)}}
	o.Spec.Path, o.Spec.FleetRef.Name = path, "fleet"
	uids := map[object.ID]types.UID{}
	for _, outcome := range report.Outcomes {
		uids[outcome.ID] = outcome.Ref.UID
	}
	for _, d := range built.Desired {
		d.Ref.UID = uids[inventory.IDOf(d.Ref)]
		o.Status.Inventory = append(o.Status.Inventory, v1alpha1.InventoryEntry{ObjectReference: d.Ref, Digest: d.Digest, State: v1alpha1.EntryApplied})
	}
	return o
}

// input is a stranger's pull request.
func (b *bed) input(path, manifests string, overlay *v1alpha1.ClusterOverlay) planner.Input {
	masked := map[string]string{}
	for name, value := range variables {
		for _, placeholder := range slices.Sorted(maps.Keys(placeholders)) {
			if placeholders[placeholder] == value && masked[name] == "" && (name != "SAME" || placeholder == "@p-3d11@") {
				masked[name] = placeholder
			}
		}
	}
	hidden := map[string]any{}
	for name, value := range variables {
		hidden[name] = value
	}
	in := planner.Input{
		Fleet: b.fleet, Overlay: overlay, Owner: b.owner(path), Substitution: &render.Substitution{Values: masked},
		Secrets:      &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Secret", "stringData": hidden}},
		Placeholders: placeholders, Digester: b.digester, Around: b.around, Untrusted: true,
	}
	if in.Gone = manifests == ""; !in.Gone {
		in.Tree = b.treeOf(path, manifests)
	}
	return in
}

// told is all that a stranger gets to see.
type told struct {
	planner.Result
	text string
}

// propose plans a stranger's pull request, and checks that nothing was written and
// nothing was said or sent that holds a canary.
func (b *bed) propose(path, manifests string, overlay *v1alpha1.ClusterOverlay) told {
	b.Helper()
	result, err := planner.Plan(b.Context(), b.applier, b.input(path, manifests, overlay))
	if err != nil {
		b.Fatal(err)
	}
	var shown bytes.Buffer
	for _, err := range []error{result.Plan.Text(&shown, false), result.Plan.JSON(&shown), result.Plan.Markdown(&shown)} {
		if err != nil {
			b.Fatal(err)
		}
	}
	overlays := []plan.OverlayPlan{{Path: path, Plan: result.Plan}}
	_, description := plan.Verdict(overlays)
	changes, err := json.Marshal(result.Plan.Changes)
	if err != nil {
		b.Fatal(err)
	}
	fmt.Fprintln(&shown, plan.Comment(plan.CommentInput{Marker: "<!-- m -->", Overlays: overlays}), description, result.Warnings)
	if result.Halted != nil {
		fmt.Fprintln(&shown, result.Halted)
	}
	text := shown.String()
	// What a stranger writes may be shown: only what isn't in the manifests counts.
	if !strings.Contains(manifests, canary) {
		if strings.Contains(text+string(changes), canary) {
			b.Errorf("a canary is shown:\n%s\n%s", text, changes)
		}
		for _, sent := range b.bodies.sent {
			if strings.Contains(sent, canary) || strings.Contains(sent, "Y2FuYXJ5") {
				b.Errorf("a canary is sent: %s", sent)
			}
		}
	}
	if strings.Contains(text, "@p-") {
		b.Errorf("a placeholder is shown:\n%s", text)
	}
	for _, r := range env.Requests(b.T, b.user, b.mark) {
		if r.Verb != "get" && r.Verb != "list" && !r.DryRun || r.Resource == "secrets" && r.Verb != "get" {
			b.Errorf("not a dry-run: %s", r)
		}
	}
	return told{result, text}
}

// requests lists what was sent since the bed was made or requests were last listed.
func (b *bed) requests() []string {
	b.Helper()
	var all []string
	for _, r := range testenv.Counted(env.Requests(b.T, b.user, b.mark)) {
		all = append(all, strings.ReplaceAll(r.String(), b.ns, "NS"))
	}
	b.mark = env.Mark(b.T)
	slices.Sort(all)
	return all
}

// want compares changes, each as "action Kind name", with the fields, the note and
// the error.
func (b *bed) want(got told, want ...string) {
	b.Helper()
	changes := slices.Clone(got.Plan.Changes)
	slices.SortFunc(changes, func(x, y plan.Change) int { return object.Compare(x.ID, y.ID) })
	var lines []string
	for _, c := range changes {
		line := fmt.Sprintf("%s %s %s", c.Action, c.ID.Kind, c.ID.Name)
		for _, f := range c.Fields() {
			line += fmt.Sprintf("; %s: %v → %v", f.Path, f.From, f.To)
		}
		if c.Note != "" {
			line += "; note: " + c.Note
		}
		if c.Error != "" {
			line += "; error: " + c.Error
		}
		lines = append(lines, strings.ReplaceAll(line, b.ns, "NS"))
	}
	if diff := cmp.Diff(want, lines); diff != "" {
		b.Errorf("changes (-want +got):\n%s", diff)
	}
}

// other writes manifests as another manager, forcing or not.
func (b *bed) other(manager, manifests string) {
	b.Helper()
	for _, doc := range strings.Split(b.in(manifests), "\n---\n") {
		u := &unstructured.Unstructured{}
		if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
			b.Fatal(err)
		}
		err := env.Client().Patch(context.Background(), u, client.Apply, client.FieldOwner(manager)) //nolint:staticcheck // unstructured
		if err != nil {
			b.Fatal(err)
		}
	}
}
