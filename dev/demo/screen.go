package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
)

// pages shows what `capstan status --watch` prints into a pipe: on a terminal each page in the place of the
// one before it, with what was there before above it.
type pages struct {
	out     io.Writer
	inPlace bool
	rest    []byte // a line that is not complete yet
	height  int    // of what is shown
}

// A page begins with this.
var firstColumn = []byte("FLEET ")

func (p *pages) Write(text []byte) (int, error) {
	if !p.inPlace {
		return p.out.Write(text)
	}
	var screen bytes.Buffer
	p.rest = append(p.rest, text...)
	for {
		end := bytes.IndexByte(p.rest, '\n')
		if end < 0 {
			break
		}
		line := p.rest[:end]
		if p.height > 0 && bytes.HasPrefix(line, firstColumn) {
			fmt.Fprintf(&screen, "\x1b[%dA\x1b[J", p.height) // up to the first line, and clear from there
			p.height = 0
		}
		// A line that is too long is cut by the terminal: wrapped it would count as two.
		fmt.Fprintf(&screen, "\x1b[?7l%s\x1b[?7h\n", line)
		p.height++
		p.rest = p.rest[end+1:]
	}
	if _, err := p.out.Write(screen.Bytes()); err != nil {
		return 0, err
	}
	return len(text), nil
}

func isTerminal(out io.Writer) bool {
	f, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
