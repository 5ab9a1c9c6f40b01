package sandbox

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"capstan.dev/capstan/internal/render"
	"capstan.dev/capstan/internal/tree"
)

// hostileFiles are overlays by what they try. None may render, none may end the child.
func hostileFiles() map[string]map[string]string {
	link := func(to string) map[string]string {
		return map[string]string{"kustomization.yaml": "resources: [a.yaml]\n", "a.yaml": tree.LinkPrefix + to}
	}
	only := func(kustomization string) map[string]string {
		return map[string]string{"kustomization.yaml": kustomization}
	}
	bomb := "a: &a [x,x,x,x,x,x,x,x,x]\n"
	for c := 'b'; c <= 'i'; c++ {
		bomb += fmt.Sprintf("%c: &%c [*%[3]c,*%[3]c,*%[3]c,*%[3]c,*%[3]c,*%[3]c,*%[3]c,*%[3]c,*%[3]c]\n", c, c, c-1)
	}
	plugin := "apiVersion: v1\nkind: Any\nmetadata:\n  name: x\n  annotations:\n    config.kubernetes.io/function: |\n      %s\n"
	return map[string]map[string]string{
		"alias bomb":              {"kustomization.yaml": "resources: [a.yaml]\n", "a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\n" + bomb},
		"alias bomb at the top":   only(bomb),
		"anchor of itself":        only("resources: &a [*a]\n"),
		"huge file":               {"kustomization.yaml": "resources: [a.yaml]\n", "a.yaml": strings.Repeat("# nothing\n", 3<<20)},
		"huge kustomization":      only(strings.Repeat("# nothing\n", 3<<20)),
		"base of itself":          only("resources: [.]\n"),
		"bases without end":       {"kustomization.yaml": "resources: [b]\n", "b/kustomization.yaml": "resources: [../c]\n", "c/kustomization.yaml": "resources: [../b]\n"},
		"link to passwords":       link("/etc/passwd"),
		"link to the environment": link("/proc/self/environ"),
		"link to Git":             link("../../.git/config"),
		"path to passwords":       only("resources: [/etc/passwd]\n"),
		"path out of the tree":    only("resources: [../../../../../../etc/passwd]\n"),
		"passwords as data":       only("configMapGenerator: [{name: a, files: [/etc/passwd]}]\n"),
		"environment as data":     only("configMapGenerator: [{name: a, envs: [/proc/self/environ]}]\n"),
		"http base":               only("resources: ['http://127.0.0.1:1/base']\n"),
		"git base":                only("resources: ['git::https://127.0.0.1:1/base']\n"),
		"short base":              only("resources: [github.com/owner/name]\n"),
		"remote patch":            only("patches: [{path: 'https://127.0.0.1:1/p.yaml'}]\n"),
		"helm chart":              only("helmCharts: [{name: a, repo: 'https://127.0.0.1:1'}]\n"),
		"exec generator":          {"kustomization.yaml": "generators: [g.yaml]\n", "g.yaml": fmt.Sprintf(plugin, "exec: {path: /bin/true}")},
		"container generator":     {"kustomization.yaml": "generators: [g.yaml]\n", "g.yaml": fmt.Sprintf(plugin, "container: {image: a, network: true}")},
		"schema":                  {"kustomization.yaml": "openapi: {path: s.json}\n", "s.json": `{"definitions": {}}`},
		"empty key":               {"kustomization.yaml": "resources: [a.yaml]\n", "a.yaml": "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: {'': x}\n"},
	}
}

// TestHostile: what render refuses is refused with the same words, by one child, which
// still renders the next overlay as before.
func TestHostile(t *testing.T) {
	t.Parallel()
	files := map[string]string{}
	for p, content := range plainFiles() {
		files[p] = content
	}
	dirs := map[string]string{}
	for name, overlay := range hostileFiles() {
		dirs[name] = fmt.Sprintf("hostile/o%d", len(dirs))
		for p, content := range overlay {
			files[dirs[name]+"/"+p] = content
		}
	}
	tr := tree.FromMap(files)
	p := start(t, Options{})
	pid := p.child.process.Pid
	for name, dir := range dirs {
		r, err := p.Render(t.Context(), render.Input{Tree: tr, Path: dir})
		var file *render.FileError
		if err == nil || !errors.As(err, &file) || errors.Is(err, ErrKilled) || len(r.Objects) > 0 {
			t.Errorf("%s: %v, %v", name, err, r)
			continue
		}
		same(t, p, render.Input{Tree: tr, Path: dir})
		same(t, p, render.Input{Tree: tr, Path: "clusters/a"})
	}
	if p.child == nil || p.child.process.Pid != pid {
		t.Error("the child isn't the same any more")
	}
}

// growing is an overlay whose replacements append two values to each other, so that
// they grow like Fibonacci's rabbits. Render has no limit for that.
func growing(steps int) map[string]string {
	var b strings.Builder
	b.WriteString("resources: [a.yaml]\nreplacements:\n")
	for i := range steps {
		from, to := "ab"[i%2:i%2+1], "ab"[(i+1)%2:(i+1)%2+1]
		fmt.Fprintf(&b, "- source: {kind: ConfigMap, name: a, fieldPath: data.%s}\n  targets: [{select: {kind: ConfigMap}, fieldPaths: [data.%s], options: {delimiter: '/', index: 9999999}}]\n", from, to)
	}
	return map[string]string{
		"grows/kustomization.yaml": b.String(),
		"grows/a.yaml":             fmt.Sprintf(oneConfigMap, "a") + "data: {a: some-text-of-a, b: some-text-of-b}\n",
	}
}

// TestMemory: an overlay that needs too much memory costs the child, and nothing else.
func TestMemory(t *testing.T) {
	t.Parallel()
	grows := tree.FromMap(growing(60))
	p := start(t, Options{MemoryBytes: 256 << 20})
	for range 2 {
		same(t, p, render.Input{Tree: plain, Path: "clusters/a"})
		r, err := p.Render(t.Context(), render.Input{Tree: grows, Path: "grows"})
		if !errors.Is(err, ErrKilled) || !strings.Contains(err.Error(), "overlay grows: the sandbox was ended: it needs more than 256 MiB of memory") {
			t.Fatal(err)
		}
		if r == nil || len(r.Objects) > 0 {
			t.Error(r)
		}
	}
	same(t, p, render.Input{Tree: plain, Path: "clusters/a"})
	same(t, p, render.Input{Tree: tree.FromMap(growing(10)), Path: "grows"})
}
