package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"

	"capstan.dev/capstan/internal/render"
	"capstan.dev/capstan/internal/tree"
)

// maxAnswer is what the child takes from its parent in one frame: a file in base64,
// or a directory.
const maxAnswer = 64 << 20

// server is the child's side.
type server struct{ *connection }

func (s *server) serve() error {
	var h hello
	if err := s.expect(frameHello, maxQuestion, &h); err != nil {
		return fmt.Errorf("nobody speaks to this sandbox, which only the agent can use: %w", err)
	}
	debug.SetMaxStack(256 << 20) // recursion without end ends sooner than memory does
	debug.SetMemoryLimit(h.MemoryBytes / 8 * 7)
	if err := restrict(h); err != nil {
		return fmt.Errorf("limit the sandbox: %w", err)
	}
	if err := s.send(frameReady, ready{Version: render.Version()}); err != nil {
		return err
	}
	for {
		var r request
		switch err := s.expect(frameCall, maxAnswer, &r); {
		case errors.Is(err, io.EOF):
			return nil // the parent needs us no more
		case err != nil:
			return err
		}
		last, err := s.call(r)
		if last || err != nil {
			return err
		}
	}
}

// call serves one call. last says that this process is of no use for another one.
func (s *server) call(r request) (last bool, err error) {
	t := &askedTree{connection: s.connection}
	var d done
	var failed error
	switch {
	case r.Discover != nil:
		d, failed = discover(t, r.Discover)
	case r.Render != nil:
		d, failed = s.render(t, r.Render)
	default:
		return false, errors.New("a call of an unknown kind")
	}
	if failed != nil {
		d.Failure = newFailure(failed)
		// The build that overran goes on, and takes the time and memory of others.
		d.Last = d.Failure.Timeout
	}
	if !d.Last {
		t.close()
	}
	return d.Last, s.send(frameDone, d)
}

func discover(t tree.Tree, r *discoverRequest) (d done, err error) {
	overlays, skips, err := render.Discover(render.DiscoverInput{Tree: t, Paths: r.Paths, Exclude: r.Exclude})
	for _, o := range overlays {
		d.Overlays = append(d.Overlays, []byte(o.Path))
	}
	for _, k := range skips {
		d.Skipped = append(d.Skipped, skipped{Path: []byte(k.Path), Reason: k.Reason})
	}
	return d, err
}

// render renders and sends the objects.
func (s *server) render(t tree.Tree, r *renderRequest) (d done, err error) {
	result, err := render.Render(context.Background(), r.input(t))
	d.Warnings, d.Variables = result.Warnings, result.Variables
	if err != nil {
		return d, err
	}
	var size budget
	bodies := make([]json.RawMessage, 0, len(result.Objects))
	for _, u := range result.Objects {
		body, err := json.Marshal(exact(u.Object))
		if err != nil {
			return d, fmt.Errorf("overlay %s: an object can't be written as JSON", r.Path)
		}
		if !size.take(body) {
			return d, fmt.Errorf("overlay %s renders more than %d MiB or %d values; split it", r.Path, maxResult>>20, maxValues)
		}
		bodies = append(bodies, body)
	}
	for _, body := range bodies {
		if err := s.send(frameObject, body); err != nil {
			return d, err
		}
	}
	return d, nil
}

// exact replaces floats, in place, so that one which is a whole number isn't taken for
// an integer on the other side.
func exact(value any) any {
	switch v := value.(type) {
	case map[string]any:
		for key, element := range v {
			v[key] = exact(element)
		}
	case []any:
		for i, element := range v {
			v[i] = exact(element)
		}
	case float64:
		text := strconv.FormatFloat(v, 'g', -1, 64)
		if !strings.ContainsAny(text, ".e") {
			text += ".0"
		}
		return json.Number(text)
	}
	return value
}

// askedTree is the tree of one call: each question goes to the parent.
type askedTree struct {
	*connection
	mu     sync.Mutex
	closed bool
}

// close ends the tree with its call.
func (t *askedTree) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
}

func (t *askedTree) ask(op, p string) (answer, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var a answer
	if t.closed {
		return a, fmt.Errorf("%s %s: the call is over", op, p)
	}
	if err := t.send(frameQuestion, question{Op: op, Path: []byte(p)}); err != nil {
		return a, err
	}
	if err := t.expect(frameAnswer, maxAnswer, &a); err != nil {
		return a, err
	}
	switch {
	case a.Absent:
		return a, &fs.PathError{Op: op, Path: p, Err: fs.ErrNotExist}
	case a.Error != "":
		return a, errors.New(a.Error)
	}
	return a, nil
}

func (t *askedTree) Stat(p string) (tree.Entry, error) {
	a, err := t.ask(opStat, p)
	if err != nil {
		return tree.Entry{}, err
	}
	if len(a.Entries) != 1 {
		return tree.Entry{}, errors.New("the parent's answer has no entry")
	}
	return a.Entries[0].entry(), nil
}

func (t *askedTree) ReadDir(p string) ([]tree.Entry, error) {
	a, err := t.ask(opReadDir, p)
	if err != nil {
		return nil, err
	}
	list := make([]tree.Entry, 0, len(a.Entries))
	for _, e := range a.Entries {
		list = append(list, e.entry())
	}
	return list, nil
}

func (t *askedTree) ReadFile(p string) ([]byte, error) {
	a, err := t.ask(opRead, p)
	return a.Content, err
}

func (e entry) entry() tree.Entry {
	return tree.Entry{Name: string(e.Name), Kind: e.Kind, Hash: e.Hash}
}
