// Command devcluster runs a management cluster for Cluster API on this machine: real controllers,
// simulated machines.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
)

func main() {
	end := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) { // as nohup has it
		end = append(end, syscall.SIGHUP) // the terminal is gone
	}
	ctx, stop := signal.NotifyContext(context.Background(), end...)
	context.AfterFunc(ctx, stop) // a second signal doesn't wait for what the first one ends
	code := execute(ctx, os.Stdout, os.Stderr, os.Args[1:])
	stop()
	os.Exit(code)
}

// errNotRunning ends the command with exit code 1 and no message: it has said everything.
var errNotRunning = errors.New("not running")

// execute runs a command line and returns the exit code.
func execute(ctx context.Context, out, errOut io.Writer, args []string) int {
	root := newRootCommand() //nolint:contextcheck // commands get ctx from cobra
	root.SetOut(out)
	root.SetErr(errOut)
	root.SetArgs(args)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	if !errors.Is(err, errNotRunning) {
		fmt.Fprintln(errOut, "devcluster: "+err.Error())
	}
	return 1
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "devcluster",
		Short: "A Cluster API management cluster on this machine, with simulated machines",
		Long: `devcluster runs a management cluster for Cluster API on this machine: a real API server and the real
controllers of Cluster API and of the kubeadm providers, beside Proxmox and Talos providers whose machines
are simulated. Everything listens on loopback only and is kept in one folder.`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		CompletionOptions: cobra.CompletionOptions{DisableDefaultCmd: true},
	}
	var dir string
	root.PersistentFlags().StringVar(&dir, "dir", ".devcluster", "the folder that keeps everything")
	root.PersistentPreRunE = func(*cobra.Command, []string) (err error) {
		if dir == "" {
			return errors.New("--dir is empty: name a folder")
		}
		dir, err = filepath.Abs(dir)
		return err
	}
	root.AddCommand(newUpCommand(&dir), newServeCommand(&dir), newDownCommand(&dir), newStatusCommand(&dir))
	return root
}
