package slmrt

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// forget asks the system to drop a file from its cache, so that the next read
// comes from the disk.
func forget(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	err = unix.Fdatasync(int(f.Fd()))
	return errors.Join(err, unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED), f.Close())
}
