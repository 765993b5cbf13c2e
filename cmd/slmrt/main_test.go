package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What the phone is asked wrongly ends with exit code 2 and a hint; what is
// not there with 1. The commands themselves are run by cmd/slmc's scripts.
func TestUsage(t *testing.T) {
	for _, c := range []struct {
		args string
		code int
		says string
	}{
		{"", 0, "Example:"},
		{"help", 0, "Example:"},
		{"--help", 0, "Example:"},
		{"verify -h", 0, "pubkey"},
		{"fly", 2, `command "fly" is unknown`},
		{"verify", 2, "wants a BUNDLE"},
		{"verify a b", 2, `found also "b"`},
		{"verify a --wings", 2, "wings"},
		{"run a", 2, "either --prompt or --user"},
		{"run a --prompt x --user y", 2, "either --prompt or --user"},
		{"run a --user x --kv w8", 2, "kv8, f16, f32"},
		{"run a --user x --kernel warp", 2, "scalar"},
		{"run a --user x --temperature -1", 2, "temperature"},
		{"run a --user x --threads -1", 2, "want 1 to 1024, or auto"},
		{"run a --user x --context -1", 2, "negative"},
		{"bench a --repetitions 0", 2, "at least one"},
		{"verify nothere.slmb", 1, "nothere.slmb"},
		{"info nothere.slmb", 1, "nothere.slmb"},
		{"run nothere.slmb --user x", 1, "nothere.slmb"},
		{"run main.go --user x", 4, "main.go"},
		{"run nothere.slmb --user x --pubkey nothere.pub", 1, "nothere.pub"},
	} {
		var stdout, stderr bytes.Buffer
		code := run(strings.Fields(c.args), &stdout, &stderr)
		if code != c.code || !strings.Contains(stderr.String(), c.says) {
			t.Errorf("slmrt %s: exit %d, wanted %d and %q in: %s", c.args, code, c.code, c.says, &stderr)
		}
		if stdout.Len() > 0 {
			t.Errorf("slmrt %s: standard output holds %q", c.args, &stdout)
		}
	}
}

// maxBinary is what the phone's binary may take.
const maxBinary = 8_000_000

func TestBinaryIsSmall(t *testing.T) {
	path := filepath.Join(t.TempDir(), "slmrt")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", path, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if st.Size() > maxBinary {
		t.Errorf("slmrt has %d bytes, wanted at most %d", st.Size(), maxBinary)
	}
	t.Logf("%d bytes", st.Size())
}
