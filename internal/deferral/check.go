package deferral

import (
	"fmt"
	"slices"

	"slmc/internal/kernel"
)

// This file checks parts before they become a router, whether they were learned
// or read.

func (s Shape) check() error {
	if s.Blocks < 1 || s.Blocks > 1<<16 || s.Hidden < 1 || s.Hidden > 1<<20 || s.Giver < 0 || s.Giver >= s.Blocks {
		return fmt.Errorf("shape of %d blocks, hidden size %d, last giver %d: out of range", s.Blocks, s.Hidden, s.Giver)
	}
	return nil
}

func (p *Parts) check() error {
	if err := p.Shape.check(); err != nil {
		return err
	}
	dim := 0
	if o := p.Opinion; o != nil {
		if err := o.check(); err != nil {
			return fmt.Errorf("opinion: %w", err)
		}
		dim = o.Dim
	}
	seen := map[Checkpoint]bool{}
	for i := range p.Heads {
		h := &p.Heads[i]
		if seen[h.Checkpoint] {
			return fmt.Errorf("two heads for checkpoint %q", h.Checkpoint)
		}
		seen[h.Checkpoint] = true
		if err := h.check(p.Shape.Layout(h.Checkpoint, dim).Size()); err != nil {
			return fmt.Errorf("head %q: %w", h.Checkpoint, err)
		}
	}
	if n := p.parameters(); n > MaxParameters {
		return fmt.Errorf("%d parameters, at most %d are allowed", n, MaxParameters)
	}
	if !kernel.Finite(p.Strange.Mean[:]) || !kernel.Finite(p.Strange.Inv[:]) {
		return fmt.Errorf("out-of-distribution score: not finite")
	}
	if err := p.Strange.CDF.check(); err != nil {
		return fmt.Errorf("out-of-distribution score: %w", err)
	}
	for _, r := range p.References {
		if err := r.check(); err != nil {
			return fmt.Errorf("reference of %q: %w", r.Checkpoint, err)
		}
	}
	return p.Table.check(seen)
}

func (o *Opinion) check() error {
	if o.Unigrams < 1 || o.Bigrams < 0 || o.Dim < 1 || len(o.Classes) == 0 {
		return fmt.Errorf("%d and %d rows of %d, %d classes", o.Unigrams, o.Bigrams, o.Dim, len(o.Classes))
	}
	if len(o.Table) != (o.Unigrams+o.Bigrams)*o.Dim || len(o.Out) != len(o.Classes)*o.Dim || len(o.Bias) != len(o.Classes) {
		return fmt.Errorf("arrays of %d, %d and %d numbers do not fit", len(o.Table), len(o.Out), len(o.Bias))
	}
	for i, c := range o.Classes {
		if len(c) < 1 || len(c) > Prefix || slices.ContainsFunc(c, func(id int32) bool { return id < 0 }) {
			return fmt.Errorf("class %d is %v, wanted 1 to %d ids", i, c, Prefix)
		}
		if i > 0 && slices.Compare(o.Classes[i-1], c) >= 0 {
			return fmt.Errorf("class %d is %v, wanted more than %v", i, c, o.Classes[i-1])
		}
	}
	if !kernel.Finite(o.Table) || !kernel.Finite(o.Out) || !kernel.Finite(o.Bias) {
		return fmt.Errorf("weights are not finite")
	}
	return nil
}

func (h *Head) check(features int) error {
	n := len(h.Inputs)
	for i, x := range h.Inputs {
		if x < 0 || int(x) >= features || i > 0 && x <= h.Inputs[i-1] {
			return fmt.Errorf("input %d is feature %d of %d", i, x, features)
		}
	}
	width := n
	if h.Hidden > 0 {
		width = h.Hidden
	}
	if n == 0 || h.Hidden < 0 || len(h.Mean) != n || len(h.Inv) != n || len(h.W1) != h.Hidden*n || len(h.B1) != h.Hidden ||
		len(h.W2) != Outputs*width || len(h.B2) != Outputs {
		return fmt.Errorf("arrays do not fit %d inputs and %d hidden units", n, h.Hidden)
	}
	for _, x := range [][]float32{h.Mean, h.Inv, h.W1, h.B1, h.W2, h.B2} {
		if !kernel.Finite(x) {
			return fmt.Errorf("weights are not finite")
		}
	}
	for _, c := range []Curve{h.Wrong, h.Gain} {
		if err := c.check(); err != nil {
			return err
		}
	}
	return nil
}

func (c Curve) check() error {
	if len(c.X) != len(c.Y) {
		return fmt.Errorf("curve of %d and %d numbers", len(c.X), len(c.Y))
	}
	if !kernel.Finite(c.X) || !kernel.Finite(c.Y) {
		return fmt.Errorf("curve is not finite")
	}
	for i := 1; i < len(c.X); i++ {
		if c.X[i] <= c.X[i-1] || c.Y[i] < c.Y[i-1] {
			return fmt.Errorf("curve falls at point %d", i)
		}
	}
	if n := len(c.Y); n > 0 && (c.Y[0] < 0 || c.Y[n-1] > 1) {
		return fmt.Errorf("curve leaves 0..1")
	}
	return nil
}

func (r *Reference) check() error {
	if len(r.Share) != len(r.Edges)+1 || !kernel.Finite(r.Edges) || !kernel.Finite(r.Share) {
		return fmt.Errorf("%d edges and %d shares", len(r.Edges), len(r.Share))
	}
	for i := 1; i < len(r.Edges); i++ {
		if r.Edges[i] <= r.Edges[i-1] {
			return fmt.Errorf("edge %d is %g after %g", i, r.Edges[i], r.Edges[i-1])
		}
	}
	for i, s := range r.Share {
		if s < 0 || s > 1 {
			return fmt.Errorf("share %d is %g", i, s)
		}
	}
	return nil
}

// check holds the rows to checkpoints that have heads and to probabilities.
func (t *Table) check(heads map[Checkpoint]bool) error {
	for i, r := range t.Rows {
		if !heads[r.Checkpoint] {
			return fmt.Errorf("row %d: no head for checkpoint %q", i, r.Checkpoint)
		}
		for _, x := range []float32{r.Pre, r.Mid, r.Post, r.OOD} {
			if !(x >= 0 && x <= Never) {
				return fmt.Errorf("row %d: threshold %g, wanted 0 to %d", i, x, Never)
			}
		}
		for _, x := range []float64{r.DeferralRate, r.EarlyRate, r.Quality, r.LargeQuality, r.Loss, r.Bound, r.Delta} {
			if !(x >= 0 && x <= 1) {
				return fmt.Errorf("row %d: %g is no share", i, x)
			}
		}
		if r.N < 1 {
			return fmt.Errorf("row %d: from %d queries", i, r.N)
		}
	}
	return nil
}
