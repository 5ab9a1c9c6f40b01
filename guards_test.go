package capstan_test

import (
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

// TestPackageComments checks that every package says once what it is.
func TestPackageComments(t *testing.T) {
	for _, dir := range []string{".", "dev"} {
		for _, p := range listPackages(t, dir, "-find", "./...") {
			files := p.GoFiles
			if len(files) == 0 {
				files = slices.Concat(p.TestGoFiles, p.XTestGoFiles)
			}
			var where []string
			for _, file := range files {
				f, err := parser.ParseFile(token.NewFileSet(), filepath.Join(p.Dir, file), nil, parser.PackageClauseOnly|parser.ParseComments)
				if err != nil {
					t.Error(err)
					continue
				}
				if f.Doc == nil {
					continue
				}
				where = append(where, file)
				if text := f.Doc.Text(); !strings.HasPrefix(text, "Package "+p.Name+" ") && !(p.Name == "main" && strings.HasPrefix(text, "Command ")) {
					t.Errorf("%s: the comment of %s begins %q, not with \"Package %s\" (or \"Command\")", p.ImportPath, file, strings.SplitN(text, "\n", 2)[0], p.Name)
				}
			}
			switch len(where) {
			case 0:
				t.Errorf("%s has no package comment", p.ImportPath)
			case 1:
			default:
				t.Errorf("%s has a package comment in each of %q: keep one", p.ImportPath, where)
			}
		}
	}
}

// forbiddenCalls are for programs only: what a package needs is passed to it, so that
// tests can pass something else.
var forbiddenCalls = map[string]string{
	"os.Getenv":    "read the environment in cmd/ and pass the value",
	"os.LookupEnv": "read the environment in cmd/ and pass the value",
	"os.Environ":   "read the environment in cmd/ and pass the value",
	"os.Exit":      "return an error and let cmd/ end the program",
	"time.Now":     "take a clock from the options, so that tests can set the time",
}

// TestNoHiddenInput checks that the agent's packages take everything from their caller.
func TestNoHiddenInput(t *testing.T) {
	for _, p := range listPackages(t, ".", "-find", "./api/...", "./internal/...") {
		if rows[p.name()].testOnly {
			continue
		}
		for _, file := range p.GoFiles {
			fset := token.NewFileSet()
			f, err := parser.ParseFile(fset, filepath.Join(p.Dir, file), nil, parser.SkipObjectResolution)
			if err != nil {
				t.Error(err)
				continue
			}
			ast.Inspect(f, func(n ast.Node) bool {
				switch n := n.(type) {
				case *ast.FuncDecl:
					if n.Name.Name == "init" && n.Recv == nil {
						t.Errorf("%s: func init: importing a package does nothing; give it a constructor", relative(fset.Position(n.Pos())))
					}
				case *ast.SelectorExpr:
					if x, ok := n.X.(*ast.Ident); ok {
						if why, bad := forbiddenCalls[x.Name+"."+n.Sel.Name]; bad {
							t.Errorf("%s: %s.%s: %s", relative(fset.Position(n.Pos())), x.Name, n.Sel.Name, why)
						}
					}
				}
				return true
			})
		}
	}
}

func relative(p token.Position) string {
	wd, err := os.Getwd()
	if err != nil {
		return p.String()
	}
	if rel, err := filepath.Rel(wd, p.Filename); err == nil {
		p.Filename = rel
	}
	return p.String()
}

// A goMod is what `go mod edit -json` says of a go.mod.
type goMod struct {
	Go      string
	Require []struct {
		Path, Version string
		Indirect      bool
	}
	Replace []struct {
		Old, New struct{ Path, Version string }
	}
	Tool []struct{ Path string }
}

func readGoMod(t *testing.T, file string) goMod {
	t.Helper()
	out, err := exec.Command("go", "mod", "edit", "-json", file).Output()
	if err != nil {
		t.Fatalf("go mod edit -json %s: %v", file, err)
	}
	var mod goMod
	if err := json.Unmarshal(out, &mod); err != nil {
		t.Fatal(err)
	}
	return mod
}

// TestNoReplace checks that others build what we build: a replace counts only in the
// main module, so `go install capstan.dev/capstan/cmd/agent@latest` would not see it.
func TestNoReplace(t *testing.T) {
	for _, r := range readGoMod(t, "go.mod").Replace {
		t.Errorf("go.mod replaces %s by %s", r.Old.Path, r.New.Path)
	}
}

// TestSameVersions checks that the demo and the local management cluster are built
// with the libraries of the agent, so that what works there works here.
func TestSameVersions(t *testing.T) {
	root, dev := readGoMod(t, "go.mod"), readGoMod(t, "dev/go.mod")
	if root.Go != dev.Go {
		t.Errorf("go.mod says go %s and dev/go.mod go %s", root.Go, dev.Go)
	}
	versions := map[string]string{}
	for _, r := range root.Require {
		versions[r.Path] = r.Version
	}
	for _, r := range dev.Require {
		if v, ok := versions[r.Path]; ok && !r.Indirect && v != r.Version {
			t.Errorf("%s is %s in go.mod and %s in dev/go.mod", r.Path, v, r.Version)
		}
		if v := versions["sigs.k8s.io/cluster-api/api"]; r.Path == "sigs.k8s.io/cluster-api" && v != r.Version {
			t.Errorf("sigs.k8s.io/cluster-api is %s in dev/go.mod, and its api module %s in go.mod", r.Version, v)
		}
	}
}

// TestTools checks that each module of tools has nothing but its pins, and that the
// Makefile builds each of its tools.
func TestTools(t *testing.T) {
	makefile := readFile(t, "Makefile")
	mods, err := filepath.Glob("tools/*/go.mod")
	if err != nil || len(mods) == 0 {
		t.Fatalf("no tools/*/go.mod (%v)", err)
	}
	for _, file := range mods {
		mod := readGoMod(t, file)
		if len(mod.Tool) == 0 {
			t.Errorf("%s has no tool directive", file)
		}
		for _, tool := range mod.Tool {
			call := regexp.MustCompile(fmt.Sprintf(`hack/tool\.sh %s \S+ %s `,
				regexp.QuoteMeta(filepath.Base(filepath.Dir(file))), regexp.QuoteMeta(tool.Path)))
			if !call.MatchString(makefile) {
				t.Errorf("no target of the Makefile builds the tool %s of %s: nothing matches %q", tool.Path, file, call)
			}
		}
		if code, _ := filepath.Glob(filepath.Join(filepath.Dir(file), "*.go")); code != nil {
			t.Errorf("%s is for a pin only, but has %q", filepath.Dir(file), code)
		}
	}
}

// TestToolReplaces checks that tools are built as their authors build them: what their
// go.mod replaces by another version counts only in the main module, which is ours.
func TestToolReplaces(t *testing.T) {
	mods, err := filepath.Glob("tools/*/go.mod")
	if err != nil || len(mods) == 0 {
		t.Fatalf("no tools/*/go.mod (%v)", err)
	}
	for _, file := range mods {
		mod := readGoMod(t, file)
		for _, require := range mod.Require {
			if !slices.ContainsFunc(mod.Tool, func(tool struct{ Path string }) bool { return within(tool.Path, require.Path) }) {
				continue
			}
			list := exec.Command("go", "list", "-m", "-f", "{{.GoMod}}", require.Path)
			list.Dir = filepath.Dir(file)
			theirs, err := list.Output()
			if err != nil {
				t.Errorf("go list -m %s in %s: %v", require.Path, list.Dir, err)
				continue
			}
			for _, r := range readGoMod(t, strings.TrimSpace(string(theirs))).Replace {
				if r.New.Version != "" && !slices.Contains(mod.Replace, r) {
					t.Errorf("%s does not replace %s by %s %s, as %s %s does",
						file, r.Old.Path, r.New.Path, r.New.Version, require.Path, require.Version)
				}
			}
		}
	}
}

// TestLicense checks that the license is the one that we say it is.
func TestLicense(t *testing.T) {
	license := readFile(t, "LICENSE")
	for _, want := range []string{"Apache License", "Version 2.0, January 2004", "END OF TERMS AND CONDITIONS"} {
		if !strings.Contains(license, want) {
			t.Errorf("LICENSE is not the text of Apache-2.0: it lacks %q", want)
		}
	}
}

// TestCI checks that CI runs what a person is told to run.
func TestCI(t *testing.T) {
	if info, err := os.Stat(".ci/run"); err != nil {
		t.Error(err)
	} else if info.Mode()&0o111 == 0 {
		t.Error(".ci/run can't be executed")
	}
	if !strings.Contains(readFile(t, ".ci/run"), "make test") {
		t.Error(".ci/run does not run `make test`")
	}
}

func readFile(t *testing.T, name string) string {
	t.Helper()
	content, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

// TestLinks checks that what the documents link to within the repository is there.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#\s]+)(#[^)]*)?\)`)
	documents, err := exec.Command("git", "ls-files", "*.md").Output()
	if err != nil {
		t.Fatalf("git ls-files: %v", err)
	}
	for _, document := range strings.Fields(string(documents)) {
		content, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(content), -1) {
			if strings.Contains(m[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(document), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", document, m[1], err)
			}
		}
	}
}

// TestResourcesReference checks that the reference names every field of the custom resources.
func TestResourcesReference(t *testing.T) {
	reference, err := os.ReadFile("docs/reference/resources.md")
	if err != nil {
		t.Fatal(err)
	}
	definitions, err := filepath.Glob("charts/capstan/files/crds/*.yaml")
	if err != nil || len(definitions) == 0 {
		t.Fatalf("definitions: %v, %v", definitions, err)
	}
	type schema struct {
		Properties map[string]*schema
		Items      *schema
	}
	var check func(definition, path string, s *schema)
	check = func(definition, path string, s *schema) {
		for name, property := range s.Properties {
			p := path + name
			if !strings.Contains(string(reference), "`"+p+"`") {
				t.Errorf("docs/reference/resources.md does not name %s of %s", p, definition)
			}
			if name == "conditions" {
				continue
			}
			check(definition, p+".", property)
			if property.Items != nil {
				check(definition, p+"[].", property.Items)
			}
		}
	}
	for _, definition := range definitions {
		content, err := os.ReadFile(definition)
		if err != nil {
			t.Fatal(err)
		}
		var crd struct {
			Spec struct {
				Versions []struct {
					Schema struct{ OpenAPIV3Schema *schema }
				}
			}
		}
		if err := yaml.Unmarshal(content, &crd); err != nil {
			t.Fatal(err)
		}
		for _, version := range crd.Spec.Versions {
			for _, part := range []string{"spec", "status"} {
				check(definition, part+".", version.Schema.OpenAPIV3Schema.Properties[part])
			}
		}
	}
}
