package pipeline_test

import (
	"os"
	"path/filepath"
	"testing"

	"slmc/internal/pipeline"
)

func TestIsBundle(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for path, want := range map[string]bool{
		write("renamed", "SLMB\r\n\x1a\n"): true,
		write("cut.slmb", "SL"):            true,
		write("short", "SL"):               false,
		write("empty", ""):                 false,
		filepath.Join(dir, "absent"):       false,
		filepath.Join(dir, "absent.slmb"):  true,
		dir:                                false,
	} {
		if is, err := pipeline.IsBundle(path); is != want || err != nil {
			t.Errorf("%s: %v, %v", path, is, err)
		}
	}
}
