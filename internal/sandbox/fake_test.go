package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"capstan.dev/capstan/internal/render"
)

// fakes are children that somebody has taken over: what they do with a call.
var fakes = map[string]func(c *connection) error{
	"garbage":  func(*connection) error { return flood([]byte("no frame at all, and that over and over again\n")) },
	"long":     func(*connection) error { return flood([]byte{frameDone, 0xff, 0xff, 0xff, 0xff}) },
	"question": func(*connection) error { return flood([]byte{frameQuestion, 0x00, 0xff, 0xff, 0xff}) },
	"questions": func(c *connection) error {
		for {
			var a answer
			if err := errors.Join(c.send(frameQuestion, question{Op: opStat, Path: []byte("clusters")}), c.expect(frameAnswer, maxAnswer, &a)); err != nil {
				return err
			}
		}
	},
	"questions without waiting": func(c *connection) error {
		return flood(frame(frameQuestion, question{Op: opRead, Path: []byte("clusters/a/a.yaml")}))
	},
	"big reads": func(c *connection) error {
		for {
			var a answer
			if err := errors.Join(c.send(frameQuestion, question{Op: opRead, Path: []byte("big")}), c.expect(frameAnswer, maxAnswer, &a)); err != nil {
				return err
			}
		}
	},
	"out of the tree": func(c *connection) error {
		var a answer
		err := errors.Join(c.send(frameQuestion, question{Op: opRead, Path: []byte("../../../../etc/passwd")}), c.expect(frameAnswer, maxAnswer, &a))
		return errors.Join(err, c.send(frameDone, done{Failure: &failure{Text: fmt.Sprintf("got %d bytes: %s", len(a.Content), a.Error), Tree: true}}))
	},
	"lies about the tree": func(c *connection) error {
		return c.send(frameDone, done{Failure: &failure{Text: "the tree is broken", Tree: true}})
	},
	"objects": func(*connection) error {
		for i := 0; ; i++ {
			if _, err := os.Stdout.Write(frame(frameObject, configMap(fmt.Sprintf("n%09d", i), nil))); err != nil {
				return err
			}
		}
	},
	"values": func(c *connection) error {
		return c.send(frameObject, configMap("a", make([]struct{}, maxValues)))
	},
	"the same object": func(*connection) error { return flood(frame(frameObject, configMap("a", nil))) },
	"no object":       func(c *connection) error { return c.send(frameObject, []int{1}) },
	"no name":         func(c *connection) error { return c.send(frameObject, configMap("", nil)) },
	"deep object": func(*connection) error {
		body := strings.Repeat(`{"a":`, 1<<20) + "1" + strings.Repeat("}", 1<<20)
		_, err := os.Stdout.Write(append([]byte{frameObject, 0, 0x60, 0, 1}, body...))
		return err
	},
	"stderr": func(*connection) error {
		for {
			if _, err := os.Stderr.WriteString("panic: the password is hunter2\n"); err != nil {
				return err
			}
		}
	},
	"panic": func(*connection) error {
		fmt.Fprintln(os.Stderr, "panic: the password is hunter2\nfatal error: stack overflow")
		return errors.New("exit")
	},
	"silence": func(c *connection) error { _, err := c.in.ReadByte(); return err },
	// The grandchild holds the pipes.
	"grandchild": func(*connection) error {
		c := exec.Command("/bin/sleep", "3600")
		c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
		if err := c.Start(); err != nil {
			fmt.Fprintln(os.Stderr, "fatal error: no sleep")
		}
		return errors.New("exit")
	},
}

func flood(text []byte) error {
	text = bytes.Repeat(text, 1+(64<<10)/len(text))
	for {
		if _, err := os.Stdout.Write(text); err != nil {
			return err
		}
	}
}

func frame(kind byte, body any) []byte {
	var b bytes.Buffer
	if err := newConnection(nil, &b).send(kind, body); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func configMap(name string, data any) map[string]any {
	return map[string]any{"apiVersion": "v1", "kind": "ConfigMap", "metadata": map[string]any{"name": name}, "data": data}
}

// fake is the program of such a child.
func fake(args []string) int {
	if args[0] == "parent" {
		return parent(args[1])
	}
	c := newConnection(os.Stdin, os.Stdout)
	var h hello
	version := render.Version()
	if args[0] == "another version" {
		version = "2"
	}
	if args[0] == "no start" {
		fmt.Fprintln(os.Stderr, "this program has no sandbox")
		return 1
	}
	if err := errors.Join(c.expect(frameHello, maxQuestion, &h), c.send(frameReady, ready{Version: version})); err != nil {
		return 1
	}
	var r request
	if err := c.expect(frameCall, maxAnswer, &r); err != nil {
		return 1
	}
	if err := fakes[args[0]](c); err != nil {
		return 1
	}
	_, _ = c.in.ReadByte() // until the parent has had enough
	return 0
}

func fakeCommand(name string) []string { return []string{os.Args[0], "fake", name} }

// bigTree has a large file besides.
type bigTree struct{ tr }

func (b bigTree) ReadFile(p string) ([]byte, error) {
	if p == "big" {
		return make([]byte, 20<<20), nil
	}
	return b.tr.ReadFile(p)
}

// TestTakenOver: whatever a child does, its parent ends it and says why, and quotes
// nothing of what it wrote.
func TestTakenOver(t *testing.T) {
	t.Parallel()
	const protocol = "it sent what it must not: "
	for name, want := range map[string]string{
		"garbage":                   protocol + "a frame of kind 110",
		"long":                      protocol + "a frame of 4294967295 bytes, more than",
		"question":                  protocol + "a frame of 16777215 bytes, more than",
		"questions":                 protocol + "more than 100000 questions",
		"questions without waiting": "longer than",
		"big reads":                 protocol + "questions for more than",
		"objects":                   protocol + "more objects than",
		"values":                    protocol + "more objects than",
		"the same object":           protocol + "objects that are not sorted",
		"no object":                 protocol + "a frame that can't be decoded",
		"no name":                   protocol + "an object without",
		"deep object":               protocol,
		"stderr":                    "longer than",
		"silence":                   "longer than",
		"panic":                     "it crashed (exit status 1: fatal error: stack overflow)",
		"grandchild":                "it crashed (exit status 1)",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			timeout := patience
			if want == "longer than" {
				timeout = 3 * time.Second
			}
			p := start(t, Options{Command: fakeCommand(name), Timeout: timeout})
			pid := p.child.process.Pid
			r, err := p.Render(t.Context(), render.Input{Tree: bigTree{plain}, Path: "clusters/a"})
			if !errors.Is(err, ErrKilled) || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter") {
				t.Fatalf("got %v, want %s", err, want)
			}
			if errors.Is(err, render.ErrTimeout) != (want == "longer than") || errors.Is(err, render.ErrTree) || r == nil || len(r.Objects) > 0 {
				t.Errorf("%#v, %v", err, r)
			}
			ended(t, pid)
			if next, err := p.ready(t.Context()); err != nil || next.process.Pid == pid {
				t.Errorf("no new child: %v", err)
			}
		})
	}
}

// TestStartIsNoCall: however short a call may be, its child has the time to start.
func TestStartIsNoCall(t *testing.T) {
	t.Parallel()
	p := start(t, Options{Command: fakeCommand("silence"), Timeout: time.Millisecond})
	for range 2 {
		if _, err := p.Render(t.Context(), render.Input{Tree: plain, Path: "clusters/a"}); !errors.Is(err, ErrKilled) || !errors.Is(err, render.ErrTimeout) {
			t.Errorf("got %v, want the end of the call's time", err)
		}
	}
}

// TestTreeErrors: that the tree can't be read is known by who reads it.
func TestTreeErrors(t *testing.T) {
	t.Parallel()
	_, err := start(t, Options{Command: fakeCommand("lies about the tree")}).Render(t.Context(), render.Input{Tree: plain})
	if err == nil || errors.Is(err, render.ErrTree) || errors.Is(err, ErrKilled) {
		t.Errorf("a lie: %#v", err)
	}
	_, err = start(t, Options{Command: fakeCommand("out of the tree")}).Render(t.Context(), render.Input{Tree: plain})
	if !errors.Is(err, render.ErrTree) || !strings.Contains(err.Error(), "got 0 bytes: ") || !strings.Contains(err.Error(), "leaves the tree") {
		t.Errorf("out of the tree: %#v", err)
	}
}

func TestStartFails(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		command []string
		want    string
	}{
		{nil, "no command is given"},
		{[]string{"/does/not/exist"}, "start the sandbox: fork/exec /does/not/exist: no such file"},
		{fakeCommand("no start"), "this program has no sandbox"},
		{fakeCommand("another version"), `is another version of this one (renderer "2", here "capstan/`},
		{[]string{"/bin/sh", "-c", "echo no frame; read x"}, "must not: a frame of kind 110"},
	} {
		p, err := Start(t.Context(), Options{Command: test.command})
		if p != nil || err == nil || !strings.Contains(err.Error(), test.want) || errors.Is(err, ErrKilled) {
			t.Errorf("%q: %v, want %s", test.command, err, test.want)
		}
	}
}
