package formats

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func names(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return strings.Join(out, " ")
}

func write(text string) func(*os.File) error {
	return func(f *os.File) error { _, err := f.WriteString(text); return err }
}

// The old content stays until the new one is whole, and nothing else is left.
func TestReplaceFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	if err := ReplaceFile(path, 0o600, write("one")); err != nil {
		t.Fatal(err)
	}
	boom := errors.New("boom")
	err := ReplaceFile(path, 0o600, func(f *os.File) error {
		if err := write("tw")(f); err != nil {
			return err
		}
		return boom
	})
	if !errors.Is(err, boom) {
		t.Errorf("error %v, wanted the writer's", err)
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != "one" || names(t, dir) != "a" {
		t.Errorf("after a failed write: %q (%v) and files %s", got, err, names(t, dir))
	}
	st, err := os.Stat(path)
	if err != nil || runtime.GOOS != "windows" && st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v (%v), wanted 0600", st.Mode(), err)
	}
	if err := ReplaceFile(dir, 0o600, write("x")); err == nil {
		t.Error("a folder was replaced")
	}
}

// What a killed writer left goes; what another is writing, or what only looks
// alike, stays.
func TestReplaceFileRemovesAbandoned(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	keep := []string{".a.slmb.ABCDEFGHIJKLMNOPQRSTUVWXYZ.partial", ".a.x.partial", "a.ABCDEFGHIJKLMNOPQRSTUVWXYZ.partial", ".b.ABCDEFGHIJKLMNOPQRSTUVWXYZ.partial"}
	for _, n := range append(keep, ".a.ABCDEFGHIJKLMNOPQRSTUVWXYZ.partial") {
		if err := os.WriteFile(filepath.Join(dir, n), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	err := ReplaceFile(path, 0o600, func(f *os.File) error {
		if tryLock(f) == lockNone {
			t.Skip("this disk has no file locks")
		}
		if err := ReplaceFile(path, 0o600, write("inner")); err != nil {
			return err
		}
		if _, err := os.Stat(f.Name()); err != nil {
			t.Errorf("a file that is being written was removed: %v", err)
		}
		return write("outer")(f)
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "outer" {
		t.Errorf("content %q (%v), wanted the last writer's", got, err)
	}
	left := strings.Fields(names(t, dir))
	if len(left) != len(keep)+1 {
		t.Errorf("left %v, wanted a and %v", left, keep)
	}
}
