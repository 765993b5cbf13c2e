package routertrain

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"slmc/internal/origin"
)

func TestReadyMadeLabels(t *testing.T) {
	in := `{"query":"a","small":true,"large":1}
{"query":"b","small":0,"large":{"score":0.5,"answer":"x"}}

{"query":"c","small":false}
`
	l, n, err := parseLabels(strings.NewReader(in), "ready.jsonl")
	if err != nil || int(n) != len(in) {
		t.Fatalf("%d bytes, %v", n, err)
	}
	if len(l.Rows) != 3 || l.Rows[0].Small.Score != 1 || l.Rows[1].Large.Score != 0.5 || l.Rows[2].Large != nil || l.Rows[0].ID != QueryID("a") {
		t.Errorf("rows %+v", l.Rows)
	}
	if l.Large() || l.Rows[2].Gain() != 1 || l.Rows[1].Gain() != 0.5 || l.Rows[0].Wrong() != 0 {
		t.Errorf("rows %+v: wrong or gain", l.Rows)
	}
	for _, bad := range []string{
		`{"query":"a"}`, `{"small":1}`, `{"query":"a","small":2}`, `{"query":"a","small":"yes"}`, `nonsense`,
		`{"query":"a","small":1,"large":{"score":-1}}`, `{"slmc_labels":7}`, `{"query":"a","small":{"score":1,"samples":[3]}}`,
	} {
		if _, _, err := parseLabels(strings.NewReader(bad), "bad.jsonl"); !errors.Is(err, ErrLabels) || !strings.Contains(err.Error(), "bad.jsonl: line 1") {
			t.Errorf("%s: %v", bad, err)
		}
	}
}

func FuzzLabels(f *testing.F) {
	f.Add([]byte(`{"slmc_labels":1,"bundle":"` + strings.Repeat("00", 32) + `","weights":"` + strings.Repeat("00", 32) + `","scorer":"exact_match"}` + "\n" +
		`{"id":"x","query":"q","small":{"answer":"a","score":1,"samples":[0,1],"tokens":3},"large":{"score":0}}` + "\n"))
	f.Add([]byte(`{"query":"a","small":true,"large":0.25}`))
	f.Add([]byte("\n\n{}"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, n, err := parseLabels(bytes.NewReader(b), "fuzz")
		if n > int64(len(b)) {
			t.Errorf("%d bytes of %d", n, len(b))
		}
		if err != nil {
			return
		}
		for i := range l.Rows {
			r := &l.Rows[i]
			if w, g := r.Wrong(), r.Gain(); !(w >= 0 && w <= 1 && g >= 0 && g <= 1) || r.ID == "" {
				t.Errorf("row %+v: wrong %g, gain %g", r, w, g)
			}
		}
	})
}

func TestRedaction(t *testing.T) {
	const text = "mail jo.do@example.org or call +49 (170) 123-456, https://x.org/?a=1 in 3 days"
	if got := RedactMask.Text(text); strings.ContainsAny(got, "0123456789@") || !strings.Contains(got, "<email>") || !strings.Contains(got, "<url>") || !strings.Contains(got, "days") {
		t.Errorf("masked: %q", got)
	}
	if RedactDrop.Text(text) != "" || RedactNone.Text(text) != text {
		t.Error("drop keeps, or none loses text")
	}
	if _, err := ParseRedaction("all"); err == nil {
		t.Error("an unknown redaction is accepted")
	}
}

func TestSplitKeepsQueriesApart(t *testing.T) {
	s := DefaultSplit()
	count := map[Part]int{}
	for i := range 10000 {
		part := s.Part(QueryID(fmt.Sprint(i)))
		if again := s.Part(QueryID(fmt.Sprint(i))); again != part {
			t.Fatalf("query %d is in parts %v and %v", i, part, again)
		}
		count[part]++
	}
	near(t, "train", float64(count[Train]), 5000, 200)
	near(t, "calibrate", float64(count[Calibrate]), 4000, 200)
	other := s
	other.Seed++
	moved := 0
	for i := range 1000 {
		if id := QueryID(fmt.Sprint(i)); s.Part(id) != other.Part(id) {
			moved++
		}
	}
	if moved < 400 {
		t.Errorf("another seed moves %d of 1000 queries", moved)
	}
}

// endpoint serves one handler and an Endpoint for it that does not wait long.
func endpoint(t *testing.T, c EndpointConfig, h http.HandlerFunc) *Endpoint {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	d := DefaultEndpoint()
	d.URL, d.Backoff, d.Timeout, d.Attempts, d.Key, d.PerSecond, d.AnswerPrice = s.URL, time.Millisecond, 300*time.Millisecond, 4, c.Key, c.PerSecond, 2e6
	e, err := NewEndpoint(d)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func reply(w http.ResponseWriter, text string) {
	fmt.Fprintf(w, `{"choices":[{"message":{"content":%q}}],"usage":{"prompt_tokens":3,"completion_tokens":2}}`, text)
}

func TestEndpointFaults(t *testing.T) {
	var n atomic.Int32
	faults := []http.HandlerFunc{
		func(w http.ResponseWriter, r *http.Request) { w.Header().Set("Retry-After", "0"); w.WriteHeader(429) },
		func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(503) },
		func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "<html>no") },
		func(w http.ResponseWriter, r *http.Request) { reply(w, "fine") },
	}
	e := endpoint(t, EndpointConfig{Key: "secret"}, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/v1/chat/completions" || r.Header.Get("Authorization") != "Bearer secret" {
			t.Errorf("%s with %q", r.URL.Path, r.Header.Get("Authorization"))
		}
		var body struct {
			Messages []struct{ Role, Content string }
		}
		if err := json.NewDecoder(r.Body).Decode(&body); err != nil || len(body.Messages) != 1 || body.Messages[0].Content != "q" {
			t.Errorf("body %+v, %v", body, err)
		}
		faults[n.Add(1)-1](w, r)
	})
	r, err := e.Answer(context.Background(), "q", 0)
	if err != nil || r.Text != "fine" {
		t.Fatalf("%+v, %v", r, err)
	}
	if u := e.Usage(); u.Requests != 4 || u.Retries != 3 || u.AnswerTokens != 2 || u.Cost != 4 {
		t.Errorf("usage %+v", u)
	}
}

func TestEndpointGivesUp(t *testing.T) {
	for name, c := range map[string]struct {
		h        http.HandlerFunc
		requests int
	}{
		"a client's mistake": {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(401) }, 1},
		"always busy":        {func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) }, 4},
		"no message":         {func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, `{"choices":[]}`) }, 1},
		"another host": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://127.0.0.2:1/x", http.StatusTemporaryRedirect)
		}, 4},
		"too slow": {func(w http.ResponseWriter, r *http.Request) {
			select {
			case <-r.Context().Done():
			case <-time.After(2 * time.Second):
			}
		}, 4},
	} {
		e := endpoint(t, EndpointConfig{Key: "secret"}, c.h)
		_, err := e.Answer(context.Background(), "q", 0)
		if err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
		if u := e.Usage(); u.Requests != c.requests {
			t.Errorf("%s: %d requests, want %d", name, u.Requests, c.requests)
		}
	}
	if _, err := NewEndpoint(EndpointConfig{URL: "file:///etc/passwd"}); err == nil {
		t.Error("a file is taken for an endpoint")
	}
}

// A key that anybody on the way could read is sent when somebody says so alone.
func TestEndpointKeepsTheKeyFromOthers(t *testing.T) {
	for _, c := range []struct {
		config  EndpointConfig
		refused bool
	}{
		{EndpointConfig{URL: "http://cloud.example", Key: "secret"}, true},
		{EndpointConfig{URL: "http://me:secret@cloud.example"}, true},
		{EndpointConfig{URL: "http://cloud.example", Key: "secret", PlainKey: true}, false},
		{EndpointConfig{URL: "http://cloud.example"}, false},
		{EndpointConfig{URL: "https://cloud.example", Key: "secret"}, false},
		{EndpointConfig{URL: "http://127.0.0.1:8080", Key: "secret"}, false},
	} {
		_, err := NewEndpoint(c.config)
		if errors.Is(err, origin.ErrPlain) != c.refused || (err != nil) != c.refused || err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want refused: %v", c.config.URL, err, c.refused)
		}
	}
}

// A probe asks for the list of models, needs nobody to have one, and finds out what
// labelling would.
func TestProbe(t *testing.T) {
	for name, c := range map[string]struct {
		status   int
		fails    bool
		requests int32
	}{
		"a list": {200, false, 1}, "no list": {404, false, 1}, "another method": {405, false, 1}, "no trust": {401, true, 1}, "no right": {403, true, 1},
		"overloaded": {503, true, 3}, "later": {429, false, 3},
	} {
		var n atomic.Int32
		e := endpoint(t, EndpointConfig{Key: "secret"}, func(w http.ResponseWriter, r *http.Request) {
			n.Add(1)
			if r.URL.Path != "/v1/models" || r.Method != http.MethodGet || r.Header.Get("Authorization") != "Bearer secret" {
				t.Errorf("%s: %s %s with key %q", name, r.Method, r.URL.Path, r.Header.Get("Authorization"))
			}
			w.WriteHeader(c.status)
		})
		if err := e.Probe(t.Context()); (err != nil) != c.fails || n.Load() != c.requests {
			t.Errorf("%s: %v after %d requests, want failure %v after %d", name, err, n.Load(), c.fails, c.requests)
		}
		if u := e.Usage(); u.Requests != 0 {
			t.Errorf("%s: %d requests are billed", name, u.Requests)
		}
	}
	s := httptest.NewServer(nil)
	s.Close()
	e, err := NewEndpoint(EndpointConfig{URL: s.URL, Attempts: 2, Backoff: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Probe(t.Context()); err == nil {
		t.Error("where nobody listens somebody answers")
	}
}

// A redirection of the same host to an unencrypted connection would show the key to
// all between.
func TestEndpointStaysEncrypted(t *testing.T) {
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://"+r.Host+"/x", http.StatusTemporaryRedirect)
	}))
	defer s.Close()
	e, err := NewEndpoint(EndpointConfig{URL: s.URL, Key: "secret", Attempts: 1, MaxTokens: 1})
	if err != nil {
		t.Fatal(err)
	}
	e.client.Transport = s.Client().Transport
	if _, err := e.Answer(t.Context(), "q", 0); err == nil || !strings.Contains(err.Error(), "is not followed") {
		t.Errorf("a redirection from https to http: %v", err)
	}
}

func TestEndpointKeepsTheRate(t *testing.T) {
	e := endpoint(t, EndpointConfig{PerSecond: 50}, func(w http.ResponseWriter, r *http.Request) { reply(w, "x") })
	begin := time.Now()
	for range 6 {
		if _, err := e.Answer(context.Background(), "q", 0); err != nil {
			t.Fatal(err)
		}
	}
	if d := time.Since(begin); d < 95*time.Millisecond {
		t.Errorf("6 requests at 50 a second took %v", d)
	}
}

func TestAnswerFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "answers.jsonl")
	text := `{"slmc_labels":1,"large":"cloud"}` + "\n" + `{"query":"a","answer":"x"}` + "\n" + `{"query":"b","score":0.5}` + "\n" +
		`{"query":"d","small":1,"large":{"answer":"y","score":1}}` + "\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := ReadAnswers(path)
	if err != nil {
		t.Fatal(err)
	}
	if r, err := a.Answer(context.Background(), "a", 0); err != nil || r.Text != "x" {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := a.Answer(context.Background(), "b", 0); err != nil || *r.Score != 0.5 {
		t.Errorf("%+v, %v", r, err)
	}
	if r, err := a.Answer(context.Background(), "d", 0); err != nil || *r.Score != 1 || r.Text != "y" {
		t.Errorf("%+v, %v", r, err)
	}
	if _, err := a.Answer(context.Background(), "c", 0); !errors.Is(err, ErrLabels) {
		t.Errorf("a query that the file lacks: %v", err)
	}
}
