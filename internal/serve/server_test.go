package serve_test

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	"slmc/internal/serve"
	slmrt "slmc/runtime"
)

// Both endpoints, streamed and not, say what the runtime says.
func TestLocalAnswers(t *testing.T) {
	noneLeft(t)
	m := model(t)
	r := start(t, m, nil)
	qs := queries(t)[:12]
	for i, want := range answers(t, m, qs) {
		for _, stream := range []bool{false, true} {
			a := ask(t, r, chatPath, chat("local", qs[i], "stream", stream, "stream_options", map[string]any{"include_usage": true}))
			if a.status != 200 || a.text != want || a.finish != "stop" || a.done != stream || a.model != "local" {
				t.Errorf("%q, stream %v: %+v, wanted %q", qs[i], stream, a, want)
			}
			if stream && a.roles != 1 {
				t.Errorf("%d chunks say who speaks, wanted 1", a.roles)
			}
			if a.slmc.Outcome != "LOCAL" || a.slmc.Reason != "asked" || a.slmc.Served != "local" || a.header.Get("X-Slmc-Outcome") != "LOCAL" || a.header.Get("X-Slmc-Reason") != "asked" {
				t.Errorf("decision %+v, head %v", a.slmc, a.header)
			}
			if !a.ids[a.header.Get("X-Slmc-Id")] || a.usage.CompletionTokens == 0 || a.usage.TotalTokens != a.usage.PromptTokens+a.usage.CompletionTokens {
				t.Errorf("id %v, usage %+v", a.ids, a.usage)
			}
		}
	}
	for _, stream := range []bool{false, true} {
		a := ask(t, r, completionPath, map[string]any{"model": "local", "prompt": "<|user|>set a timer for nine minutes<|end|><|assistant|>", "stream": stream})
		if strings.TrimSpace(a.text) != "timer()" || a.finish != "stop" || a.done != stream {
			t.Errorf("completion, stream %v: %+v", stream, a)
		}
		a = ask(t, r, completionPath, map[string]any{"model": "local", "prompt": "set a timer", "max_tokens": 2, "stream": stream})
		if a.finish != "length" || a.usage.CompletionTokens != 2 && !stream {
			t.Errorf("two tokens: %+v", a)
		}
	}
	a := ask(t, r, chatPath, chat("local", "set a timer for nine minutes", "stop", "("))
	if a.text != "timer" || a.finish != "stop" {
		t.Errorf("stop text: %+v", a)
	}
	a = ask(t, r, chatPath, map[string]any{"model": "local", "messages": []any{
		map[string]any{"role": "user", "content": []any{map[string]string{"type": "text", "text": "set a timer "}, map[string]string{"type": "text", "text": "for nine minutes"}}}}})
	if a.text != "timer()" {
		t.Errorf("parts: %+v", a)
	}
	// An answer that is begun is gone on with, as this server asks of others.
	a = ask(t, r, chatPath, map[string]any{"model": "local", "continue_final_message": true, "add_generation_prompt": false, "messages": []any{
		map[string]string{"role": "user", "content": "set a timer for nine minutes"}, map[string]string{"role": "assistant", "content": "timer"}}})
	if a.text != "()" {
		t.Errorf("begun answer: %+v", a)
	}
	sampled := chat("local", "what", "temperature", 1, "seed", 3, "top_p", 0.9)
	if a, b := ask(t, r, chatPath, sampled), ask(t, r, chatPath, sampled); a.text != b.text {
		t.Errorf("one seed gives %q and %q", a.text, b.text)
	}
}

// Fields that this model can't honour, and everything else that is wrong with a
// request, is refused with its place.
func TestRefusedRequests(t *testing.T) {
	noneLeft(t)
	r := start(t, model(t), func(c *serve.Config) { c.Limits.Body = 2000 })
	q := "set a timer"
	for _, c := range []struct {
		name   string
		path   string
		fields any
		status int
		code   string
	}{
		{"no object", chatPath, []any{}, 400, "bad_request"},
		{"no messages", chatPath, map[string]any{"model": "local"}, 400, "bad_request"},
		{"messages of a wrong type", chatPath, map[string]any{"messages": "hello"}, 400, "bad_request"},
		{"two answers", chatPath, chat("local", q, "n", 2), 400, "bad_request"},
		{"unknown model", chatPath, chat("gpt", q), 404, "model_not_found"},
		{"no large model", chatPath, chat("remote", q), 404, "model_not_found"},
		{"tools", chatPath, chat("local", q, "tools", []any{map[string]any{"type": "function"}}), 400, "bad_request"},
		{"log-probabilities", chatPath, chat("local", q, "logprobs", true), 400, "bad_request"},
		{"an unknown field", chatPath, chat("local", q, "wings", 2), 400, "bad_request"},
		{"tools where nothing else can", chatPath, chat("auto", q, "tools", []any{map[string]any{"type": "function"}}), 400, "bad_request"},
		{"an image", chatPath, map[string]any{"model": "local", "messages": []any{map[string]any{"role": "user", "content": []any{map[string]any{"type": "image_url"}}}}}, 400, "bad_request"},
		{"a role that the template refuses", chatPath, map[string]any{"model": "local", "messages": []any{map[string]string{"role": "system", "content": "be kind"}}}, 400, "bad_request"},
		{"no role", chatPath, map[string]any{"messages": []any{map[string]string{"content": "x"}}}, 400, "bad_request"},
		{"too warm", chatPath, chat("local", q, "temperature", 3), 400, "bad_request"},
		{"top-p", chatPath, chat("local", q, "top_p", 2), 400, "bad_request"},
		{"no tokens", chatPath, chat("local", q, "max_tokens", 0), 400, "bad_request"},
		{"stop of numbers", chatPath, chat("local", q, "stop", 7), 400, "bad_request"},
		{"too many stops", chatPath, chat("local", q, "stop", make([]string, 17)), 400, "bad_request"},
		{"two prompts", completionPath, map[string]any{"prompt": []string{"a", "b"}}, 400, "bad_request"},
		{"longer than the context", chatPath, chat("local", strings.Repeat("yes ", 400)), 400, "context"},
		{"longer than the limit", chatPath, chat("local", strings.Repeat("yes ", 600)), 413, "too_large"},
		{"nothing begun", chatPath, chat("local", q, "continue_final_message", true), 400, "bad_request"},
		{"a class in two ways", chatPath, chat("local", q, "slmc", map[string]string{"privacy": strings.Repeat("x", 65)}), 400, "bad_request"},
	} {
		for _, stream := range []bool{false, true} {
			f, ok := c.fields.(map[string]any)
			if ok {
				f["stream"] = stream
			}
			data, err := json.Marshal(c.fields)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := http.Post(r.url+c.path, "application/json", strings.NewReader(string(data)))
			if err != nil {
				t.Fatal(err)
			}
			a := readAnswer(t, resp)
			resp.Body.Close()
			if a.status != c.status || a.errors != c.code {
				t.Errorf("%s: status %d, %q, wanted %d, %q: %s", c.name, a.status, a.errors, c.status, c.code, a.body)
			}
		}
	}
	resp, err := http.Post(r.url+chatPath, "text/plain", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusUnsupportedMediaType {
		t.Errorf("status %d for text/plain", resp.StatusCode)
	}
	for path, want := range map[string]int{chatPath: 405, "/v1/nothing": 404, "/": 404} {
		resp, err := http.Get(r.url + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("GET %s: status %d, wanted %d", path, resp.StatusCode, want)
		}
	}
}

func get(t testing.TB, url string, head map[string]string) (int, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for k, v := range head {
		if k == "Host" {
			req.Host = v
		}
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(data)
}

func TestModelsHealthMetrics(t *testing.T) {
	noneLeft(t)
	m := model(t)
	far := start(t, m, nil)
	r := start(t, m, func(c *serve.Config) { c.Upstream = upstream(t, far.url, nil) })
	status, body := get(t, r.url+"/v1/models", nil)
	var list struct{ Data []struct{ ID string } }
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, d := range list.Data {
		ids = append(ids, d.ID)
	}
	if status != 200 || !slices.Equal(ids, []string{"auto", "local", "remote"}) {
		t.Errorf("status %d, models %v", status, ids)
	}
	if status, _ := get(t, r.url+"/v1/models/auto", nil); status != 200 {
		t.Errorf("status %d of a model", status)
	}
	if status, _ := get(t, far.url+"/v1/models/remote", nil); status != 404 {
		t.Errorf("status %d of a model that is not there", status)
	}
	if status, body := get(t, r.url+"/healthz", nil); status != 200 || !strings.Contains(body, "ok") {
		t.Errorf("health: %d %s", status, body)
	}
	ask(t, r, chatPath, chat("auto", "set a timer for nine minutes"))
	_, body = get(t, r.url+"/metrics", nil)
	for _, want := range []string{
		`slmc_requests_total{code="200",endpoint="chat",model="auto"} 1`, `slmc_decisions_total{outcome="DEFER",reason="unscored"} 1`,
		`slmc_upstream_calls_total{result="ok"} 1`, `slmc_tokens_total{kind="completion",side="remote"} 3`, "slmc_upstream_up 1", "slmc_sessions_busy 0", "go_goroutines",
	} {
		if !strings.Contains(body, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
}

func TestGuard(t *testing.T) {
	noneLeft(t)
	r := start(t, model(t), func(c *serve.Config) {
		c.Token = "right-token"
		c.Hosts = []string{"assistant.example"}
	})
	auth := "Bearer right-token"
	for _, c := range []struct {
		name   string
		path   string
		head   map[string]string
		status int
	}{
		{"no token", "/v1/models", nil, 401},
		{"a wrong token", "/v1/models", map[string]string{"Authorization": "Bearer wrong-token"}, 401},
		{"a prefix of it", "/v1/models", map[string]string{"Authorization": "Bearer right-toke"}, 401},
		{"another scheme", "/v1/models", map[string]string{"Authorization": "Basic right-token"}, 401},
		{"the token", "/v1/models", map[string]string{"Authorization": auth}, 200},
		{"metrics without it", "/metrics", nil, 401},
		{"health without it", "/healthz", nil, 200},
		{"another name", "/v1/models", map[string]string{"Authorization": auth, "Host": "evil.example"}, 403},
		{"another name for health", "/healthz", map[string]string{"Host": "evil.example:80"}, 403},
		{"localhost", "/v1/models", map[string]string{"Authorization": auth, "Host": "localhost:1"}, 200},
		{"an address", "/v1/models", map[string]string{"Authorization": auth, "Host": "[::1]:1"}, 200},
		{"a name that was given", "/v1/models", map[string]string{"Authorization": auth, "Host": "Assistant.example"}, 200},
	} {
		if status, body := get(t, r.url+c.path, c.head); status != c.status {
			t.Errorf("%s: status %d, wanted %d: %s", c.name, status, c.status, body)
		}
	}
	a := askWith(t, http.DefaultClient, r.url+chatPath, chat("local", "x"), http.Header{"Authorization": {auth}, "Sec-Fetch-Site": {"cross-site"}})
	if a.status != 403 || a.errors != "origin" {
		t.Errorf("a page of another site: %d %s", a.status, a.errors)
	}
	r.stop()
	if strings.Contains(r.log.String()+r.slog.String(), "right-token") {
		t.Error("the token is in a log")
	}
}

// A server is not made of what cannot work.
func TestConfigIsChecked(t *testing.T) {
	m := model(t)
	noText := *m
	noText.Tokenizer = nil
	for name, c := range map[string]serve.Config{
		"no model":     {},
		"no tokenizer": {Model: &noText, Policy: slmrt.DefaultPolicy()},
		"no policy":    {Model: m},
		"audit rate":   {Model: m, Policy: slmrt.DefaultPolicy(), AuditRate: 2},
		"no dice":      {Model: m, Policy: slmrt.DefaultPolicy(), AuditRate: 0.5},
		"limit":        {Model: m, Policy: slmrt.DefaultPolicy(), Limits: serve.Limits{Queue: -1}},
		"memory":       {Model: m, Policy: slmrt.DefaultPolicy(), Options: slmrt.Options{Budget: 1}},
	} {
		if _, err := serve.New(c); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	bound := slmrt.DefaultPolicy()
	bound.Score.Bound = 0.02
	if _, err := serve.New(serve.Config{Model: m, Policy: bound}); err == nil || !strings.Contains(err.Error(), "no router") {
		t.Errorf("a bound without a router: %v", err)
	}
	for _, c := range []serve.UpstreamConfig{
		{URL: "ftp://x"}, {URL: "http://"}, {URL: "https://user:secret@x"}, {URL: "https://x?a=b"}, {URL: "http://192.0.2.1", Key: "k"}, {URL: "https://x", Key: "a\nb"},
	} {
		if _, err := serve.NewUpstream(c); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: error %v", c.URL, err)
		}
	}
	if _, err := serve.NewUpstream(serve.UpstreamConfig{URL: "http://192.0.2.1", Key: "k", PlainKey: true}); err != nil {
		t.Error(err)
	}
}
