package kvshare

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"slmc/internal/exec"
	"slmc/internal/kernel"
	"slmc/model"
)

// What a search minimizes, the divergence before healing, does not rank maps
// that lie close together after it (docs/experiments.md, "Choosing a map by
// short heals"). So the best few maps and every fixed plan of the same size are
// healed for a short while, and those that are nearest to the unshared model on
// examples that no trial learns from go on: successive halving (Jamieson and
// Talwalkar, arXiv 1502.07943). We differ in two ways. Each round heals anew,
// from the source's weights, with twice the tokens: the schedule of the learning
// rate spans a run, so a run can not be made longer afterwards. And from the
// second round on maps are compared by where they will be after twice the tokens
// of the round, on the power law through their last two: what is furthest off at
// the start heals fastest, so the order of short heals is still that of none.

// ErrTooFew is too little text to hold some of it back from trials.
var ErrTooFew = errors.New("too few examples to heal maps on trial")

// TrialConfig is how maps are tried. All of it decides the result.
type TrialConfig struct {
	// Candidates is how many maps the first round heals: the fixed plans, and
	// the best of what the search measured. 0: nothing is healed on trial, and
	// the divergence before healing decides.
	Candidates int `json:"candidates" yaml:"candidates"`
	// Rounds is the number of rounds; each goes on with the better half of the
	// one before, on twice its tokens.
	Rounds int `json:"rounds" yaml:"rounds"`
	// Tokens is about how many tokens a map of the first round learns from.
	Tokens int `json:"tokens" yaml:"tokens"`
	// Held is about how many tokens are held back to measure on, at most a
	// quarter of all.
	Held int `json:"held" yaml:"held"`
}

// minHeld is the fewest tokens that tell maps apart at all.
const minHeld = 256

// Check reports a setting outside its range.
func (c TrialConfig) Check() error {
	if c.Candidates == 0 {
		return nil
	}
	if c.Candidates < 1 || c.Rounds < 1 || c.Rounds > 16 || c.Tokens < 1 || c.Tokens > 1<<32 || c.Held < minHeld {
		return fmt.Errorf("%w: trials of %d candidates in %d rounds on %d tokens, %d held back: want 1 or more (candidates 0: none), 1 to 16 rounds, and %d held back or more",
			ErrPlan, c.Candidates, c.Rounds, c.Tokens, c.Held, minHeld)
	}
	return nil
}

// Round is one round of trials.
type Round struct {
	Maps   int `json:"maps"`
	Tokens int `json:"tokens"` // about, that each map learns from
}

// Plan lists the rounds for n maps to choose from; one alone is not tried.
func (c TrialConfig) Plan(n int) []Round {
	var out []Round
	n = min(n, c.Candidates)
	for r := 0; r < c.Rounds && n > 1; r++ {
		out = append(out, Round{n, c.Tokens << r})
		n = (n + 1) / 2
	}
	return out
}

// Examples are what trials learn from and are measured on, no sequence in both.
type Examples struct {
	Learn, Held [][]int32
}

// Split draws the examples of trials from seed. A sequence that is held back is
// held back wherever it occurs. ErrTooFew when less than minHeld tokens could
// be held back, a quarter of all.
func (c TrialConfig) Split(seqs [][]int32, seed uint64) (Examples, error) {
	all := count(seqs)
	want := min(c.Held, all/4)
	if want < minHeld {
		return Examples{}, fmt.Errorf("%w: they have %d tokens, wanted %d", ErrTooFew, all, 4*minHeld)
	}
	var e Examples
	held, tokens := map[string]bool{}, 0
	order := rand.New(rand.NewPCG(seed, 1)).Perm(len(seqs))
	for _, i := range order {
		if k := fmt.Sprint(seqs[i]); tokens < want && !held[k] {
			held[k] = true
			tokens += len(seqs[i])
			e.Held = append(e.Held, seqs[i])
		}
	}
	for _, i := range order {
		if !held[fmt.Sprint(seqs[i])] {
			e.Learn = append(e.Learn, seqs[i])
		}
	}
	if tokens < minHeld || count(e.Learn) < minHeld {
		return Examples{}, fmt.Errorf("%w: of %d tokens %d could be held back, %d are left to learn from, wanted %d each", ErrTooFew, all, tokens, count(e.Learn), minHeld)
	}
	return e, nil
}

// First gives the sequences of Learn that have about tokens tokens and the
// passes over them: one, or those that make it so many where there are less. It
// is never more than most passes over all.
func (e Examples) First(tokens int, most float64) (seqs [][]int32, epochs float64) {
	all := float64(count(e.Learn))
	want := min(float64(tokens), most*all)
	n := 0
	for i, q := range e.Learn {
		if n += len(q); float64(n) >= want {
			return e.Learn[:i+1], 1
		}
	}
	return e.Learn, want / all
}

func count(seqs [][]int32) int {
	n := 0
	for _, q := range seqs {
		n += len(q)
	}
	return n
}

// varied picks n of the maps that were measured, and at least Beam. The best
// maps of all differ in single givers, which healing makes alike, so for each
// set of takers there are the best map and the one of the nearest givers: far
// givers are best before healing, near ones often after it.
func (s *search) varied(ctx context.Context, top Candidate, n int) ([]Candidate, error) {
	n = max(n, s.Config.Beam)
	whole := []Candidate{top}
	for _, c := range s.known {
		if len(c.Plan) == s.Takers {
			whole = append(whole, c)
		}
	}
	var out []Candidate
	sets := map[string]bool{}
	for _, c := range best(whole, len(whole)) {
		set := fmt.Sprint(c.Plan.Takers())
		if sets[set] || len(out) >= n {
			continue
		}
		sets[set] = true
		near, err := s.measure(ctx, []Candidate{{Plan: nearest(s.Model.Graph, c.Plan)}})
		if err != nil {
			return nil, err
		}
		out = append(out, c)
		if fixed := near[0].Name != ""; !fixed && near[0].Plan.String() != c.Plan.String() {
			out = append(out, near[0])
		}
	}
	return out[:min(n, len(out))], nil
}

// nearest is p with each taker reading the last block before it that gives and
// that it can read.
func nearest(g *model.Graph, p Plan) Plan {
	out := Plan{}
	for taker, giver := range p {
		out[taker] = giver
		for i := taker - 1; i > giver; i-- {
			if _, takes := p[i]; !takes && (Plan{taker: i}).Check(g) == nil {
				out[taker] = i
				break
			}
		}
	}
	if out.Check(g) != nil {
		return p
	}
	return out
}

// TrialRun is what trials work with.
type TrialRun struct {
	Config TrialConfig
	// Heal heals the model shared by a map on about tokens tokens.
	Heal func(ctx context.Context, p Plan, tokens int) (Trial, error)
}

// Trial is what a heal gave.
type Trial struct {
	// KL is the divergence that is left on the examples held back, in nats a
	// token; NaN or +Inf for a map that can not be healed.
	KL     float64
	Tokens int // learned from
}

// Run tries candidates of a search and orders them: those of the last round by
// what is expected of them, those that dropped out before behind them, round by
// round, and the ones that were not tried last. The divergence before healing
// decides between equals.
func (r TrialRun) Run(ctx context.Context, all []Candidate) ([]Candidate, error) {
	if err := r.Config.Check(); err != nil {
		return nil, err
	}
	in := r.entrants(all)
	rest := slices.DeleteFunc(slices.Clone(all), func(c Candidate) bool {
		return slices.ContainsFunc(in, func(d Candidate) bool { return d.Plan.String() == c.Plan.String() })
	})
	for _, round := range r.Config.Plan(len(in)) {
		for i := range round.Maps {
			t, err := r.Heal(ctx, in[i].Plan, round.Tokens)
			if err != nil {
				return nil, fmt.Errorf("map %s: %w", in[i].Plan, err)
			}
			in[i].note(t)
		}
		slices.SortStableFunc(in[:round.Maps], func(a, b Candidate) int {
			return cmp.Or(cmp.Compare(a.expected(), b.expected()), cmp.Compare(a.KL, b.KL))
		})
	}
	return append(in, rest...), nil
}

// note keeps what a round gave.
func (c *Candidate) note(t Trial) {
	before, tokens := c.Healed, c.HealedTokens
	c.Healed, c.Expected, c.HealedTokens = nil, nil, t.Tokens
	if math.IsNaN(t.KL) || math.IsInf(t.KL, 1) {
		return
	}
	expected := t.KL
	// A map that longer healing made worse is expected to get no better.
	if before != nil && t.Tokens > tokens && tokens > 0 && t.KL > 0 && t.KL < *before {
		expected *= math.Pow(t.KL / *before, math.Ln2/math.Log(float64(t.Tokens)/float64(tokens)))
	}
	c.Healed, c.Expected = &t.KL, &expected
}

// expected is +Inf for a map that can not be healed.
func (c Candidate) expected() float64 {
	if c.Expected == nil {
		return math.Inf(1)
	}
	return *c.Expected
}

// entrants are the candidates of the first round, those of the lowest
// divergence first: the fixed plans, since a search promises to be no worse
// than they are, and the best others.
func (r TrialRun) entrants(all []Candidate) []Candidate {
	all = best(all, len(all))
	isFixed := func(c Candidate) bool { return c.Name != string(Search) }
	fixed := slices.DeleteFunc(slices.Clone(all), func(c Candidate) bool { return !isFixed(c) })
	found := slices.DeleteFunc(slices.Clone(all), isFixed)
	n := min(r.Config.Candidates, len(all))
	found = found[:min(len(found), max(1, n-len(fixed)))]
	out := best(append(found, fixed...), len(all))
	return out[:min(n, len(out))]
}

// Judge measures models by KL(unshared || shared) over the same examples.
type Judge struct{ m *meter }

// NewJudge runs the unshared model over seqs, as far as its logits fit
// maxLogits.
func NewJudge(ctx context.Context, unshared *model.Model, seqs [][]int32, f *kernel.Funcs) (Judge, error) {
	m, err := newMeter(ctx, unshared, seqs, count(seqs), 0, f, 1)
	return Judge{m}, err
}

// Tokens is the number of positions that are measured.
func (j Judge) Tokens() int { return j.m.tokens }

// KL is the divergence of m from the unshared model, in nats a position.
func (j Judge) KL(ctx context.Context, m *model.Model) (float64, error) {
	of := *j.m
	of.g = m.Graph
	var err error
	if of.params, err = exec.LoadParams(m, of.longest); err != nil {
		return 0, err
	}
	return of.kl(ctx, nil)
}
