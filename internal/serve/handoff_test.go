package serve_test

import (
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"slmc/internal/audit"
	"slmc/internal/serve"
	slmrt "slmc/runtime"
)

const timer = "set a timer for nine minutes" // answered timer() by testdata/assistant-tiny

// Two servers over a socket: what the first hands off, the second answers, in
// one message with one id.
func TestHandOff(t *testing.T) {
	noneLeft(t)
	m := model(t)
	far := start(t, m, nil)
	r := start(t, m, func(c *serve.Config) {
		c.Upstream = upstream(t, far.url, func(c *serve.UpstreamConfig) { c.Model = "" })
	})
	qs := queries(t)[:6]
	for i, want := range answers(t, m, qs) {
		for _, model := range []string{"auto", "remote", ""} {
			for _, stream := range []bool{false, true} {
				a := ask(t, r, chatPath, chat(model, qs[i], "stream", stream, "stream_options", map[string]any{"include_usage": true}))
				reason := "unscored"
				if model == "remote" {
					reason = "asked"
				}
				if a.text != want || a.finish != "stop" || a.done != stream || a.model != "remote" || a.slmc.Outcome != "DEFER" || a.slmc.Reason != reason || a.slmc.Served != "remote" {
					t.Errorf("%s, stream %v: %+v, wanted %q", model, stream, a, want)
				}
				if a.header.Get("X-Slmc-Outcome") != "DEFER" || a.usage.TotalTokens == 0 {
					t.Errorf("head %v, usage %+v", a.header, a.usage)
				}
			}
		}
	}
	for _, stream := range []bool{false, true} {
		a := ask(t, r, completionPath, map[string]any{"model": "auto", "prompt": "<|user|>set a timer for nine minutes<|end|><|assistant|>", "stream": stream})
		if strings.TrimSpace(a.text) != "timer()" || a.slmc.Served != "remote" {
			t.Errorf("completion: %+v", a)
		}
	}
	for _, e := range logged(t, r) {
		if e.Served != audit.ServedRemote || e.RemoteTokens == 0 || e.Tokens != 0 || e.RemoteTries != 1 || e.Text != nil {
			t.Errorf("log: %+v", e)
		}
	}
	if strings.Contains(r.log.String(), "minutes") {
		t.Error("the log has text of a query")
	}
}

// What this model cannot take goes to the one that may.
func TestForeignRequestsAreHandedOff(t *testing.T) {
	noneLeft(t)
	answer := `{"choices":[{"index":0,"message":{"role":"assistant","content":null,"tool_calls":[{"id":"c","type":"function"}]},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":5,"completion_tokens":2}}`
	far := startFaulty(t, func(n int, c net.Conn, r *http.Request) { fmt.Fprint(c, jsonAnswer("200 OK", answer)) })
	p := slmrt.DefaultPolicy()
	p.Score.Unscored = slmrt.ActLocal
	r := start(t, model(t), func(c *serve.Config) { c.Upstream = upstream(t, far.url, nil); c.Policy = p })
	tools := []any{map[string]any{"type": "function", "function": map[string]any{"name": "f"}}}
	// Without a router nothing looks at the query first, so the policy keeps it.
	if a := ask(t, r, chatPath, chat("auto", timer, "tools", tools)); a.status != 400 {
		t.Errorf("%+v", a)
	}
	a := ask(t, r, chatPath, chat("remote", timer, "tools", tools, "slmc", map[string]string{"privacy": "public"}))
	var whole struct {
		Choices []struct {
			Message struct {
				ToolCalls []any `json:"tool_calls"`
			}
		}
	}
	if err := json.Unmarshal([]byte(a.body), &whole); err != nil || len(whole.Choices) != 1 || len(whole.Choices[0].Message.ToolCalls) != 1 || a.finish != "tool_calls" || a.usage.TotalTokens != 7 {
		t.Errorf("tool calls: %s", a.body)
	}
	if b := far.bodies()[0]; !strings.Contains(b, `"tools"`) || strings.Contains(b, "slmc") || !strings.Contains(b, `"model":"local"`) {
		t.Errorf("the large model got %s", b)
	}
}

// hang keeps a connection open until the test ends it.
func hang(c net.Conn) { _, _ = c.Read(make([]byte, 1)) }

// Every way in which a large model fails, streamed and not: the answer comes from
// here, whole and once.
func TestUpstreamFaults(t *testing.T) {
	noneLeft(t)
	m := model(t)
	want := answers(t, m, []string{timer})[0]
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	untrusted := httptest.NewUnstartedServer(http.NotFoundHandler())
	untrusted.Config.ErrorLog = log.New(io.Discard, "", 0)
	untrusted.StartTLS()
	t.Cleanup(untrusted.Close)
	plain := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(plain.Close)
	other := startFaulty(t, func(n int, c net.Conn, r *http.Request) { fmt.Fprint(c, jsonAnswer("200 OK", "{}")) })
	say := func(text string) func(int, net.Conn, *http.Request) {
		return func(_ int, c net.Conn, _ *http.Request) { fmt.Fprint(c, text) }
	}
	long := strings.Repeat("x", 2<<20)
	for _, f := range []struct {
		name   string
		handle func(int, net.Conn, *http.Request)
		url    string
		kind   string
		calls  int // 0: not counted
	}{
		{"offline", nil, "http://" + closed.Addr().String(), "connect", 0},
		{"not trusted", nil, untrusted.URL, "tls", 0},
		{"no TLS", nil, "https" + strings.TrimPrefix(plain.URL, "http"), "tls", 0},
		{"closed at once", func(int, net.Conn, *http.Request) {}, "", "broken", 2},
		{"garbage instead of HTTP", say("\x00\x01\x02 garbage\r\n\r\n"), "", "garbage", 1},
		{"a page", say("HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n\r\n<html>"), "", "garbage", 1},
		{"garbage in a stream", say(streamHead + "data: {]\n\n"), "", "garbage", 1},
		{"garbage as a stream", say(streamHead + "<html>\n\n"), "", "garbage", 1},
		{"an empty stream", say(streamHead), "", "broken", 2},
		{"an error in a stream", say(streamHead + "data: {\"error\":{\"message\":\"no\"}}\n\n"), "", "server", 2},
		{"an endless line", say(streamHead + "data: " + long), "", "too_long", 1},
		{"500", say(jsonAnswer("500 Internal Server Error", "{}")), "", "server", 2},
		{"503", say(jsonAnswer("503 Service Unavailable", "{}")), "", "server", 2},
		{"429 for long", say(jsonAnswer("429 Too Many Requests", "{}", "Retry-After: 3600\r\n")), "", "busy", 1},
		{"401", say(jsonAnswer("401 Unauthorized", "{}")), "", "denied", 1},
		{"400", say(jsonAnswer("400 Bad Request", "{}")), "", "refused", 1},
		{"to another host", say("HTTP/1.1 307 Temporary Redirect\r\nLocation: " + other.url + "/v1/chat/completions\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"), "", "redirect", 1},
		{"silent", func(_ int, c net.Conn, _ *http.Request) { hang(c) }, "", "timeout", 1},
		{"silent after its head", func(_ int, c net.Conn, _ *http.Request) { fmt.Fprint(c, streamHead); hang(c) }, "", "timeout", 1},
	} {
		for _, stream := range []bool{true, false} {
			if !stream && strings.Contains(f.name, "stream") || !stream && strings.Contains(f.name, "head") || !stream && f.kind == "too_long" {
				continue
			}
			t.Run(fmt.Sprintf("%s/stream=%v", f.name, stream), func(t *testing.T) {
				url := f.url
				var far *faulty
				if f.handle != nil {
					far = startFaulty(t, f.handle)
					url = far.url
				}
				config := func(c *serve.UpstreamConfig) {
					c.Key = "the-secret-key"
					c.FirstByte, c.Whole, c.Stall = 100*time.Millisecond, 100*time.Millisecond, 100*time.Millisecond
					if f.kind != "timeout" {
						c.FirstByte, c.Whole, c.Stall = time.Minute, time.Minute, time.Minute
					}
				}
				for _, act := range []slmrt.Act{slmrt.ActLocal, slmrt.ActAbstain, slmrt.ActError} {
					p := slmrt.DefaultPolicy()
					p.Handoff.Failed = act
					r := start(t, m, func(c *serve.Config) { c.Policy, c.Upstream = p, upstream(t, url, config) })
					before := 0
					if far != nil {
						before = far.calls()
					}
					a := ask(t, r, chatPath, chat("auto", timer, "stream", stream))
					switch act {
					case slmrt.ActLocal:
						if a.status != 200 || a.text != want || a.finish != "stop" || a.slmc.Outcome != "LOCAL_WITH_WARNING" || a.slmc.Reason != "upstream" || a.slmc.Served != "local" || a.done != stream {
							t.Errorf("%+v, wanted %q", a, want)
						}
						if f.calls > 0 && far.calls()-before != f.calls {
							t.Errorf("%d calls, wanted %d", far.calls()-before, f.calls)
						}
					case slmrt.ActAbstain:
						if a.status != 200 || a.text != "" || a.refusal == "" || a.slmc.Outcome != "ABSTAIN" {
							t.Errorf("%+v, wanted a refusal", a)
						}
					case slmrt.ActError:
						if a.status < 400 || a.errors != f.kind {
							t.Errorf("%+v, wanted an error of kind %s", a, f.kind)
						}
					}
					if a.slmc.RemoteError != f.kind {
						t.Errorf("the failure is %q, wanted %q", a.slmc.RemoteError, f.kind)
					}
					r.stop()
					if e := logged(t, r); len(e) != 1 || e[0].RemoteError != f.kind {
						t.Errorf("log: %+v", e)
					}
					if strings.Contains(r.log.String()+r.slog.String()+a.body, "secret-key") {
						t.Error("the key is in a log or an answer")
					}
					// A client that asked for the large model learns what happened.
					r = start(t, m, func(c *serve.Config) { c.Upstream = upstream(t, url, config) })
					if a := ask(t, r, chatPath, chat("remote", timer, "stream", stream)); a.status < 400 || a.errors != f.kind || f.kind == "busy" && a.header.Get("Retry-After") != "3600" {
						t.Errorf("remote: %+v, head %v", a, a.header)
					}
					r.stop()
				}
			})
		}
	}
	if n := other.calls(); n != 0 {
		t.Errorf("%d calls, with the key, went where the large model pointed to", n)
	}
}

// A large model that quotes the key and the query in all its failures brings
// neither into a log or an answer.
func TestNothingIsQuoted(t *testing.T) {
	noneLeft(t)
	m := model(t)
	for _, format := range []string{
		"HTTP/1.1 401 Unauthorized\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{\"error\":{\"code\":\"bad_key\",\"message\":\"%s\"}}",
		"HTTP/1.1 400 %s\r\nContent-Type: application/json\r\nConnection: close\r\n\r\n{\"error\":{\"code\":\"%[1]s\",\"type\":\"sesame\"}}",
		"HTTP/1.1 200 OK\r\nContent-Type: %s\r\nConnection: close\r\n\r\n%[1]s",
		streamHead + "data: {\"error\":{\"message\":\"%s\",\"type\":\"%[1]s\"}}\n\n",
		streamHead + "data: \"%s\"\n\n",
		streamHead + "%s\n\n",
		"%s",
		"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://192.0.2.1/%s\r\nConnection: close\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: %s\r\n\r\n",
	} {
		far := startFaulty(t, func(_ int, c net.Conn, r *http.Request) {
			fmt.Fprintf(c, format, strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")+"-marzipan")
		})
		for _, stream := range []bool{true, false} {
			r := start(t, m, func(c *serve.Config) {
				c.Upstream = upstream(t, far.url, func(u *serve.UpstreamConfig) { u.Key = "sesame" })
			})
			for _, model := range []string{"auto", "remote"} {
				a := ask(t, r, chatPath, chat(model, "marzipan", "stream", stream))
				if a.slmc.RemoteError == "" {
					t.Errorf("%q: %+v, wanted a failure", format, a)
				}
				if strings.Contains(a.body, "sesame") || model == "remote" && strings.Contains(a.body, "marzipan") {
					t.Errorf("%q: answer %s", format, a.body)
				}
			}
			r.stop()
			if all := r.log.String() + r.slog.String(); strings.Contains(all, "sesame") || strings.Contains(all, "marzipan") {
				t.Errorf("%q: logs %s", format, all)
			}
		}
	}
}

// A large model that is busy for a moment is asked again, when it says so.
func TestRetryAfter(t *testing.T) {
	noneLeft(t)
	for _, stream := range []bool{false, true} {
		far := startFaulty(t, func(n int, c net.Conn, _ *http.Request) {
			switch {
			case n == 1:
				fmt.Fprint(c, jsonAnswer("429 Too Many Requests", "{}", "Retry-After: 1\r\n"))
			case stream:
				fmt.Fprint(c, streamHead+event("hello")+ended)
			default:
				fmt.Fprint(c, jsonAnswer("200 OK", `{"choices":[{"message":{"content":"hello"},"finish_reason":"stop"}]}`))
			}
		})
		r := start(t, model(t), func(c *serve.Config) { c.Upstream = upstream(t, far.url, nil) })
		a := ask(t, r, chatPath, chat("auto", timer, "stream", stream))
		if a.text != "hello" || a.slmc.Outcome != "DEFER" || far.calls() != 2 {
			t.Errorf("stream %v: %+v after %d calls", stream, a, far.calls())
		}
		if e := logged(t, r); e[0].RemoteTries != 2 {
			t.Errorf("%d tries in the log", e[0].RemoteTries)
		}
	}
}

// A stream that breaks after any of its pieces is gone on with from here: the
// client has every character once.
func TestBrokenStream(t *testing.T) {
	noneLeft(t)
	m := model(t)
	qs := queries(t)[:8]
	for i, want := range answers(t, m, qs) {
		for cut := 1; cut < len(want); cut += 3 {
			for name, tail := range map[string]string{
				"cut": "", "cut in a line": "data: {\"choices\":[{\"del", "an error": "data: {\"error\":{}}\n\n", "garbage": "\x00\xff\n\n",
			} {
				far := startFaulty(t, func(_ int, c net.Conn, _ *http.Request) {
					fmt.Fprint(c, chunkedHead+chunked(event(want[:1])))
					if cut > 1 {
						fmt.Fprint(c, chunked(event(want[1:cut])))
					}
					if tail != "" {
						fmt.Fprint(c, chunked(tail))
					}
				})
				p := slmrt.DefaultPolicy()
				r := start(t, m, func(c *serve.Config) { c.Policy, c.Upstream = p, upstream(t, far.url, nil) })
				a := ask(t, r, chatPath, chat("auto", qs[i], "stream", true))
				if a.slmc.Outcome != "LOCAL_WITH_WARNING" || a.slmc.Served != "remote+local" || a.header.Get("X-Slmc-Outcome") != "DEFER" || !a.done || a.finish != "stop" || !strings.HasPrefix(a.text, want[:cut]) {
					t.Errorf("%q after %q (%s): %+v", qs[i], want[:cut], name, a)
				}
				// The text may be spelt with other tokens; where they are those of the whole
				// answer, the rest is the same too.
				ids, n, err := m.EncodeBegun(slmrt.Chat{Messages: chatOf(qs[i])}, want[:cut])
				if err != nil {
					t.Fatal(err)
				}
				if direct := continued(t, m, ids, n); a.text != want[:cut]+direct {
					t.Errorf("%q after %q (%s): %q, wanted %q", qs[i], want[:cut], name, a.text, want[:cut]+direct)
				}
				p.Handoff.Broken = slmrt.ActError
				r2 := start(t, m, func(c *serve.Config) { c.Policy, c.Upstream = p, upstream(t, far.url, nil) })
				a = ask(t, r2, chatPath, chat("auto", qs[i], "stream", true))
				if a.text != want[:cut] || a.done || a.errors == "" || a.finish != "" {
					t.Errorf("%q after %q (%s): %+v, wanted an error in the stream", qs[i], want[:cut], name, a)
				}
				r.stop()
				r2.stop()
			}
		}
	}
}

// An end without "[DONE]" is an end if the last piece said so.
func TestStreamEnds(t *testing.T) {
	noneLeft(t)
	last := "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"length\"}]}\n\n"
	for name, text := range map[string]string{
		"as it should":        event("a") + event("b") + last + "data: [DONE]\n\n",
		"without DONE":        event("a") + event("b") + last,
		"DONE without a line": event("a") + event("b") + last + "data: [DONE]",
		"comments":            ": hello\n\n" + event("a") + ":\n\nevent: x\nid: 1\nretry: 5\n" + event("b") + last,
		"carriage returns":    strings.ReplaceAll(event("a")+event("b")+last, "\n", "\r\n"),
		"two lines of data":   event("a") + "data: {\"choices\":[{\"delta\":\ndata: {\"content\":\"b\"}}]}\n\n" + last,
		"a mark in front":     "\ufeff" + event("a") + event("b") + last,
		"usage at the end":    event("a") + event("b") + last + "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n",
	} {
		far := startFaulty(t, func(_ int, c net.Conn, _ *http.Request) { fmt.Fprint(c, streamHead+text) })
		r := start(t, model(t), func(c *serve.Config) { c.Upstream = upstream(t, far.url, nil) })
		a := ask(t, r, chatPath, chat("auto", timer, "stream", true))
		if a.text != "ab" || a.finish != "length" || a.slmc.Outcome != "DEFER" || !a.done {
			t.Errorf("%s: %+v", name, a)
		}
	}
}

// Queries that may not leave never reach the large model, whatever model they name.
func TestPrivacy(t *testing.T) {
	noneLeft(t)
	m := model(t)
	far := startFaulty(t, func(_ int, c net.Conn, _ *http.Request) { fmt.Fprint(c, streamHead+event("leaked")+ended) })
	r := start(t, m, func(c *serve.Config) { c.Upstream = upstream(t, far.url, nil); c.LogText = true })
	private := map[string]string{"privacy": "private"}
	for _, stream := range []bool{false, true} {
		a := ask(t, r, chatPath, chat("auto", timer, "stream", stream, "slmc", private))
		if a.text != "timer()" || a.slmc.Outcome != "LOCAL_WITH_WARNING" || a.slmc.Reason != "privacy" {
			t.Errorf("auto: %+v", a)
		}
		a = ask(t, r, chatPath, chat("remote", timer, "stream", stream, "slmc", private))
		if a.status != 403 || a.errors != "privacy" {
			t.Errorf("remote: %+v", a)
		}
		a = askWith(t, http.DefaultClient, r.url+chatPath, chat("auto", timer, "stream", stream), http.Header{"X-Slmc-Privacy": {"private"}})
		if a.slmc.Reason != "privacy" {
			t.Errorf("by the head: %+v", a)
		}
		a = askWith(t, http.DefaultClient, r.url+chatPath, chat("auto", timer, "slmc", private), http.Header{"X-Slmc-Privacy": {"public"}})
		if a.status != 400 {
			t.Errorf("two classes: %+v", a)
		}
	}
	if far.calls() != 0 {
		t.Errorf("%d private queries left", far.calls())
	}
	if strings.Contains(r.log.String(), "minutes") {
		t.Error("the log has text of a private query")
	}
	ask(t, r, chatPath, chat("auto", timer))
	if e := logged(t, r); e[len(e)-1].Text == nil || e[len(e)-1].Text.Query != timer {
		t.Errorf("the log was to keep text: %+v", e[len(e)-1])
	}
}

// The device's state decides before any score, and the budget is kept by any
// number of clients at once.
func TestDeviceAndBudget(t *testing.T) {
	noneLeft(t)
	m := model(t)
	far := start(t, m, nil)
	var device atomic.Pointer[slmrt.Device]
	device.Store(&slmrt.Device{Offline: true})
	p := slmrt.DefaultPolicy()
	p.Thermal.At = slmrt.ThermalSerious
	p.Budget.Calls = 3
	r := start(t, m, func(c *serve.Config) {
		c.Policy, c.Upstream = p, upstream(t, far.url, nil)
		c.Device = func() (slmrt.Device, error) { return *device.Load(), nil }
	})
	if a := ask(t, r, chatPath, chat("auto", timer)); a.slmc.Reason != "offline" || a.slmc.Served != "local" {
		t.Errorf("offline: %+v", a)
	}
	if a := ask(t, r, chatPath, chat("remote", timer)); a.status != 503 {
		t.Errorf("offline: %+v", a)
	}
	device.Store(&slmrt.Device{Thermal: slmrt.ThermalCritical})
	if a := ask(t, r, chatPath, chat("auto", timer)); a.slmc.Reason != "thermal" || a.slmc.Served != "remote" {
		t.Errorf("hot: %+v", a)
	}
	device.Store(&slmrt.Device{})
	var remote atomic.Int64
	var all sync.WaitGroup
	for range 20 {
		all.Go(func() {
			a := ask(t, r, chatPath, chat("auto", timer))
			if a.text != "timer()" {
				t.Errorf("%+v", a)
			}
			if a.slmc.Served == "remote" {
				remote.Add(1)
			} else if a.slmc.Reason != "budget" {
				t.Errorf("kept here by %s", a.slmc.Reason)
			}
		})
	}
	all.Wait()
	if remote.Load() != 2 {
		t.Errorf("%d calls beside the first, the budget has 3 in all", remote.Load())
	}
	if a := ask(t, r, chatPath, chat("remote", timer)); a.status != 429 || a.errors != "budget" {
		t.Errorf("asked for beyond the budget: %+v", a)
	}
}

// A large model that keeps failing is not asked for a while.
func TestFailuresTakeItOffline(t *testing.T) {
	noneLeft(t)
	far := startFaulty(t, func(int, net.Conn, *http.Request) {})
	r := start(t, model(t), func(c *serve.Config) {
		c.Upstream = upstream(t, far.url, func(u *serve.UpstreamConfig) { u.Failures, u.Cooldown = 4, time.Hour })
	})
	for i := range 5 {
		a := ask(t, r, chatPath, chat("auto", timer))
		want := "upstream"
		if i >= 2 { // each request tries twice
			want = "offline"
		}
		if a.slmc.Reason != want || a.text != "timer()" {
			t.Errorf("request %d: %+v, wanted %s", i, a.slmc, want)
		}
	}
	if far.calls() != 4 {
		t.Errorf("%d calls, wanted 4", far.calls())
	}
	if _, body := get(t, r.url+"/metrics", nil); !strings.Contains(body, "slmc_upstream_up 0") {
		t.Error("metrics say that it is up")
	}
}
