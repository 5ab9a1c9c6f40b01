package sandbox

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	"capstan.dev/capstan/internal/render"
	"capstan.dev/capstan/internal/tree"
)

// The two processes take turns, so no frame needs an id:
//
//	parent  hello                     call                answer  ...
//	child           ready                   question ...          object ... done
//
// A frame is its kind, the length of its body (4 bytes, the highest first) and the
// body in JSON. Paths are bytes, since Git's need not be UTF-8.
const (
	frameHello    = 'h'
	frameReady    = 'r'
	frameCall     = 'c'
	frameQuestion = 'q'
	frameAnswer   = 'a'
	frameObject   = 'o'
	frameDone     = 'd'
)

type hello struct {
	MemoryBytes int64
	// CPUSeconds bounds the child's whole life, in case that nobody ends it.
	CPUSeconds uint64
}

type ready struct {
	// Version is the renderer's; the two processes must agree on it.
	Version string
}

// request is a call; one of its fields is set.
type request struct {
	Discover *discoverRequest `json:",omitempty"`
	Render   *renderRequest   `json:",omitempty"`
}

type discoverRequest struct{ Paths, Exclude []string }

type renderRequest struct {
	Path       []byte
	Substitute bool
	Values     map[string][]byte
	Limits     render.Limits
}

func newRenderRequest(in render.Input) *renderRequest {
	r := &renderRequest{Path: []byte(in.Path), Limits: in.Limits}
	if r.Limits.MaxBytes <= 0 || r.Limits.MaxBytes > maxFile {
		r.Limits.MaxBytes = maxFile
	}
	if in.Substitute != nil {
		r.Substitute, r.Values = true, map[string][]byte{}
		for name, value := range in.Substitute.Values {
			r.Values[name] = []byte(value)
		}
	}
	return r
}

func (r *renderRequest) input(t tree.Tree) render.Input {
	in := render.Input{Tree: t, Path: string(r.Path), Limits: r.Limits}
	if r.Substitute {
		in.Substitute = &render.Substitution{Values: map[string]string{}}
		for name, value := range r.Values {
			in.Substitute.Values[name] = string(value)
		}
	}
	return in
}

// question asks for a method of tree.Tree.
type question struct {
	Op   string
	Path []byte
}

// The operations of a question.
const (
	opStat    = "stat"
	opReadDir = "readdir"
	opRead    = "read"
)

type answer struct {
	Entries []entry `json:",omitempty"`
	Content []byte  `json:",omitempty"`
	// Absent is an error that wraps fs.ErrNotExist, Error any.
	Absent bool   `json:",omitempty"`
	Error  string `json:",omitempty"`
}

type entry struct {
	Name []byte
	Kind tree.Kind
	Hash string
}

// done ends a call. Objects have come before it.
type done struct {
	Warnings, Variables []string
	Overlays            [][]byte
	Skipped             []skipped
	Failure             *failure
	// Last says that the child ends after this call.
	Last bool
}

type skipped struct {
	Path   []byte
	Reason string
}

// failure is an error on its way: its text, and what errors.Is and errors.As find.
type failure struct {
	Text          string
	File          *fileFailure
	Tree, Timeout bool
}

type fileFailure struct {
	Path   []byte
	Line   int
	Reason string
}

func newFailure(err error) *failure {
	f := &failure{Text: err.Error(), Tree: errors.Is(err, render.ErrTree), Timeout: errors.Is(err, render.ErrTimeout)}
	var file *render.FileError
	if errors.As(err, &file) {
		f.File = &fileFailure{Path: []byte(file.Path), Line: file.Line, Reason: file.Reason}
	}
	return f
}

// err makes an error again. That the tree could not be read is known better here,
// where it was read: without treeErr it didn't happen.
func (f *failure) err(treeErr error) error {
	e := &childError{text: f.Text}
	if f.Tree && treeErr != nil {
		e.causes = append(e.causes, render.ErrTree, treeErr)
	}
	if f.Timeout {
		e.causes = append(e.causes, render.ErrTimeout)
	}
	if f.File != nil {
		file := &render.FileError{Path: string(f.File.Path), Line: f.File.Line, Reason: f.File.Reason}
		if file.Error() == f.Text && len(e.causes) == 0 {
			return file
		}
		e.causes = append(e.causes, file)
	}
	return e
}

type childError struct {
	text   string
	causes []error
}

func (e *childError) Error() string   { return e.text }
func (e *childError) Unwrap() []error { return e.causes }

// errProtocol is wrapped by errors about frames that must not have been sent.
var errProtocol = errors.New("it sent what it must not")

// connection sends and receives frames.
type connection struct {
	in *bufio.Reader

	mu  sync.Mutex
	out io.Writer
}

func newConnection(in io.Reader, out io.Writer) *connection {
	return &connection{in: bufio.NewReader(in), out: out}
}

// send writes a frame, whole.
func (c *connection) send(kind byte, body any) error {
	var b bytes.Buffer
	b.Write([]byte{kind, 0, 0, 0, 0})
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(body); err != nil {
		return err
	}
	frame := b.Bytes()
	binary.BigEndian.PutUint32(frame[1:], uint32(b.Len()-5)) //nolint:gosec // far below 4 GiB
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := c.out.Write(frame)
	return err
}

// receive reads a frame. Kinds that limits doesn't name, and bodies that are longer
// than it says, are refused before anything is allocated for them.
func (c *connection) receive(limits map[byte]int) (kind byte, body []byte, err error) {
	var head [5]byte
	if _, err := io.ReadFull(c.in, head[:]); err != nil {
		return 0, nil, err
	}
	kind = head[0]
	limit, allowed := limits[kind]
	if !allowed {
		return 0, nil, fmt.Errorf("%w: a frame of kind %d", errProtocol, kind)
	}
	length := binary.BigEndian.Uint32(head[1:])
	if int64(length) > int64(limit) {
		return 0, nil, fmt.Errorf("%w: a frame of %d bytes, more than %d", errProtocol, length, limit)
	}
	body = make([]byte, length)
	if _, err := io.ReadFull(c.in, body); err != nil {
		return 0, nil, err
	}
	return kind, body, nil
}

// expect receives a frame of one kind into v.
func (c *connection) expect(kind byte, limit int, v any) error {
	_, body, err := c.receive(map[byte]int{kind: limit})
	if err != nil {
		return err
	}
	return decode(body, v)
}

// decode reads a body. Its errors leave out what is in it.
func decode(body []byte, v any) error {
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("%w: a frame that can't be decoded", errProtocol)
	}
	return nil
}
