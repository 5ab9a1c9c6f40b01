//go:build unix

package source

import (
	"errors"
	"os"
	"syscall"
)

// fileLock is an advisory lock on a file. The kernel drops it with the process,
// so no stale lock is possible, however the process ends.
type fileLock struct{ f *os.File }

// lockFile takes the lock or fails at once, with the reason MirrorLocked, if
// another process or another Mirror of this one has it.
func lockFile(name string) (*fileLock, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, diskError(err)
	}
	err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err == nil {
		return &fileLock{f: f}, nil
	}
	_ = f.Close() // nothing was written
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return nil, errorf(MirrorLocked, "another process uses the mirror in this folder; give each agent a cache folder of its own")
	}
	return nil, diskError(err)
}

func (l *fileLock) unlock() { _ = l.f.Close() } // closing the last descriptor drops the lock
