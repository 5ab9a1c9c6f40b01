package testenv

import (
	"os"
	"syscall"
	"testing"
)

// StopAPIServer ends the API server, so that connections are refused, until
// [Env.StartAPIServer] or the end of the test. Tests that use it can't be
// parallel to others of their package.
func (e *Env) StopAPIServer(t testing.TB) {
	t.Helper()
	if err := e.plane.APIServer.Stop(); err != nil {
		t.Fatalf("testenv: stop the API server: %v", err)
	}
	t.Cleanup(func() { e.StartAPIServer(t) })
}

// StartAPIServer starts the API server again, on the same port and the same
// etcd. Nothing happens if it runs.
func (e *Env) StartAPIServer(t testing.TB) {
	t.Helper()
	if e.watchdog.signal("kube-apiserver", 0) == nil {
		return
	}
	logs, err := os.OpenFile(e.logPath(), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatalf("testenv: %v", err)
	}
	defer logs.Close() // the process has its own handle
	e.plane.APIServer.Out, e.plane.APIServer.Err = logs, logs
	if err := e.plane.APIServer.Start(); err != nil {
		t.Fatalf("testenv: start the API server: %v\n%s", err, tail(e.logPath()))
	}
}

// PauseAPIServer freezes the API server, so that connections stand and answers
// don't come, until resume is called or the test ends.
func (e *Env) PauseAPIServer(t testing.TB) (resume func()) {
	t.Helper()
	if err := e.watchdog.signal("kube-apiserver", syscall.SIGSTOP); err != nil {
		t.Fatalf("testenv: pause the API server: %v", err)
	}
	resume = func() {
		if err := e.watchdog.signal("kube-apiserver", syscall.SIGCONT); err != nil {
			t.Errorf("testenv: resume the API server: %v", err)
		}
	}
	t.Cleanup(resume)
	return resume
}
