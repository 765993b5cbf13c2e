// Package calibrate chooses the codes and scales of quantized weights: one
// algorithm a file.
package calibrate

import (
	"context"
	"fmt"
	"math"

	"slmc/internal/exec"
	"slmc/internal/kernel"
	"slmc/quant"
	"slmc/tensor"
)

// RTN rounds to nearest: no data, each group by itself.
//
// For 8 bits the scale is max|w|/127: with that many levels clipping gains
// nothing. For 4 and 2 bits it is the scale of least squared error among those
// that put the outermost level at a fraction of max|w|: clipping a few weights
// brings the others nearer, which at 2 bits is most of the gain over max|w| (the
// start of OmniQuant, arXiv 2308.13137, and ParetoQ, arXiv 2502.02631). The error
// is that of quant's rounding with the scale as it is stored, in float16.
type RTN struct {
	Kernel *kernel.Funcs
}

// The fractions: 29, each clipStep below the one before.
const (
	clipSteps = 29
	clipStep  = 0.025
)

// Scales chooses the scale of every group of row for the format f: dst has
// quant.Groups(f, len(row)) elements. A NaN or Inf in row, and a weight too large
// for any float16 scale, is an error.
func (a RTN) Scales(dst []tensor.Half, f quant.Format, row []float32) error {
	G := f.Group()
	_, top := f.Levels()
	for g := range dst {
		group := row[g*G : min((g+1)*G, len(row))]
		m := a.Kernel.AbsMax(group)
		if !(m <= math.MaxFloat32) {
			return fmt.Errorf("group %d: %w", g, quant.ErrNotFinite)
		}
		dst[g] = tensor.HalfFrom(m / top)
		if dst[g]&0x7c00 == 0x7c00 {
			return fmt.Errorf("group %d has a weight of magnitude %g: beyond a float16 scale: %w", g, m, quant.ErrNotFinite)
		}
		if s, ok := f.(quant.Searched); ok && top < 127 && m > 0 {
			dst[g] = clipSearch(s, group, m)
		}
	}
	return nil
}

// clipSearch returns the scale of least squared error, the first of equals. The
// fractions start where all levels reach m on both sides. A format with one level
// more on one side (W4: -8 to 7) is tried with scales of either sign.
func clipSearch(f quant.Searched, group []float32, m float32) tensor.Half {
	lo, hi := f.Levels()
	first := tensor.HalfFrom(m / hi)
	best, least := first, f.SquaredError(group, first)
	try := func(s tensor.Half) {
		if e := f.SquaredError(group, s); e < least {
			best, least = s, e
		}
	}
	for i := range clipSteps {
		s := tensor.HalfFrom(m * (1 - float32(float32(i)*clipStep)) / hi)
		try(s)
		if -lo != hi {
			try(s ^ 0x8000)
		}
	}
	return best
}

// Name implements Algorithm.
func (RTN) Name() string { return "rtn" }

// Needs implements Algorithm.
func (RTN) Needs() Needs { return Nothing }

// Encode implements Algorithm.
func (a RTN) Encode(ctx context.Context, p *exec.Pool, m Matrix) ([]byte, error) {
	if err := m.check(Nothing); err != nil {
		return nil, err
	}
	return m.eachRow(ctx, p, func() func([]tensor.Half, []float32) error {
		return func(dst []tensor.Half, row []float32) error {
			if m.Format.Group() == 0 {
				return nil
			}
			return a.Scales(dst, m.Format, row)
		}
	})
}
