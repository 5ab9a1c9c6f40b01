// Command capstan drives Cluster API from a Git repository of Kustomize overlays:
// the agent that runs in the management cluster, and the command line beside it.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"syscall"

	"capstan.dev/capstan/internal/render"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal doesn't wait for what the first one ends
	// Renders must survive kustomize, and diff must not end with the code for changes.
	log.SetOutput(render.SurviveFatal(os.Stderr))
	code := execute(ctx, os.Stdin, os.Stdout, os.Stderr, os.Args[1:])
	stop()
	os.Exit(code)
}

// execute runs a command line and returns the exit code.
func execute(ctx context.Context, in io.Reader, out, errOut io.Writer, args []string) int {
	errOut = printableWriter{errOut}
	root := newRootCommand(in, out, errOut)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	var code exitCode
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	default:
		fmt.Fprintln(errOut, "capstan: "+err.Error())
		return exitFailure
	}
}

// exitCode ends the process with a code and no message: the command has said
// everything.
type exitCode int

// Exit codes, see docs/reference/cli.md.
const (
	exitChanges = 1
	exitFailure = 2
)

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }
