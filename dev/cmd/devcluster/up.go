package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"capstan.dev/capstan/dev/internal/chaos"
	"capstan.dev/capstan/dev/internal/host"
)

const poll = 100 * time.Millisecond

func newUpCommand(dir *string) *cobra.Command {
	var s settings
	var foreground bool
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Start the management cluster, or change what goes wrong in a running one",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			knobs, err := s.complete()
			if err != nil {
				return err
			}
			if err := host.OpenDir(*dir); err != nil {
				return err
			}
			pid, running, err := host.User(*dir)
			switch {
			case err != nil:
				return err
			case running && foreground:
				return &host.InUseError{Dir: *dir, PID: pid}
			case running:
				return change(ctx, cmd, *dir, pid, s, knobs)
			}
			// The next process may get the id of the last one, and is not to be taken for it.
			if err := os.Remove(recordPath(*dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
				return err
			}
			if foreground {
				return serve(ctx, *dir, s, knobs, cmd.OutOrStdout())
			}
			return start(ctx, cmd.OutOrStdout(), *dir, s)
		},
	}
	s.bind(cmd)
	cmd.Flags().BoolVar(&foreground, "foreground", false, "run here until Ctrl-C, not in the background")
	return cmd
}

// start runs serve in the background and returns when it is ready.
func start(ctx context.Context, out io.Writer, dir string, s settings) error {
	if err := os.MkdirAll(filepath.Dir(logPath(dir)), 0o700); err != nil {
		return fmt.Errorf("make the folder for logs: %w", err)
	}
	log, err := os.OpenFile(logPath(dir), os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("make the log: %w", err)
	}
	defer log.Close()
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	cmd := exec.Command(self, append([]string{"serve", "--dir=" + dir}, s.args()...)...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // survives this terminal
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start in the background: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		_ = cmd.Wait()
		close(ended)
	}()
	r, err := awaitReady(ctx, out, dir, cmd.Process.Pid, ended)
	if ctx.Err() != nil {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		fmt.Fprintln(out, "stopping what was started")
		<-ended // a second Ctrl-C ends this process, and that one ends anyway
		return errors.New("interrupted")
	}
	if err != nil {
		return err
	}
	fmt.Fprint(out, welcome(r))
	return nil
}

// awaitReady shows what a serving process reaches until it is ready, or ends.
func awaitReady(ctx context.Context, out io.Writer, dir string, pid int, ended <-chan struct{}) (record, error) {
	shown := 0
	for last := false; ; {
		r, err := readRecord(dir, pid)
		if err != nil {
			return r, err
		}
		for ; shown < len(r.Steps); shown++ {
			fmt.Fprintln(out, "  "+r.Steps[shown])
		}
		switch {
		case r.Ready:
			return r, nil
		case last && r.Error != "":
			return r, fmt.Errorf("it did not start: %s\nMore is in %s", r.Error, filepath.Dir(logPath(dir)))
		case last:
			return r, fmt.Errorf("it did not start; %s ends with:\n%s", logPath(dir), tail(logPath(dir)))
		}
		select {
		case <-ctx.Done():
			return r, ctx.Err()
		case <-ended:
			last = true // what it wrote before its end is still to be read
		case <-time.After(poll):
		}
	}
}

// change changes the knobs of the running process if that is asked for, and says how to use it.
func change(ctx context.Context, cmd *cobra.Command, dir string, pid int, s settings, knobs chaos.Knobs) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	out := cmd.OutOrStdout()
	steps := out
	if r, err := readRecord(dir, pid); err != nil {
		return err
	} else if r.Ready {
		steps = io.Discard // old news
	}
	r, err := awaitReady(ctx, steps, dir, pid, awaitUnlocked(ctx, dir, pid))
	if err != nil {
		return fmt.Errorf("process %d uses %s: %w", pid, dir, err)
	}
	if err := s.conflicts(cmd, r); err != nil {
		return err
	}
	fmt.Fprintf(out, "devcluster is running already (process %d)\n", pid)
	if cmd.Flags().Changed("chaos") {
		if err := setChaos(ctx, r, knobs); err != nil {
			return err
		}
		fmt.Fprintf(out, "chaos is now: %s (was: %s)\n", describe(knobs), describe(r.Knobs))
	}
	fmt.Fprintf(out, "export KUBECONFIG=%s\n", quote(r.Kubeconfig))
	return nil
}

// setChaos hands the knobs to the running process and waits until it has them.
func setChaos(ctx context.Context, r record, knobs chaos.Knobs) error {
	if err := writeJSON(chaosPath(r.Dir), knobs); err != nil {
		return err
	}
	if err := syscall.Kill(r.PID, changeChaos); err != nil {
		return fmt.Errorf("ask process %d to change its chaos: %w", r.PID, err)
	}
	for {
		now, err := readRecord(r.Dir, r.PID)
		if err != nil {
			return err
		}
		if now.Knobs.String() == knobs.String() {
			return nil
		}
		if err := syscall.Kill(r.PID, 0); err != nil {
			return fmt.Errorf("process %d has ended before it changed its chaos; see %s", r.PID, logPath(r.Dir))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("process %d has not changed its chaos (%w); see %s", r.PID, ctx.Err(), logPath(r.Dir))
		case <-time.After(poll):
		}
	}
}

// awaitUnlocked closes the channel when the process has let go of the folder.
func awaitUnlocked(ctx context.Context, dir string, pid int) <-chan struct{} {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			if now, running, err := host.User(dir); err == nil && (!running || now != pid) {
				return
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(poll):
			}
		}
	}()
	return done
}

// welcome tells what to do with a cluster that is ready.
func welcome(r record) string {
	chaos := ""
	if knobs := r.Knobs.String(); knobs != "" {
		chaos = "chaos: " + knobs + "\n"
	}
	return fmt.Sprintf("devcluster is up at %s\n%sexport KUBECONFIG=%s\n", r.API, chaos, quote(r.Kubeconfig))
}

// quote makes a path one word for a shell.
func quote(path string) string {
	if strings.ContainsFunc(path, func(c rune) bool {
		return !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.ContainsRune("/._-+,:@%", c))
	}) {
		return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
	}
	return path
}

// tail is the end of a log.
func tail(path string) string {
	content, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(strings.TrimSpace(string(content)), "\n")
	return strings.Join(lines[max(0, len(lines)-10):], "\n")
}
