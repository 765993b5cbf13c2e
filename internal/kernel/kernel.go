// Package kernel holds the inner loops of the forward pass on plain slices,
// and the rounding that makes them give the same bits on every CPU.
//
// Each operation has one scalar reference, written in plain Go, that defines
// the right answer; the assembly variants repeat it lane by lane. The loops
// are laid out so that vector width never matters:
//
//   - weights lie in panels of 16 output rows, a lane owns one row and walks k
//     in order, so there is no horizontal sum;
//   - integer dots are exact, one fused multiply-add per 32 activations joins
//     them in order;
//   - reductions use 16 lane accumulators indexed by absolute position and one
//     fixed tree (see tree16);
//   - exp and tanh are polynomials of this package (math.go).
//
// Letters in the comments: T tokens, K inputs of a matrix, E head size.
// Panel layouts are specified in panel.go.
package kernel

import "fmt"

// Rows is the number of output rows in a panel; one SIMD lane owns one.
const Rows = 16

// Sub is the number of activations that share one scale.
const Sub = 32

// Acts is a batch of T rows of K activations in 8 bits.
type Acts struct {
	T, K   int
	Stride int       // codes from row to row, K rounded up to a multiple of Sub
	Codes  []int8    // [T Stride], -127..127, zero from K on
	Scales []float32 // [T Stride/Sub]
	Sums   []int32   // [T Stride/Sub], the sum of a sub-group's codes

	// Meta is Scales and Sums as the products read them, MetaWords long: Prepare
	// writes it for the products whose zero point is Zero.
	Meta []uint32
	Zero Zero
}

// Zero tells the formats of quantized matrices apart, by the zero point of
// their codes in units of their steps: W2 counts half levels.
type Zero int32

// The zero points of MatW8, MatW4 and MatW2.
const (
	ZeroW8 Zero = 128
	ZeroW4 Zero = 8
	ZeroW2 Zero = 3
)

// MetaWords is the length of Meta for T rows of K activations.
func MetaWords(T, K int) int {
	return (T + metaSlots - 1) / metaSlots * ((K + Sub - 1) / Sub) * 2 * metaSlots
}

// metaSlots is the most tokens that an implementation takes at once.
const metaSlots = 8

// MatQ computes dst[t*ld+r] = sum over k of W[r,k]*x[t,k] for the rows r of the
// panels p0 <= p < p1 of a quantized matrix, for all T tokens. w holds all of
// the matrix' panels with GroupSize group (32, 64 or 128); rows beyond the
// matrix' own have scale 0 and give 0, so ld must be at least 16*p1. All rows of
// x must have been through Prepare with the format's Zero.
type MatQ func(dst []float32, ld int, w []byte, x *Acts, group, p0, p1 int)

// MatF is MatQ for float panels: x is [T ldx] with K valid columns. Each
// output accumulates over k in order with FMA32, starting from zero.
type MatF func(dst []float32, ld int, w []byte, x []float32, ldx, T, K, p0, p1 int)

// Funcs is one implementation of every operation. All implementations give the
// same bits; their definitions are the scalar functions of the same names.
type Funcs struct {
	Name   string
	limits limits

	MatW8, MatW4, MatW2     MatQ
	MatF32, MatF16, MatBF16 MatF
	QuantizeA8              func(codes []int8, scales []float32, sums []int32, x []float32) bool
	Prepare                 func(x *Acts, t0, t1, s0, s1 int) // of Meta, for x.Zero: sub-groups s0 to s1 of rows t0 to t1
	RMSNorm                 func(dst, x, w []float32, eps float32)
	Softmax                 func(x []float32, t0 int) float32
	SiluMul, GeluMul        func(dst, gate, up []float32)
	SoftCap                 func(x []float32, limit float32)
	Rope                    func(x, cos, sin []float32)
	Add                     func(dst, x []float32)
	AbsMax                  func(x []float32) float32
	QuantizeKV8             func(codes []int8, x []float32, scale float32)
	ScoresF32               func(dst, q, k []float32, mul float32)
	ScoresF16               func(dst, q []float32, k []uint16, mul float32)
	ScoresKV8               func(dst, q []float32, k []int8, scales []uint16, mul float32)
	MixF32                  func(dst, p, v []float32)
	MixF16                  func(dst, p []float32, v []uint16)
	MixKV8                  func(dst, p []float32, v []int8, scales []uint16)
	Divide                  func(x []float32, by float32)
	Halves                  func(dst []uint16, x []float32)
	// For the query heads of one KV head (heads.go). MixHeads may overwrite p.
	ScoresHeadsF32 func(dst, q []float32, E int, k []float32, mul float32, next []float32)
	ScoresHeadsF16 func(dst, q []float32, E int, k []uint16, mul float32, next []uint16)
	ScoresHeadsKV8 func(dst, q []float32, E int, k []int8, scales []uint16, mul float32, next []int8)
	MixHeadsF32    func(dst, p []float32, E int, v, next []float32)
	MixHeadsF16    func(dst, p []float32, E int, v, next []uint16)
	MixHeadsKV8    func(dst, p []float32, E int, v []int8, scales []uint16, next []int8)
	// For the queries of many rows; nil where nothing is gained.
	Tiles *Tiles
}

// Impl is an implementation and whether this CPU can run it.
type Impl struct {
	Funcs
	OK bool
}

// Impls lists every implementation built into this binary, fastest first. The
// last is the scalar reference, which runs everywhere.
func Impls() []Impl {
	all := append(archImpls(), Impl{scalar, true})
	for i := range all {
		all[i].Funcs = loopHeads(all[i].Funcs)
	}
	return all
}

// Select returns the implementation of that name, or the fastest that this CPU
// runs when name is empty or "auto".
func Select(name string) (*Funcs, error) {
	var names []string
	for _, im := range Impls() {
		if name == im.Name && !im.OK {
			return nil, fmt.Errorf("kernel %q: this CPU lacks it", name)
		}
		if im.OK && (name == "" || name == "auto" || name == im.Name) {
			f := im.Funcs
			return &f, nil
		}
		if im.OK {
			names = append(names, im.Name)
		}
	}
	return nil, fmt.Errorf("kernel %q: unknown; this binary and CPU have %v", name, names)
}

var scalar = Funcs{
	Name:   "scalar",
	limits: scalarLimits,
	MatW8:  matW8, MatW4: matW4, MatW2: matW2,
	MatF32: matF32, MatF16: matF16, MatBF16: matBF16,
	QuantizeA8:  quantizeA8,
	Prepare:     func(*Acts, int, int, int, int) {}, // the definitions read Scales and Sums
	RMSNorm:     rmsNorm,
	Softmax:     softmax,
	SiluMul:     siluMul,
	GeluMul:     geluMul,
	SoftCap:     softCap,
	Rope:        rope,
	Add:         add,
	AbsMax:      absMax,
	QuantizeKV8: quantizeKV8,
	ScoresF32:   scoresF32, ScoresF16: scoresF16, ScoresKV8: scoresKV8,
	MixF32: mixF32, MixF16: mixF16, MixKV8: mixKV8,
	Divide: divide, Halves: halves,
}
