//go:build !linux

package host

import "syscall"

// childAttributes knows no way to end a child when its parent dies: after a crash of ours,
// children have to be ended by hand.
func childAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
