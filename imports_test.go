package capstan_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
)

const module = "capstan.dev/capstan"

// row is what a package may import of this module. A package imports only lower
// layers; within its own layer, only what its row names.
type row struct {
	layer int
	// imports are the packages it may import; anyLower are all of lower layers.
	imports []string
	// pure packages decide and do nothing else: pureForbids and pureForbidsDirect
	// hold for them.
	pure bool
	// testOnly packages are imported by tests only.
	testOnly bool
	// libraries, if set, are the only modules of others it may import.
	libraries []string
	// why is what a person needs to know who runs into the row.
	why string
}

const (
	api          = "api/v1alpha1"
	object       = "internal/object"
	tree         = "internal/tree"
	source       = "internal/source"
	render       = "internal/render"
	sandbox      = "internal/sandbox"
	capi         = "internal/capi"
	inventory    = "internal/inventory"
	apply        = "internal/apply"
	plan         = "internal/plan"
	planner      = "internal/planner"
	web          = "internal/web"
	agent        = "internal/agent"
	commitstatus = "internal/commitstatus"
	cmd          = "cmd/agent"
	testenv      = "internal/testenv"
	gittest      = "internal/gittest"
	giteatest    = "internal/giteatest"
	charttest    = "internal/charttest"
	bench        = "internal/bench"
	forge        = "internal/forge"
	monitortest  = "internal/monitortest"
	live         = "internal/live"
	drift        = "internal/drift"
)

var anyLower = []string{"*"}

// rows has a row for every package. A new package gets its row with its first code.
var rows = map[string]row{
	api: {layer: 0, libraries: []string{"k8s.io/apimachinery"},
		why: "other programs import the types of the API and must not get more than apimachinery with them"},
	object: {layer: 0, pure: true,
		why: "the vocabulary of all packages: it can know none of them"},
	tree: {layer: 0,
		why: "what source serves and render reads: it keeps the two from knowing each other"},

	source: {layer: 1, imports: []string{tree},
		why: "source serves trees of files and knows nothing of what is in them"},
	render: {layer: 1, imports: []string{object, tree},
		why: "a render depends on a tree and values alone: no Git, no cluster, no API types"},
	capi: {layer: 1, pure: true, imports: []string{api, object},
		why: "what Cluster API objects mean is decided from objects alone"},
	inventory: {layer: 1, pure: true, imports: []string{api, object, capi},
		why: "what may be deleted is decided from gathered facts, so that it can be tested without a cluster"},
	apply: {layer: 1, imports: []string{api, object, capi},
		why: "apply does what it is told: it neither renders nor decides what to prune"},
	drift: {layer: 1, pure: true, imports: []string{api, object, capi},
		why: "whether an object has drifted, and what is done about it, is decided from objects alone, so that it can be tested without a cluster"},
	live: {layer: 1, imports: []string{api, object, capi, drift},
		why: "it watches what it is told to and says what there is: what that means is for others"},
	commitstatus: {layer: 1, pure: true, imports: []string{api},
		why: "what a forge should know is decided from what is recorded, so that it survives every crash and can be tested without a forge"},
	plan: {layer: 1, pure: true, imports: []string{object},
		why: "a plan is computed from results that others gathered, so that cluster and offline plans are the same"},
	forge: {layer: 1, imports: []string{},
		why: "forge speaks to a Git host and knows nothing of fleets: what a status or a comment says is not its business"},

	planner: {layer: 2, imports: []string{api, object, tree, render, capi, inventory, apply, plan, drift},
		why: "what a tree would do is worked out in one place, by the workers that would do it, and nothing is done"},

	sandbox: {layer: 2, imports: []string{render, tree, object},
		why: "it is render at arm's length, for content that nobody approved: what the result means is for others"},

	web: {layer: 2, imports: []string{api, forge},
		why: "what is served over HTTP answers from what it is given: it can reach neither Git nor the API server"},

	agent: {layer: 3, imports: anyLower,
		why: "the loop joins the workers; they don't know it"},
	cmd: {layer: 4, imports: anyLower,
		why: "the program is wiring: nothing imports it"},

	gittest: {layer: 1, testOnly: true,
		why: "Git servers for tests have no place in the program"},
	giteatest: {layer: 1, testOnly: true,
		why: "Gitea for tests and the demo has no place in the program"},
	testenv: {layer: 1, testOnly: true, imports: []string{api},
		why: "API servers for tests have no place in the program"},
	charttest: {layer: 4, testOnly: true, imports: anyLower,
		why: "what is shipped is tested from outside: nothing imports it"},
	monitortest: {layer: 1, testOnly: true, imports: []string{},
		why: "a Prometheus for tests has no place in the program, and looks at it from outside"},
	bench: {layer: 4, testOnly: true, imports: anyLower,
		why: "a measurement has no place in the program"},
}

// door says who may import a module, or a part of one, of somebody else. The longest
// prefix that matches an import counts.
type door struct {
	prefix string
	// packages may import it; everyone if empty.
	packages []string
	why      string
}

// doors has an entry for everything imported that is neither Go's nor ours.
var doors = []door{
	{"k8s.io/apimachinery", nil, ""},
	{"k8s.io/utils", nil, ""},
	{"sigs.k8s.io/yaml", nil, ""},
	{"github.com/go-logr/logr", nil, ""},
	{"github.com/prometheus/client_golang/prometheus", nil, ""},
	{"golang.org/x/sync", nil, ""},
	{"golang.org/x/time/rate", []string{web}, "deliveries are limited where they come in; whoever sends requests is told by the server"},

	{"github.com/go-git/go-git/v5", []string{source},
		"a repository handle is not safe to share and remembers what it saw: source wraps it in trees that can't change"},
	{"github.com/go-git/go-billy/v5", []string{source},
		"comes with go-git"},
	{"github.com/Masterminds/semver/v3", []string{source},
		"a range of versions is a way to name a ref"},
	{"golang.org/x/crypto", []string{source, gittest},
		"ssh is a transport of Git"},

	{"code.gitea.io/sdk/gitea", []string{forge},
		"forges are equals behind one interface: what is particular to one stays behind it"},
	{"github.com/google/go-github/v88", []string{forge},
		"forges are equals behind one interface: what is particular to one stays behind it"},
	{"github.com/bradleyfalzon/ghinstallation/v2", []string{forge},
		"a GitHub App is a way to log in to a forge"},

	{"sigs.k8s.io/kustomize", []string{render},
		"its state is process-wide and it reaches for the network: render keeps both under control"},
	{"gopkg.in/evanphx/json-patch.v4", []string{render},
		"kustomize applies patches with it: render sets its limits"},

	{"sigs.k8s.io/cluster-api/api", []string{capi},
		"what Cluster API's types mean is said once"},

	{"github.com/fluxcd/pkg/ssa", []string{apply},
		"its own Apply forces ownership and may delete and recreate: apply takes only the parts that do not"},

	{"k8s.io/api", []string{apply, agent, cmd, testenv},
		"typed core objects are for those who talk to the API server; others look at unstructured ones"},
	{"k8s.io/client-go", []string{apply, agent, cmd, live, testenv},
		"managed objects are read and written by apply, Capstan's own by agent and cmd"},
	{"k8s.io/client-go/tools/clientcmd", []string{cmd},
		"it reads the environment and the home folder, which only a program may"},
	{"sigs.k8s.io/controller-runtime", []string{agent, cmd},
		"managers and reconcilers are the loop; what a step does must not depend on them"},
	{"sigs.k8s.io/controller-runtime/pkg/client", []string{apply, agent, cmd, testenv},
		"managed objects are read and written by apply, Capstan's own by agent and cmd"},
	{"sigs.k8s.io/controller-runtime/pkg/envtest", []string{testenv},
		"one place starts API servers for tests"},
	{"k8s.io/apiextensions-apiserver", []string{testenv},
		"only tests install CRDs; the chart does it for people"},

	{"github.com/spf13/cobra", []string{cmd}, "the command line"},
	{"golang.org/x/term", []string{cmd}, "how wide a terminal is, only a program that prints needs to know"},
	{"k8s.io/klog/v2", []string{cmd}, "client-go logs to it: the program sends that where its own log goes"},
	{"go.uber.org/zap", []string{cmd}, "loggers are made in one place and passed on as logr"},
}

// pureForbids must not be among all that a pure package is built with. (apimachinery
// brings net/http, so that can only be forbidden directly.)
var pureForbids = map[string]string{
	"k8s.io/client-go":               "a pure package that can reach a cluster is none",
	"sigs.k8s.io/controller-runtime": "a pure package that can reach a cluster is none",
	"github.com/go-git/go-git/v5":    "a pure package that can reach a repository is none",
	"sigs.k8s.io/kustomize":          "a pure package gets objects, not files",
}

var pureForbidsDirect = map[string]string{
	"net":       "a pure package is given what it decides on",
	"net/http":  "a pure package is given what it decides on",
	"os":        "a pure package is given what it decides on",
	"os/exec":   "a pure package is given what it decides on",
	"math/rand": "a pure package gives the same answer every time",
}

// A pkg is what `go list -json` says of a package.
type pkg struct {
	ImportPath   string
	Dir          string
	Name         string
	GoFiles      []string
	TestGoFiles  []string
	XTestGoFiles []string
	Imports      []string
	Deps         []string
}

// name is the path of the package in the repository.
func (p pkg) name() string { return strings.TrimPrefix(strings.TrimPrefix(p.ImportPath, module), "/") }

func listPackages(t *testing.T, dir string, args ...string) []pkg {
	t.Helper()
	c := exec.Command("go", append([]string{"list", "-json=ImportPath,Dir,Name,GoFiles,TestGoFiles,XTestGoFiles,Imports,Deps"}, args...)...)
	c.Dir = dir
	var stderr strings.Builder
	c.Stderr = &stderr
	out, err := c.Output()
	if err != nil {
		t.Fatalf("go list in %s: %v\n%s", dir, err, stderr.String())
	}
	var packages []pkg
	for dec := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			return packages
		} else if err != nil {
			t.Fatal(err)
		}
		packages = append(packages, p)
	}
}

// within says whether an import is the module or folder prefix, or below it.
func within(importPath, prefix string) bool {
	return importPath == prefix || strings.HasPrefix(importPath, prefix+"/")
}

func TestImports(t *testing.T) {
	packages := listPackages(t, ".", "./...")
	seen := map[string]bool{}
	for _, p := range packages {
		if p.ImportPath == module {
			continue
		}
		seen[p.name()] = true
		r, ok := rows[p.name()]
		if !ok {
			t.Errorf("%s has no row in imports_test.go: say in which layer it is and what it may import", p.name())
			continue
		}
		for _, imported := range p.Imports {
			first, _, _ := strings.Cut(imported, "/")
			switch {
			case within(imported, module):
				checkOurs(t, p.name(), r, strings.TrimPrefix(imported, module+"/"))
			case strings.Contains(first, "."):
				checkOthers(t, p.name(), r, imported)
			case r.pure:
				if why, bad := pureForbidsDirect[imported]; bad {
					t.Errorf("%s is pure and imports %s: %s", p.name(), imported, why)
				}
			}
		}
		if r.pure {
			checkPure(t, p)
		}
	}
	for name, r := range rows {
		if !seen[name] {
			t.Errorf("there is no package %s any more: remove its row", name)
		}
		checkRow(t, name, r)
	}
}

// checkOurs checks an import of a package of this module.
func checkOurs(t *testing.T, name string, r row, imported string) {
	t.Helper()
	to, ok := rows[imported]
	if !ok {
		return // reported by its missing row
	}
	if to.testOnly && !r.testOnly {
		t.Errorf("%s imports %s, which only tests may: %s", name, imported, to.why)
		return
	}
	if slices.Equal(r.imports, anyLower) {
		if to.layer >= r.layer {
			t.Errorf("%s (layer %d) imports %s (layer %d), and may import lower layers only: %s", name, r.layer, imported, to.layer, r.why)
		}
		return
	}
	if !slices.Contains(r.imports, imported) {
		t.Errorf("%s may not import %s, only %q: %s", name, imported, r.imports, r.why)
	}
}

// checkOthers checks an import of a module that is not ours.
func checkOthers(t *testing.T, name string, r row, imported string) {
	t.Helper()
	if r.libraries != nil && !slices.ContainsFunc(r.libraries, func(l string) bool { return within(imported, l) }) {
		t.Errorf("%s may not import %s, only %q: %s", name, imported, r.libraries, r.why)
	}
	d := doorTo(imported)
	switch {
	case d == nil:
		t.Errorf("%s imports %s, to which there is no door in imports_test.go: say which package is the one to use it, and why", name, imported)
	case d.packages != nil && !slices.Contains(d.packages, name):
		t.Errorf("%s may not import %s, only %q: %s", name, imported, d.packages, d.why)
	}
}

func doorTo(imported string) *door {
	var best *door
	for i, d := range doors {
		if within(imported, d.prefix) && (best == nil || len(d.prefix) > len(best.prefix)) {
			best = &doors[i]
		}
	}
	return best
}

// checkPure checks all that a pure package is built with.
func checkPure(t *testing.T, p pkg) {
	t.Helper()
	for prefix, why := range pureForbids {
		i := slices.IndexFunc(p.Deps, func(dep string) bool { return within(dep, prefix) })
		if i >= 0 {
			t.Errorf("%s is pure and depends on %s: %s", p.name(), p.Deps[i], why)
		}
	}
}

// checkRow checks that the table itself keeps the order of layers.
func checkRow(t *testing.T, name string, r row) {
	t.Helper()
	if slices.Equal(r.imports, anyLower) {
		return
	}
	for _, imported := range r.imports {
		to, ok := rows[imported]
		switch {
		case !ok:
			t.Errorf("the row of %s names %s, which has none", name, imported)
		case to.layer > r.layer:
			t.Errorf("the row of %s (layer %d) allows %s (layer %d), which is higher", name, r.layer, imported, to.layer)
		case to.layer == r.layer && !to.pure && !r.testOnly:
			t.Errorf("the row of %s allows %s of its own layer, which is not pure: join them in a higher layer", name, imported)
		}
	}
}

// TestDoors checks that the table of doors has no entry that time has passed.
func TestDoors(t *testing.T) {
	used := map[string]bool{}
	for _, p := range listPackages(t, ".", "./...") {
		if p.ImportPath == module {
			continue
		}
		for _, imported := range p.Imports {
			if d := doorTo(imported); d != nil {
				used[d.prefix] = true
			}
		}
	}
	for _, d := range doors {
		if !used[d.prefix] && d.packages != nil {
			t.Errorf("nothing imports %s any more: remove its door", d.prefix)
		}
		for _, name := range d.packages {
			if _, ok := rows[name]; !ok {
				t.Errorf("the door to %s names %s, which is no package", d.prefix, name)
			}
		}
		if d.packages != nil && d.why == "" {
			t.Errorf("the door to %s gives no reason", d.prefix)
		}
		if d.prefix != path.Clean(d.prefix) {
			t.Errorf("%q is not a clean import path", d.prefix)
		}
	}
}
