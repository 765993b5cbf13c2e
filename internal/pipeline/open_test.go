package pipeline_test

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

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

// A bundle that can't be written leaves no packer behind.
func TestQuantizeFails(t *testing.T) {
	recipe, err := pipeline.DefaultRecipe("w8", "")
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "out.slmb")
	if err := os.Mkdir(out, 0o700); err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	_, err = pipeline.Build(t.Context(), pipeline.Config{Source: testdata("assistant-tiny"), Output: out, Recipe: recipe, Bare: true}, quiet)
	if err == nil {
		t.Fatal("a folder was overwritten")
	}
	for range 100 {
		if runtime.NumGoroutine() <= before {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%d goroutines, %d before", runtime.NumGoroutine(), before)
}
