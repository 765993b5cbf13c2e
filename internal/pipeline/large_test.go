package pipeline

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// Labels in the cache are found by who gave the answers: another checkpoint in a
// folder of the same name is another model.
func TestLargeIdentity(t *testing.T) {
	of := func(from string) string {
		t.Helper()
		id, err := Large{From: from}.identity(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	var ids []string
	for _, weights := range []string{"one", "two", "one"} {
		dir := filepath.Join(t.TempDir(), "model")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "model.safetensors"), []byte(weights), 0o600); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, of(dir))
	}
	if ids[0] == ids[1] || ids[0] != ids[2] {
		t.Errorf("identities %q: want that of the content", ids)
	}
	if id := of("https://user:secret@cloud.example/v1?key=secret"); strings.Contains(id, "secret") || !strings.Contains(id, "cloud.example/v1") {
		t.Errorf("an endpoint is %q", id)
	}
	// Refused before anything is trained.
	if _, err := (Large{From: filepath.Join(t.TempDir(), "none.slmb")}).identity(t.Context()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a missing file: %v", err)
	}
	if _, err := (Large{From: "http://"}).identity(t.Context()); !errors.Is(err, ErrUsage) {
		t.Errorf("an address without a host: %v", err)
	}
}
