package main

import (
	"context"
	"fmt"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"capstan.dev/capstan/dev/internal/host"
)

// stopPatience is how long a serving process may take to end.
const stopPatience = time.Minute

func newDownCommand(dir *string) *cobra.Command {
	var wipe bool
	cmd := &cobra.Command{
		Use:   "down",
		Short: "Stop the management cluster; its data stay for the next start",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			pid, running, err := host.User(*dir)
			if err != nil {
				return err
			}
			if running {
				if err := stop(cmd.Context(), *dir, pid); err != nil {
					return err
				}
				cmd.Printf("stopped (process %d)\n", pid)
			} else {
				cmd.Printf("not running in %s\n", *dir)
			}
			if !wipe {
				return nil
			}
			if err := host.Wipe(cmd.Context(), *dir); err != nil {
				return err
			}
			cmd.Printf("removed %s\n", *dir)
			return nil
		},
	}
	cmd.Flags().BoolVar(&wipe, "wipe", false, "remove the folder, too")
	return cmd
}

// stop ends the process that uses the folder and waits until it has let go of it.
func stop(ctx context.Context, dir string, pid int) error {
	if pid == 0 {
		return fmt.Errorf("%s is in use by a process that is just starting: try again", dir)
	}
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop process %d: %w", pid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	<-awaitUnlocked(ctx, dir, pid)
	if ctx.Err() != nil {
		return fmt.Errorf("process %d has not stopped (%w); see %s, and `kill -9 %d` ends it and its children", pid, ctx.Err(), logPath(dir), pid)
	}
	return nil
}
