package kvshare

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	"slmc/internal/kernel"
	"slmc/model"
)

// A search finds a map without training: it measures maps by what they do to
// the output on examples. KVSharer (arXiv 2410.18517) ranks pairs of blocks by
// how unlike their caches are and takes them in that order; its map is one of
// our candidates, with the fixed plans of the same number of takers. Ours
// differs: a beam search over maps, one pair at a time, by the KL divergence of
// the output itself, and then exchanges of single pairs for as long as they
// help. A map is any that Plan.Check accepts: later blocks read earlier ones,
// wherever they lie.

// SearchConfig is how a search is run. All of it decides the result.
type SearchConfig struct {
	// Tokens is about how many tokens of the examples a map is measured on.
	Tokens int `json:"tokens" yaml:"tokens"`
	// Beam is the number of maps that each step goes on from.
	Beam int `json:"beam" yaml:"beam"`
	// Pairs is the number of pairs that are measured alone; beyond it, those
	// of the nearest givers come first, then the most unlike caches.
	Pairs int `json:"pairs" yaml:"pairs"`
	// Wide is the number of pairs, the best alone, that later steps add.
	Wide int    `json:"wide" yaml:"wide"`
	Seed uint64 `json:"seed" yaml:"seed"`
	// Trial is how the best maps are healed on trial where the model is healed.
	Trial TrialConfig `json:"trial" yaml:"trial"`
}

// DefaultSearch is what docs/experiments.md, "Searching for a map" and
// "Choosing a map by short heals", arrive at.
func DefaultSearch() SearchConfig {
	return SearchConfig{
		Tokens: 2048, Beam: 3, Pairs: 128, Wide: 24, Seed: 1,
		Trial: TrialConfig{Candidates: 8, Rounds: 3, Tokens: 1 << 15, Held: 1 << 14},
	}
}

// Check reports a setting outside its range.
func (c SearchConfig) Check() error {
	if c.Tokens < 1 || c.Beam < 1 || c.Pairs < 1 || c.Wide < 1 {
		return fmt.Errorf("%w: search with tokens %d, beam %d, pairs %d, wide %d: all must be positive", ErrPlan, c.Tokens, c.Beam, c.Pairs, c.Wide)
	}
	return c.Trial.Check()
}

// SearchRun is what a search works with.
type SearchRun struct {
	Model   *model.Model
	Takers  int       // Spec.Count
	Seqs    [][]int32 // examples, each at most the context long
	Config  SearchConfig
	Kernel  *kernel.Funcs
	Threads int
	// Progress is called with the maps measured so far and an estimate of all;
	// may be nil.
	Progress func(done, total int)
}

// Candidate is a measured map.
type Candidate struct {
	Name string  `json:"name,omitempty"` // "search", or the fixed plan it is
	Plan Plan    `json:"plan"`
	KL   float64 `json:"kl"` // mean over the examples' positions, nats
	// Healed is what the last trial left of the divergence, on other examples,
	// after HealedTokens tokens, and Expected what twice as many are expected to
	// leave, which decides; nil where the map was not tried, or can not be healed.
	Healed       *float64 `json:"healed_kl,omitempty"`
	Expected     *float64 `json:"expected_kl,omitempty"`
	HealedTokens int      `json:"healed_tokens,omitempty"`
}

// SearchReport tells what a search found, best first.
type SearchReport struct {
	Tokens     int         `json:"tokens"`   // that each map was measured on
	Measured   int         `json:"measured"` // maps
	Candidates []Candidate `json:"candidates"`
	// Trial is what choosing among them by short heals took; nil without.
	Trial *TrialReport `json:"trial,omitempty"`
}

// TrialReport tells how maps were tried.
type TrialReport struct {
	Rounds []Round `json:"rounds"`
	Tokens int     `json:"tokens"` // learned from, of all rounds
	Held   int     `json:"held"`   // measured on, the same for all maps
}

// Best is the map to share by.
func (r SearchReport) Best() Plan { return r.Candidates[0].Plan }

// search is one run.
type search struct {
	SearchRun
	m     *meter
	known map[string]Candidate // by Plan.String
	total int
}

// Run searches. It is deterministic: the number of threads decides nothing.
func (r SearchRun) Run(ctx context.Context) (SearchReport, error) {
	if err := r.Config.Check(); err != nil {
		return SearchReport{}, err
	}
	if r.Takers < 1 || r.Takers >= len(r.Model.Blocks) {
		return SearchReport{}, fmt.Errorf("%w: %d of %d blocks would take", ErrPlan, r.Takers, len(r.Model.Blocks))
	}
	m, err := newMeter(ctx, r.Model, r.Seqs, r.Config.Tokens, r.Config.Seed, r.Kernel, r.Threads)
	if err != nil {
		return SearchReport{}, err
	}
	s := &search{SearchRun: r, m: m, known: map[string]Candidate{}}
	m.tick = func() {
		if r.Progress != nil {
			r.Progress(len(s.known)+1, max(s.total, len(s.known)+1))
		}
	}
	return s.run(ctx)
}

func (s *search) run(ctx context.Context) (SearchReport, error) {
	order, err := s.unlike(ctx)
	if err != nil {
		return SearchReport{}, err
	}
	pairs := s.choose(order)
	s.total = len(pairs) + (s.Takers-1)*s.Config.Beam*min(s.Config.Wide, len(pairs)) + s.Takers*min(s.Config.Wide, len(pairs))
	fixed, err := s.measure(ctx, append(Fixed(s.Model.Graph, s.Takers), s.sharer(order)...))
	if err != nil {
		return SearchReport{}, err
	}
	beam, err := s.measure(ctx, pairs)
	if err != nil {
		return SearchReport{}, err
	}
	beam = best(beam, s.Config.Wide)
	wide := beam
	for step := 1; step < s.Takers; step++ {
		if beam, err = s.measure(ctx, extend(s.Model.Graph, best(beam, s.Config.Beam), wide)); err != nil {
			return SearchReport{}, err
		}
	}
	all := best(append(slices.Clone(beam), fixed...), s.Config.Beam)
	if len(all) == 0 {
		return SearchReport{}, fmt.Errorf("%w: no map with %d takers was found", ErrPlan, s.Takers)
	}
	top, err := s.exchange(ctx, all[0], wide)
	if err != nil {
		return SearchReport{}, err
	}
	found, err := s.varied(ctx, top, s.Config.Trial.Candidates-len(fixed))
	if err != nil {
		return SearchReport{}, err
	}
	return s.report(slices.Concat(found, fixed)), nil
}

// report lists maps, best first.
func (s *search) report(all []Candidate) SearchReport {
	out := SearchReport{Tokens: s.m.tokens, Measured: len(s.known), Candidates: best(all, len(all))}
	for i, c := range out.Candidates {
		out.Candidates[i].Name = cmp.Or(s.known[c.Plan.String()].Name, string(Search))
	}
	return out
}

// measure measures maps, those of an earlier call from memory.
func (s *search) measure(ctx context.Context, plans []Candidate) ([]Candidate, error) {
	var fresh []Plan
	asked := map[string]bool{}
	for _, c := range plans {
		key := c.Plan.String()
		if _, ok := s.known[key]; !ok && !asked[key] {
			asked[key] = true
			fresh = append(fresh, c.Plan)
		}
	}
	done, err := s.m.all(ctx, fresh)
	if err != nil {
		return nil, err
	}
	for _, c := range done {
		s.known[c.Plan.String()] = c
	}
	var out []Candidate
	for _, c := range plans {
		key := c.Plan.String()
		k := s.known[key]
		k.Name = cmp.Or(k.Name, c.Name)
		s.known[key] = k
		out = append(out, k)
	}
	return out, nil
}

// best returns the n candidates of the lowest divergence, each map once; equal
// ones in the order of their names.
func best(all []Candidate, n int) []Candidate {
	out := slices.Clone(all)
	slices.SortFunc(out, func(a, b Candidate) int {
		return cmp.Or(cmp.Compare(a.KL, b.KL), cmp.Compare(a.Plan.String(), b.Plan.String()))
	})
	out = slices.CompactFunc(out, func(a, b Candidate) bool { return a.Plan.String() == b.Plan.String() })
	return out[:min(n, len(out))]
}

// unlike lists the pairs that a map may hold, those with the most unlike caches
// first.
func (s *search) unlike(ctx context.Context) ([]Candidate, error) {
	d, err := s.m.distances(ctx)
	if err != nil {
		return nil, err
	}
	type pair struct {
		taker, giver int
	}
	var pairs []pair
	for i := range d {
		for j := range i {
			if (Plan{i: j}).Check(s.Model.Graph) == nil {
				pairs = append(pairs, pair{i, j})
			}
		}
	}
	slices.SortStableFunc(pairs, func(a, b pair) int { return cmp.Compare(d[b.taker][b.giver], d[a.taker][a.giver]) })
	var out []Candidate
	for _, p := range pairs {
		out = append(out, Candidate{Plan: Plan{p.taker: p.giver}})
	}
	return out, nil
}

// choose picks the pairs to measure alone: all, or the nearest givers of each
// block and then the most unlike.
func (s *search) choose(order []Candidate) []Candidate {
	if len(order) <= s.Config.Pairs {
		return order
	}
	nearest := map[int]int{}
	for _, c := range order {
		for taker, giver := range c.Plan {
			nearest[taker] = max(nearest[taker], giver)
		}
	}
	isNear := func(c Candidate) bool {
		taker := c.Plan.Takers()[0]
		return nearest[taker] == c.Plan[taker]
	}
	near := slices.DeleteFunc(slices.Clone(order), func(c Candidate) bool { return !isNear(c) })
	far := slices.DeleteFunc(slices.Clone(order), isNear)
	return append(near, far...)[:max(s.Config.Pairs, len(near))]
}

// Fixed lists the plans of n takers that need no measurement, those that g
// allows: the last blocks, the last and the first pairs.
func Fixed(g *model.Graph, n int) []Candidate {
	var out []Candidate
	if p, err := last(g, n); err == nil && p.Check(g) == nil {
		out = append(out, Candidate{Name: string(Tail), Plan: p})
	}
	all := pairs(g)
	takers := all.Takers()
	if n < 1 || len(takers) < n {
		return out
	}
	some := func(name string, takers []int) {
		p := Plan{}
		for _, t := range takers {
			p[t] = all[t]
		}
		out = append(out, Candidate{Name: name, Plan: p})
	}
	some(string(Pairs), takers[len(takers)-n:])
	if len(takers) > n {
		some(string(Pairs)+" first", takers[:n])
	}
	return out
}

// sharer is KVSharer's plan: pairs in the order of how unlike their caches are
// (without its threshold on the likeness of outputs, since what is measured is
// the output).
func (s *search) sharer(order []Candidate) []Candidate {
	p := Plan{}
	for _, c := range order {
		if len(p) < s.Takers {
			p, _ = add(s.Model.Graph, p, c.Plan)
		}
	}
	if len(p) < s.Takers {
		return nil
	}
	return []Candidate{{Name: "kvsharer", Plan: p}}
}

// Measure measures maps as a search does, without one: Takers is not used.
func (r SearchRun) Measure(ctx context.Context, all []Candidate) ([]Candidate, error) {
	m, err := newMeter(ctx, r.Model, r.Seqs, r.Config.Tokens, r.Config.Seed, r.Kernel, r.Threads)
	if err != nil {
		return nil, err
	}
	return (&search{SearchRun: r, m: m, known: map[string]Candidate{}}).measure(ctx, all)
}

// add returns p with the pair q, or p when the two do not go together.
func add(g *model.Graph, p, q Plan) (Plan, bool) {
	out := Plan{}
	for taker, giver := range p {
		out[taker] = giver
	}
	for taker, giver := range q {
		if _, taken := out[taker]; taken {
			return p, false
		}
		out[taker] = giver
	}
	if out.Check(g) != nil {
		return p, false
	}
	return out, true
}

// extend adds every pair to every map that it goes with.
func extend(g *model.Graph, maps, pairs []Candidate) []Candidate {
	var out []Candidate
	for _, m := range maps {
		for _, q := range pairs {
			if p, ok := add(g, m.Plan, q.Plan); ok {
				out = append(out, Candidate{Plan: p})
			}
		}
	}
	return out
}

// exchange replaces one pair of a map by another for as long as that lowers the
// divergence.
func (s *search) exchange(ctx context.Context, c Candidate, pairs []Candidate) (Candidate, error) {
	for {
		var moves []Candidate
		for _, taker := range c.Plan.Takers() {
			rest := Plan{}
			for t, g := range c.Plan {
				if t != taker {
					rest[t] = g
				}
			}
			for _, q := range pairs {
				if p, ok := add(s.Model.Graph, rest, q.Plan); ok {
					moves = append(moves, Candidate{Plan: p})
				}
			}
		}
		tried, err := s.measure(ctx, moves)
		if err != nil {
			return c, err
		}
		top := best(append(tried, c), 1)[0]
		if top.KL >= c.KL {
			return c, nil
		}
		c = top
	}
}
