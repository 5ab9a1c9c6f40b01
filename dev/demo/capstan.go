package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// process is a command of Capstan that is asked to end when ctx does, and made to if it takes too long. It
// is in a process group of its own: Ctrl-C reaches the demo first, which stops it in good order.
func (d *demo) process(ctx context.Context, out, errOut io.Writer, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, d.capstan, append(args, "--kubeconfig", d.kubeconfig)...)
	cmd.Stdout, cmd.Stderr = out, errOut
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	return cmd
}

// startAgent runs the agent until stop is called, which is after ctx has ended.
func (d *demo) startAgent(ctx context.Context, fail func(error)) (stop func(), err error) {
	log, err := os.Create(d.agentLog())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	cmd := d.process(ctx, log, log, append([]string{
		"run", "--leader-elect=false", "--cache-dir", filepath.Join(d.dir, "cache"),
		"--metrics-address", "127.0.0.1:0", "--health-address", "0", "--log-format", "text",
	}, d.host.flags()...)...)
	if err := cmd.Start(); err != nil {
		cancel()
		_ = log.Close()
		return nil, fmt.Errorf("start the agent: %w", err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		err := cmd.Wait()
		_ = log.Close()
		if ctx.Err() == nil {
			content, _ := os.ReadFile(d.agentLog())
			fail(fmt.Errorf("the agent ended by itself (%w); it says:\n%s", err, content))
		}
	}()
	return func() {
		cancel()
		<-ended
	}, nil
}

// watch shows the status until the person has seen enough.
func (d *demo) watch(ctx context.Context) error {
	// Never the terminal itself: status would wipe the explanation off it.
	var out io.Writer = &pages{out: d.out, inPlace: isTerminal(d.out)}
	if err := d.process(ctx, out, os.Stderr, "status", "--watch", "--interval", "500ms").Run(); err != nil && ctx.Err() == nil {
		return fmt.Errorf("capstan status --watch ended: %w", err)
	}
	return nil
}
