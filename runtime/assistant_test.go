package slmrt_test

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"slmc/internal/testbundle"
	slmrt "slmc/runtime"
)

// assistant returns the bytes of the bundle of testdata/assistant-tiny, built
// once.
var assistant = sync.OnceValues(func() ([]byte, error) { return testbundle.Assistant("..", nil) })

// bundlePath writes the assistant's bundle to a folder of the test.
func bundlePath(t testing.TB) string {
	t.Helper()
	data, err := assistant()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "assistant.slmb")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func load(t testing.TB) *slmrt.Model {
	t.Helper()
	m, _, err := slmrt.Load(bundlePath(t), slmrt.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

func session(t testing.TB, m *slmrt.Model, o slmrt.Options) *slmrt.Session {
	t.Helper()
	s, err := m.NewSession(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return s
}

// request is a row of testdata/requests.jsonl.
type request struct{ Query, Call string }

func requests(t testing.TB) []request {
	t.Helper()
	data, err := os.ReadFile("../testdata/requests.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	var out []request
	for in := bufio.NewScanner(bytes.NewReader(data)); in.Scan(); {
		var r request
		if err := json.Unmarshal(in.Bytes(), &r); err != nil {
			t.Fatal(fmt.Errorf("requests.jsonl: line %d: %w", len(out)+1, err))
		}
		out = append(out, r)
	}
	return out
}
