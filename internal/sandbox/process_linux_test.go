package sandbox

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"capstan.dev/capstan/internal/render"
)

// TestHardened: the child has nothing of ours, and can't get anything.
func TestHardened(t *testing.T) {
	t.Setenv("CAPSTAN_TEST_TOKEN", "canary-of-the-environment")
	inherited, err := syscall.Dup(0) // not closed on exec, as what we were started with
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(inherited)
	p := start(t, Options{})
	pid := p.child.process.Pid
	values := &render.Substitution{Values: map[string]string{"PASSWORD": "canary-of-the-values"}}
	if _, err := p.Render(t.Context(), render.Input{Tree: plain, Path: "clusters/a", Substitute: values}); err != nil {
		t.Fatal(err)
	}
	if env := proc(t, pid, "environ"); env != "" {
		t.Errorf("the environment is %q", env)
	}
	if args := proc(t, pid, "cmdline"); args != program+"\x00" {
		t.Errorf("the arguments are %q", args)
	}
	if dir, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pid)); err != nil || dir != "/" {
		t.Errorf("it is in %s (%v)", dir, err)
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, f.Name()))
		if err != nil {
			t.Fatal(err)
		}
		standard := slices.Contains([]string{"0", "1", "2"}, f.Name()) && strings.HasPrefix(to, "pipe:")
		runtimes := strings.HasPrefix(to, "anon_inode:[event") || strings.HasPrefix(to, "/sys/fs/cgroup/")
		if !standard && !runtimes {
			t.Errorf("it has %s open: %s", f.Name(), to)
		}
	}
	for _, want := range []string{
		`(?m)^Max cpu time +3600 +3600 `, `(?m)^Max core file size +0 +0 `, `(?m)^Max file size +0 +0 `,
		`(?m)^Max open files +16 +16 `, `(?m)^Max data size +(\d+) +\d+ `, `(?m)^Max address space +(\d+) +\d+ `,
	} {
		if limits := proc(t, pid, "limits"); !regexp.MustCompile(want).MatchString(limits) {
			t.Errorf("no limit like %s:\n%s", want, limits)
		}
	}
	status := proc(t, pid, "status")
	if !strings.Contains(status, "NoNewPrivs:\t1") {
		t.Errorf("it may get new privileges:\n%s", status)
	}
	if adj := strings.TrimSpace(proc(t, pid, "oom_score_adj")); adj != "1000" {
		t.Errorf("its OOM score is adjusted by %s", adj)
	}
	if group := strings.Fields(proc(t, pid, "stat"))[4]; group != fmt.Sprint(pid) {
		t.Errorf("it is in the group %s", group)
	}
}

func proc(t *testing.T, pid int, file string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
