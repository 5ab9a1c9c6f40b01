package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	utiljson "k8s.io/apimachinery/pkg/util/json"

	"capstan.dev/capstan/internal/render"
	"capstan.dev/capstan/internal/tree"
)

// TestFailure: what errors.Is and errors.As find survives the pipe.
func TestFailure(t *testing.T) {
	t.Parallel()
	file := &render.FileError{Path: "a\xff.yaml", Line: 3, Reason: "no"}
	disk := errors.New("the disk is broken")
	for _, test := range []struct {
		err           error
		file          *render.FileError
		tree, timeout bool
	}{
		{errors.New("plain"), nil, false, false},
		{&render.FileError{Path: "a.yaml", Reason: "no"}, &render.FileError{Path: "a.yaml", Reason: "no"}, false, false},
		{file, file, false, false},
		{fmt.Errorf("overlay x: %w", file), file, false, false},
		{fmt.Errorf("%w: %w", render.ErrTree, disk), nil, true, false},
		{fmt.Errorf("%w than 1s", render.ErrTimeout), nil, false, true},
	} {
		body, err := json.Marshal(newFailure(test.err))
		if err != nil {
			t.Fatal(err)
		}
		var f failure
		if err := decode(body, &f); err != nil {
			t.Fatal(err)
		}
		got := f.err(disk)
		if got.Error() != strings.ToValidUTF8(test.err.Error(), "\ufffd") && got.Error() != test.err.Error() {
			t.Errorf("got %q, want %q", got, test.err)
		}
		var asFile *render.FileError
		if errors.As(got, &asFile); !cmp.Equal(asFile, test.file) {
			t.Errorf("%v: FileError %v, want %v", test.err, asFile, test.file)
		}
		if errors.Is(got, render.ErrTree) != test.tree || errors.Is(got, disk) != test.tree || errors.Is(got, render.ErrTimeout) != test.timeout {
			t.Errorf("%v arrived as %#v", test.err, got)
		}
		if errors.Is(f.err(nil), render.ErrTree) {
			t.Errorf("%v: the tree was never in trouble", test.err)
		}
	}
}

// TestNumbers: integers and floats stay what they are.
func TestNumbers(t *testing.T) {
	t.Parallel()
	want := map[string]any{
		"list": []any{int64(1), 1.0, 0.0, -2.0, 1.5, 1e21, 1e-7, 18446744073709551615.0, int64(9223372036854775807), "1.0", true, nil},
		"deep": map[string]any{"f": 3.0},
	}
	body, err := json.Marshal(exact(map[string]any{
		"list": []any{int64(1), 1.0, 0.0, -2.0, 1.5, 1e21, 1e-7, 18446744073709551615.0, int64(9223372036854775807), "1.0", true, nil},
		"deep": map[string]any{"f": 3.0},
	}))
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]any
	if err := utiljson.Unmarshal(body, &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got) of %s:\n%s", body, diff)
	}
}

func TestCountValues(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int{
		`1`: 1, `"a,b{[,"`: 1, `"\",\\"`: 1, `[]`: 2, `{"a":1,"b":[1,2,3]}`: 6, `[{},{},{}]`: 7, `["a\\",1]`: 3,
	} {
		if got := countValues([]byte(text)); got != want {
			t.Errorf("%s: %d values, want %d", text, got, want)
		}
	}
}

// FuzzConverse: no answer of a child breaks its parent.
func FuzzConverse(f *testing.F) {
	f.Add(bytes.Join([][]byte{
		frame(frameQuestion, question{Op: opStat, Path: []byte("clusters/a/a.yaml")}), frame(frameQuestion, question{Op: opReadDir}),
		frame(frameObject, configMap("a", nil)), frame(frameObject, configMap("b", nil)),
		frame(frameDone, done{Overlays: [][]byte{[]byte("clusters/a")}, Failure: newFailure(&render.FileError{})}),
	}, nil))
	f.Add(frame(frameObject, []any{}))
	f.Add(frame(frameObject, map[string]any{"metadata": 1}))
	f.Add(frame(frameDone, done{Overlays: [][]byte{[]byte("../x")}}))
	f.Fuzz(func(t *testing.T, sent []byte) {
		c := &child{connection: newConnection(bytes.NewReader(sent), io.Discard)}
		r, err := converse(c, request{}, plain)
		if err != nil {
			return
		}
		_ = r.failed()
		for _, o := range r.overlays {
			if _, ok := tree.Clean(o.Path); !ok {
				t.Errorf("an overlay at %q", o.Path)
			}
		}
	})
}
