package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"capstan.dev/capstan/internal/render"
)

// cpuSeconds is what a child may compute in its life: many renders.
const cpuSeconds = 3600

// child is one child process, seen from its parent.
type child struct {
	*connection
	// in and out are our ends of its standard input and output.
	in, out *os.File
	process *os.Process
	stderr  *tail
	// gone is closed when the process has ended and been waited for; state is set then.
	gone  chan struct{}
	state *os.ProcessState

	// calls is the number of calls it was given. unbind takes it off its Process's life.
	calls  int
	unbind func() bool
}

// startChild starts a child and waits until it has limited itself.
func startChild(ctx context.Context, o Options) (*child, error) {
	c, err := spawn(o.Command)
	if err != nil {
		return nil, err
	}
	alive := context.AfterFunc(ctx, c.kill)
	err = c.send(frameHello, hello{MemoryBytes: o.MemoryBytes, CPUSeconds: cpuSeconds})
	var r ready
	if err == nil {
		err = c.expect(frameReady, maxQuestion, &r)
	}
	if alive() && err == nil && r.Version == render.Version() {
		o.Log.V(1).Info("a sandbox is ready", "pid", c.process.Pid)
		return c, nil
	}
	c.kill()
	<-c.gone
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err == nil:
		return nil, fmt.Errorf("the program %s is another version of this one (renderer %q, here %q); restart this one", o.Command[0], r.Version, render.Version())
	}
	// It has seen nothing of anybody yet, so what it says is our own.
	words := strings.TrimSpace(c.stderr.String())
	return nil, fmt.Errorf("%s did not get ready (%w, %s): %s", strings.Join(o.Command, " "), err, c.state, words[max(0, len(words)-1000):])
}

// spawn starts a process that inherits nothing but three pipes.
func spawn(command []string) (*child, error) {
	theirIn, in, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	out, theirOut, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, theirIn.Close(), in.Close())
	}
	c := &child{connection: newConnection(out, in), in: in, out: out, stderr: &tail{}, gone: make(chan struct{})}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = []string{} // nil would mean ours
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirIn, theirOut, c.stderr
	cmd.SysProcAttr = attributes()
	cmd.WaitDelay = time.Second // for stderr, if somebody else holds it
	started := make(chan error)
	go func() {
		// To the kernel, the parent whose death ends the child is this thread.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		_, _ = theirIn.Close(), theirOut.Close()
		c.process = cmd.Process
		started <- err
		if err != nil {
			return
		}
		_ = cmd.Wait()    // the state says more
		kill(cmd.Process) // what it left behind and holds its pipes
		c.state = cmd.ProcessState
		close(c.gone)
	}()
	if err := <-started; err != nil {
		return nil, errors.Join(err, in.Close(), out.Close())
	}
	return c, nil
}

// kill ends the process and whatever waits for it. It may be called more than once.
func (c *child) kill() {
	select {
	case <-c.gone:
	default:
		kill(c.process)
	}
	// A process of its own that it left behind could hold the other ends.
	_, _ = c.in.Close(), c.out.Close()
}

// tail keeps the end of what is written to it.
type tail struct {
	mu   sync.Mutex
	text []byte
}

// tailBytes has room for the stacks of all goroutines, which Go's runtime writes after
// the reason when it ends a process.
const tailBytes = 64 << 10

func (t *tail) Write(text []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, text[max(0, len(text)-tailBytes):]...)
	t.text = append(t.text[:0], t.text[max(0, len(t.text)-tailBytes):]...)
	return len(text), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.text)
}

// outOfMemory is how Go's runtime ends for lack of memory; a thread needs some, too.
var outOfMemory = regexp.MustCompile(`out of memory|cannot allocate memory|cannot map pages|failed to create new OS thread|pthread_create failed`)

// lastWords are lines of Go's runtime that quote no values. Other panics may quote a
// manifest, and anything may be written by somebody who has taken over the child.
var lastWords = regexp.MustCompile(`(?m)^(?:fatal error|panic: runtime error): [A-Za-z0-9 .,:'\[\]()-]{1,100}`)

// causeOfDeath words why a process ended that nobody asked to.
func causeOfDeath(state *os.ProcessState, stderr string, memory int64) string {
	status, _ := state.Sys().(syscall.WaitStatus)
	switch words := lastWords.FindString(stderr); {
	case outOfMemory.MatchString(stderr):
		return fmt.Sprintf("it needs more than %d MiB of memory; make it smaller", memory>>20)
	case status.Signaled() && status.Signal() == syscall.SIGKILL:
		return fmt.Sprintf("the system killed it, as it does if memory is short; it may need up to %d MiB", memory>>20)
	case words != "":
		return fmt.Sprintf("it crashed (%s: %s)", state, words)
	default:
		return fmt.Sprintf("it crashed (%s)", state)
	}
}
