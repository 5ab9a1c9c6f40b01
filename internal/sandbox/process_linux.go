package sandbox

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// attributes make the child die with us, and us alone decide when it does: a Ctrl-C
// is for the group of the terminal.
func attributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// kill ends a process, and others that it may have started.
func kill(p *os.Process) {
	_ = syscall.Kill(-p.Pid, syscall.SIGKILL)
	_ = p.Kill()
}

// restrict limits this process, for good.
func restrict(h hello) error {
	// If the whole container runs out of memory, the kernel shall not choose the agent.
	// Not all kernels let us; the limit below is what counts.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0)

	if err := closeInherited(); err != nil {
		return err
	}
	size, data, err := used()
	if err != nil {
		return err
	}
	for _, l := range []struct {
		name  string
		which int
		limit uint64
	}{
		// Go reserves far more addresses than it uses, so the limit of memory proper is
		// that of data: private and writable. The other one is for what isn't private.
		{"memory", syscall.RLIMIT_DATA, data + uint64(h.MemoryBytes)},          //nolint:gosec // not negative
		{"addresses", syscall.RLIMIT_AS, size + uint64(h.MemoryBytes) + 1<<30}, //nolint:gosec // not negative
		{"CPU time", syscall.RLIMIT_CPU, h.CPUSeconds},
		{"files written", syscall.RLIMIT_FSIZE, 0},
		{"core dumps", syscall.RLIMIT_CORE, 0},
		// The three pipes, and what Go's runtime opens for its timers.
		{"open files", syscall.RLIMIT_NOFILE, 16},
	} {
		if err := syscall.Setrlimit(l.which, &syscall.Rlimit{Cur: l.limit, Max: l.limit}); err != nil {
			return fmt.Errorf("set the limit of %s: %w", l.name, err)
		}
	}
	const setNoNewPrivileges = 38 // PR_SET_NO_NEW_PRIVS, of each thread
	_, _, errno := syscall.AllThreadsSyscall6(syscall.SYS_PRCTL, setNoNewPrivileges, 1, 0, 0, 0, 0)
	if errno != 0 && errno != syscall.ENOTSUP { // not supported with cgo, as in builds for tests
		return fmt.Errorf("give up new privileges: %w", errno)
	}
	return nil
}

// closeInherited closes what the agent itself inherited and never knew of. What Go opens
// is closed on exec, so a file that is not has come through one.
func closeInherited() error {
	files, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, f := range files {
		fd, err := strconv.Atoi(f.Name())
		if err != nil || fd <= 2 {
			continue
		}
		flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFD, 0) //nolint:gosec // not negative
		if errno == 0 && flags&syscall.FD_CLOEXEC == 0 {
			_ = syscall.Close(fd)
		}
	}
	return nil
}

// used returns how many bytes of addresses and of data this process has, which is
// little, unless it is built for tests.
func used() (size, data uint64, err error) {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, 0, err
	}
	fields := bytes.Fields(text)
	if len(fields) < 6 {
		return 0, 0, errors.New("/proc/self/statm has too few fields")
	}
	page := uint64(os.Getpagesize()) //nolint:gosec // not negative
	for _, f := range []struct {
		index int
		value *uint64
	}{{0, &size}, {5, &data}} {
		n, err := strconv.ParseUint(string(fields[f.index]), 10, 64)
		if err != nil {
			return 0, 0, fmt.Errorf("/proc/self/statm: %w", err)
		}
		*f.value = n * page
	}
	return size, data, nil
}
