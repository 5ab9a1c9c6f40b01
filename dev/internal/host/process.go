package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// stopPatience is how long a process may take to end when it is asked to.
const stopPatience = 20 * time.Second

// A process is a child in a process group of its own: what a terminal sends to ours does not
// reach it, so that we stop everything in good order.
type process struct {
	name, logPath string
	pid           int
	done          chan struct{} // closed when it has ended
	err           error         // of Wait; valid when done
}

// startProcess runs a program with its output in dir/logs/<its name>.log.
func startProcess(dir, path string, args ...string) (*process, error) {
	name := filepath.Base(path)
	p := &process{name: name, logPath: filepath.Join(dir, "logs", name+".log"), done: make(chan struct{})}
	if err := os.MkdirAll(filepath.Dir(p.logPath), 0o700); err != nil {
		return nil, fmt.Errorf("make the folder for logs: %w", err)
	}
	log, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("make the log of %s: %w", name, err)
	}
	defer log.Close()
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	cmd.Env = []string{} // etcd takes settings and API servers proxies from it
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = childAttributes()

	started := make(chan error)
	go func() {
		// The kernel takes the end of the thread that started a child for the end of its
		// parent. So this thread is for the child alone, and ends after it.
		runtime.LockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p.pid = cmd.Process.Pid
	return p, nil
}

// failure is why p has ended though nobody stopped it.
func (p *process) failure() error {
	how := "with exit code 0"
	if p.err != nil {
		how = "with " + p.err.Error()
	}
	return fmt.Errorf("%s ended unexpectedly %s; its log %s ends with:\n%s", p.name, how, p.logPath, p.logTail())
}

// logTail is the end of the log.
func (p *process) logTail() string {
	const lines, size = 12, 16 << 10
	content, err := os.ReadFile(p.logPath)
	if err != nil {
		return err.Error()
	}
	all := strings.Split(strings.TrimSpace(string(content[max(0, len(content)-size):])), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// portTaken tells whether a process that has ended did so because someone else listens on its port.
func (p *process) portTaken() bool {
	content, err := os.ReadFile(p.logPath)
	return err == nil && strings.Contains(string(content), "address already in use")
}

// stop asks p to end, and makes it when it has not done so in time.
func (p *process) stop(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, stopPatience)
	defer cancel()
	for _, signal := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		select {
		case <-p.done:
			return nil
		default:
		}
		if err := syscall.Kill(-p.pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("stop %s (process %d): %w", p.name, p.pid, err)
		}
		if signal == syscall.SIGKILL {
			break
		}
		select {
		case <-p.done:
		case <-ctx.Done():
		}
	}
	<-p.done
	return nil
}

// await waits until ready succeeds, and fails if p ends before.
func (p *process) await(ctx context.Context, ready func(context.Context) error) error {
	inTime, cancel := context.WithTimeout(ctx, startPatience)
	defer cancel()
	for {
		err := ready(inTime)
		if err == nil {
			return nil
		}
		select {
		case <-p.done:
			return p.failure()
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", p.name, ctx.Err())
		case <-inTime.Done():
			return fmt.Errorf("%s is not ready after %s (%w); its log %s ends with:\n%s", p.name, startPatience, err, p.logPath, p.logTail())
		case <-time.After(50 * time.Millisecond):
		}
	}
}
