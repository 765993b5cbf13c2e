package safetensors

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slmc/formats"
	"slmc/tensor"
)

// shard writes tensors of n float32 zeros each.
func shard(t *testing.T, path string, names ...string) {
	t.Helper()
	var ts []Tensor
	for _, n := range names {
		ts = append(ts, Tensor{Name: n, Type: tensor.F32, Shape: []int{4}, Data: func(w io.Writer) error { _, err := w.Write(make([]byte, 16)); return err }})
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(Write(f, nil, ts...), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func index(t *testing.T, path string, weights map[string]string) {
	t.Helper()
	b, err := json.Marshal(map[string]any{"metadata": map[string]int{"total_size": 1}, "weight_map": weights})
	if err == nil {
		err = os.WriteFile(path, b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// The Hub's cache keeps every file as a symbolic link into blobs/.
func TestIndexThroughCacheLinks(t *testing.T) {
	root := t.TempDir()
	blobs, rev := filepath.Join(root, "blobs"), filepath.Join(root, "snapshots", "0123abcd")
	for _, d := range []string{blobs, rev} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	shard(t, filepath.Join(blobs, "aa11"), "a", "b")
	shard(t, filepath.Join(blobs, "bb22"), "c")
	index(t, filepath.Join(blobs, "cc33"), map[string]string{"a": "model-00001-of-00002.safetensors", "b": "model-00001-of-00002.safetensors", "c": "model-00002-of-00002.safetensors"})
	for blob, name := range map[string]string{"aa11": "model-00001-of-00002.safetensors", "bb22": "model-00002-of-00002.safetensors", "cc33": "model.safetensors.index.json"} {
		if err := os.Symlink(filepath.Join("..", "..", "blobs", blob), filepath.Join(rev, name)); err != nil {
			t.Skipf("no symbolic links here: %v", err)
		}
	}
	s, err := OpenIndex(filepath.Join(rev, "model.safetensors.index.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if len(s.Tensors()) != 3 || s.Tensors()[2].File != "model-00002-of-00002.safetensors" {
		t.Errorf("%+v", s.Tensors())
	}
	if err := s.ReadF32("c", 0, make([]float32, 4)); err != nil {
		t.Error(err)
	}
}

func TestIndexNamesDamage(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "model.safetensors.index.json")
	shard(t, filepath.Join(dir, "one.safetensors"), "a", "b")
	shard(t, filepath.Join(filepath.Dir(dir), "outside.safetensors"), "a")
	for _, c := range []struct {
		weights map[string]string
		want    string
	}{
		{map[string]string{"a": "one.safetensors"}, `"b"`},
		{map[string]string{"a": "one.safetensors", "b": "one.safetensors", "q": "one.safetensors"}, `"q"`},
		{map[string]string{"a": "../outside.safetensors"}, "plain file name"},
	} {
		index(t, path, c.weights)
		if _, err := OpenIndex(path); !errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%v: %v, wanted %q", c.weights, err, c.want)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "one.safetensors"), []byte("junk"), 0o600); err != nil {
		t.Fatal(err)
	}
	index(t, path, map[string]string{"a": "one.safetensors"})
	if _, err := OpenIndex(path); !errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(), "one.safetensors") {
		t.Errorf("damaged shard: %v", err)
	}
}

// A real sharded checkpoint: every tensor of both shards can be read.
func TestSharedLarge(t *testing.T) {
	const path = "../../../shared/models/assistant-large/model.safetensors.index.json"
	if _, err := os.Stat(path); err != nil {
		t.Skipf("lacks %s, which is not part of the repository", path)
	}
	s, err := OpenIndex(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var params int64
	for _, ti := range s.Tensors() {
		n := ti.Bytes / 2
		params += n
		dst := make([]float32, n)
		if err := s.ReadF32(ti.Name, 0, dst); err != nil {
			t.Fatal(err)
		}
	}
	if params != 7_902_464 { // ../shared/models/README.md
		t.Errorf("%d parameters, wanted 7902464", params)
	}
}
