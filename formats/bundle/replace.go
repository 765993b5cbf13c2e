package bundle

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// replaceFile writes a file beside path and renames it to path when fill and
// fsync have succeeded: under the name path there is the old file or the whole
// new one, never a part. A process killed meanwhile leaves a file named
// ".BASE.*.partial", which nobody opens.
func replaceFile(path string, fill func(f *os.File) error) error {
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		return fmt.Errorf("%s: not a regular file (%s)", path, st.Mode().Type())
	}
	folder, base := filepath.Split(path)
	temp := filepath.Join(folder, "."+base+"."+rand.Text()+".partial")
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if err = fill(f); err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(temp, path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return syncFolder(folder)
}

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
