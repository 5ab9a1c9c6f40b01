package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"capstan.dev/capstan/internal/object"
	"capstan.dev/capstan/internal/render"
	"capstan.dev/capstan/internal/tree"
)

// What one call may cost this process, whoever has taken over the child.
const (
	// maxFile is the default of render.Limits.MaxBytes: no file above it is rendered.
	maxFile = 16 << 20
	// maxServed is the number of bytes of the tree that a call may read.
	maxServed = 64 << 20
	// maxQuestions is the number of questions about the tree. To find a thousand
	// overlays takes some ten thousand.
	maxQuestions = 100_000
	// maxResult is the number of bytes of all objects as JSON.
	maxResult = 32 << 20
	// maxValues is the number of values in all objects; each costs memory, however
	// short it is written.
	maxValues = 1 << 20
	// maxDone is the number of bytes of everything else in a result.
	maxDone = 8 << 20
	// maxQuestion is the number of bytes of a question.
	maxQuestion = 64 << 10
	// maxListing is the number of bytes of the names in one directory.
	maxListing = 16 << 20
)

// conversation is the parent's side of one call.
type conversation struct {
	child     *child
	tree      tree.Tree
	reply     *reply
	questions int
	served    int
	size      budget
}

// budget counts objects on either side.
type budget struct{ bytes, values int }

// take counts an object; false if that is too much.
func (b *budget) take(body []byte) bool {
	b.bytes += len(body)
	b.values += countValues(body)
	return b.bytes <= maxResult && b.values <= maxValues
}

// countValues counts the values of a JSON text, without decoding it.
func countValues(text []byte) int {
	n, inString := 1, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case inString && c == '\\':
			i++
		case c == '"':
			inString = !inString
		case !inString && (c == ',' || c == '{' || c == '['):
			n++
		}
	}
	return n
}

// converse makes a call and serves the tree until the child is done.
func converse(c *child, r request, t tree.Tree) (*reply, error) {
	v := &conversation{child: c, tree: t, reply: &reply{}}
	if err := c.send(frameCall, r); err != nil {
		return nil, err
	}
	for {
		kind, body, err := c.receive(map[byte]int{frameQuestion: maxQuestion, frameObject: maxResult, frameDone: maxDone})
		if err != nil {
			return nil, err
		}
		switch kind {
		case frameQuestion:
			err = v.question(body)
		case frameObject:
			err = v.object(body)
		case frameDone:
			if err := v.done(body); err != nil {
				return nil, err
			}
			return v.reply, nil
		}
		if err != nil {
			return nil, err
		}
	}
}

func (v *conversation) question(body []byte) error {
	var q question
	if err := decode(body, &q); err != nil {
		return err
	}
	v.questions++
	if v.questions > maxQuestions {
		return fmt.Errorf("%w: more than %d questions about the tree", errProtocol, maxQuestions)
	}
	a, size, err := v.ask(q)
	if err != nil {
		a = answer{Absent: errors.Is(err, fs.ErrNotExist), Error: err.Error()}
		if !a.Absent {
			v.reply.treeErr = err
		}
	}
	v.served += size
	if v.served > maxServed {
		return fmt.Errorf("%w: questions for more than %d bytes of the tree", errProtocol, maxServed)
	}
	// A child that timed out is gone when it has said so: what it sent decides.
	_ = v.child.send(frameAnswer, a)
	return nil
}

// ask asks the tree. size is what the answer counts for.
func (v *conversation) ask(q question) (a answer, size int, err error) {
	p := string(q.Path)
	switch q.Op {
	case opStat:
		e, err := v.tree.Stat(p)
		if err != nil {
			return answer{}, 0, err
		}
		return answer{Entries: []entry{newEntry(e)}}, 0, nil
	case opReadDir:
		list, err := v.tree.ReadDir(p)
		if err != nil {
			return answer{}, 0, err
		}
		for _, e := range list {
			a.Entries = append(a.Entries, newEntry(e))
			size += len(e.Name) + len(e.Hash)
		}
		if size > maxListing {
			return answer{}, 0, fmt.Errorf("the directory %q has more entries than a sandbox is told of", p)
		}
		return a, size, nil
	case opRead:
		content, err := v.tree.ReadFile(p)
		if err != nil {
			return answer{}, 0, err
		}
		// One byte more than is allowed is enough to be refused by name.
		content = content[:min(len(content), maxFile+1)]
		return answer{Content: content}, len(content), nil
	}
	return answer{}, 0, fmt.Errorf("the operation %q is not known", q.Op)
}

func newEntry(e tree.Entry) entry { return entry{Name: []byte(e.Name), Kind: e.Kind, Hash: e.Hash} }

// object takes an object of the result. They must come as render promises them:
// sorted, and none twice.
func (v *conversation) object(body []byte) error {
	if !v.size.take(body) {
		return fmt.Errorf("%w: more objects than a result may have", errProtocol)
	}
	u := &unstructured.Unstructured{}
	if err := utiljson.Unmarshal(body, &u.Object); err != nil {
		return fmt.Errorf("%w: a frame that can't be decoded", errProtocol)
	}
	id := object.IDOf(u)
	if id.Kind == "" || id.Name == "" || u.GetAPIVersion() == "" {
		return fmt.Errorf("%w: an object without apiVersion, kind or name", errProtocol)
	}
	if n := len(v.reply.objects); n > 0 && object.Compare(object.IDOf(v.reply.objects[n-1]), id) >= 0 {
		return fmt.Errorf("%w: objects that are not sorted", errProtocol)
	}
	v.reply.objects = append(v.reply.objects, u)
	return nil
}

func (v *conversation) done(body []byte) error {
	r := v.reply
	if err := decode(body, &r.done); err != nil {
		return err
	}
	for _, p := range r.Overlays {
		if !cleanPath(string(p)) {
			return fmt.Errorf("%w: an overlay outside of the tree", errProtocol)
		}
		r.overlays = append(r.overlays, render.Overlay{Path: string(p)})
	}
	byPath := func(a, b render.Overlay) int { return strings.Compare(a.Path, b.Path) }
	if !slices.IsSortedFunc(r.overlays, byPath) {
		return fmt.Errorf("%w: overlays that are not sorted", errProtocol)
	}
	for _, s := range r.Skipped {
		r.skipped = append(r.skipped, render.Skipped{Path: string(s.Path), Reason: s.Reason})
	}
	return nil
}

func cleanPath(p string) bool {
	clean, ok := tree.Clean(p)
	return ok && p != "" && path.Clean(p) == p && (clean == p || p == ".")
}
