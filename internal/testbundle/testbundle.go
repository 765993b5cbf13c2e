// Package testbundle makes the bundle that tests of several packages run: that of
// testdata/assistant-tiny.
package testbundle

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"

	"slmc/internal/pipeline"
)

// Assistant returns the bytes of the bundle in 8 bits, with golden vectors; change,
// which may be nil, changes the recipe. root is the repository's.
func Assistant(root string, change func(*pipeline.Recipe)) ([]byte, error) {
	dir, err := os.MkdirTemp("", "slmc-test-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	r, err := pipeline.DefaultRecipe("w8", "")
	if err != nil {
		return nil, err
	}
	if change != nil {
		change(&r)
	}
	out := filepath.Join(dir, "assistant.slmb")
	_, err = pipeline.Build(context.Background(), pipeline.Config{
		Source: filepath.Join(root, "testdata", "assistant-tiny"), Output: out, Recipe: r,
		Env: pipeline.Env{CacheDir: filepath.Join(dir, "cache")},
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, err
	}
	return os.ReadFile(out)
}
