package render

import (
	"io"
	"runtime"
	"strings"
)

// SurviveFatal returns a writer for the standard logger that turns a log.Fatal
// within kustomize into a panic, which the render recovers into an error: one bad
// overlay must not end the process for all. Everything else is passed on. Install
// it with log.SetOutput.
//
// Kustomize calls log.Fatal where it takes a state for impossible (kyaml v0.21.1
// yaml/rnode.go, api v0.21.1 resource/resource.go). The known ways to get there
// are refused before the build; this is for the others. The logger writes before
// it exits, and holds its lock by defer.
func SurviveFatal(out io.Writer) io.Writer { return fatalWriter{out} }

type fatalWriter struct{ out io.Writer }

func (w fatalWriter) Write(text []byte) (int, error) {
	if fatalInKustomize() {
		panic(fatalError{})
	}
	return w.out.Write(text)
}

// fatalError is the value of the panic. It leaves out what would have been logged:
// that may quote a manifest.
type fatalError struct{}

// fatalInKustomize looks at the stack: is this log.Fatal, called by kustomize?
func fatalInKustomize() bool {
	const deep = 32
	pcs := make([]uintptr, deep)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(2, pcs)])
	fatal := false
	for {
		frame, more := frames.Next()
		switch {
		case strings.HasPrefix(frame.Function, "log.Fatal"), strings.HasPrefix(frame.Function, "log.(*Logger).Fatal"):
			fatal = true
		case fatal:
			return strings.HasPrefix(frame.Function, "sigs.k8s.io/kustomize/")
		}
		if !more {
			return false
		}
	}
}
