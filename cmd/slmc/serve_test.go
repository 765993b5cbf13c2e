package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
)

// serving is a server in a process of its own.
type serving struct {
	t      *testing.T
	cmd    *exec.Cmd
	url    string
	stderr bytes.Buffer
}

func startServing(t *testing.T, environment []string, args ...string) *serving {
	t.Helper()
	s := &serving{t: t, cmd: exec.Command(program(t, "slmc"), append([]string{"serve", "--json", "--listen", "127.0.0.1:0"}, args...)...)}
	s.cmd.Env, s.cmd.Stderr = append(os.Environ(), environment...), &s.stderr
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.cmd.Process.Kill() })
	line, err := bufio.NewReader(out).ReadBytes('\n')
	var v struct{ URL string }
	if err != nil || json.Unmarshal(line, &v) != nil {
		_ = s.cmd.Wait()
		t.Fatalf("%s %v\n%s", line, err, &s.stderr)
	}
	s.url = v.URL
	return s
}

// end interrupts the server and waits for it.
func (s *serving) end() {
	s.t.Helper()
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		s.t.Fatal(err)
	}
	if err := s.cmd.Wait(); err != nil {
		s.t.Errorf("stopped by an interrupt: %v\n%s", err, &s.stderr)
	}
}

func (s *serving) ask(query, token string) (status int, body string) {
	s.t.Helper()
	data, err := json.Marshal(map[string]any{"messages": []any{map[string]string{"role": "user", "content": query}}})
	if err != nil {
		s.t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodPost, s.url+"/v1/chat/completions", bytes.NewReader(data))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := new(http.Client).Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// Two processes as users start them, keys from the environment and from a file;
// then the loop over their log: audit, cluster, label.
func TestServeHandsOff(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("windows has no interrupt for another process")
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	for name, text := range map[string]string{"key": "far-secret\n", "device.json": `{"thermal": "nominal"}`, "assistant.slmb": string(assistantBundle(t))} {
		if err := os.WriteFile(at(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	far := startServing(t, []string{"SLMC_TOKEN=far-secret"}, at("assistant.slmb"))
	near := startServing(t, []string{"SLMC_TOKEN=near-secret"}, at("assistant.slmb"), "--upstream", far.url, "--upstream-key-file", at("key"),
		"--device", at("device.json"), "--log", at("log.jsonl"), "--log-text")
	if status, _ := near.ask("x", "far-secret"); status != http.StatusUnauthorized {
		t.Errorf("status %d with another server's token", status)
	}
	qs := []string{"set a timer for nine minutes", "play some jazz", "what is the weather in paris tomorrow", "set a timer for ten minutes"}
	for _, q := range qs {
		if status, body := near.ask(q, "near-secret"); status != http.StatusOK || !strings.Contains(body, `"outcome":"DEFER"`) || !strings.Contains(body, `"served":"remote"`) {
			t.Errorf("%s: %d %s", q, status, body)
		}
	}
	far.end()
	if status, body := near.ask(qs[0], "near-secret"); status != http.StatusOK || !strings.Contains(body, `"outcome":"LOCAL_WITH_WARNING"`) || !strings.Contains(body, "timer()") {
		t.Errorf("without the large model: %d %s", status, body)
	}
	if err := os.WriteFile(at("device.json"), []byte(`{"offline": true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if status, body := near.ask(qs[0], "near-secret"); status != http.StatusOK || !strings.Contains(body, `"reason":"offline"`) {
		t.Errorf("offline: %d %s", status, body)
	}
	near.end()
	log, err := os.ReadFile(at("log.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if all := string(log) + far.stderr.String() + near.stderr.String(); strings.Contains(all, "-secret") {
		t.Error("a key is in a log")
	}
	slmc := func(args ...string) string {
		t.Helper()
		var stdout, stderr bytes.Buffer
		if code := run(append([]string{"slmc"}, args...), strings.NewReader(""), &stdout, &stderr); code != 0 {
			t.Fatalf("slmc %s: exit %d: %s", strings.Join(args, " "), code, &stderr)
		}
		return stdout.String()
	}
	if out := slmc("audit", at("log.jsonl"), "--json"); !strings.Contains(out, `"answers":6`) || !strings.Contains(out, `"DEFER":4`) {
		t.Errorf("audit: %s", out)
	}
	if out := slmc("cluster", at("log.jsonl"), "-o", at("rows.jsonl"), "--clusters", "3"); !strings.Contains(out, "4 queries in 3 groups, 4 with an answer") {
		t.Errorf("cluster: %s", out)
	}
	slmc("label", at("assistant.slmb"), at("rows.jsonl"), "-o", at("labels.jsonl"))
	labels, err := os.ReadFile(at("labels.jsonl"))
	if err != nil || strings.Count(string(labels), `"cluster-`) != 4 {
		t.Errorf("label made of the log's rows: %s (%v)", labels, err)
	}
}

// A bundle whose recipe says so is served with speculation, which its flags turn off;
// the answers are the same.
func TestServeSpeculatesByRecipe(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("windows has no interrupt for another process")
	}
	dir := t.TempDir()
	at := func(name string) string { return filepath.Join(dir, name) }
	if err := os.WriteFile(at("recipe.yaml"), []byte("version: 1\nformats: {rules: [{format: w8}]}\nspeculate: {draft: draft.slmb, lookup: 2}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	slmcRun(t, 0, "build", tinySource, "-o", at("hinted.slmb"), "--recipe", at("recipe.yaml"), "--cache", at("cache"))
	slmcRun(t, 0, "quantize", tinySource, "-o", at("draft.slmb"), "--weights", "w8")
	asked := func(args ...string) (answer string, proposed bool, stderr string) {
		t.Helper()
		s := startServing(t, nil, append([]string{at("hinted.slmb")}, args...)...)
		status, body := s.ask("what is the weather in paris tomorrow", "")
		resp, err := http.Get(s.url + "/metrics")
		if err != nil {
			t.Fatal(err)
		}
		metrics, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		s.end()
		var reply struct {
			Choices []struct{ Message struct{ Content string } }
		}
		if err != nil || status != http.StatusOK || json.Unmarshal([]byte(body), &reply) != nil || len(reply.Choices) != 1 {
			t.Fatalf("%d %s (%v)", status, body, err)
		}
		return reply.Choices[0].Message.Content, bytes.Contains(metrics, []byte(`slmc_proposals_total{result="accepted"}`)), s.stderr.String()
	}
	hinted, proposed, _ := asked("--memory", "64MiB")
	if hinted == "" || !proposed {
		t.Errorf("by recipe: %q, proposals %v", hinted, proposed)
	}
	if answer, proposed, _ := asked("--lookup", "0"); answer != hinted || proposed {
		t.Errorf("turned off: %q, want %q; proposals %v", answer, hinted, proposed)
	}
	if err := os.Remove(at("draft.slmb")); err != nil {
		t.Fatal(err)
	}
	if answer, _, stderr := asked("--sessions", "2"); answer != hinted || strings.Count(stderr, "does not lie beside") != 1 {
		t.Errorf("without the draft: %q, %s", answer, stderr)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute) // a server that fits would run on
	defer stop()
	cmd := exec.CommandContext(ctx, program(t, "slmc"), "serve", "--listen", "127.0.0.1:0", at("hinted.slmb"), "--draft", at("hinted.slmb"), "--memory", "3MB", "--sessions", "1")
	if text, err := cmd.CombinedOutput(); cmd.ProcessState.ExitCode() != 6 {
		t.Errorf("a draft beyond the budget: %v, %s", err, text)
	}
}
