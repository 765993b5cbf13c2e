package routertrain

import (
	"fmt"
	"math"
	"slices"

	"slmc/internal/deferral"
	"slmc/internal/kernel"
)

// Certify says what table to certify.
type Certify struct {
	// Bound is the loss that the default row keeps, a share of all queries, at
	// level 1-Delta, deciding at Checkpoint.
	Bound      float64             `json:"bound"`
	Delta      float64             `json:"delta"`
	Checkpoint deferral.Checkpoint `json:"checkpoint"`
	// Known is the share of in-distribution queries that the out-of-distribution
	// score lets pass; 1: it decides nothing.
	Known float64 `json:"known"`
	// Grid is the number of rows of each checkpoint, MaxRate the deferral rate of
	// the first: a router that sends on everything is none.
	Grid    int     `json:"grid"`
	MaxRate float64 `json:"max_rate"`
	// Limit is the rule of the bounds. Empty, Fit fixes it by the training part:
	// LimitExact when all its scores are 0 or 1, else LimitGraded.
	Limit Limit `json:"limit,omitempty"`
}

// DefaultCertify is two points at 95 %, decided when the answer stands. Known is
// chosen in docs/experiments.md, "Deferral: out of distribution".
func DefaultCertify() Certify {
	return Certify{Bound: 0.02, Delta: 0.05, Checkpoint: deferral.Post, Known: 0.92, Grid: 96, MaxRate: 0.95}
}

// Check reports a setting outside its range.
func (c *Certify) Check() error {
	if _, err := deferral.ParseCheckpoint(string(c.Checkpoint)); err != nil || c.Checkpoint == deferral.Mid {
		return fmt.Errorf("a certificate for checkpoint %q, want pre or post", c.Checkpoint)
	}
	switch {
	case !(c.Bound > 0 && c.Bound < 1) || !(c.Delta > 0 && c.Delta < 1):
		return fmt.Errorf("bound %g at delta %g, want both between 0 and 1", c.Bound, c.Delta)
	case !(c.Known > 0 && c.Known <= 1):
		return fmt.Errorf("%g of the known queries pass, want above 0 and at most 1", c.Known)
	case c.Grid < 2 || c.Grid > 1000 || !(c.MaxRate > 0 && c.MaxRate <= 1):
		return fmt.Errorf("a grid of %d rows from a deferral rate of %g, want 2 to 1000 rows and a rate above 0 and at most 1", c.Grid, c.MaxRate)
	}
	return c.Limit.Check()
}

// Scored is a labelled query as a router reads it.
type Scored struct {
	ID, Source   string
	Small, Large float64 // the models' scores
	Readings     []deferral.Reading
}

// Gain is what is lost when the query is answered here.
func (s *Scored) Gain() float64 { return max(0, s.Large-s.Small) }

// At returns the last reading at or before a checkpoint: an answer that ends
// before the first mid reading has none, and pre's stands.
func (s *Scored) At(c deferral.Checkpoint) deferral.Reading {
	rank := func(c deferral.Checkpoint) int { return slices.Index(deferral.Checkpoints(), c) }
	best := s.Readings[0]
	for _, r := range s.Readings {
		if rank(r.Checkpoint) <= rank(c) && rank(r.Checkpoint) >= rank(best.Checkpoint) {
			if r.Checkpoint == deferral.Mid && best.Checkpoint == deferral.Mid && c == deferral.Mid {
				continue // the first of them: what the checkpoint says soonest
			}
			best = r
		}
	}
	return best
}

// Apply runs a row's rule: whether it defers, and whether before any token.
func (s *Scored) Apply(row deferral.Row) (deferred, early bool) {
	for _, r := range s.Readings {
		if row.Defers(r) {
			return true, r.Tokens == 0
		}
	}
	return false, false
}

// Grid returns the thresholds of a sequence, from the rule that defers most to
// the one that defers least, from scores that the calibration part has no share
// in: that they are fixed before it is looked at is what makes fixed-sequence
// testing valid. The last one defers nothing.
func Grid(c Certify, scores []float64) []float32 {
	s := slices.Clone(scores)
	slices.Sort(s)
	var out []float32
	for k := range c.Grid {
		rate := c.MaxRate * (1 - float64(k)/float64(c.Grid-1))
		t := float32(deferral.Never)
		if rate > 0 {
			t = float32(s[min(len(s)-1, int((1-rate)*float64(len(s))))])
		}
		if n := len(out); n == 0 || t > out[n-1] {
			out = append(out, t)
		}
	}
	return out
}

// rule is the row, without figures, that decides at a checkpoint by score t.
func rule(c Certify, at deferral.Checkpoint, t float32) deferral.Row {
	r := deferral.Row{Checkpoint: at, Pre: deferral.Never, Mid: deferral.Never, Post: deferral.Never, OOD: deferral.Never, Delta: c.Delta}
	if at == deferral.Pre {
		r.Pre = t
	} else {
		r.Post = t
	}
	if c.Known < 1 {
		r.OOD = float32(c.Known)
	}
	return r
}

// Measure fills in a row's figures from queries that nothing was fitted to, its bound
// by that rule.
func Measure(row deferral.Row, rows []Scored, limit Limit) deferral.Row {
	loss := make([]float64, len(rows))
	row.DeferralRate, row.EarlyRate, row.Quality, row.LargeQuality, row.Loss = 0, 0, 0, 0, 0
	for i := range rows {
		s := &rows[i]
		deferred, early := s.Apply(row)
		row.LargeQuality += s.Large
		if deferred {
			row.DeferralRate++
			row.Quality += s.Large
		} else {
			row.Quality += s.Small
			loss[i] = s.Gain()
			row.Loss += loss[i]
		}
		if early {
			row.EarlyRate++
		}
	}
	row.N = len(rows)
	for _, x := range []*float64{&row.DeferralRate, &row.EarlyRate, &row.Quality, &row.LargeQuality, &row.Loss} {
		*x = math.Round(*x/float64(max(1, row.N))*1e6) / 1e6
	}
	row.Bound = limit.Upper(loss, row.Delta)
	return row
}

// NewTable certifies the grid of each checkpoint on the calibration part.
func NewTable(c Certify, grids map[deferral.Checkpoint][]float32, cal []Scored, split string) deferral.Table {
	t := deferral.Table{Bound: c.Bound, Checkpoint: c.Checkpoint, Split: split}
	for _, at := range []deferral.Checkpoint{deferral.Pre, deferral.Post} {
		for _, x := range grids[at] {
			t.Rows = append(t.Rows, Measure(rule(c, at, x), cal, c.Limit))
		}
	}
	return t
}

// Recertify measures the thresholds of a table again, with another bound, delta
// or share of known queries.
func Recertify(c Certify, old *deferral.Table, cal []Scored, split string) deferral.Table {
	grids := map[deferral.Checkpoint][]float32{}
	for _, r := range old.Rows {
		grids[r.Checkpoint] = append(grids[r.Checkpoint], r.Threshold(r.Checkpoint))
	}
	return NewTable(c, grids, cal, split)
}

// NewScored is a labelled query with its readings.
func NewScored(l *Label, readings []deferral.Reading) Scored {
	return Scored{ID: l.ID, Source: l.Source, Small: l.Small.Score, Large: l.large(), Readings: readings}
}

// finish puts the router together, certifies it and measures the test part.
func (t *trainer) finish(p deferral.Parts, report Report) (*Trained, error) {
	p.Round()
	bare, err := deferral.New(p)
	if err != nil {
		return nil, err
	}
	out := &Trained{Parts: t.parts, Scored: t.score(bare)}
	var cal, test []Scored
	for i, s := range out.Scored {
		switch t.parts[i] {
		case Calibrate:
			cal = append(cal, s)
		case Test:
			test = append(test, s)
		}
	}
	grids := map[deferral.Checkpoint][]float32{}
	for _, r := range report.CrossValidated {
		if r.Checkpoint != deferral.Mid {
			grids[r.Checkpoint] = Grid(t.c.Certify, r.scores)
		}
	}
	split := fmt.Sprintf("seed %d, train %g, calibrate %g, labels %.16s", t.c.Split.Seed, t.c.Split.Train, t.c.Split.Cal, t.d.Labels.Digest)
	p.Table = NewTable(t.c.Certify, grids, cal, split)
	p.References = references(cal)
	if out.Router, err = deferral.New(p); err != nil {
		return nil, err
	}
	report.Parameters, report.MACs = out.Router.Parameters(), out.Router.MACs(deferral.Pre)+out.Router.MACs(deferral.Post)
	report.Certified = Bounds(&p.Table, t.c.Certify)
	row, err := p.Table.Default()
	if err != nil {
		report.Infeasible = err.Error()
	} else {
		report.Default = &row
	}
	if len(test) >= minTrain {
		e, err := Evaluate(test, &p.Table, t.c.Certify.Limit)
		if err == nil {
			report.Test = &e
		}
	}
	out.Report = report
	return out, nil
}

// score reads every labelled query with the router that ships.
func (t *trainer) score(r *deferral.Router) []Scored {
	out := make([]Scored, len(t.d.Examples))
	for i, readings := range ScoreAll(r, t.d.Examples) {
		out[i] = NewScored(&t.d.Labels.Rows[i], readings)
	}
	return out
}

// ScoreAll returns the readings of each example: what the runtime says along
// the same generation.
func ScoreAll(r *deferral.Router, all []Example) [][]deferral.Reading {
	f, err := kernel.Select("")
	if err != nil {
		panic("routertrain.ScoreAll: no kernel") // there is always the scalar one
	}
	out := make([][]deferral.Reading, len(all))
	var w deferral.Work
	var v deferral.View
	for i := range all {
		e := &all[i]
		v.See(r.Opinion(), f, e.Prompt, &e.First)
		strange := r.Strangeness(&v, &e.First)
		add := func(at deferral.Checkpoint, x []float32, tokens int) {
			if r.Reads(at) {
				out[i] = append(out[i], r.Reading(at, full(r.Shape(), at, x, &v, e), strange, tokens, &w))
			}
		}
		add(deferral.Pre, e.Pre, 0)
		for k, x := range e.Mid {
			add(deferral.Mid, x, (k+1)*deferral.MidEvery)
		}
		add(deferral.Post, e.Post, e.Tokens)
	}
	return out
}

// references are the histograms of scores over ten even parts of the
// calibration queries, to see drift against.
func references(cal []Scored) (out []deferral.Reference) {
	collect := func(name deferral.Checkpoint, pick func(deferral.Reading) (float32, bool)) {
		var x []float32
		for i := range cal {
			for _, r := range cal[i].Readings {
				if v, ok := pick(r); ok {
					x = append(x, v)
				}
			}
		}
		if len(x) == 0 {
			return
		}
		out = append(out, histogram(name, x))
	}
	for _, at := range deferral.Checkpoints() {
		collect(at, func(r deferral.Reading) (float32, bool) { return r.Score, r.Checkpoint == at })
	}
	collect(deferral.OODReference, func(r deferral.Reading) (float32, bool) { return r.OOD, r.Checkpoint == deferral.Pre })
	return out
}

// histogram cuts x, which it sorts, into ten parts of about the same size.
func histogram(name deferral.Checkpoint, x []float32) deferral.Reference {
	slices.Sort(x)
	r := deferral.Reference{Checkpoint: name}
	for k := 1; k < 10; k++ {
		e := x[len(x)*k/10]
		if n := len(r.Edges); e > x[0] && (n == 0 || e > r.Edges[n-1]) {
			r.Edges = append(r.Edges, e)
		}
	}
	from := 0
	for _, e := range append(slices.Clone(r.Edges), float32(math.Inf(1))) {
		n, _ := slices.BinarySearch(x, e)
		r.Share = append(r.Share, float32(math.Round(float64(n-from)/float64(len(x))*1e6)/1e6))
		from = n
	}
	return r
}
