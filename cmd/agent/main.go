// Command capstan drives Cluster API from a Git repository of Kustomize overlays:
// the agent that runs in the management cluster, and the command line beside it.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := newRootCommand(os.Stdin, os.Stdout, os.Stderr).ExecuteContext(ctx)
	stop()
	if err == nil {
		return
	}
	var code exitCode
	if errors.As(err, &code) {
		os.Exit(int(code))
	}
	fmt.Fprintln(os.Stderr, "capstan: "+err.Error())
	os.Exit(exitFailure)
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
