package serve_test

import (
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slmc/internal/serve"
)

// The standard client of the API, the npm package openai, works against this
// server, streaming too. bench/openai/install.sh fetches it.
func TestOpenAIClient(t *testing.T) {
	const script = "../../bench/openai/.cache/client.mjs"
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("node is not installed")
	}
	if _, err := os.Stat(script); err != nil {
		t.Skip("the npm package openai is not there: run bench/openai/install.sh")
	}
	noneLeft(t)
	m := model(t)
	far := start(t, m, nil)
	r := start(t, m, func(c *serve.Config) { c.Upstream, c.Token = upstream(t, far.url, nil), "sesame" })
	cmd := exec.Command(node, script, r.url+"/v1", "sesame", timer)
	cmd.Env = append(os.Environ(), "NO_PROXY=127.0.0.1")
	cmd.Stderr = os.Stderr
	data, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	type turn struct {
		Text, Role, Finish, Outcome, Head, Streamed, StreamedFinish, StreamedOutcome string
		Tokens, StreamedTokens, IDs                                                  int
	}
	type result struct {
		Models              []string
		Model               string
		Auto, Local, Remote turn
		Assembled           string
		Completion          struct {
			Tokens int
			Finish string
			Same   bool
		}
		Errors map[string]string
		Kept   struct{ Text, Reason string }
	}
	var got, want result
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	deferred := turn{"timer()", "assistant", "stop", "DEFER", "DEFER", "timer()", "stop", "DEFER", 13, 13, 1}
	want.Models, want.Model, want.Auto, want.Remote = []string{"auto", "local", "remote"}, "auto", deferred, deferred
	want.Local = deferred
	want.Local.Outcome, want.Local.Head, want.Local.StreamedOutcome = "LOCAL", "LOCAL", "LOCAL"
	want.Assembled = "timer()"
	want.Completion.Tokens, want.Completion.Finish, want.Completion.Same = 2, "length", true
	want.Errors = map[string]string{
		"model": "NotFoundError 404 model_not_found", "request": "BadRequestError 400 bad_request",
		"token": "AuthenticationError 401 unauthorized", "privacy": "PermissionDeniedError 403 privacy",
	}
	want.Kept.Text, want.Kept.Reason = "timer()", "privacy"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	http.DefaultClient.CloseIdleConnections()
}
