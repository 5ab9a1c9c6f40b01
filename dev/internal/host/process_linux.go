package host

import "syscall"

// childAttributes makes the kernel kill a child whose parent has died without stopping it.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
