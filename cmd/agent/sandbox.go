package main

import (
	"errors"
	"os"

	"github.com/spf13/cobra"

	"capstan.dev/capstan/internal/sandbox"
)

// sandboxCommand is what the agent runs itself with for the child that renders pull
// requests.
const sandboxCommand = "sandbox"

func newSandboxCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:    sandboxCommand,
		Hidden: true,
		Short:  "Render for another process (used by the agent itself)",
		Long: `Render for another process, which speaks to this one over standard input and output
in a protocol of its own. The agent starts it to render pull requests, which nobody has
approved yet: it limits its memory, computing time and open files for good, and reads
no file but what the agent sends it. There is nothing in it for people; to render
a directory, use capstan render.`,
		Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if isTerminal(a.in) || isTerminal(a.out) {
				return errors.New("sandbox speaks to the agent, and not to a terminal; use capstan render")
			}
			return sandbox.Serve(a.in, a.out)
		},
	}
}

// isTerminal says whether a stream is a terminal, or another device.
func isTerminal(stream any) bool {
	f, ok := stream.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}
