package kvshare_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"testing"

	"slmc/internal/kernel"
	"slmc/kvshare"
)

// candidate is one of a search; its name says which map it is.
func candidate(taker int, name string, kl float64) kvshare.Candidate {
	return kvshare.Candidate{Name: name, Plan: kvshare.Plan{taker: 0}, KL: kl}
}

// maps lists the takers of candidates, which tell them apart here.
func maps(all []kvshare.Candidate) []int {
	var out []int
	for _, c := range all {
		out = append(out, c.Plan.Takers()[0])
	}
	return out
}

// What is left after healing decides, not what there was before: a fixed plan
// of the worst divergence wins if it heals best, a map that looks best after a
// short heal loses to one that is better after a longer one, and what can not
// be healed is last of its round.
func TestTrials(t *testing.T) {
	all := []kvshare.Candidate{
		candidate(1, "search", 0.1), candidate(2, "search", 0.2), candidate(3, "search", 0.3), candidate(4, "search", 0.4),
		candidate(5, "cla2", 0.5), candidate(6, "tail", 0.6),
	}
	after := map[int][]float64{ // by tokens: 100, 200, 400
		1: {0.05, 0.04},
		2: {math.Inf(1)},
		3: {0.09},
		5: {0.02, 0.02, 0.02},
		6: {0.03, 0.03, 0.01},
	}
	var calls []string
	run := kvshare.TrialRun{
		Config: kvshare.TrialConfig{Candidates: 5, Rounds: 3, Tokens: 100, Held: 1000},
		Heal: func(_ context.Context, p kvshare.Plan, tokens int) (kvshare.Trial, error) {
			calls = append(calls, fmt.Sprint(p.Takers()[0], "@", tokens))
			return kvshare.Trial{KL: after[p.Takers()[0]][map[int]int{100: 0, 200: 1, 400: 2}[tokens]], Tokens: tokens}, nil
		},
	}
	got, err := run.Run(t.Context(), all)
	if err != nil {
		t.Fatal(err)
	}
	// Five of six are tried, both fixed plans among them, and 4 is not.
	wantCalls := []string{"1@100", "2@100", "3@100", "5@100", "6@100", "5@200", "6@200", "1@200", "5@400", "6@400"}
	if !slices.Equal(calls, wantCalls) {
		t.Errorf("healed %v, wanted %v", calls, wantCalls)
	}
	if want := []int{6, 5, 1, 3, 2, 4}; !slices.Equal(maps(got), want) {
		t.Errorf("order %v, wanted %v", maps(got), want)
	}
	if c := got[0]; c.Healed == nil || *c.Healed != 0.01 || c.HealedTokens != 400 || c.KL != 0.6 || c.Name != "tail" {
		t.Errorf("the first is %+v", c)
	}
	if c := got[4]; c.Healed != nil || c.HealedTokens != 100 {
		t.Errorf("the one that can not be healed is %+v", c)
	}
	if c := got[5]; c.Healed != nil || c.HealedTokens != 0 {
		t.Errorf("the one that was not tried is %+v", c)
	}
	if best := (kvshare.SearchReport{Candidates: got}).Best(); best.String() != "6-6:0" {
		t.Errorf("chosen: %s", best)
	}
}

// Of two maps that are as good after the same heal the one that learns faster is
// taken, as far as one more doubling carries it; one whose examples ran out, or
// that got worse, is taken as it is.
func TestTrialsExpected(t *testing.T) {
	all := []kvshare.Candidate{candidate(1, "search", 0.1), candidate(2, "cla2", 0.2), candidate(3, "tail", 0.3)} // the third makes two rounds
	for what, w := range map[string]struct {
		slow, fast [2]kvshare.Trial
		expected   float64
		first      int
	}{
		"assistant-small, 30 %": {[2]kvshare.Trial{{0.1031, 65536}, {0.0839, 131072}}, [2]kvshare.Trial{{0.1087, 65536}, {0.0840, 131072}}, 0.0840 * 0.0840 / 0.1087, 2},
		"too far behind":        {[2]kvshare.Trial{{0.10, 100}, {0.09, 200}}, [2]kvshare.Trial{{0.16, 100}, {0.12, 200}}, 0.09 * 0.09 / 0.10, 1},
		"no more examples":      {[2]kvshare.Trial{{0.10, 100}, {0.09, 100}}, [2]kvshare.Trial{{0.16, 100}, {0.091, 100}}, 0.09, 1},
		"worse":                 {[2]kvshare.Trial{{0.10, 100}, {0.11, 200}}, [2]kvshare.Trial{{0.16, 100}, {0.15, 200}}, 0.11, 1},
		"four times the tokens": {[2]kvshare.Trial{{0.4, 100}, {0.1, 400}}, [2]kvshare.Trial{{0.5, 100}, {0.2, 400}}, 0.05, 1},
	} {
		got, err := kvshare.TrialRun{
			Config: kvshare.TrialConfig{Candidates: 3, Rounds: 2, Tokens: 1, Held: 1000},
			Heal: func(_ context.Context, p kvshare.Plan, tokens int) (kvshare.Trial, error) {
				switch p.Takers()[0] {
				case 1:
					return w.slow[tokens-1], nil
				case 2:
					return w.fast[tokens-1], nil
				}
				return kvshare.Trial{KL: 9, Tokens: tokens}, nil
			},
		}.Run(t.Context(), all)
		if err != nil {
			t.Fatal(err)
		}
		if got[0].Plan.Takers()[0] != w.first || math.Abs(*got[0].Expected-w.expected) > 1e-12 {
			t.Errorf("%s: the first is %v, %g expected, wanted %d, %g", what, got[0].Plan, *got[0].Expected, w.first, w.expected)
		}
	}
}

// Between maps that heal alike the divergence before decides, and without
// trials it alone.
func TestTrialsTies(t *testing.T) {
	all := []kvshare.Candidate{candidate(3, "tail", 0.5), candidate(1, "search", 0.2), candidate(2, "search", 0.1)}
	healed := 0
	run := kvshare.TrialRun{
		Config: kvshare.TrialConfig{Candidates: 9, Rounds: 9, Tokens: 10, Held: 1000},
		Heal: func(_ context.Context, _ kvshare.Plan, tokens int) (kvshare.Trial, error) {
			healed++
			return kvshare.Trial{KL: 0.01, Tokens: tokens}, nil
		},
	}
	got, err := run.Run(t.Context(), all)
	if err != nil || !slices.Equal(maps(got), []int{2, 1, 3}) || healed != 5 {
		t.Errorf("%v after %d heals, %v", maps(got), healed, err)
	}
	run.Config, healed = kvshare.TrialConfig{}, 0
	got, err = run.Run(t.Context(), []kvshare.Candidate{all[2], all[1], all[0]})
	if err != nil || !slices.Equal(maps(got), []int{2, 1, 3}) || healed != 0 || got[0].Healed != nil {
		t.Errorf("without trials: %+v after %d heals, %v", got, healed, err)
	}
	want := errors.New("no space left")
	run.Config = kvshare.TrialConfig{Candidates: 2, Rounds: 1, Tokens: 10, Held: 1000}
	run.Heal = func(context.Context, kvshare.Plan, int) (kvshare.Trial, error) { return kvshare.Trial{}, want }
	if _, err := run.Run(t.Context(), all); !errors.Is(err, want) {
		t.Errorf("a heal that fails gives %v", err)
	}
}

// No sequence is both learned from and measured on, also where the examples
// repeat one, and the seed alone decides which.
func TestTrialSplit(t *testing.T) {
	var seqs [][]int32
	for i := range 300 {
		seqs = append(seqs, []int32{int32(i % 150), 1, 2, 3, 4, 5, 6, 7, 8, 9})
	}
	c := kvshare.TrialConfig{Candidates: 2, Rounds: 1, Tokens: 500, Held: 400}
	e, err := c.Split(seqs, 1)
	if err != nil {
		t.Fatal(err)
	}
	held := map[int32]bool{}
	for _, q := range e.Held {
		held[q[0]] = true
	}
	if len(e.Held) != 40 || len(held) != 40 {
		t.Errorf("%d sequences are held back, %d of them different, wanted 40", len(e.Held), len(held))
	}
	if len(e.Learn) != 300-2*40 {
		t.Errorf("%d sequences to learn from, wanted 220", len(e.Learn))
	}
	for _, q := range e.Learn {
		if held[q[0]] {
			t.Fatalf("sequence %v is learned from and measured on", q)
		}
	}
	again, err := c.Split(seqs, 1)
	if err != nil || !reflect.DeepEqual(e, again) {
		t.Errorf("the same seed gives other examples, %v", err)
	}
	if other, err := c.Split(seqs, 2); err != nil || reflect.DeepEqual(e.Held, other.Held) {
		t.Errorf("another seed holds back the same, %v", err)
	}
	for _, w := range []struct {
		tokens, seqs int
		most, epochs float64
	}{{500, 50, 2, 1}, {500, 50, 0.5, 1}, {500, 22, 0.1, 1}, {4400, 220, 3, 2}, {1 << 20, 220, 3, 3}} {
		if s, epochs := e.First(w.tokens, w.most); len(s) != w.seqs || epochs != w.epochs {
			t.Errorf("%d tokens: %g passes over %d sequences, wanted %g over %d", w.tokens, epochs, len(s), w.epochs, w.seqs)
		}
	}
	for what, few := range map[string][][]int32{
		"little text": seqs[:60], "one sequence": {make([]int32, 5000)}, "one repeated": {make([]int32, 2000), make([]int32, 2000)}, "none": nil,
	} {
		if _, err := c.Split(few, 1); !errors.Is(err, kvshare.ErrTooFew) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestTrialConfig(t *testing.T) {
	good := kvshare.DefaultSearch().Trial
	for what, change := range map[string]func(c *kvshare.TrialConfig){
		"negative candidates": func(c *kvshare.TrialConfig) { c.Candidates = -1 },
		"no rounds":           func(c *kvshare.TrialConfig) { c.Rounds = 0 },
		"endless rounds":      func(c *kvshare.TrialConfig) { c.Rounds = 70 },
		"no tokens":           func(c *kvshare.TrialConfig) { c.Tokens = 0 },
		"nothing held back":   func(c *kvshare.TrialConfig) { c.Held = 0 },
	} {
		c := good
		change(&c)
		if err := c.Check(); !errors.Is(err, kvshare.ErrPlan) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := (kvshare.TrialConfig{}).Check(); err != nil {
		t.Errorf("no trials: %v", err)
	}
	if got := good.Plan(1); got != nil {
		t.Errorf("a map alone is tried: %v", got)
	}
}

// A shared model is judged by the divergence that a search measures.
func TestJudge(t *testing.T) {
	m, plan := open(t, "assistant-tiny"), kvshare.Plan{3: 2, 5: 1}
	f, err := kernel.Select("")
	if err != nil {
		t.Fatal(err)
	}
	seqs := examples(m.Vocab)
	judge, err := kvshare.NewJudge(t.Context(), m, seqs, f)
	if err != nil {
		t.Fatal(err)
	}
	shared, err := kvshare.Rewrite(m, plan)
	if err != nil {
		t.Fatal(err)
	}
	got, err := judge.KL(t.Context(), shared)
	if err != nil {
		t.Fatal(err)
	}
	c := kvshare.DefaultSearch()
	c.Tokens = judge.Tokens()
	want, err := kvshare.SearchRun{Model: m, Seqs: seqs, Config: c, Kernel: f, Threads: 1}.Measure(t.Context(), []kvshare.Candidate{{Plan: plan}})
	if err != nil {
		t.Fatal(err)
	}
	if math.Abs(got-want[0].KL) > 1e-12 || !(got > 0) {
		t.Errorf("KL %g, a search measures %g", got, want[0].KL)
	}
	if same, err := judge.KL(t.Context(), m); err != nil || same > 1e-12 {
		t.Errorf("the model itself: KL %g, %v", same, err)
	}
}
