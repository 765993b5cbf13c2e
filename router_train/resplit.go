package routertrain

import (
	"encoding/json"
	"math/rand/v2"

	"slmc/internal/deferral"
)

// Resplits counts how often a certificate fails over divisions of queries.
type Resplits struct {
	Checkpoint deferral.Checkpoint `json:"checkpoint"`
	Bound      float64             `json:"bound"`
	Rounds     int                 `json:"rounds"`
	Feasible   int                 `json:"feasible"`
	// Violated counts rounds in which the loss of the row that was chosen is
	// above the bound in the population that the round was drawn from: n/2
	// queries with replacement from all n, whose losses are known. It is this
	// that the certificate limits to a share of delta.
	Violated int `json:"violated"`
	// TestAbove counts halvings in which the loss on the half that was not
	// certified on is above the bound, chance of that half included;
	// TestSignificant those in which its lower limit is.
	TestAbove       int     `json:"test_above"`
	TestSignificant int     `json:"test_significant"`
	MeanDeferral    float64 `json:"mean_deferral"`
}

// Resplit divides scored queries rounds times and certifies each time, by the
// rows of a table as they stand, whose thresholds saw none of the queries, and the
// rule of its bounds.
func Resplit(rows []Scored, t *deferral.Table, limit Limit, at deferral.Checkpoint, bound float64, rounds int, seed uint64) Resplits {
	out := Resplits{Checkpoint: at, Bound: bound, Rounds: rounds}
	g := newGrid(rows, t, at)
	g.limit = limit
	r := rand.New(rand.NewPCG(seed, 6))
	half := len(rows) / 2
	draw := make([]int, half)
	for range rounds {
		for i := range draw {
			draw[i] = r.IntN(len(rows))
		}
		if k := g.pick(draw, bound); k >= 0 {
			out.Feasible++
			out.MeanDeferral += g.rate[k]
			if g.mean(k, nil) > bound {
				out.Violated++
			}
		}
		perm := r.Perm(len(rows))
		if k := g.pick(perm[:half], bound); k >= 0 {
			test := perm[half:]
			if g.mean(k, test) > bound {
				out.TestAbove++
			}
			if g.low(k, test) > bound {
				out.TestSignificant++
			}
		}
	}
	if out.Feasible > 0 {
		out.MeanDeferral /= float64(out.Feasible)
	}
	return out
}

// grid holds the loss of each row of a checkpoint on each query.
type grid struct {
	limit Limit
	delta float64
	loss  [][]float64 // by row
	rate  []float64
	part  []float64
}

func newGrid(rows []Scored, t *deferral.Table, at deferral.Checkpoint) *grid {
	g := &grid{}
	for _, row := range t.Rows {
		if row.Checkpoint != at {
			continue
		}
		loss, rate := make([]float64, len(rows)), 0.0
		for i := range rows {
			if deferred, _ := rows[i].Apply(row); deferred {
				rate++
			} else {
				loss[i] = rows[i].Gain()
			}
		}
		g.delta = row.Delta
		g.loss, g.rate = append(g.loss, loss), append(g.rate, rate/float64(len(rows)))
	}
	return g
}

// pick is fixed-sequence testing on a sample: the last row before the first
// whose limit is above the bound, -1 for none.
func (g *grid) pick(sample []int, bound float64) int {
	best := -1
	for k := range g.loss {
		if g.limit.Upper(g.of(k, sample), g.delta) > bound {
			break
		}
		best = k
	}
	return best
}

// mean is the loss of a row over a sample, nil for all queries.
func (g *grid) mean(k int, sample []int) float64 {
	sum := 0.0
	if sample == nil {
		for _, x := range g.loss[k] {
			sum += x
		}
		return sum / float64(len(g.loss[k]))
	}
	for _, q := range sample {
		sum += g.loss[k][q]
	}
	return sum / float64(len(sample))
}

func (g *grid) low(k int, sample []int) float64 { return g.limit.Lower(g.of(k, sample), g.delta) }

// of are the losses of a row on a sample, valid until the next call.
func (g *grid) of(k int, sample []int) []float64 {
	g.part = g.part[:0]
	for _, q := range sample {
		g.part = append(g.part, g.loss[k][q])
	}
	return g.part
}

// SplitJSON lists the part of every labelled query.
func (t *Trained) SplitJSON() ([]byte, error) {
	parts := map[Part][]string{}
	for i, p := range t.Parts {
		parts[p] = append(parts[p], t.Scored[i].ID)
	}
	text, err := json.MarshalIndent(struct {
		Split  Split             `json:"split"`
		Labels string            `json:"labels"`
		Parts  map[Part][]string `json:"parts"`
	}{t.Report.Config.Split, t.Report.Labels, parts}, "", " ")
	return append(text, '\n'), err
}
