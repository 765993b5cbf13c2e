package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// repo is the root of the repository, from this package.
const repo = "../.."

func TestMain(m *testing.M) {
	testscript.Main(withBinaries{m}, map[string]func(){"slmc": main, "measure": measure})
}

// withBinaries removes what program built when the tests are over.
type withBinaries struct{ m *testing.M }

func (w withBinaries) Run() int {
	code := w.m.Run()
	if dir := binaries.dir; dir != "" {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

var binaries struct {
	sync.Mutex
	dir string
}

// program builds cmd/NAME as users get it, once, and returns its path.
func program(t testing.TB, name string) string {
	t.Helper()
	binaries.Lock()
	defer binaries.Unlock()
	if binaries.dir == "" {
		dir, err := os.MkdirTemp("", "slmc-test-")
		if err != nil {
			t.Fatal(err)
		}
		binaries.dir = dir
	}
	path := filepath.Join(binaries.dir, name)
	if _, err := os.Stat(path); err == nil {
		return path
	}
	out, err := exec.Command("go", "build", "-o", path, "slmc/cmd/"+name).CombinedOutput()
	if err != nil {
		t.Fatalf("go build slmc/cmd/%s: %v\n%s", name, err, out)
	}
	return path
}

// assistant returns the bytes of the bundle that the README's first command
// makes, built once.
var assistant = sync.OnceValues(func() ([]byte, error) {
	dir, err := os.MkdirTemp("", "slmc-test-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "assistant.slmb")
	args := []string{"slmc", "build", repo + "/testdata/assistant-tiny", "-o", path, "--cache", filepath.Join(dir, "cache")}
	var stderr bytes.Buffer
	if code := run(args, strings.NewReader(""), io.Discard, &stderr); code != 0 {
		return nil, fmt.Errorf("exit %d: %s", code, stderr.Bytes())
	}
	return os.ReadFile(path)
})

func assistantBundle(t testing.TB) []byte {
	t.Helper()
	data, err := assistant()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// TestScripts runs testdata/script/*.txt. A script finds the repository's
// testdata, slmc and slmrt, and assistant.slmb, the bundle of assistant-tiny.
// Beside testscript's own commands it has
//
//	exits CODE PROGRAM ARGS...   the program must end with that exit code
//	json FIELD[=VALUE]...        standard output was one JSON object with these
//	cut FILE BYTES               keep the first BYTES of a file
//	patch FILE OFFSET BYTE       overwrite a byte of a bundle's header, and its digest
func TestScripts(t *testing.T) {
	root, err := filepath.Abs(repo)
	if err != nil {
		t.Fatal(err)
	}
	data := assistantBundle(t)
	slmrt := program(t, "slmrt")
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join(repo, "testdata/script"),
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("XDG_CACHE_HOME", filepath.Join(env.WorkDir, ".cache"))
			env.Setenv("PATH", env.Getenv("PATH")+string(os.PathListSeparator)+filepath.Dir(slmrt))
			return errors.Join(
				os.Symlink(filepath.Join(root, "testdata"), filepath.Join(env.WorkDir, "testdata")),
				os.WriteFile(filepath.Join(env.WorkDir, "assistant.slmb"), data, 0o600))
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits": cmdExits, "json": cmdJSON, "patch": cmdPatch, "cut": cmdCut,
		},
	})
}

func cmdExits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE PROGRAM ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, wanted %d", got, want)
	}
	// A person must learn what went wrong, and not from a stack.
	stderr := ts.ReadFile("stderr")
	if strings.Contains(stderr, "goroutine ") {
		ts.Fatalf("it crashed")
	}
	if want != 0 && stderr == "" && !strings.Contains(ts.ReadFile("stdout"), `"error":`) {
		ts.Fatalf("it failed without a word")
	}
}

func cmdJSON(ts *testscript.TestScript, neg bool, args []string) {
	out := ts.ReadFile("stdout")
	if neg || strings.Count(out, "\n") != 1 || !strings.HasSuffix(out, "}\n") {
		ts.Fatalf("standard output is not one object on one line: %q", out)
	}
	got := map[string]json.RawMessage{}
	ts.Check(json.Unmarshal([]byte(out), &got))
	for _, a := range args {
		field, value, compare := strings.Cut(a, "=")
		v, ok := got[field]
		if !ok {
			ts.Fatalf("no field %q in %s", field, out)
		}
		var text string
		if json.Unmarshal(v, &text) != nil {
			text = string(v)
		}
		if compare && text != value {
			ts.Fatalf("%s is %s, wanted %s", field, text, value)
		}
	}
}

func cmdCut(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: cut FILE BYTES")
	}
	n, err := strconv.ParseInt(args[1], 10, 64)
	ts.Check(err)
	ts.Check(os.Truncate(ts.MkAbs(args[0]), n))
}

func cmdPatch(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: patch FILE OFFSET BYTE")
	}
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	value, err := strconv.ParseUint(args[2], 0, 8)
	ts.Check(err)
	path := ts.MkAbs(args[0])
	data, err := os.ReadFile(path)
	ts.Check(err)
	data[at] = byte(value)
	sealHeader(data)
	ts.Check(os.WriteFile(path, data, 0o600))
}

// sealHeader makes the header's digest fit its bytes (docs/bundle.md).
func sealHeader(data []byte) {
	sum := sha256.Sum256(data[:112])
	copy(data[112:], sum[:])
}
