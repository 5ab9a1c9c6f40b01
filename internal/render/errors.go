package render

import (
	"errors"
	"fmt"
)

// ErrTree is wrapped by errors that come from reading the tree, not from what is
// in it. Nothing is known about the overlay then: the last good state stays.
var ErrTree = errors.New("the commit's tree could not be read")

// ErrTimeout is wrapped by the error of a render that was stopped for its time. It
// may be the machine that was slow, so another try can succeed.
var ErrTimeout = errors.New("the overlay takes longer")

// FileError is something wrong in a file of the overlay's closure, for the person
// who wrote it.
type FileError struct {
	// Path is the file, relative to the root of the tree.
	Path string
	// Line is the line in the file, from 1; 0 if it isn't known.
	Line int
	// Reason says what is wrong and what to do about it. It holds no values of
	// manifests, which may be secret.
	Reason string
}

// Error returns "path:line: reason".
func (e *FileError) Error() string {
	if e.Line == 0 {
		return fmt.Sprintf("%s: %s", e.Path, e.Reason)
	}
	return fmt.Sprintf("%s:%d: %s", e.Path, e.Line, e.Reason)
}
