//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package formats

import (
	"errors"
	"os"
	"syscall"
)

// tryLock takes the lock of an open file if nobody has it.
func tryLock(f *os.File) lockState {
	c, err := f.SyscallConn()
	if err != nil {
		return lockNone
	}
	var lockErr error
	err = c.Control(func(fd uintptr) { lockErr = syscall.Flock(int(fd), syscall.LOCK_EX|syscall.LOCK_NB) })
	switch err = errors.Join(err, lockErr); {
	case err == nil:
		return lockHeld
	case errors.Is(err, syscall.EWOULDBLOCK):
		return lockTaken
	}
	return lockNone
}
