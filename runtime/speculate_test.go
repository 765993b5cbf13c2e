package slmrt_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"slmc/formats"
	"slmc/formats/bundle"
	"slmc/internal/deferral"
	"slmc/internal/pipeline"
	slmrt "slmc/runtime"
	"slmc/tensor"
	"slmc/tokenizer"
)

// rounded is assistant-tiny in two bits by nearest code, whose tables cover 90
// positions: a draft that is often wrong, and soon full.
func rounded(t testing.TB) *slmrt.Model {
	t.Helper()
	r, err := pipeline.DefaultRecipe("w2", "")
	if err != nil {
		t.Fatal(err)
	}
	r.Context = 90
	out := filepath.Join(t.TempDir(), "draft.slmb")
	_, err = pipeline.Build(context.Background(), pipeline.Config{Source: "../testdata/assistant-tiny", Output: out, Recipe: r, Bare: true}, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	m, _, err := slmrt.Load(out, slmrt.LoadOptions{})
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

// outcome is all that a caller of Generate sees, and what it leaves behind.
type outcome struct {
	ids    []int32
	text   string
	stop   string
	pieces []string
	pos    int
	read   []deferral.Reading
	handed bool
	states []bundle.LogitsDigest // that were observed, in order
	next   bundle.LogitsDigest   // logits after one more token
}

func speculated(t testing.TB, s *slmrt.Session, rs []slmrt.Request) (out []outcome, sum slmrt.Speculated) {
	t.Helper()
	s.Truncate(0)
	for _, r := range rs {
		var o outcome
		seen := 0
		s.Observe(func(block int, x *tensor.Mat) {
			if seen++; block > 0 { // the first passes hold the prompt, in whatever batches
				o.states = append(o.states, bundle.DigestLogits(x.Row(x.R-1)))
			}
		})
		res, err := s.Generate(context.Background(), r, func(text string) error { o.pieces = append(o.pieces, text); return nil })
		s.Observe(nil)
		if err != nil && !errors.Is(err, slmrt.ErrContext) {
			t.Fatal(err)
		}
		o.ids, o.text, o.stop, o.pos = res.IDs, res.Text, res.Stop, s.Pos()
		o.read, o.handed = res.Readings, res.Handoff
		if s.Room() > 0 {
			o.next = bundle.DigestLogits(feed(t, s, []int32{5}))
			s.Truncate(o.pos)
		}
		if res.Speculation != nil {
			sum = *res.Speculation
			if plain := len(res.IDs) - 1; plain > 0 && sum.Passes+sum.Accepted != plain || sum.Accepted > sum.Proposed {
				t.Fatalf("%+v for %d tokens: each token but the last is fed by a pass or an accepted proposal", sum, len(res.IDs))
			}
		}
		out = append(out, o)
	}
	return out, sum
}

func (o outcome) same(x outcome) bool {
	return slices.Equal(o.ids, x.ids) && o.text == x.text && o.stop == x.stop && slices.Equal(o.pieces, x.pieces) &&
		slices.Equal(o.read, x.read) && o.handed == x.handed && o.pos == x.pos && slices.Equal(o.states, x.states) && o.next == x.next
}

// Whatever proposes, and however it samples, the tokens, the text and its
// pieces, the reason to stop, the states that are observed, the router's readings
// and what they hand off, and the session that is left are those of a
// generation without speculation.
func TestSpeculationChangesNothing(t *testing.T) {
	m, err := load(t).WithRouter(drawnRouter(t, load(t), [32]byte{}))
	if err != nil {
		t.Fatal(err)
	}
	two := rounded(t)
	all := requests(t)
	accepted, proposed := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		var rs []slmrt.Request
		for range rapid.IntRange(1, 3).Draw(rt, "turns") {
			q := rapid.SampledFrom(all).Draw(rt, "query").Query
			prompt, err := m.EncodeUser(q, time.Time{})
			if rapid.Bool().Draw(rt, "raw") {
				prompt, err = m.EncodeText(strings.Repeat(q+" and ", rapid.IntRange(1, 3).Draw(rt, "times")))
			}
			if err != nil {
				rt.Fatal(err)
			}
			rs = append(rs, slmrt.Request{
				Prompt: prompt, MaxTokens: rapid.IntRange(0, 30).Draw(rt, "max"),
				Stop: rapid.SliceOfN(rapid.SampledFrom([]string{"(", "er", "_", "\")", "e, "}), 0, 2).Draw(rt, "stop"),
				Sampling: slmrt.Sampling{
					Temperature:       rapid.SampledFrom([]float32{0, 0, 0.7, 1.5}).Draw(rt, "temperature"),
					TopK:              rapid.SampledFrom([]int{0, 1, 40}).Draw(rt, "top-k"),
					TopP:              rapid.SampledFrom([]float32{0, 0.9}).Draw(rt, "top-p"),
					RepetitionPenalty: rapid.SampledFrom([]float32{0, 1.3}).Draw(rt, "penalty"),
					Seed:              rapid.Uint64().Draw(rt, "seed"),
				},
			})
			if rapid.Bool().Draw(rt, "readings") {
				from := rapid.Float32Range(0, 2).Draw(rt, "handed off from")
				rs[len(rs)-1].OnReading = func(x deferral.Reading) bool { return x.Score >= from }
			}
		}
		o := slmrt.Options{
			Context: rapid.SampledFrom([]int{90, 128, 256}).Draw(rt, "context"),
			Batch:   rapid.SampledFrom([]int{1, 3, 64}).Draw(rt, "batch"), Threads: rapid.IntRange(1, 2).Draw(rt, "threads"),
		}
		sp, err := slmrt.NewSpeculator(m, slmrt.Speculation{
			Draft:   rapid.SampledFrom([]*slmrt.Model{nil, m, two}).Draw(rt, "draft"),
			Options: slmrt.Options{Context: rapid.SampledFrom([]int{0, 40}).Draw(rt, "draft context")},
			Lookup:  rapid.IntRange(0, 4).Draw(rt, "lookup"), Tokens: rapid.IntRange(0, 12).Draw(rt, "tokens"),
		})
		if err != nil {
			rt.Fatal(err)
		}
		defer sp.Close()
		s, err := m.NewSession(o)
		if err != nil {
			rt.Fatal(err)
		}
		defer s.Close()
		want, _ := speculated(t, s, rs)
		for i := range rs {
			rs[i].Speculate = sp
		}
		got, sum := speculated(t, s, rs)
		for i := range want {
			if !got[i].same(want[i]) {
				rt.Fatalf("turn %d: %q %v %s, position %d, %d states; without speculation %q %v %s, position %d, %d states",
					i, got[i].text, got[i].ids, got[i].stop, got[i].pos, len(got[i].states), want[i].text, want[i].ids, want[i].stop, want[i].pos, len(want[i].states))
			}
		}
		accepted, proposed = accepted+sum.Accepted, proposed+sum.Proposed
	})
	if accepted == 0 || accepted == proposed {
		t.Errorf("%d of %d proposals stood: the test sees only one kind", accepted, proposed)
	}
}

// A model is its own perfect draft: every proposal stands.
func TestPerfectDraft(t *testing.T) {
	endless := *load(t)
	m := &endless
	m.Stops = nil
	for _, temperature := range []float32{0, 1} {
		sp, err := slmrt.NewSpeculator(m, slmrt.Speculation{Draft: m, Tokens: 4})
		if err != nil {
			t.Fatal(err)
		}
		s := session(t, m, slmrt.Options{})
		prompt, err := m.EncodeText("remind me to")
		if err != nil {
			t.Fatal(err)
		}
		res := generate(t, s, slmrt.Request{Prompt: prompt, MaxTokens: 11, Speculate: sp, Sampling: slmrt.Sampling{Temperature: temperature, Seed: 2}})
		sp.Close()
		if res.Tokens != 11 {
			t.Fatalf("%d tokens: %s", res.Tokens, res.Stop)
		}
		// Ten steps: 5 tokens in the first pass and in the second.
		if got, want := *res.Speculation, (slmrt.Speculated{Proposed: 8, Accepted: 8, Passes: 2, TokensPerPass: 5}); got != want {
			t.Errorf("temperature %g: %+v, wanted %+v", temperature, got, want)
		}
	}
}

// A text that repeats itself is found again.
func TestLookupFindsRepetition(t *testing.T) {
	endless := *load(t)
	m := &endless
	m.Stops = nil
	sp, err := slmrt.NewSpeculator(m, slmrt.Speculation{Lookup: 3})
	if err != nil {
		t.Fatal(err)
	}
	defer sp.Close()
	s := session(t, m, slmrt.Options{})
	// A penalty below 1 makes the model say again what it has said.
	res := generate(t, s, slmrt.Request{Prompt: story(t, m, 60), MaxTokens: 60, Speculate: sp, Sampling: slmrt.Sampling{RepetitionPenalty: 0.2}})
	if got := res.Speculation; res.Tokens != 60 || got.TokensPerPass < 3 {
		t.Errorf("%d tokens, %+v: %q", res.Tokens, got, res.Text)
	}
}

func TestSpeculatorRefusals(t *testing.T) {
	m := load(t)
	other := *m
	text := slices.Clone(m.Tokenizer.Marshal())
	tok, err := tokenizer.Unmarshal(text)
	if err != nil {
		t.Fatal(err)
	}
	other.Tokenizer = tok
	if sp, err := slmrt.NewSpeculator(m, slmrt.Speculation{Draft: &other}); err != nil {
		t.Errorf("an equal tokenizer is refused: %v", err)
	} else {
		sp.Close()
	}
	data, err := os.ReadFile("../tokenizer/testdata/sp_bpe.model")
	if err != nil {
		t.Fatal(err)
	}
	if other.Tokenizer, err = tokenizer.FromSentencePiece(data, nil); err != nil {
		t.Fatal(err)
	}
	_, err = slmrt.NewSpeculator(m, slmrt.Speculation{Draft: &other})
	if !errors.Is(err, slmrt.ErrDraft) || !errors.Is(err, formats.ErrUnsupported) {
		t.Errorf("another tokenizer: %v", err)
	}
	other.Tokenizer = nil
	if _, err = slmrt.NewSpeculator(m, slmrt.Speculation{Draft: &other}); !errors.Is(err, slmrt.ErrDraft) {
		t.Errorf("no tokenizer: %v", err)
	}
	if _, err = slmrt.NewSpeculator(m, slmrt.Speculation{Draft: m, Options: slmrt.Options{Budget: 1000}}); !errors.Is(err, slmrt.ErrMemory) {
		t.Errorf("no memory: %v", err)
	}
	for _, o := range []slmrt.Speculation{{Lookup: -1}, {Lookup: 65}, {Tokens: -1}, {Tokens: 1000}} {
		if _, err := slmrt.NewSpeculator(m, o); err == nil {
			t.Errorf("%+v is accepted", o)
		}
	}
}

// A hint is somebody else's: it is refused, or within bounds.
func FuzzSpeculationHint(f *testing.F) {
	f.Add([]byte(`{"version":1,"speculate":{"draft":"d.slmb","lookup":2,"tokens":4}}`))
	f.Add([]byte(`{"speculate":{"draft":"../../etc/passwd"}}`))
	f.Add([]byte(`{"speculate":{"lookup":1000000000}}`))
	f.Add([]byte(`{"speculate":[]}`))
	f.Fuzz(func(t *testing.T, recipe []byte) {
		h, err := slmrt.ParseHint(recipe)
		if err == nil && (h.Lookup < 0 || h.Lookup > 64 || h.Tokens < 0 || h.Tokens > 64 || strings.ContainsAny(h.Draft, "/\\\x00") || h.Draft == "..") {
			t.Errorf("%q is accepted as %+v", recipe, h)
		}
	})
}

// A budget counts what speculation takes on top of the session.
func TestSpeculationBudget(t *testing.T) {
	m := load(t)
	mem, err := m.Memory(slmrt.Options{})
	if err != nil {
		t.Fatal(err)
	}
	rows := int64(5 * 4 * m.Graph.Vocab)
	for _, c := range []struct {
		extra int64
		ok    bool
	}{{rows, true}, {rows - 1, false}} {
		sp, err := slmrt.OpenSpeculator(m, nil, "", slmrt.Wish{Lookup: 2, Said: true}, slmrt.Options{Budget: mem.Total + c.extra}, func(string) {})
		if c.ok && err != nil || !c.ok && !errors.Is(err, slmrt.ErrMemory) {
			t.Errorf("%d bytes beside the session: %v", c.extra, err)
		}
		if sp != nil {
			if err := sp.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}
