package charttest

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// mostBytes is what the binary, and so nearly the image, may weigh.
const mostBytes = 70 << 20

// instructions of the Dockerfile: each its keyword and its text, with lines joined.
func instructions() ([][2]string, error) {
	content, err := os.ReadFile(filepath.Join(root, "Dockerfile"))
	if err != nil {
		return nil, err
	}
	var all [][2]string
	for line := range strings.Lines(strings.ReplaceAll(string(content), "\\\n", " ")) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		keyword, text, _ := strings.Cut(line, " ")
		all = append(all, [2]string{keyword, strings.Join(strings.Fields(text), " ")})
	}
	return all, nil
}

// buildAsInDockerfile runs the line of the Dockerfile that builds the agent.
func buildAsInDockerfile(to string) error {
	all, err := instructions()
	if err != nil {
		return err
	}
	for _, i := range all {
		if i[0] != "RUN" || !strings.Contains(i[1], "go build") {
			continue
		}
		line := strings.ReplaceAll(i[1], "-o /capstan ", "-o "+to+" ")
		if line == i[1] {
			return fmt.Errorf("the Dockerfile doesn't build /capstan: %s", line)
		}
		c := exec.Command("/bin/sh", "-c", line)
		c.Dir = root
		// BuildKit sets these; a file of modules beside go.mod is not in the image.
		c.Env = append(os.Environ(), "VERSION=v0.0.0-test", "TARGETOS=linux", "TARGETARCH="+goEnv("GOARCH"), "GOWORK=off", "GOFLAGS=")
		if out, err := c.CombinedOutput(); err != nil {
			return fmt.Errorf("the Dockerfile's %s: %w\n%s", line, err, out)
		}
		return nil
	}
	return fmt.Errorf("the Dockerfile has no RUN with go build")
}

func goEnv(name string) string {
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(out))
}

// TestImage checks what the image would be: a static binary that was linked with its
// version, and nothing that needs a shell, root or another file.
func TestImage(t *testing.T) {
	f, err := elf.Open(binary)
	must(t, err)
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("the binary is not static: it has a segment %s", p.Type)
		}
	}
	if libraries, err := f.ImportedLibraries(); err == nil && len(libraries) > 0 {
		t.Errorf("the binary needs %q", libraries)
	}
	info, err := os.Stat(binary)
	must(t, err)
	t.Logf("%d MiB", info.Size()>>20)
	if info.Size() > mostBytes {
		t.Errorf("the binary has %d bytes, more than %d", info.Size(), mostBytes)
	}
	out, err := exec.CommandContext(t.Context(), binary, "--version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "v0.0.0-test") {
		t.Errorf("--version: %v\n%s", err, out)
	}
}

// TestDockerfile checks what can't be seen from the binary.
func TestDockerfile(t *testing.T) {
	all, err := instructions()
	must(t, err)
	var copied, from, exposed []string
	last := map[string]string{}
	for _, i := range all {
		last[i[0]] = i[1]
		switch i[0] {
		case "FROM":
			from = append(from, i[1])
		case "EXPOSE":
			exposed = append(exposed, strings.Fields(i[1])...)
		case "COPY":
			if !strings.HasPrefix(i[1], "--from") {
				fields := strings.Fields(i[1])
				copied = append(copied, fields[:len(fields)-1]...)
			}
		}
	}
	goMod, err := os.ReadFile(filepath.Join(root, "go.mod"))
	must(t, err)
	minor := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(string(goMod))[1]
	if len(from) != 2 || from[0] != "--platform=$BUILDPLATFORM golang:"+minor+" AS build" {
		t.Errorf("FROM %q, want a build with Go %s, which go.mod asks for, and one image", from, minor)
	}
	if !strings.Contains(from[len(from)-1], "distroless/static") || !strings.HasSuffix(from[len(from)-1], ":nonroot") {
		t.Errorf("FROM %s: want an image without a shell", from[len(from)-1])
	}
	for keyword, want := range map[string]string{"USER": "65532:65532", "ENTRYPOINT": `["/capstan"]`, "CMD": `["run"]`} {
		if last[keyword] != want {
			t.Errorf("%s %s, want %s", keyword, last[keyword], want)
		}
	}
	list := exec.CommandContext(t.Context(), "go", "list", "-deps", "-f", "{{with .Module}}{{if .Main}}{{$.Dir}}{{end}}{{end}}", "./cmd/agent")
	list.Dir = root
	out, err := list.Output()
	must(t, err)
	for _, dir := range strings.Fields(string(out)) {
		rel, err := filepath.Rel(root, dir)
		must(t, err)
		first, _, _ := strings.Cut(filepath.ToSlash(rel), "/")
		if !slices.Contains(copied, first) {
			t.Errorf("the agent is built from %s, which the Dockerfile does not copy", rel)
		}
	}

	// What the chart sets is what the image is.
	container, pod := containerOf(t, render(t, "ns", ""))
	var ports []string
	for _, p := range list3(container, "ports") {
		ports = append(ports, fmt.Sprint(p["containerPort"]))
	}
	slices.Sort(ports)
	slices.Sort(exposed)
	if !slices.Equal(ports, exposed) {
		t.Errorf("EXPOSE %q, and the chart has ports %q", exposed, ports)
	}
	if user := fmt.Sprint(map3(pod, "securityContext")["runAsUser"]); !strings.HasPrefix(last["USER"], user+":") {
		t.Errorf("USER %s, and the chart runs as %s", last["USER"], user)
	}
}
