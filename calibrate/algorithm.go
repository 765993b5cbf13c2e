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

// Needs is what an algorithm must know of a matrix' input.
type Needs int

// Each need includes the one before.
const (
	Nothing Needs = iota
	Squares       // E[x^2] of each column
	Hessian       // sum of x x^T
)

// Matrix is a weight matrix to be quantized.
type Matrix struct {
	Name    string // for errors
	Format  quant.Format
	Rows, K int
	W       []float32 // [Rows K], row-major, finite; read only
	Input   *Input    // what multiplies the matrix; may be nil for an algorithm that needs nothing
	Grid    Grid      // nil: every float16 is a scale
}

// Grid sets dst to the scales nearest to the given ones, those of a row's groups
// in the format f, that a target's form holds. dst and scales have one element a
// group.
type Grid func(dst []tensor.Half, f quant.Format, scales []float32)

// constrain moves the scales of a row to the grid.
func (m Matrix) constrain(scales []tensor.Half) {
	if m.Grid == nil || m.Format.Group() == 0 {
		return
	}
	wanted := make([]float32, len(scales))
	for g, s := range scales {
		wanted[g] = s.Float32()
	}
	m.Grid(scales, m.Format, wanted)
}

// Algorithm chooses the codes and scales of a matrix.
type Algorithm interface {
	Name() string
	Needs() Needs
	// Encode returns the row forms of all rows, each Format.RowBytes(K) long.
	// They depend on m alone, not on the threads of the pool. A NaN or Inf in W
	// and a weight beyond a float16 scale are quant.ErrNotFinite.
	Encode(ctx context.Context, p *exec.Pool, m Matrix) ([]byte, error)
}

// Algorithms lists every algorithm, the more it knows the later. docs/experiments.md
// ("The ladder of calibration") has what each gains; the last one with
// Config.Compensate is what to use at 2 bits.
func Algorithms(k *kernel.Funcs) []Algorithm {
	return []Algorithm{RTN{k}, IMatrix{k}, GPTQ{Kernel: k}, GPTQ{Kernel: k, Refine: DefaultRefine}}
}

// check reports a matrix that an algorithm can't take.
func (m Matrix) check(need Needs) error {
	if len(m.W) != m.Rows*m.K {
		panic(fmt.Sprintf("calibrate: %s has %d weights for [%d %d]", m.Name, len(m.W), m.Rows, m.K))
	}
	switch in := m.Input; {
	case need == Nothing:
	case in == nil:
		return fmt.Errorf("%s: nothing was observed of its input", m.Name)
	case in.K != m.K:
		return fmt.Errorf("%s: statistics %s are of %d columns, wanted %d", m.Name, in.Label, in.K, m.K)
	case need == Hessian && in.H == nil:
		return fmt.Errorf("%s: statistics %s hold no Hessian", m.Name, in.Label)
	}
	return nil
}

// eachRow encodes the rows of m one by one, with scales as choose gives them:
// what every algorithm does that looks at a row at a time. scratch makes the
// chooser of one goroutine.
func (m Matrix) eachRow(ctx context.Context, p *exec.Pool, scratch func() func(dst []tensor.Half, row []float32) error) ([]byte, error) {
	size := m.Format.RowBytes(m.K)
	out := make([]byte, m.Rows*size)
	errs := make([]error, m.Rows)
	p.Run(m.Rows, 1+(1<<12)/m.K, func(lo, hi int) {
		choose := scratch()
		scales := make([]tensor.Half, quant.Groups(m.Format, m.K))
		for r := lo; r < hi && ctx.Err() == nil; r++ {
			row := m.W[r*m.K : (r+1)*m.K]
			if errs[r] = choose(scales, row); errs[r] == nil {
				m.constrain(scales)
				_, errs[r] = m.Format.Encode(out[r*size:r*size:(r+1)*size], row, scales)
			}
		}
	})
	return out, m.firstError(ctx, errs)
}

// firstError names the first row that failed.
func (m Matrix) firstError(ctx context.Context, errs []error) error {
	for r, err := range errs {
		if err != nil {
			return fmt.Errorf("%s row %d: %w", m.Name, r, err)
		}
	}
	return ctx.Err()
}

// grid is the levels of a format: lo, lo+1, ..., hi.
type grid struct{ lo, hi float32 }

func gridOf(f quant.Format) grid {
	lo, hi := f.Levels()
	return grid{lo, hi}
}

// symmetric reports whether a negative scale gives nothing new.
func (g grid) symmetric() bool { return -g.lo == g.hi }

// nearest is the level nearest to v, a weight over its scale.
func (g grid) nearest(v float32) float32 {
	return kernel.RoundEven(min(max(v, g.lo), g.hi)-g.lo) + g.lo
}

// encodeLevels appends the row form of the given levels [K] under scales. Each
// product of a level and its scale lies so close to the level that quant's
// rounding finds it again: codes are chosen here, bits are made there.
func encodeLevels(dst []byte, f quant.Format, levels []float32, scales []tensor.Half, scratch []float32) ([]byte, error) {
	G := f.Group()
	for k, l := range levels {
		scratch[k] = l * scales[k/G].Float32()
	}
	return f.Encode(dst, scratch[:len(levels)], scales)
}

// absMax is max|x| of a group, which must be one that a float16 scale can
// stand for when its outermost level is top.
func absMax(k *kernel.Funcs, x []float32, top float32) (float32, error) {
	m := k.AbsMax(x)
	if !(m <= math.MaxFloat32) {
		return 0, quant.ErrNotFinite
	}
	if tensor.HalfFrom(m/top)&0x7c00 == 0x7c00 {
		return 0, fmt.Errorf("magnitude %g is beyond a float16 scale: %w", m, quant.ErrNotFinite)
	}
	return m, nil
}
