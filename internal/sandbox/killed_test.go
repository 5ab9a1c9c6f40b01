package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/onsi/gomega"

	"capstan.dev/capstan/internal/render"
	"capstan.dev/capstan/internal/tree"
)

type tr = tree.Tree

// hookTree calls a function before each file is read.
type hookTree struct {
	tr
	before func(p string) error
}

func (h hookTree) ReadFile(p string) ([]byte, error) {
	if err := h.before(p); err != nil {
		return nil, err
	}
	return h.tr.ReadFile(p)
}

// ended waits until a process is gone, and no zombie of ours.
func ended(t *testing.T, pid int) {
	t.Helper()
	gomega.NewWithT(t).Eventually(func() error { return syscall.Kill(pid, 0) }).WithTimeout(patience).Should(gomega.MatchError(syscall.ESRCH))
}

// TestKilled: a child that is killed in the middle of a call fails the call, unless
// it isn't sure that the call was why.
func TestKilled(t *testing.T) {
	t.Parallel()
	p := start(t, Options{})
	kills := 0
	killing := hookTree{plain, func(string) error {
		if kills > 0 {
			kills--
			return syscall.Kill(p.child.process.Pid, syscall.SIGKILL)
		}
		return nil
	}}
	in := render.Input{Tree: killing, Path: "clusters/a"}
	kills = 1
	pid := p.child.process.Pid
	if _, err := p.Render(t.Context(), in); !errors.Is(err, ErrKilled) || !strings.Contains(err.Error(), "the system killed it") {
		t.Fatalf("a new child: %v", err)
	}
	ended(t, pid)
	same(t, p, in)
	kills = 1 // this one has served a call
	r, err := p.Render(t.Context(), in)
	if err != nil || len(r.Objects) != 1 {
		t.Fatalf("a used child: %v", err)
	}
	kills = 2
	if _, err := p.Render(t.Context(), in); !errors.Is(err, ErrKilled) {
		t.Fatalf("a used child, and a new one: %v", err)
	}
	// Between two calls.
	same(t, p, in)
	if err := syscall.Kill(p.child.process.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	same(t, p, in)
	if overlays, _, err := p.Discover(t.Context(), render.DiscoverInput{Tree: plain}); err != nil || len(overlays) != 1 {
		t.Error(overlays, err)
	}
}

// TestTime: of a render that gives itself up, its child is not used again.
func TestTime(t *testing.T) {
	t.Parallel()
	p := start(t, Options{})
	pid := p.child.process.Pid
	r, err := p.Render(t.Context(), render.Input{Tree: plain, Path: "clusters/a", Limits: render.Limits{Timeout: time.Nanosecond}})
	if !errors.Is(err, render.ErrTimeout) || errors.Is(err, ErrKilled) || r == nil {
		t.Errorf("%v, %v", r, err)
	}
	ended(t, pid)
	same(t, p, render.Input{Tree: plain, Path: "clusters/a"})
}

// TestContext: a call ends with its context, and so does its child.
func TestContext(t *testing.T) {
	t.Parallel()
	p := start(t, Options{})
	ctx, cancel := context.WithCancel(t.Context())
	pid := p.child.process.Pid
	canceling := hookTree{plain, func(string) error { cancel(); return nil }}
	if _, err := p.Render(ctx, render.Input{Tree: canceling, Path: "clusters/a"}); err != nil && !errors.Is(err, context.Canceled) || errors.Is(err, ErrKilled) {
		t.Error(err)
	}
	ended(t, pid)
	if _, err := p.Render(ctx, render.Input{Tree: plain, Path: "clusters/a"}); !errors.Is(err, context.Canceled) || errors.Is(err, ErrKilled) {
		t.Error(err)
	}
	same(t, p, render.Input{Tree: plain, Path: "clusters/a"})

	// Who waits for another call can go.
	entered, letGo := make(chan struct{}), make(chan struct{})
	slow := hookTree{plain, func(p string) error {
		if strings.HasSuffix(p, "a.yaml") {
			entered <- struct{}{}
			<-letGo
		}
		return nil
	}}
	result := make(chan error)
	go func() {
		_, err := p.Render(t.Context(), render.Input{Tree: slow, Path: "clusters/a"})
		result <- err
	}()
	<-entered
	if _, err := p.Render(ctx, render.Input{Tree: plain, Path: "clusters/a"}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(letGo)
	if err := <-result; err != nil {
		t.Error(err)
	}
}

// TestTreeFails: an error of the tree arrives as it was.
func TestTreeFails(t *testing.T) {
	t.Parallel()
	p := start(t, Options{})
	broken := errors.New("the disk is broken")
	for _, err := range []error{broken, &fs.PathError{Op: "read", Path: "a.yaml", Err: broken}} {
		failing := hookTree{plain, func(p string) error {
			if strings.HasSuffix(p, "a.yaml") {
				return err
			}
			return nil
		}}
		if _, err := p.Render(t.Context(), render.Input{Tree: failing, Path: "clusters/a"}); !errors.Is(err, render.ErrTree) || !errors.Is(err, broken) {
			t.Errorf("%#v", err)
		}
		same(t, p, render.Input{Tree: failing, Path: "clusters/a"})
	}
	failing := hookTree{plain, func(string) error { return broken }}
	if _, _, err := p.Discover(t.Context(), render.DiscoverInput{Tree: failing}); !errors.Is(err, render.ErrTree) || !errors.Is(err, broken) {
		t.Errorf("%#v", err)
	}
}

// TestClose: nothing is left, and nothing can be asked any more. It is not parallel, so
// that all there is is its own.
func TestClose(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	for _, end := range []func(p *Process){
		func(p *Process) { _ = p.Close() },
		func(*Process) { cancel() },
	} {
		p, err := Start(ctx, Options{Command: []string{program}})
		if err != nil {
			t.Fatal(err)
		}
		pid := p.child.process.Pid
		in := render.Input{Tree: plain, Path: "clusters/a"}
		same(t, p, in)
		// In the middle of a call, and again.
		ending := hookTree{plain, func(string) error { go end(p); <-p.life.Done(); return nil }}
		if _, err := p.Render(t.Context(), render.Input{Tree: ending, Path: "clusters/a"}); err != nil && !errors.Is(err, errClosed) {
			t.Error(err)
		}
		ended(t, pid)
		if _, err := p.Render(t.Context(), in); !errors.Is(err, errClosed) || errors.Is(err, ErrKilled) {
			t.Error(err)
		}
		if _, _, err := p.Discover(t.Context(), render.DiscoverInput{Tree: plain}); !errors.Is(err, errClosed) {
			t.Error(err)
		}
		for range 2 {
			if err := p.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	if _, err := Start(ctx, Options{Command: []string{program}}); err == nil {
		t.Error("started after the end")
	}
	gomega.NewWithT(t).Eventually(goroutines).WithTimeout(patience).Should(gomega.BeZero())
}

// goroutines is the number of goroutines that belong to children.
func goroutines() int {
	buf := make([]byte, 1<<20)
	n := 0
	for stack := range strings.SplitSeq(string(buf[:runtime.Stack(buf, true)]), "\n\n") {
		if strings.Contains(stack, "sandbox.spawn") || strings.Contains(stack, "os/exec") || strings.Contains(stack, "context.AfterFunc") {
			n++
		}
	}
	return n
}

// parent is a program that has a child and does nothing.
func parent(program string) int {
	p, err := Start(context.Background(), Options{Command: []string{program}})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(p.child.process.Pid)
	_, _ = os.Stdin.Read(make([]byte, 1))
	return 0
}

// TestOrphan: a child dies with its parent, however that ends.
func TestOrphan(t *testing.T) {
	t.Parallel()
	c := exec.Command(os.Args[0], "fake", "parent", program)
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(syscall.Kill(pid, 0), c.Process.Kill()); err != nil {
		t.Fatal(err)
	}
	_ = c.Wait()
	gomega.NewWithT(t).Eventually(func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z ") // nobody waits for it here
	}).WithTimeout(patience).Should(gomega.BeTrue())
}
