// Package browser_test runs the page in headless Chromium, and its WebAssembly
// under Node.
package browser_test

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slmc/internal/pipeline"
	slmrt "slmc/runtime"
)

// result is what slmrt verify prints, and its exit code.
type result struct {
	Code int
	slmrt.Verified
}

// site builds the page with two bundles, sound.slmb and broken.slmb, and returns
// what the native runtime says of the first.
func site(t *testing.T) (dir string, want slmrt.Verified) {
	t.Helper()
	dir = t.TempDir()
	if out, err := exec.Command("bash", "build.sh", dir).CombinedOutput(); err != nil {
		t.Fatalf("build.sh: %v\n%s", err, out)
	}
	r, err := pipeline.DefaultRecipe("w8", "")
	if err != nil {
		t.Fatal(err)
	}
	r.Golden = pipeline.Golden{Prompts: 2, PromptTokens: 8, Greedy: 4}
	sound := filepath.Join(dir, "sound.slmb")
	_, err = pipeline.Build(context.Background(), pipeline.Config{
		Source: "../../testdata/assistant-tiny", Output: sound, Recipe: r, Env: pipeline.Env{CacheDir: t.TempDir()},
	}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if want, err = slmrt.Verify(context.Background(), sound, slmrt.VerifyOptions{}); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(sound)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(filepath.Join(dir, "broken.slmb"), data, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir, want
}

func check(t *testing.T, sound, broken result, want slmrt.Verified) {
	t.Helper()
	if sound.Code != 0 || sound.Verified != want || want.LogitsDigest == "" {
		t.Errorf("it says %+v, the native runtime %+v", sound, want)
	}
	if broken.Code != 4 || broken.OK || !strings.Contains(broken.Error, "broken.slmb") || !strings.Contains(broken.Error, "corrupt") {
		t.Errorf("the broken bundle: %+v", broken)
	}
}

func TestChromium(t *testing.T) {
	chromium := ""
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			chromium = path
			break
		}
	}
	if chromium == "" {
		t.Skip("chromium is missing (Debian package chromium)")
	}
	dir, want := site(t)
	results := make(chan result, 2)
	mux := http.NewServeMux()
	mux.Handle("/", http.FileServer(http.Dir(dir)))
	mux.HandleFunc("POST /result", func(w http.ResponseWriter, r *http.Request) {
		var got result
		data, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		if err == nil {
			err = json.Unmarshal(data, &got)
		}
		if err != nil {
			t.Errorf("result %q: %v", data, err)
		}
		results <- got
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	open := func(bundle string) result {
		ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
		defer cancel()
		// Not t.TempDir: Chromium's children may write on for a moment when it is gone.
		profile, err := os.MkdirTemp("", "slmc-browser-")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(profile)
		cmd := exec.CommandContext(ctx, chromium, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
			"--user-data-dir="+profile, "--remote-debugging-port=0", server.URL+"/?bundle=/"+bundle+"&report=/result")
		var said bytes.Buffer
		cmd.Stdout, cmd.Stderr = &said, &said
		cmd.WaitDelay = 10 * time.Second
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() {
			cancel()
			_ = cmd.Wait() // it was killed
		}()
		select {
		case r := <-results:
			return r
		case <-ctx.Done():
			t.Fatalf("%s: no result: %s", bundle, &said)
			return result{}
		}
	}
	check(t, open("sound.slmb"), open("broken.slmb"), want)
}

func TestNode(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is missing (Debian package nodejs)")
	}
	dir, want := site(t)
	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	loader := filepath.Join(strings.TrimSpace(string(root)), "lib/wasm/wasm_exec_node.js")
	verify := func(bundle string) (r result) {
		cmd := exec.Command(node, loader, "slmrt.wasm", "verify", bundle, "--json")
		cmd.Dir = dir
		out, _ := cmd.Output() // the exit code tells
		if err := json.Unmarshal(out, &r); err != nil {
			t.Fatalf("%s: %v: %s", bundle, err, out)
		}
		r.Code = cmd.ProcessState.ExitCode()
		return r
	}
	check(t, verify("sound.slmb"), verify("broken.slmb"), want)
}
