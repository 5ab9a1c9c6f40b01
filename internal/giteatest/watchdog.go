package giteatest

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// watchdog ends Gitea when this process is gone, however it went: `go test
// -timeout`, Ctrl-C and a panic run no cleanup. It is a shell that waits for the
// end of a pipe whose other end only this process holds.
type watchdog struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	pid   string // file with the id of Gitea's process
}

// watchdogScript waits, ends the process in file $1, and removes folder $2, if
// given. What Gitea wrote last may race with the first removal.
const watchdogScript = `cat >/dev/null
[ -f "$1" ] && kill -CONT "$(cat "$1")" && kill -KILL "$(cat "$1")"
rm -f "$1"
[ -z "$2" ] || rm -rf "$2" || { sleep 1; rm -rf "$2"; }`

func startWatchdog(dir string, remove bool) (*watchdog, error) {
	w := &watchdog{pid: filepath.Join(dir, "gitea.pid")}
	if err := os.Remove(w.pid); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("giteatest: %w", err)
	}
	if !remove {
		dir = ""
	}
	w.cmd = exec.Command("/bin/sh", "-c", watchdogScript, "watchdog", w.pid, dir)
	w.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is not for it
	var err error
	if w.stdin, err = w.cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("giteatest: %w", err)
	}
	if err := w.cmd.Start(); err != nil {
		return nil, fmt.Errorf("giteatest: %w", err)
	}
	return w, nil
}

// command is a command whose process the watchdog knows before it does anything:
// a shell that writes down its id and becomes the program.
func (w *watchdog) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command("/bin/sh", append([]string{"-c", `echo $$ >"$0" && exec "$@"`, w.pid, program}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // whoever gets the Ctrl-C decides
	return cmd
}

// end is called when the process has ended: its id may be another's now.
func (w *watchdog) end() error {
	if w.stdin == nil {
		return nil
	}
	err := os.Remove(w.pid)
	if errors.Is(err, os.ErrNotExist) {
		err = nil
	}
	err = errors.Join(err, w.stdin.Close(), w.cmd.Wait())
	w.stdin = nil
	return err
}
