package testenv

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// watchdog ends the processes and removes their files when the test binary is
// gone, however it went: `go test -timeout`, Ctrl-C and a panic run no cleanup.
// It is a shell that waits for the end of a pipe whose other end only the test
// binary holds.
type watchdog struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	dir   string
}

// watchdogScript waits, ends whatever is in $1/*.pid, and removes $1.
const watchdogScript = `cat >/dev/null
for f in "$1"/*.pid; do
	[ -f "$f" ] && kill -CONT "$(cat "$f")" && kill -KILL "$(cat "$f")"
done 2>/dev/null
rm -rf "$1"`

func startWatchdog(dir string) (*watchdog, error) {
	cmd := exec.Command("/bin/sh", "-c", watchdogScript, "watchdog", dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is not for it
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("testenv: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("testenv: %w", err)
	}
	return &watchdog{cmd: cmd, stdin: stdin, dir: dir}, nil
}

// wrap writes a script that records its process id and becomes the binary.
func (w *watchdog) wrap(name, binary string) (string, error) {
	script := filepath.Join(w.dir, name)
	quoted := "'" + strings.ReplaceAll(binary, "'", `'\''`) + "'"
	content := fmt.Sprintf("#!/bin/sh\necho $$ >\"$0.pid\"\nexec %s \"$@\"\n", quoted)
	if err := os.WriteFile(script, []byte(content), 0o700); err != nil { //nolint:gosec // it must be executable
		return "", fmt.Errorf("testenv: %w", err)
	}
	return script, nil
}

// signal sends a signal to a running binary.
func (w *watchdog) signal(name string, s syscall.Signal) error {
	content, err := os.ReadFile(filepath.Join(w.dir, name+".pid"))
	if err != nil {
		return fmt.Errorf("testenv: %w", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(content)))
	if err != nil {
		return fmt.Errorf("testenv: %w", err)
	}
	return syscall.Kill(pid, s)
}

// end is called when the processes have ended: their ids may be others' now.
func (w *watchdog) end() error {
	pids, err := filepath.Glob(filepath.Join(w.dir, "*.pid"))
	for _, pid := range pids {
		err = errors.Join(err, os.Remove(pid))
	}
	return errors.Join(err, w.stdin.Close(), w.cmd.Wait())
}
