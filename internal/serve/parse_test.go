package serve

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	slmrt "slmc/runtime"
)

// A repetition vanishes however it is cut into pieces; what is none comes through
// whole.
func TestEcho(t *testing.T) {
	const begun = "PlayMusic(artist=\"x\", "
	for _, c := range []struct{ begun, said, want string }{
		{begun, begun + "y)", "y)"},
		{begun, "y)", "y)"},
		{begun, begun, ""},
		{begun, "Play something", "Play something"},
		{begun, "PlayMusic(", "PlayMusic("}, // ended within: who knows
		{begun, begun + begun, begun},       // once
		{"ha", "haha", "haha"},              // too short to tell
		{"", "hello", "hello"},
	} {
		rapid.Check(t, func(t *rapid.T) {
			e, got, rest := echo{want: c.begun}, "", c.said
			for rest != "" {
				n := rapid.IntRange(1, len(rest)).Draw(t, "piece")
				got += e.push(rest[:n])
				rest = rest[n:]
			}
			if got += e.rest(); got != c.want {
				t.Fatalf("after %q came %q, passed on as %q, wanted %q", c.begun, c.said, got, c.want)
			}
		})
	}
}

// What the window holds is what was spent within it, never less.
func TestLedger(t *testing.T) {
	now := time.Unix(1e6, 0)
	p := slmrt.DefaultPolicy()
	p.Budget.Calls, p.Budget.Tokens, p.Budget.WindowS = 2, 100, 60
	l := newLedger(p, func() time.Time { return now })
	had := 0
	for range 5 {
		if l.take() {
			had++
		}
	}
	if had != 2 {
		t.Errorf("%d calls were to be had, wanted 2", had)
	}
	l.refund()
	if !l.take() {
		t.Error("a call that was given back was not to be had")
	}
	now = now.Add(59 * time.Second)
	if l.take() {
		t.Error("a call within the window")
	}
	now = now.Add(2 * time.Second)
	l.charge(100)
	if l.take() {
		t.Error("a call although the tokens are spent")
	}
	now = now.Add(time.Hour)
	d := l.decide(slmrt.Situation{})
	if d.Outcome != slmrt.Defer {
		t.Errorf("%+v in a new window", d)
	}
	l.decide(slmrt.Situation{})
	if d = l.decide(slmrt.Situation{}); d.Outcome != slmrt.LocalWithWarning || d.Reason != slmrt.ReasonBudget {
		t.Errorf("%+v after two calls", d)
	}
}

// What is expected follows what was seen; nothing is expected before.
func TestSpeeds(t *testing.T) {
	var s speeds
	if here, there := s.expect(10); here != 0 || there != 0 {
		t.Errorf("%v and %v of nothing", here, there)
	}
	s.local(2*time.Second, 20)
	s.remote(3 * time.Second)
	if here, there := s.expect(0); here != 2*time.Second || there != 3*time.Second {
		t.Errorf("%v and %v, wanted what was seen", here, there)
	}
	if here, _ := s.expect(5); here != 500*time.Millisecond {
		t.Errorf("%v for 5 tokens at most", here)
	}
	for range 200 {
		s.remote(time.Second)
	}
	if _, there := s.expect(0); there > 1001*time.Millisecond {
		t.Errorf("%v long after it became faster", there)
	}
	s.local(time.Second, 0) // an answer without tokens says nothing
	if here, _ := s.expect(0); here != 2*time.Second {
		t.Errorf("%v after an empty answer", here)
	}
}

func TestGate(t *testing.T) {
	g := newGate(1, 1, time.Hour)
	ctx := context.Background()
	if err := g.enter(ctx); err != nil {
		t.Fatal(err)
	}
	in := make(chan error)
	go func() { in <- g.enter(ctx) }()
	for g.waiting.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := g.enter(ctx); !errors.Is(err, errQueueFull) {
		t.Errorf("error %v, wanted a full queue", err)
	}
	g.leave()
	if err := <-in; err != nil {
		t.Error(err)
	}
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if err := g.enter(gone); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, wanted the client's", err)
	}
	g.leave()
	late := newGate(1, 1, time.Nanosecond)
	if err := errors.Join(late.enter(ctx), late.enter(ctx)); !errors.Is(err, errQueueWait) {
		t.Errorf("error %v, wanted to have waited in vain", err)
	}
}

// A key does not print, whoever tries.
func TestSecret(t *testing.T) {
	s := Secret("abc-key")
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "key", s, "config", UpstreamConfig{Key: s})
	text, err := json.Marshal(struct{ Key Secret }{s})
	if err != nil {
		t.Fatal(err)
	}
	if all := fmt.Sprintf("%s %v %+v %#v %q %s", s, s, UpstreamConfig{Key: s}, s, s, text) + log.String(); strings.Contains(all, "abc-key") {
		t.Error(all)
	}
}

// What a large model sends is read without a panic, and no more text comes out
// than went in.
func FuzzEvents(f *testing.F) {
	f.Add([]byte("data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":null}]}\n\ndata: [DONE]\n\n"))
	f.Add([]byte("\xef\xbb\xbf: x\r\ndata: {\"choices\":[{\"text\":\"a\",\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":-1}}\r\n\r\n"))
	f.Add([]byte("data: {\"error\":{}}\n\nevent\ndata\n\n"))
	f.Add([]byte("data: {\"choices\":[{\"delta\":{\"content\":[1],\"x\":null}}]}\n\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		n := 0
		done, err := events(bytes.NewReader(data), func(d []byte) error {
			p, some, err := parsePiece(d)
			if n += len(p.text); !some && p.text != "" {
				t.Error("a piece of nothing has text")
			}
			return err
		})
		if done && err != nil {
			t.Errorf("done, and %v", err)
		}
		if n > 3*len(data) { // a byte that is no character becomes three
			t.Errorf("%d bytes of text from %d", n, len(data))
		}
	})
}

// TestFieldsInOtherCase holds that a field is read and sent on by one name: the
// privacy class of "SLMC" must not reach an upstream.
func TestFieldsInOtherCase(t *testing.T) {
	for _, text := range []string{
		`{"meSsages":[{"role":"user","content":"x"}]}`,
		`{"messages":[{"role":"user","content":"x"}],"SLMC":{"privacy":"p"}}`,
		`{"messages":[{"role":"user","content":"x"}],"ſtop":"a"}`,
	} {
		_, err := parseQuery(endpointChat, strings.NewReader(text))
		var wrong *badRequest
		if !errors.As(err, &wrong) || !strings.Contains(wrong.msg, "is no field") {
			t.Errorf("%s: %v", text, err)
		}
	}
}

// A request is read without a panic; what is taken can be sent on.
func FuzzQuery(f *testing.F) {
	f.Add(`{"model":"auto","messages":[{"role":"user","content":"x"}],"stream":true,"stop":["a"],"seed":-1}`, true)
	f.Add(`{"prompt":["x"],"max_tokens":3,"temperature":1e300,"slmc":{"privacy":"p"}}`, false)
	f.Add(`{"messages":[{"role":"assistant","content":[{"type":"text","text":"y"}]}],"continue_final_message":true,"add_generation_prompt":false}`, true)
	f.Add(`{"messages":[{}],"n":null,"stop":null}`, true)
	f.Add(`{"meſSages":[{"role":"user","content":"x"}]}`, true)
	f.Fuzz(func(t *testing.T, text string, isChat bool) {
		endpoint := endpointCompletion
		if isChat {
			endpoint = endpointChat
		}
		q, err := parseQuery(endpoint, strings.NewReader(text))
		if err != nil {
			var wrong *badRequest
			if !errors.As(err, &wrong) {
				t.Fatalf("error %v is no bad request", err)
			}
			return
		}
		for _, begun := range []string{"", "so far"} {
			b, err := q.remote(begun, 5)
			if err != nil {
				t.Fatal(err)
			}
			if b["slmc"] != nil {
				t.Error("own fields are sent on")
			}
			if _, err := json.Marshal(b); err != nil {
				t.Fatal(err)
			}
		}
		q.single()
		q.chat()
	})
}
