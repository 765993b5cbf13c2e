package main

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
)

// TestGenerated holds the committed assembly equal to what the generator
// writes.
func TestGenerated(t *testing.T) {
	files, err := generate()
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range files {
		got, err := os.ReadFile(filepath.Join("..", name))
		if err != nil {
			t.Error(err)
		} else if !bytes.Equal(got, want) {
			t.Errorf("%s: not what the generator writes; run go run . in internal/kernel/asm", name)
		}
	}
	found, err := filepath.Glob("../*_avx*_amd64.*")
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != len(files) {
		t.Errorf("%d generated files in the package, the generator writes %d", len(found), len(files))
	}
}
