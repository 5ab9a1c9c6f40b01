package drift_test

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/tools/txtar"

	"capstan.dev/capstan/internal/testenv"
)

var record = flag.Bool("record", false, "do what the files in testdata/recorded say with a real API server and kubectl, and write what becomes of the objects into them")

var env *testenv.Env

func TestMain(m *testing.M) {
	flag.Parse()
	if *record {
		os.Exit(testenv.Run(m, &env))
	}
	os.Exit(m.Run())
}

// TestRecord does the steps of every recorded file: each line is a kubectl command, or an
// edit with a sed script, as in
//
//	scale machinedeployment/workers --replicas=5
//	edit 's/replicas: 3/replicas: 5/' machinedeployment workers
//	replace -f - < theirs
//
// It keeps the object as it was applied, as it is after the steps, and the answer to the
// forced dry-run of the same manifest.
func TestRecord(t *testing.T) {
	if !*record {
		t.Skip("only with -record")
	}
	for _, file := range recordedFiles(t) {
		t.Run(nameOf(file), func(t *testing.T) {
			t.Parallel()
			archive := readArchive(t, file)
			ns := env.Namespace(t)
			kubectl := env.Kubectl(t, "person")
			manifest := section(archive, "manifest")
			// Times of managedFields have seconds: each step is in a second of its own,
			// so that it can be told which was later.
			run := func(stdin string, args ...string) string {
				time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
				return kubectl.Run(t, stdin, append(args, "-n", ns)...)
			}
			if before := section(archive, "before"); before != "" {
				run(before, "create", "-f", "-")
			}
			apply := []string{
				"apply", "--server-side", "--force-conflicts", "--field-manager=capstan", "-f", "-", "--show-managed-fields", "-oyaml",
			}
			applied := run(manifest, apply...)
			for line := range strings.Lines(section(archive, "steps")) {
				args := words(line)
				if len(args) > 0 && args[0] == "edit" {
					time.Sleep(time.Until(time.Now().Truncate(time.Second).Add(time.Second)))
					kubectl.Edit(t, "-e '"+args[1]+"'", append(args[2:], "-n", ns)...)
					continue
				}
				stdin := ""
				if i := slices.Index(args, "<"); i >= 0 {
					stdin, args = section(archive, args[i+1]), args[:i]
				}
				run(stdin, args...)
			}
			declared := parse(t, manifest)
			live := kubectl.Run(t, "", "get", declared.GroupVersionKind().GroupKind().String(), declared.GetName(),
				"--ignore-not-found", "--show-managed-fields", "-oyaml", "-n", ns)
			answer := run(manifest, append(apply, "--dry-run=server")...)
			for i, content := range steady(ns, applied, live, answer) {
				setSection(archive, []string{"applied", "live", "answer"}[i], content)
			}
			if err := os.WriteFile(file, txtar.Format(archive), 0o600); err != nil {
				t.Fatal(err)
			}
		})
	}
}

// words splits a line; quotes keep words together.
func words(line string) []string {
	var all []string
	for _, m := range regexp.MustCompile(`'([^']*)'|(\S+)`).FindAllStringSubmatch(line, -1) {
		all = append(all, m[1]+m[2])
	}
	return all
}

// steady replaces what is different each time that something is recorded.
func steady(ns string, contents ...string) []string {
	all := strings.ReplaceAll(strings.Join(contents, "\x00"), ns, "team-a")
	number := func(pattern, format string) {
		found := regexp.MustCompile(pattern)
		values := found.FindAllString(all, -1)
		if !strings.Contains(format, "uid") {
			slices.Sort(values)
		}
		seen := map[string]string{}
		for _, value := range values {
			if seen[value] == "" {
				seen[value] = fmt.Sprintf(format, len(seen)+1)
			}
		}
		all = found.ReplaceAllStringFunc(all, func(value string) string { return seen[value] })
	}
	number(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`, "uid-%d")
	number(`20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ`, "2026-01-01T00:00:%02dZ")
	number(`resourceVersion: "\d+"`, `resourceVersion: "%d"`)
	return strings.Split(all, "\x00")
}

// section returns a file of an archive, empty if there is none.
func section(archive *txtar.Archive, name string) string {
	for _, f := range archive.Files {
		if f.Name == name {
			return string(f.Data)
		}
	}
	return ""
}

func setSection(archive *txtar.Archive, name, content string) {
	for i, f := range archive.Files {
		if f.Name == name {
			archive.Files[i].Data = []byte(content)
			return
		}
	}
	archive.Files = append(archive.Files, txtar.File{Name: name, Data: []byte(content)})
}
