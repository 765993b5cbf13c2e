package serve_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/pprof"
	"strings"
	"sync"
	"testing"
	"time"

	"slmc/internal/audit"
	"slmc/internal/serve"
	"slmc/internal/testbundle"
	slmrt "slmc/runtime"
	"slmc/tokenizer/jinja"
)

// assistant is the bundle of testdata/assistant-tiny, built once.
var assistant = sync.OnceValues(func() ([]byte, error) { return testbundle.Assistant("../..", nil) })

func model(t testing.TB) *slmrt.Model {
	t.Helper()
	data, err := assistant()
	if err != nil {
		t.Fatal(err)
	}
	return loadModel(t, data)
}

func loadModel(t testing.TB, data []byte) *slmrt.Model {
	t.Helper()
	path := filepath.Join(t.TempDir(), "assistant.slmb")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	m, _, err := slmrt.Load(path, slmrt.LoadOptions{})
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

// queries are those of testdata/requests.jsonl.
func queries(t testing.TB) []string {
	t.Helper()
	data, err := os.ReadFile("../../testdata/requests.jsonl")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(data)) {
		var r struct{ Query string }
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			t.Fatal(err)
		}
		out = append(out, r.Query)
	}
	return out
}

// answers computes what the model says to each query, without a server.
func answers(t testing.TB, m *slmrt.Model, qs []string) []string {
	t.Helper()
	s, err := m.NewSession(slmrt.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var out []string
	for _, q := range qs {
		a, err := s.Answer(context.Background(), q)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, a)
	}
	return out
}

// syncBuffer is a buffer that a server and a test share.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// running is a server on a real socket.
type running struct {
	url  string
	addr string
	log  syncBuffer // of decisions
	slog syncBuffer // of the program
	stop func()     // and wait until all of it has ended
}

// start runs a server for the length of a test; mod changes its configuration.
func start(t testing.TB, m *slmrt.Model, mod func(*serve.Config)) *running {
	t.Helper()
	r := &running{}
	c := serve.Config{
		Model: m, Digest: "0123456789abcdef", Options: slmrt.Options{Threads: 1}, Policy: slmrt.DefaultPolicy(),
		Limits: serve.Limits{Sessions: 2}, Log: audit.NewWriter(&r.log), Logger: slog.New(slog.NewTextHandler(&r.slog, nil)),
	}
	if mod != nil {
		mod(&c)
	}
	s, err := serve.New(c)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = l.Addr().String()
	r.url = "http://" + r.addr
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx, l) }()
	r.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("server: %v", err)
		}
	})
	t.Cleanup(r.stop)
	return r
}

// upstream is a client for the large model at url; mod changes it.
func upstream(t testing.TB, url string, mod func(*serve.UpstreamConfig)) *serve.Upstream {
	t.Helper()
	c := serve.UpstreamConfig{URL: url, Model: "local", Backoff: time.Millisecond, Failures: 1 << 30}
	if mod != nil {
		mod(&c)
	}
	u, err := serve.NewUpstream(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(u.Close)
	return u
}

// noneLeft fails a test when goroutines of slmc outlive what it started. Call it
// first: cleanups run last in, first out.
func noneLeft(t testing.TB) {
	t.Helper()
	t.Cleanup(func() {
		var left string
		for range 6000 {
			if left = goroutines(); left == "" {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("goroutines are left:\n%s", left)
	})
}

// goroutines lists those that run code of a server or a session.
func goroutines() string {
	var all bytes.Buffer
	if err := pprof.Lookup("goroutine").WriteTo(&all, 2); err != nil {
		return err.Error()
	}
	var out []string
	for _, g := range strings.Split(all.String(), "\n\n") {
		if strings.Contains(g, "testing.tRunner") || strings.Contains(g, "pprof.writeGoroutine") {
			continue
		}
		if strings.Contains(g, "slmc/") || strings.Contains(g, "net/http.(*conn)") {
			out = append(out, g)
		}
	}
	return strings.Join(out, "\n\n")
}

// answered is what a client got.
type answered struct {
	status  int
	header  http.Header
	text    string
	refusal string
	finish  string
	model   string
	slmc    struct {
		ID, Outcome, Reason, Served string
		RemoteError                 string `json:"remote_error"`
		Certified                   bool
		Judgement                   *slmrt.Judgement
	}
	usage  struct{ PromptTokens, CompletionTokens, TotalTokens int }
	errors string // code of an error, in the body or the stream
	done   bool   // the stream ended as it should
	ids    map[string]bool
	roles  int
	body   string
}

type wire struct {
	ID, Model string
	Choices   []struct {
		Text    string
		Message struct {
			Content, Refusal *string
		}
		Delta struct {
			Role, Content, Refusal *string
		}
		FinishReason *string `json:"finish_reason"`
	}
	Usage *struct {
		PromptTokens     int `json:"prompt_tokens"`
		CompletionTokens int `json:"completion_tokens"`
		TotalTokens      int `json:"total_tokens"`
	}
	Error *struct{ Code, Message string }
	Slmc  json.RawMessage
}

func (a *answered) take(t testing.TB, data []byte) {
	t.Helper()
	var w wire
	if err := json.Unmarshal(data, &w); err != nil {
		t.Errorf("%s: %v", data, err)
		return
	}
	if w.ID != "" {
		a.ids[w.ID] = true
		a.model = w.Model
	}
	for _, c := range w.Choices {
		a.text += c.Text
		for _, s := range []*string{c.Message.Content, c.Delta.Content} {
			if s != nil {
				a.text += *s
			}
		}
		for _, s := range []*string{c.Message.Refusal, c.Delta.Refusal} {
			if s != nil {
				a.refusal += *s
			}
		}
		if c.Delta.Role != nil {
			a.roles++
		}
		if c.FinishReason != nil {
			if a.finish != "" {
				t.Errorf("the answer ends twice")
			}
			a.finish = *c.FinishReason
		}
	}
	if w.Usage != nil {
		a.usage.PromptTokens, a.usage.CompletionTokens, a.usage.TotalTokens = w.Usage.PromptTokens, w.Usage.CompletionTokens, w.Usage.TotalTokens
	}
	if w.Error != nil {
		a.errors = w.Error.Code
	}
	if w.Slmc != nil {
		if err := json.Unmarshal(w.Slmc, &a.slmc); err != nil {
			t.Error(err)
		}
	}
}

// ask posts a request with extra fields and reads the answer, streamed or not.
func ask(t testing.TB, r *running, path string, fields map[string]any) answered {
	t.Helper()
	return askWith(t, http.DefaultClient, r.url+path, fields, nil)
}

func askWith(t testing.TB, c *http.Client, url string, fields map[string]any, head http.Header) answered {
	t.Helper()
	data, err := json.Marshal(fields)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequest(http.MethodPost, url, bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	for k, v := range head {
		req.Header[k] = v
	}
	resp, err := c.Do(req)
	if err != nil {
		t.Error(err)
		return answered{}
	}
	defer resp.Body.Close()
	return readAnswer(t, resp)
}

func readAnswer(t testing.TB, resp *http.Response) answered {
	t.Helper()
	a := answered{status: resp.StatusCode, header: resp.Header, ids: map[string]bool{}}
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("the response breaks off: %v", err)
	}
	a.body = string(body)
	if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/event-stream") {
		a.take(t, body)
		return a
	}
	in := bufio.NewScanner(bytes.NewReader(body))
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		switch line := in.Text(); {
		case line == "":
		case line == "data: [DONE]":
			a.done = true
		case strings.HasPrefix(line, "data: ") && !a.done:
			a.take(t, []byte(line[6:]))
		default:
			t.Errorf("line %q in a stream", line)
		}
	}
	if len(a.ids) > 1 {
		t.Errorf("an answer has the ids %v", a.ids)
	}
	return a
}

const (
	chatPath       = "/v1/chat/completions"
	completionPath = "/v1/completions"
)

// chat is a request of one message.
func chat(model, text string, more ...any) map[string]any {
	m := map[string]any{"model": model, "messages": []any{map[string]string{"role": "user", "content": text}}}
	for i := 0; i < len(more); i += 2 {
		m[more[i].(string)] = more[i+1]
	}
	return m
}

// faulty is a large model that speaks as badly as a test wants: a listener whose
// connections go to handle with the request that came.
type faulty struct {
	url    string
	calls  func() int
	heads  func() []http.Header
	bodies func() []string
}

func startFaulty(t testing.TB, handle func(n int, c net.Conn, r *http.Request)) *faulty {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var heads []http.Header
	var bodies []string
	conns := map[net.Conn]bool{}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns[c] = true
			mu.Unlock()
			all.Go(func() {
				defer func() {
					c.Close()
					mu.Lock()
					delete(conns, c)
					mu.Unlock()
				}()
				r, err := http.ReadRequest(bufio.NewReader(c))
				if err != nil {
					return
				}
				body, err := io.ReadAll(r.Body)
				if err != nil {
					return
				}
				mu.Lock()
				heads, bodies = append(heads, r.Header), append(bodies, string(body))
				n := len(heads)
				mu.Unlock()
				handle(n, c, r)
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		for c := range conns {
			c.Close()
		}
		mu.Unlock()
		all.Wait()
	})
	return &faulty{
		url:    "http://" + l.Addr().String(),
		calls:  func() int { mu.Lock(); defer mu.Unlock(); return len(heads) },
		heads:  func() []http.Header { mu.Lock(); defer mu.Unlock(); return append([]http.Header(nil), heads...) },
		bodies: func() []string { mu.Lock(); defer mu.Unlock(); return append([]string(nil), bodies...) },
	}
}

// streamHead begins a stream that ends with its connection.
const streamHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"

// chunkedHead begins one whose end shows.
const chunkedHead = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

func event(text string) string {
	return fmt.Sprintf("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":%q},\"finish_reason\":null}]}\n\n", text)
}

func chunked(s string) string { return fmt.Sprintf("%x\r\n%s\r\n", len(s), s) }

const ended = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n"

func jsonAnswer(status, body string, head ...string) string {
	return fmt.Sprintf("HTTP/1.1 %s\r\nContent-Type: application/json\r\nContent-Length: %d\r\nConnection: close\r\n%s\r\n%s", status, len(body), strings.Join(head, ""), body)
}

// lines counts the decisions that were logged; a line is written when the client
// has its answer already.
func lines(r *running) int { return strings.Count(r.log.String(), "\n") }

// logged stops a server and reads its log of decisions.
func logged(t testing.TB, r *running) []audit.Entry {
	t.Helper()
	r.stop()
	var out []audit.Entry
	bad, err := audit.Read(strings.NewReader(r.log.String()), func(e audit.Entry) error { out = append(out, e); return nil })
	if err != nil || bad.Lines > 0 {
		t.Fatalf("the log: %v, %+v", err, bad)
	}
	return out
}

func chatOf(query string) []jinja.Value { return []jinja.Value{slmrt.Say("user", query)} }

// continued is what the model says after ids, of which the last n are text of its
// answer.
func continued(t testing.TB, m *slmrt.Model, ids []int32, n int) string {
	t.Helper()
	s, err := m.NewSession(slmrt.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	res, err := s.Generate(context.Background(), slmrt.Request{Prompt: ids, Begun: n}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return res.Text
}
