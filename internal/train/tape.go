// Package train has the operations of the forward pass with their gradients,
// the optimizer and the losses: what QAT, healing and router training share.
// Everything is float32 over internal/kernel and deterministic: an element of a
// result is computed by one goroutine, sums run in a fixed order, so the same
// data and seed give the same bits with any number of threads.
//
// Letters in the comments: T rows of a batch (all its tokens), D hidden size, H
// heads, K KV heads, E head size, F FFN size, V vocabulary.
package train

import (
	"slmc/internal/kernel"
	"slmc/model"
	"slmc/tensor"
)

// Weights gives the numbers that the forward pass uses and takes their
// gradients. Quantization-aware training hands in rounded weights here and
// carries the gradients on to what it trains.
type Weights interface {
	// Value is weight i of the graph, row-major [out in] or [n].
	Value(i int) []float32
	// Grad is where the gradient of weight i is added, of the same length, or
	// nil when nobody wants it.
	Grad(i int) []float32
}

// Rounding is the fake quantization of activations: what the runtime does to
// the inputs of packed matrices and to the cache. The zero value rounds
// nothing. Gradients pass straight through.
type Rounding struct {
	// Input rounds a row that matrix w of the graph is about to multiply, in
	// place, as the runtime's QuantizeA8 does; nil: not.
	Input func(w int, row []float32)
	// Cached rounds one head's key or value in place; nil: not.
	Cached func(v []float32)
}

// Tape runs operations forward and remembers how to go backward. It satisfies
// exec.Ops. A tape serves one batch at a time: Start, a forward pass, Backward.
type Tape struct {
	g        *model.Graph
	w        Weights
	f        *kernel.Funcs
	split    Split
	round    Rounding
	cos, sin [][]float32

	seqs    []int // lengths of the sequences whose rows make up the batch
	ids     []int32
	steps   []func() // backward, in forward order
	grads   map[*tensor.Mat]*tensor.Mat
	kv      []keyed // by block: what a taker reads
	pool    arena
	product product
}

// Split runs f over ranges that cover [0, n), on several goroutines or not.
type Split func(n, grain int, f func(lo, hi int))

// keyed are the keys and values that a giver computed, rounded as cached.
type keyed struct{ k, v *tensor.Mat }

// NewTape makes the operations for a graph. context is the length of the
// longest sequence.
func NewTape(g *model.Graph, w Weights, f *kernel.Funcs, split Split, round Rounding, context int) *Tape {
	t := &Tape{g: g, w: w, f: f, split: split, round: round, grads: map[*tensor.Mat]*tensor.Mat{}, kv: make([]keyed, len(g.Blocks)), product: product{f: f, split: split}}
	for _, r := range g.Ropes {
		cos, sin := r.Tables(context)
		t.cos, t.sin = append(t.cos, cos), append(t.sin, sin)
	}
	return t
}

// Start forgets the last batch. The next one is the concatenation of sequences
// of these lengths, each starting at position 0.
func (t *Tape) Start(seqs []int) {
	t.seqs, t.steps = seqs, t.steps[:0]
	clear(t.grads)
	clear(t.kv)
	t.pool.reset()
}

// Backward adds the gradients of sum(seed * x) to the weights' gradients; seed
// has the shape of x. It returns the gradient of the batch's first value, such
// as a block's input, when asked for with Grad before.
func (t *Tape) Backward(x, seed *tensor.Mat) {
	g := t.grad(x)
	for r := range x.R {
		copy(g.Row(r), seed.Row(r))
	}
	for i := len(t.steps) - 1; i >= 0; i-- {
		t.steps[i]()
	}
}

// Grad is the gradient of a value of the running batch, zero before Backward.
func (t *Tape) Grad(x *tensor.Mat) *tensor.Mat { return t.grad(x) }

// grad returns the gradient of x, made of zeros when it is new.
func (t *Tape) grad(x *tensor.Mat) *tensor.Mat {
	g := t.grads[x]
	if g == nil {
		g = t.mat(x.R, x.C)
		clear(g.X)
		t.grads[x] = g
	}
	return g
}

// mat returns an [R C] matrix of the batch's memory, not cleared.
func (t *Tape) mat(R, C int) *tensor.Mat {
	return &tensor.Mat{R: R, C: C, Stride: C, X: t.pool.take(R * C)}
}

// then remembers a step of the way back.
func (t *Tape) then(back func()) { t.steps = append(t.steps, back) }

// Input makes a value of the tape from outside: a copy of x, whose gradient
// Grad returns after Backward.
func (t *Tape) Input(x *tensor.Mat) *tensor.Mat {
	y := t.mat(x.R, x.C)
	for r := range x.R {
		copy(y.Row(r), x.Row(r))
	}
	return y
}

// arena hands out float32 slices that are free again after reset: batches are
// alike, so nothing is allocated after the first.
type arena struct {
	blocks [][]float32
	block  int
	used   int
}

const arenaBlock = 1 << 20

func (a *arena) reset() { a.block, a.used = 0, 0 }

func (a *arena) take(n int) []float32 {
	for a.block < len(a.blocks) {
		b := a.blocks[a.block]
		if a.used+n <= len(b) {
			s := b[a.used : a.used+n : a.used+n]
			a.used += n
			return s
		}
		a.block, a.used = a.block+1, 0
	}
	a.blocks = append(a.blocks, make([]float32, max(n, arenaBlock)))
	a.used = n
	return a.blocks[a.block][:n:n]
}
