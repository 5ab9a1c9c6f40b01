package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// lockName is the file that makes a folder ours. It is there before anything else, and is
// locked by the process that uses the folder.
const lockName = "devcluster.lock"

// OpenDir makes a folder ours, creating it if need be. A folder with anything else in it is
// refused: Wipe removes all that is in it.
func OpenDir(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("make the folder above %s: %w", dir, err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make the state folder: %w", err)
	}
	ours, err := isOurs(dir)
	if err != nil || ours {
		return err
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read the state folder: %w", err)
	}
	if len(entries) > 0 {
		return fmt.Errorf("%s is not empty and not of devcluster (it has %s and no %s); choose another --dir", dir, entries[0].Name(), lockName)
	}
	file, err := os.OpenFile(filepath.Join(dir, lockName), os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("make the state folder ours: %w", err)
	}
	return file.Close()
}

func isOurs(dir string) (bool, error) {
	_, err := os.Stat(filepath.Join(dir, lockName))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for the state folder: %w", err)
	}
	return true, nil
}

// Wipe removes a folder that OpenDir made ours, with everything in it. A folder that is not
// there is no error.
func Wipe(ctx context.Context, dir string) error {
	if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	ours, err := isOurs(dir)
	if err != nil {
		return err
	}
	if !ours {
		return fmt.Errorf("%s is not removed: it is not a state folder of devcluster (it has no %s)", dir, lockName)
	}
	l, err := acquire(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { _ = l.release() }()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("wipe: %w", err)
	}
	// The lock goes last: what a crash leaves is still ours.
	for _, entry := range entries {
		if entry.Name() != lockName {
			if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
				return fmt.Errorf("wipe: %w", err)
			}
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("wipe: %w", err)
	}
	return nil
}

// An InUseError says that another process uses a folder.
type InUseError struct {
	Dir string
	// PID of the other process; 0 if it is not known.
	PID int
}

func (e *InUseError) Error() string {
	who := "another process"
	if e.PID != 0 {
		who = "process " + strconv.Itoa(e.PID)
	}
	return fmt.Sprintf("%s is in use by %s; stop that with `devcluster down --dir %s` or choose another --dir", e.Dir, who, e.Dir)
}

// User returns the process that uses a folder, and false if none does.
func User(dir string) (pid int, inUse bool, err error) {
	if ours, err := isOurs(dir); err != nil || !ours {
		return 0, false, err
	}
	// Shared: others who look at the same time are not to take us for the one who uses it, and what is in
	// the file for their process id.
	l, err := tryLock(dir, syscall.LOCK_SH)
	if err != nil {
		return 0, false, err
	}
	if !l.held {
		return l.owner(), true, l.release()
	}
	return 0, false, l.release()
}

// A lock is ours until it is released or this process ends.
type lock struct {
	file *os.File
	held bool
}

// acquire locks a folder for this process. It does not wait for one that is in use, but a
// little for someone who only looks whether it is.
func acquire(ctx context.Context, dir string) (*lock, error) {
	for try := 0; ; try++ {
		l, err := tryLock(dir, syscall.LOCK_EX)
		if err != nil {
			return nil, err
		}
		if l.held {
			if err := l.sign(os.Getpid()); err != nil {
				return nil, err
			}
			return l, nil
		}
		pid := l.owner()
		if err := l.release(); err != nil {
			return nil, err
		}
		if try == 20 {
			return nil, &InUseError{Dir: dir, PID: pid}
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// tryLock opens the lock file, and locks it in that way unless someone else's lock forbids it.
func tryLock(dir string, how int) (*lock, error) {
	path := filepath.Join(dir, lockName)
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("lock the state folder: %w", err)
	}
	err = syscall.Flock(int(file.Fd()), how|syscall.LOCK_NB)
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return &lock{file: file}, nil
	}
	// It may have been wiped after it was opened; then the lock is worth nothing.
	if err == nil {
		var opened, there os.FileInfo
		if opened, err = file.Stat(); err == nil {
			there, err = os.Stat(path)
		}
		if err == nil && !os.SameFile(opened, there) {
			err = errors.New("it was replaced meanwhile")
		}
	}
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return &lock{file: file, held: true}, nil
}

// sign writes who holds the lock.
func (l *lock) sign(pid int) error {
	err := l.file.Truncate(0)
	if err == nil {
		_, err = l.file.WriteAt(fmt.Appendln(nil, pid), 0)
	}
	if err != nil {
		_ = l.file.Close()
		return fmt.Errorf("write our process id: %w", err)
	}
	return nil
}

// owner reads who holds the lock; 0 if nobody has signed.
func (l *lock) owner() int {
	content, err := io.ReadAll(io.NewSectionReader(l.file, 0, 32))
	if err != nil {
		return 0
	}
	pid, _ := strconv.Atoi(strings.TrimSpace(string(content)))
	return pid
}

func (l *lock) release() error { return l.file.Close() }
