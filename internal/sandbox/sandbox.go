// Package sandbox renders content that nobody has approved yet, the head of a pull
// request, in a child process: with little memory, a kill timer, an empty environment,
// and no way to a file but asking this process for it.
//
// Package render already refuses what is hostile in an overlay. What it can't bound,
// since kustomize runs in its process, is memory; and what nobody knows of yet may
// crash it. Here both cost one child, and an error that says so.
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"

	"capstan.dev/capstan/internal/render"
	"capstan.dev/capstan/internal/tree"
)

// ErrKilled is wrapped by the error of a call whose child died: of its memory, of the
// time, or of a crash; the text says which. It is about what was rendered, and not
// about what an earlier call left behind: only a new child's death counts, unless the
// time was up. The next call has another child.
var ErrKilled = errors.New("the sandbox was ended")

// ErrStart is wrapped by the error of a call for which no child could be started. It is
// about this machine, and not about what was to be rendered.
var ErrStart = errors.New("start the sandbox")

// errClosed is the error of calls after Close, or after the end of Start's context.
var errClosed = errors.New("the sandbox is closed")

// Options say how to run the child.
type Options struct {
	// Command is the command line that runs [Serve] in the child. Required.
	Command []string
	// MemoryBytes is what the child may allocate beyond what it starts with. Default
	// 768 MiB.
	MemoryBytes int64
	// Timeout is the longest time of one call, after which the child is killed. The start
	// of a child doesn't count.
	// Default 70 s, somewhat more than a render gives itself.
	Timeout time.Duration
	// Log takes notes about the life of children. The zero value discards them.
	Log logr.Logger
}

// startTimeout is the longest time until a child is ready. It has nothing to do yet, but
// on a busy machine loading the program alone may take seconds.
const startTimeout = 70 * time.Second

func (o Options) withDefaults() Options {
	if o.MemoryBytes <= 0 {
		o.MemoryBytes = 768 << 20
	}
	if o.Timeout <= 0 {
		o.Timeout = 70 * time.Second
	}
	return o
}

// Process is a child process that renders, replaced by another one when it dies. Its
// methods are safe for concurrent use; calls run one after another.
//
// A child keeps no state between calls but caches of pure functions. Whoever expects
// that a child can be taken over has one Process for each pull request.
type Process struct {
	options Options
	// life ends with Start's context and with Close; no child outlives it.
	life context.Context //nolint:containedctx // it is the life of the process, not of a call.
	end  context.CancelCauseFunc
	// turn holds one token while somebody uses child.
	turn  chan struct{}
	child *child
}

// Start starts the child and waits until it is ready. The child is killed when the
// context ends, also after Start has returned.
func Start(ctx context.Context, o Options) (*Process, error) {
	if len(o.Command) == 0 {
		return nil, errors.New("start the sandbox: no command is given that runs it")
	}
	p := &Process{options: o.withDefaults(), turn: make(chan struct{}, 1)}
	p.life, p.end = context.WithCancelCause(ctx)
	context.AfterFunc(p.life, func() { p.end(errClosed) }) //nolint:contextcheck // the life of the process, which outlasts a call
	if _, err := p.ready(p.life); err != nil {             //nolint:contextcheck // the life of the process, which outlasts a call
		p.end(errClosed)
		return nil, err
	}
	return p, nil
}

// Close ends the child, and a call that is under way, and waits until both are gone.
func (p *Process) Close() error {
	p.end(errClosed)
	p.turn <- struct{}{} // no call comes after this one: all see the end of life
	defer func() { <-p.turn }()
	p.drop()
	return nil
}

// Discover is [render.Discover] in the child.
func (p *Process) Discover(ctx context.Context, in render.DiscoverInput) ([]render.Overlay, []render.Skipped, error) {
	r := request{Discover: &discoverRequest{Paths: in.Paths, Exclude: in.Exclude}}
	reply, err := p.call(ctx, r, in.Tree)
	if err != nil {
		return nil, nil, fmt.Errorf("find the overlays: %w", err)
	}
	if err := reply.failed(); err != nil {
		return nil, nil, err
	}
	return reply.overlays, reply.skipped, nil
}

// Render is [render.Render] in the child, with the same contract, but for two things:
// the Closure of the Result is empty, and Limits.MaxBytes is at most its default.
// Texts in errors and warnings come from the child.
func (p *Process) Render(ctx context.Context, in render.Input) (*render.Result, error) {
	reply, err := p.call(ctx, request{Render: newRenderRequest(in)}, in.Tree)
	if err != nil {
		return &render.Result{}, fmt.Errorf("overlay %s: %w", in.Path, err)
	}
	result := &render.Result{Objects: reply.objects, Warnings: reply.Warnings, Variables: reply.Variables}
	if err := reply.failed(); err != nil {
		return &render.Result{Variables: result.Variables}, err
	}
	return result, nil
}

// reply is what a child answered to a call.
type reply struct {
	done
	objects  []*unstructured.Unstructured
	overlays []render.Overlay
	skipped  []render.Skipped
	// treeErr is the last error of the tree that was served, as it was here.
	treeErr error
}

func (r *reply) failed() error {
	if r.Failure == nil {
		return nil
	}
	return r.Failure.err(r.treeErr)
}

// call asks the child, and once more a new one if it died that had served others.
func (p *Process) call(ctx context.Context, r request, t tree.Tree) (*reply, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(p.life, func() { cancel(errClosed) })() //nolint:contextcheck // the life of the process, which outlasts a call
	if p.life.Err() != nil {
		cancel(errClosed) // AfterFunc takes its time
	}
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	for {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		c, err := p.ready(ctx)
		if err != nil {
			return nil, err
		}
		c.calls++
		reply, err := p.try(ctx, c, r, t)
		if err == nil {
			if reply.Last {
				p.drop()
			}
			return reply, nil
		}
		p.drop()
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case errors.Is(err, render.ErrTimeout) || c.calls == 1:
			return nil, err
		}
		p.options.Log.V(1).Info("a sandbox that had been used before died; trying again with a new one", "reason", err.Error())
	}
}

// try has one conversation with a child. After an error, the child is of no more use.
func (p *Process) try(ctx context.Context, c *child, r request, t tree.Tree) (*reply, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, p.options.Timeout, render.ErrTimeout)
	defer cancel()
	alive := context.AfterFunc(ctx, c.kill)
	reply, err := converse(c, r, t)
	if alive() && err == nil {
		return reply, nil
	}
	c.kill()
	<-c.gone
	switch {
	case err == nil: // it had answered already
		reply.Last = true
		return reply, nil
	case errors.Is(context.Cause(ctx), render.ErrTimeout):
		return nil, fmt.Errorf("%w: %w than %s; make it smaller", ErrKilled, render.ErrTimeout, p.options.Timeout)
	case errors.Is(err, errProtocol):
		return nil, fmt.Errorf("%w: %w", ErrKilled, err)
	}
	return nil, fmt.Errorf("%w: %s", ErrKilled, causeOfDeath(c.state, c.stderr.String(), p.options.MemoryBytes))
}

// ready returns a living child, a new one if need be.
func (p *Process) ready(ctx context.Context) (*child, error) {
	if p.child != nil {
		select {
		case <-p.child.gone:
			p.drop()
		default:
			return p.child, nil
		}
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	c, err := startChild(ctx, p.options)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrStart, err)
	}
	c.unbind = context.AfterFunc(p.life, c.kill) //nolint:contextcheck // the life of the process, which outlasts a call
	p.child = c
	return c, nil
}

// drop ends the child and waits until it is gone.
func (p *Process) drop() {
	c := p.child
	if c == nil {
		return
	}
	p.child = nil
	c.unbind()
	c.kill()
	<-c.gone
}

// Serve is the child's side: it renders what is asked for on in, and answers on out,
// until in ends. It limits its own process first, for good, so it is for a process
// that does nothing else.
func Serve(in io.Reader, out io.Writer) error {
	s := &server{connection: newConnection(in, out)}
	return s.serve()
}
