package calibrate

import (
	"context"
	"fmt"

	"slmc/internal/exec"
	"slmc/internal/kernel"
	"slmc/tensor"
)

// IMatrix chooses the scale of each group by the output's error instead of the
// weights': it minimizes sum_k E[x_k^2] (w_k - q_k)^2, the diagonal of the
// layer-wise objective of GPTQ (arXiv 2210.17323, section 3), which is what
// llama.cpp calls an importance matrix. Codes are the nearest.
//
// The search starts from 29 fractions of max|w|, with scales of either sign
// where the levels are not symmetric. For each the codes are rounded and the
// scale of least weighted squares for these codes is found in closed form; the
// best then alternates between codes and scale until nothing falls, with scales
// rounded to float16 as they are stored. Unlike llama.cpp's search the weights
// are E[x^2] alone, without a factor for the weight's own magnitude.
type IMatrix struct {
	Kernel *kernel.Funcs
}

// Name implements Algorithm.
func (IMatrix) Name() string { return "imatrix" }

// Needs implements Algorithm.
func (IMatrix) Needs() Needs { return Squares }

// Encode implements Algorithm. Columns that were never active count as RTN
// would count them when nothing else in their group was active either.
func (a IMatrix) Encode(ctx context.Context, p *exec.Pool, m Matrix) ([]byte, error) {
	if err := m.check(Squares); err != nil {
		return nil, err
	}
	if m.Format.Group() == 0 {
		return RTN(a).Encode(ctx, p, m)
	}
	weights := make([]float32, m.K)
	for k, s := range m.Input.Square {
		weights[k] = float32(s)
	}
	return m.eachRow(ctx, p, func() func([]tensor.Half, []float32) error {
		s := newSearch(a.Kernel, gridOf(m.Format), m.Format.Group())
		return func(dst []tensor.Half, row []float32) error {
			G := m.Format.Group()
			for g := range dst {
				lo, hi := g*G, min((g+1)*G, len(row))
				var err error
				if dst[g], err = s.scale(row[lo:hi], weights[lo:hi]); err != nil {
					return fmt.Errorf("group %d: %w", g, err)
				}
			}
			return nil
		}
	})
}

// The fractions of max|w| that put the outermost level there: 29, each searchStep
// below the one before.
const (
	searchSteps = 29
	searchStep  = 0.025
)

// search finds scales of groups; it holds the scratch of one goroutine.
type search struct {
	k    *kernel.Funcs
	grid grid
	ones []float32
}

func newSearch(k *kernel.Funcs, g grid, group int) *search {
	s := &search{k: k, grid: g, ones: make([]float32, group)}
	for i := range s.ones {
		s.ones[i] = 1
	}
	return s
}

// alternations bounds the steps between codes and scale: most groups are at
// their fixed point after two or three.
const alternations = 8

// scale returns the scale of least error sum weights (w-q)^2 that the search
// finds. weights are not negative; all zero counts as all one.
func (s *search) scale(w, weights []float32) (tensor.Half, error) {
	m, err := absMax(s.k, w, s.grid.hi)
	if err != nil || m == 0 {
		return 0, err
	}
	if s.grid.hi >= 127 { // with that many levels clipping gains nothing: RTN's scale
		return tensor.HalfFrom(m / s.grid.hi), nil
	}
	if s.k.AbsMax(weights) == 0 {
		weights = s.ones[:len(w)]
	}
	var best, start fit
	try := func(h tensor.Half) {
		f := s.grid.fit(w, weights, h)
		if best.scale == 0 && best.err == 0 || f.err < best.err {
			best = f
		}
		if start.scale == 0 && start.err == 0 || f.least() < start.least() {
			start = f
		}
	}
	for i := range searchSteps {
		h := tensor.HalfFrom(m * (1 - float32(float32(i)*searchStep)) / s.grid.hi)
		try(h)
		if !s.grid.symmetric() {
			try(h ^ 0x8000)
		}
	}
	for range alternations {
		next := start.refit()
		if next == start.scale || next&0x7c00 == 0x7c00 {
			break
		}
		if start = s.grid.fit(w, weights, next); start.err >= best.err {
			break
		}
		best = start
	}
	return best.scale, nil
}

// fit is a group rounded under a scale: its error, and the sums from which the
// best scale for the same codes follows.
type fit struct {
	scale      tensor.Half
	err        float64 // sum weights (w-q)^2
	ww, lw, ll float64 // sums of weights times w w, l w, l l
}

// fit rounds a group to the levels nearest under scale h.
func (g grid) fit(w, weights []float32, h tensor.Half) fit {
	f := fit{scale: h}
	s := h.Float32()
	inv := float32(0)
	if s != 0 {
		inv = 1 / s
	}
	for i, x := range w {
		l := g.nearest(x * inv)
		c, e := float64(weights[i]), float64(x-float32(l*s))
		f.err += float64(c * float64(e*e))
		f.ww += float64(c * float64(float64(x)*float64(x)))
		f.lw += float64(c * float64(float64(l)*float64(x)))
		f.ll += float64(c * float64(float64(l)*float64(l)))
	}
	return f
}

// least is the error of the best scale for these codes.
func (f fit) least() float64 {
	if f.ll == 0 {
		return f.ww
	}
	return f.ww - float64(f.lw*f.lw)/f.ll
}

// refit is that scale.
func (f fit) refit() tensor.Half {
	if f.ll == 0 {
		return f.scale
	}
	return tensor.HalfFrom(float32(f.lw / f.ll))
}
