package main

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/tools/txtar"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"capstan.dev/capstan/api/v1alpha1"
	"capstan.dev/capstan/internal/agent"
	"capstan.dev/capstan/internal/apply"
)

var update = flag.Bool("update", false, "write what the scripts print into them")

// TestScripts runs testdata/*.txtar. A script is the archive's comment, one command
// on a line:
//
//	capstan ARGS...       run a command line; its output goes to the transcript
//	stdin TEXT            what the next capstan reads
//	fleet NAME [FILE]     create a Fleet; FILE is its spec without git
//	agent                 start the binary
//	push                  commit the working copy; the agent, if any, looks at it
//	await PATH STATE [head]  wait for the state of an overlay, at the newest commit;
//	                      Applied is none and means that, whatever the machines do
//	await PATH gone       wait until there is no ClusterOverlay
//	rm PATH, put FILE PATH   change the working copy
//	apply MANAGER FILE    apply objects as somebody else
//	report FILE           write the status of objects, as their controllers do
//	delete FILE           delete the objects of a file
//	annotation PATH KEY   print an annotation of an overlay
//	secret TEXT           must not be in the transcript
//
// Files below repo/ are the working copy, $WORK is its folder, NS the namespace.
// The file want holds the transcript; go test -update writes it.
func TestScripts(t *testing.T) {
	files, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(files) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			archive, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			s := &script{world: newWorld(t), work: t.TempDir(), files: map[string]string{}}
			s.unpack(archive)
			for line := range strings.Lines(string(archive.Comment)) {
				if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
					s.step(line)
				}
			}
			s.compare(file, archive)
		})
	}
}

// script is a script under way.
type script struct {
	*world

	work       string
	files      map[string]string // of the archive, repo/ and want left out
	commits    []string
	secrets    []string
	stdin      string
	running    bool
	transcript strings.Builder
}

func (s *script) unpack(archive *txtar.Archive) {
	s.must(os.Mkdir(filepath.Join(s.work, ".git"), 0o700)) // all that makes a folder a working copy
	for _, f := range archive.Files {
		content := strings.ReplaceAll(string(f.Data), "NS", s.ns)
		if path, ok := strings.CutPrefix(f.Name, "repo/"); ok {
			s.write(path, content)
		} else if f.Name != "want" {
			s.files[f.Name] = content
		}
	}
}

func (s *script) write(path, content string) {
	path = filepath.Join(s.work, filepath.FromSlash(path))
	s.must(os.MkdirAll(filepath.Dir(path), 0o700))
	s.must(os.WriteFile(path, []byte(content), 0o600))
}

// file is a file of the archive, which must be there.
func (s *script) file(name string) string {
	content, ok := s.files[name]
	if !ok {
		s.Fatalf("the archive has no file %q, only %q", name, slices.Sorted(maps.Keys(s.files)))
	}
	return content
}

func (s *script) step(line string) {
	verb, rest, _ := strings.Cut(line, " ")
	args := strings.Fields(rest)
	if verb == "capstan" {
		s.command(line, args)
		return
	}
	steps := map[string]func(rest string, args []string){
		"stdin":  func(rest string, _ []string) { s.stdin = strings.ReplaceAll(rest, "NS", s.ns) + "\n" },
		"secret": func(rest string, _ []string) { s.secrets = append(s.secrets, rest) },
		"fleet":  func(_ string, args []string) { s.makeFleet(args) },
		"agent": func(string, []string) {
			s.agent()
			s.running = true
		},
		"push":   func(string, []string) { s.push() },
		"await":  func(_ string, args []string) { s.await(args) },
		"rm":     func(rest string, _ []string) { s.must(os.RemoveAll(filepath.Join(s.work, rest))) },
		"put":    func(_ string, args []string) { s.write(args[1], s.file(args[0])) },
		"apply":  func(_ string, args []string) { s.apply(args[0], s.file(args[1])) },
		"report": func(_ string, args []string) { s.report(s.file(args[0])) },
		"delete": func(_ string, args []string) { s.remove(s.file(args[0])) },
		"annotation": func(_ string, args []string) {
			fmt.Fprintf(&s.transcript, "%s: %q\n", args[1], s.find(args[0]).Annotations[args[1]])
		},
	}
	step := steps[verb]
	if step == nil {
		s.Fatalf("unknown command %q", line)
	}
	step(rest, args)
}

// command runs a command line and notes what it prints. What follows from other statuses
// follows a moment later, so status waits for it.
func (s *script) command(line string, args []string) {
	if args[0] == "status" {
		s.settle()
	}
	for i := range args {
		args[i] = strings.ReplaceAll(strings.ReplaceAll(args[i], "$WORK", s.work), "$HASH", s.pendingHash())
	}
	r := s.run(s.stdin, args...)
	s.stdin = ""
	fmt.Fprintf(&s.transcript, "> %s\n%s", line, r.out)
	if r.out != "" && !strings.HasSuffix(r.out, "\n") {
		s.transcript.WriteString("\n")
	}
	for message := range strings.Lines(r.err) {
		s.transcript.WriteString("! " + message)
	}
	if r.code != 0 {
		fmt.Fprintf(&s.transcript, "[exit %d]\n", r.code)
	}
}

// settle waits until all that is recorded fits together, if there is an agent.
func (s *script) settle() {
	if s.running {
		s.eventually("the Fleets say what their overlays say", s.unsettled)
	}
}

// unsettled says what of the statuses doesn't follow yet from the others, "" if all does.
func (s *script) unsettled() string {
	var fleets v1alpha1.FleetList
	s.must(env.Client().List(s.Context(), &fleets, client.InNamespace(s.ns)))
	var overlays v1alpha1.ClusterOverlayList
	s.must(env.Client().List(s.Context(), &overlays, client.InNamespace(s.ns)))
	for i := range fleets.Items {
		f := &fleets.Items[i]
		applied, converged := len(overlays.Items) > 0, len(overlays.Items) > 0
		for j := range overlays.Items {
			o := &overlays.Items[j]
			if o.Spec.FleetRef.Name == f.Name {
				applied = applied && isApplied(o)
				converged = converged && o.Status.ConvergedRevision == o.Status.DesiredRevision
				if p := o.Status.Progress; o.Status.AppliedRevision != "" && (p == nil || strings.Contains(p.Message, "not known yet")) {
					return o.Spec.Path + ": its objects have not been looked at"
				}
			}
		}
		if applied && f.Status.AppliedRevision != f.Status.ObservedRevision {
			return "all is applied, the Fleet doesn't say so"
		}
		if applied && converged && f.Status.ConvergedRevision != f.Status.ObservedRevision {
			return "all has converged, the Fleet doesn't say so"
		}
	}
	return ""
}

// pendingHash is that of the one pending deletion, "" if there is none.
func (s *script) pendingHash() string {
	var all v1alpha1.ClusterOverlayList
	s.must(env.Client().List(s.Context(), &all, client.InNamespace(s.ns)))
	for i := range all.Items {
		if p := all.Items[i].Status.PendingDeletion; p != nil {
			return p.Hash
		}
	}
	return ""
}

func (s *script) makeFleet(args []string) {
	s.fleet(args[0], func(f *v1alpha1.Fleet) {
		if len(args) > 1 {
			git := f.Spec.Git
			s.must(yaml.UnmarshalStrict([]byte(s.file(args[1])), &f.Spec))
			f.Spec.Git = git
		}
	})
}

func (s *script) push() {
	s.settle() // what comes next may leave no trace of it
	s.commits = append(s.commits, s.commit(s.readTree(s.work)))
	if s.running {
		s.look()
	}
}

func (s *script) await(args []string) {
	path, state := args[0], agent.State(args[1])
	if state == "gone" {
		s.eventually(path+" is gone", func() string {
			if s.find(path) != nil {
				return "there is a ClusterOverlay for " + path
			}
			return ""
		})
		return
	}
	s.until(path, "state "+args[1], func(o *v1alpha1.ClusterOverlay) bool {
		return (agent.StateOf(o) == state || state == "Applied" && isApplied(o)) && (len(args) < 3 || strings.HasSuffix(o.Status.DesiredRevision, s.commits[len(s.commits)-1]))
	})
}

// apply writes objects as another manager, who takes what it wants.
func (s *script) apply(manager, text string) {
	for _, u := range s.decode(text) {
		s.must(env.Client().Apply(s.Context(), client.ApplyConfigurationFromUnstructured(u), client.FieldOwner(manager), client.ForceOwnership))
	}
}

// report writes the status of objects.
func (s *script) report(text string) {
	for _, u := range s.decode(text) {
		s.must(env.Client().Status().Apply(s.Context(), client.ApplyConfigurationFromUnstructured(u), client.FieldOwner("manager")))
	}
}

func (s *script) remove(text string) {
	for _, u := range s.decode(text) {
		s.must(env.Client().Delete(s.Context(), u))
	}
}

var (
	uidPattern  = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	hashPattern = regexp.MustCompile(`\b[0-9a-f]{32}\b`)
	gapPattern  = regexp.MustCompile(`([^\s+]) {3,}`)
	timePattern = regexp.MustCompile(`"\d{4}-\d\d-\d\dT[\d:.]+Z"`)
	tookPattern = regexp.MustCompile(`AfterSeconds": \d+`)
	cutPattern  = regexp.MustCompile(`\S* …`)
)

// compare compares the transcript with what the archive wants, with all that
// differs from run to run replaced.
func (s *script) compare(file string, archive *txtar.Archive) {
	got := s.transcript.String()
	for _, secret := range s.secrets {
		if strings.Contains(got, secret) {
			s.Errorf("the secret %q is in the output:\n%s", secret, got)
		}
	}
	for i, commit := range s.commits {
		got = strings.ReplaceAll(got, commit, fmt.Sprintf("COMMIT-%d", i+1))
		got = strings.ReplaceAll(got, commit[:8], fmt.Sprintf("commit-%d", i+1))
	}
	got = cutPattern.ReplaceAllString(got, "…") // within a name it would differ
	home := apply.FleetLabelValue(s.ns, "home")
	got = strings.ReplaceAll(got, `capstan.dev/fleet: "`+home+`"`, "capstan.dev/fleet: "+home) // YAML quotes what reads like a number
	got = strings.NewReplacer(s.work, "WORK", s.repo.URL(), "URL", s.ns, "NS", home, "FLEET", apply.FleetLabelValue(s.ns, "away"), "AWAY").Replace(got)
	got = tookPattern.ReplaceAllString(timePattern.ReplaceAllString(got, `"TIME"`), `AfterSeconds": N`)
	got = hashPattern.ReplaceAllString(uidPattern.ReplaceAllString(got, "UID"), "HASH")
	got = gapPattern.ReplaceAllString(got, "$1  ") // tables are as wide as what was replaced
	want := slices.IndexFunc(archive.Files, func(f txtar.File) bool { return f.Name == "want" })
	if *update {
		if want < 0 {
			want = len(archive.Files)
			archive.Files = append(archive.Files, txtar.File{Name: "want"})
		}
		archive.Files[want].Data = []byte(got)
		s.must(os.WriteFile(file, txtar.Format(archive), 0o600))
		return
	}
	if want < 0 {
		s.Fatalf("the archive has no file want; go test -update writes it")
	}
	if diff := cmp.Diff(string(archive.Files[want].Data), got); diff != "" {
		s.Errorf("transcript (-want +got):\n%s", diff)
	}
}
