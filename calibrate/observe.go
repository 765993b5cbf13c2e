package calibrate

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"slmc/internal/exec"
	"slmc/internal/kernel"
	"slmc/model"
	"slmc/tensor"
)

// Activation statistics: for the input x [K] of each linear, over all tokens,
// E[x], E[x^2], max|x| and, when asked for, H = sum x x^T, the Hessian of the
// layer-wise squared error (arXiv 2210.17323, section 3.1, without the factor
// 2/T that the solution does not depend on). They are taken where exec calls
// Linear; matrices that read the same activation carry the same label in the
// graph and share one Input.

// The kinds of failure of calibration data.
var (
	ErrNoText   = errors.New("no calibration text")
	ErrTooShort = errors.New("calibration text is too short")
)

// Input is what was observed of one linear input.
type Input struct {
	Label  string
	K      int
	Tokens int
	Mean   []float64 // [K] E[x]
	Square []float64 // [K] E[x^2]
	Max    []float32 // [K] max|x|
	H      []float64 // [K K] sum over tokens of x x^T, symmetric; nil when not asked for
	// Float [K K] is the sum of f x^T where f is what the float model has in
	// x's place, and Lag [D K] the sum of (p-r) x^T where r is the residual
	// stream there and p the float model's: see compensate.go. nil when not
	// asked for.
	Float, Lag []float64
}

// Env is what all work here runs on; none of it changes a result.
type Env struct {
	Kernel *kernel.Funcs
	Pool   *exec.Pool
}

// chunk is the number of tokens that are summed in float32 before they join
// the float64 sums: a sum of n products in float32 is off by at most n 2^-24 of
// the sum of magnitudes, 2^-17 here, far below what damping adds.
const chunk = 128

// accumulator sums an Input. Tokens are cut into chunks by their count alone
// and every sum runs over tokens in order, so that neither the lengths of the
// sequences nor the number of threads changes a bit.
type accumulator struct {
	in      *Input
	env     Env
	hessian bool
	rows    []float32 // [chunk K], the first n filled
	n       int
	panels  []byte    // [K/16][n 16] float32: X as panels, 16 columns a panel
	cols    []float32 // [K n]: X transposed
	part    []float32 // [K P*16] of X^T X
	beside  [2]*beside
}

func newAccumulator(env Env, label string, K int, hessian bool) *accumulator {
	a := &accumulator{env: env, hessian: hessian, rows: make([]float32, chunk*K), in: &Input{
		Label: label, K: K, Mean: make([]float64, K), Square: make([]float64, K), Max: make([]float32, K),
	}}
	if hessian {
		P := panels(K)
		a.in.H = make([]float64, K*K)
		a.panels = make([]byte, 4*P*kernel.Rows*chunk)
		a.cols = make([]float32, K*chunk)
		a.part = make([]float32, K*P*kernel.Rows)
	}
	return a
}

func panels(K int) int { return (K + kernel.Rows - 1) / kernel.Rows }

// add takes the rows of x [T K] and, to be compared with the float model's, of
// the residual stream there, else nil.
func (a *accumulator) add(x, residual *tensor.Mat) {
	for r := range x.R {
		copy(a.rows[a.n*a.in.K:], x.Row(r))
		if a.beside[0] != nil {
			a.beside[0].next(a.n, nil)
		}
		if a.beside[1] != nil {
			a.beside[1].next(a.n, residual.Row(r))
		}
		if a.n++; a.n == chunk {
			a.flush()
		}
	}
}

// flush adds the tokens of the running chunk to the sums.
func (a *accumulator) flush() {
	if a.n == 0 {
		return
	}
	in, K, n := a.in, a.in.K, a.n
	P := panels(K)
	if a.hessian {
		a.env.Pool.Run(P, 1, func(lo, hi int) { a.lay(lo, hi) })
		for _, b := range a.beside {
			if b != nil {
				b.lay(n)
			}
		}
	}
	a.env.Pool.Run(P, 1+(1<<14)/(n*kernel.Rows), func(lo, hi int) {
		for k := lo * kernel.Rows; k < min(hi*kernel.Rows, K); k++ {
			for t := range n {
				x := a.rows[t*K+k]
				in.Mean[k] += float64(x)
				in.Square[k] += float64(float64(x) * float64(x))
				in.Max[k] = max(in.Max[k], x, -x)
			}
		}
		if a.hessian {
			for p := lo; p < hi; p++ {
				a.multiply(p)
				for _, b := range a.beside {
					if b != nil {
						b.multiply(a, p)
					}
				}
			}
		}
	})
	in.Tokens += n
	a.n = 0
}

// lay writes columns [16 lo, 16 hi) of the chunk as panels and transposed.
func (a *accumulator) lay(lo, hi int) {
	K, n := a.in.K, a.n
	for p := lo; p < hi; p++ {
		c0 := p * kernel.Rows
		w := min(kernel.Rows, K-c0)
		panel := a.panels[4*c0*n:][:4*n*kernel.Rows]
		for t := range n {
			row := a.rows[t*K+c0:][:w]
			putFloats(panel[4*t*kernel.Rows:], row)
			for j, x := range row {
				a.cols[(c0+j)*n+t] = x
			}
		}
	}
}

// putFloats writes x as the kernels' panels hold it, little-endian.
func putFloats(dst []byte, x []float32) {
	for i, v := range x {
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
	}
}

// multiply adds panel p's columns of X^T X to H, from the diagonal down: the
// rest is its mirror.
func (a *accumulator) multiply(p int) {
	K, n, c0 := a.in.K, a.n, p*kernel.Rows
	ld := panels(K) * kernel.Rows
	a.env.Kernel.MatF32(a.part[c0*ld:], ld, a.panels[:4*ld*n], a.cols[c0*n:], n, K-c0, n, p, p+1)
	for i := c0; i < K; i++ {
		part := a.part[i*ld+c0:][:min(kernel.Rows, i+1-c0)]
		h := a.in.H[i*K+c0:]
		for j, x := range part {
			h[j] += float64(x)
		}
	}
}

// finish returns the statistics. A NaN or Inf in an activation is an error.
func (a *accumulator) finish() (*Input, error) {
	a.flush()
	in := a.in
	if in.Tokens == 0 {
		return nil, fmt.Errorf("input %s: %w", in.Label, ErrNoText)
	}
	for k := range in.K {
		if !(in.Square[k] < maxSquare) {
			return nil, fmt.Errorf("input %s, column %d: %w", in.Label, k, exec.ErrNotFinite)
		}
		in.Mean[k] /= float64(in.Tokens)
		in.Square[k] /= float64(in.Tokens)
	}
	if a.hessian {
		for i := range in.K {
			for j := range i {
				in.H[j*in.K+i] = in.H[i*in.K+j]
			}
		}
	}
	return in, nil
}

// maxSquare is beyond any sum whose float32 Hessian is finite.
const maxSquare = 1e37

// Sequences is calibration text: each starts at position 0.
type Sequences [][]int32

// Tokens is the number of all tokens.
func (s Sequences) Tokens() int {
	n := 0
	for _, q := range s {
		n += len(q)
	}
	return n
}

// Check reports text that a model can't be calibrated on: none at all, one of
// fewer than least tokens, a sequence longer than the context, an id outside
// the vocabulary.
func (s Sequences) Check(g *model.Graph, context, least int) error {
	for i, q := range s {
		if len(q) > context {
			return fmt.Errorf("calibration sequence %d has %d tokens, the context is %d", i, len(q), context)
		}
		for j, id := range q {
			if id < 0 || int(id) >= g.Vocab {
				return fmt.Errorf("calibration sequence %d: token %d is %d, the vocabulary has %d", i, j, id, g.Vocab)
			}
		}
	}
	switch n := s.Tokens(); {
	case n == 0:
		return fmt.Errorf("%w: %d sequences, no token", ErrNoText, len(s))
	case n < least:
		return fmt.Errorf("%w: %d tokens, wanted at least %d", ErrTooShort, n, least)
	}
	return nil
}

// Observe runs the sequences through the whole model and returns the
// statistics of every linear input, of an output projection too, by label. p
// holds all weights: use Run for models that should not be held whole.
// Hessians take 8 K^2 bytes for each input.
func Observe(ctx context.Context, env Env, g *model.Graph, p *exec.Params, kv exec.KVFormat, seqs Sequences, hessian bool) (map[string]*Input, error) {
	context := longest(seqs)
	if err := seqs.Check(g, context, 1); err != nil {
		return nil, err
	}
	// Its passes go on to the end, for the output projection.
	o := newObserver(exec.NewPlain(g, p, env.Kernel, env.Pool, exec.NewCache(g, kv, context)), g, nil, map[string]*accumulator{})
	for _, w := range g.Weights {
		if w.Input != "" && o.sums[w.Input] == nil {
			o.sums[w.Input] = newAccumulator(env, w.Input, w.Shape[1], hessian)
		}
	}
	for i, q := range seqs {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if len(q) == 0 {
			continue
		}
		o.Begin(-1, nil)
		x := o.Embed(q, 0)
		for b := range g.Blocks {
			x = exec.Block(g, o, b, o.Begin(b, x), 0)
		}
		// The output projection's input is wanted, its product is not.
		if a := o.sums[g.Weights[g.Head.W].Input]; a != nil {
			a.add(o.Norm(o.Begin(len(g.Blocks), x), g.Norm, g.Hidden), nil)
		}
		if err := o.Err(); err != nil {
			return nil, fmt.Errorf("calibration sequence %d: %w", i, err)
		}
	}
	out := map[string]*Input{}
	for label, a := range o.sums {
		var err error
		if out[label], err = a.finish(); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func longest(seqs Sequences) int {
	n := 0
	for _, q := range seqs {
		n = max(n, len(q))
	}
	return n
}
