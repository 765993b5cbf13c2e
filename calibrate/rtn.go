// Package calibrate chooses the codes and scales of quantized weights: one
// algorithm a file.
package calibrate

import (
	"context"
	"fmt"
	"math"
	"slices"

	"slmc/internal/exec"
	"slmc/internal/kernel"
	"slmc/quant"
	"slmc/tensor"
)

// RTN rounds to nearest: no data, each group by itself.
//
// For 8 bits the scale is max|w|/127: with that many levels clipping gains
// nothing. For 4 and 2 bits it is the scale of least squared error, before it is
// rounded to float16: clipping a few weights brings the others nearer, which at 2
// bits is most of what a scale can do. Where others try clipped fractions of
// max|w| (OmniQuant, arXiv 2308.13137; ParetoQ, arXiv 2502.02631), both searches
// here use that for given codes l the best scale is sum(w l)/sum(l^2) and takes
// sum(w l)^2/sum(l^2) off the error.
type RTN struct {
	Kernel *kernel.Funcs
}

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
		if m < negligible {
			continue // every scale is about 0
		}
		s := dst[g]
		switch f.(type) {
		case quant.W4:
			s = tensor.HalfFrom(scaleW4(group, m))
		case quant.W2:
			s = tensor.HalfFrom(scaleW2(group))
		}
		if s&0x7c00 != 0x7c00 {
			dst[g] = s
		}
	}
	return nil
}

// negligible is a magnitude whose scale is far below the smallest float16, and whose
// squares are still normal numbers.
const negligible = 0x1p-60

// scaleW2 returns the scale of least squared error of all, for the levels
// +-0.5 and +-1.5: with the best scale the k smallest magnitudes have the inner
// level for some k, so that trying every k finds it.
func scaleW2(group []float32) float32 {
	var buf [128]float32
	a := append(buf[:0], group...)
	outer := 0.0
	for i, w := range a {
		a[i] = math.Float32frombits(math.Float32bits(w) &^ (1 << 31))
		outer += float64(a[i])
	}
	slices.Sort(a)
	best, scale, inner := -1.0, 0.0, 0.0
	for k := 0; k <= len(a); k++ {
		wl := float64(0.5*inner) + float64(1.5*outer)
		ll := float64(0.25*float64(k)) + float64(2.25*float64(len(a)-k))
		if gain := float64(wl*wl) / ll; gain > best {
			best, scale = gain, wl/ll
		}
		if k < len(a) {
			inner += float64(a[k])
			outer -= float64(a[k])
		}
	}
	return float32(scale)
}

// Starting points of scaleW4: where max|w| lies on the levels -8 to 7, from a
// little clipped to not reaching the end. The scale fitted to each point's codes
// comes within 0.4 % of the least error (TestRTNNearOptimal).
var startsW4 = [...]float32{6.4, 6.8, 7.2, 7.6, 8, 8.4, 8.8, 9.4, 10}

// scaleW4 returns a scale of nearly the least squared error for the levels -8
// to 7, of either sign: the level -8 serves the side that needs it. m is
// max|group| and not 0.
func scaleW4(group []float32, m float32) float32 {
	best, scale := -1.0, float32(0)
	for _, start := range startsW4 {
		for _, inv := range [2]float32{start / m, -start / m} {
			wl, ll := fitW4(group, inv)
			if ll == 0 {
				continue
			}
			if gain := float64(wl*wl) / float64(ll); gain > best {
				best, scale = gain, float32(wl/float64(ll))
			}
		}
	}
	return scale
}

// fitW4 rounds group*inv to levels l and returns sum(w l) and sum(l^2).
func fitW4(group []float32, inv float32) (wl float64, ll int) {
	for _, w := range group {
		v := float32(w * inv)
		if v < -8 {
			v = -8
		} else if v > 7 {
			v = 7
		}
		l := kernel.RoundEven(v)
		wl += float64(float32(w * l))
		ll += int(l) * int(l)
	}
	return wl, ll
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
