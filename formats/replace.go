package formats

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// ReplaceFile writes a file beside path and renames it to path when fill and
// fsync have succeeded: under the name path there is the old file or the whole
// new one, never a part.
//
// A process killed meanwhile leaves a file ".BASE.*.partial", which nobody
// opens and which the next ReplaceFile of that path removes; it is told from
// one that is being written by that one's lock. Where files have no locks it
// stays.
func ReplaceFile(path string, mode os.FileMode, fill func(f *os.File) error) error {
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		return fmt.Errorf("%s: not a regular file (%s)", path, st.Mode().Type())
	}
	folder, base := filepath.Split(path)
	removeAbandoned(folder, base)
	f, err := createPartial(folder, base, mode)
	if err != nil {
		return err
	}
	if err = fill(f); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncFolder(folder)
}

const partial = ".partial"

// createPartial creates and locks a new partial file.
func createPartial(folder, base string, mode os.FileMode) (*os.File, error) {
	for {
		f, err := os.OpenFile(filepath.Join(folder, "."+base+"."+rand.Text()+partial), os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
		if err != nil {
			return nil, err
		}
		// Between creating and locking, another process may have taken the
		// file for abandoned.
		if tryLock(f) != lockTaken {
			mine, err1 := f.Stat()
			there, err2 := os.Stat(f.Name())
			if err1 == nil && err2 == nil && os.SameFile(mine, there) {
				return f, nil
			}
		}
		if err := f.Close(); err != nil {
			return nil, err
		}
	}
}

// removeAbandoned removes the partial files of base that nobody writes. It is
// a courtesy: what cannot be removed stays and does no harm.
func removeAbandoned(folder, base string) {
	entries, err := os.ReadDir(filepath.Clean(folder))
	if err != nil {
		return
	}
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), "."+base+".")
		name, ok2 := strings.CutSuffix(name, partial)
		if !ok || !ok2 || len(name) != len(rand.Text()) || strings.Contains(name, ".") || !e.Type().IsRegular() {
			continue
		}
		f, err := os.Open(filepath.Join(folder, e.Name()))
		if err != nil {
			continue
		}
		if tryLock(f) == lockHeld {
			_ = os.Remove(f.Name())
		}
		_ = f.Close()
	}
}

// lockState is the outcome of tryLock.
type lockState int

const (
	lockHeld  lockState = iota // by this process, until it closes the file
	lockTaken                  // by another
	lockNone                   // this system, or this disk, has no such locks
)

// syncFolder makes a rename last through a power cut. Systems that cannot sync
// a folder (Windows, some network mounts) are not worth an error: the file is
// in place.
func syncFolder(folder string) error {
	f, err := os.Open(filepath.Clean(folder))
	if err != nil {
		return nil
	}
	_ = f.Sync()
	return f.Close()
}
