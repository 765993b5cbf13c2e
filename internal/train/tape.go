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
	// Rounds says whether the inputs of matrix w of the graph are rounded;
	// Input then writes the rounded row, as the runtime's QuantizeA8 rounds it,
	// to dst. Both or neither are nil.
	Rounds func(w int) bool
	Input  func(dst, row []float32)
	// Cached rounds one head's key or value in place; nil: not.
	Cached func(v []float32)
}

// Tape runs operations forward and remembers how to go backward. It satisfies
// exec.Ops. A tape serves one part of a pass at a time: Start, the operations,
// Backward. A part is what the caller chooses, from one block to all of the
// model; what a later part needs of an earlier one, the caller copies (Input,
// Grad), which is how activation checkpointing is done: the parts run forward
// once for their outputs, and once more, from the last to the first, each
// before its Backward.
//
// Each value has one reader or its readers' gradients add up; a value that Rope
// or Add changes in place must have no other reader.
type Tape struct {
	g        *model.Graph
	w        Weights
	f        *kernel.Funcs
	split    Split
	round    Rounding
	cos, sin [][]float32
	record   bool

	seqs    []int    // lengths of the sequences whose rows make up the batch
	steps   []func() // backward, in forward order
	grads   map[*tensor.Mat]*tensor.Mat
	rounded map[*tensor.Mat]*tensor.Mat
	kv      []keyed // by block: what a taker reads
	pool    arena
	product product
	panels  []packed // by weight
}

// Split runs f over ranges that cover [0, n), on several goroutines or not.
type Split func(n, grain int, f func(lo, hi int))

// keyed are the keys and values that a giver computed, rounded as cached.
type keyed struct{ k, v *tensor.Mat }

// NewTape makes the operations for a graph. context is the length of the
// longest sequence.
func NewTape(g *model.Graph, w Weights, f *kernel.Funcs, split Split, round Rounding, context int) *Tape {
	t := &Tape{
		g: g, w: w, f: f, split: split, round: round, product: product{f: f, split: split},
		grads: map[*tensor.Mat]*tensor.Mat{}, rounded: map[*tensor.Mat]*tensor.Mat{},
		kv: make([]keyed, len(g.Blocks)), panels: make([]packed, len(g.Weights)),
	}
	for _, r := range g.Ropes {
		cos, sin := r.Tables(context)
		t.cos, t.sin = append(t.cos, cos), append(t.sin, sin)
	}
	return t
}

// Start forgets the last part. The next one is over the concatenation of
// sequences of these lengths, each starting at position 0. Without record no
// way back is kept, and Backward must not be called.
func (t *Tape) Start(seqs []int, record bool) {
	t.seqs, t.record = seqs, record
	clear(t.steps)
	t.steps = t.steps[:0]
	clear(t.grads)
	clear(t.rounded)
	clear(t.kv)
	t.pool.reset()
	t.product.held = nil
}

// Moved tells that the weights have changed: what was packed of them is packed
// again when it is used next. Released gives that memory back as well.
func (t *Tape) Moved() {
	for i := range t.panels {
		t.panels[i].forward.fresh, t.panels[i].back.fresh = false, false
	}
}

// Released is Moved for weights that are not used again soon.
func (t *Tape) Released() { clear(t.panels) }

// Backward adds the gradients of sum(seed * x) to the weights' gradients; seed
// has the shape of x.
func (t *Tape) Backward(x, seed *tensor.Mat) {
	g, _ := t.into(x)
	for r := range x.R {
		copy(g.Row(r), seed.Row(r))
	}
	for i := len(t.steps) - 1; i >= 0; i-- {
		t.steps[i]()
	}
}

// Grad is the gradient of a value of the running part, zero where nothing has
// added to it.
func (t *Tape) Grad(x *tensor.Mat) *tensor.Mat {
	g, fresh := t.into(x)
	if fresh {
		clear(g.X)
	}
	return g
}

// into returns the gradient of x and whether it is new: then it holds anything
// and is to be overwritten, else added to.
func (t *Tape) into(x *tensor.Mat) (g *tensor.Mat, fresh bool) {
	if g = t.grads[x]; g != nil {
		return g, false
	}
	g = t.mat(x.R, x.C)
	t.grads[x] = g
	return g, true
}

// mat returns an [R C] matrix of the part's memory, not cleared.
func (t *Tape) mat(R, C int) *tensor.Mat {
	return &tensor.Mat{R: R, C: C, Stride: C, X: t.pool.take(R * C)}
}

// then remembers a step of the way back.
func (t *Tape) then(back func()) {
	if t.record {
		t.steps = append(t.steps, back)
	}
}

// Input makes a value of the tape from outside: a copy of x, whose gradient
// Grad returns after Backward.
func (t *Tape) Input(x *tensor.Mat) *tensor.Mat {
	y := t.mat(x.R, x.C)
	for r := range x.R {
		copy(y.Row(r), x.Row(r))
	}
	return y
}

// rows runs f over ranges of the R rows of width C, split where it pays.
func (t *Tape) rows(R, C int, f func(lo, hi int)) {
	const grain = 1 << 13 // elements below which a thread is not worth waking
	t.split(R, 1+grain/max(C, 1), f)
}

// add adds src to dst, dense matrices of the same shape.
func (t *Tape) add(dst, src *tensor.Mat) {
	t.rows(dst.R, dst.C, func(lo, hi int) { t.f.Add(dst.X[lo*dst.C:hi*dst.C], src.X[lo*src.C:hi*src.C]) })
}

// pass adds the gradient dy of a sum to that of one of its terms.
func (t *Tape) pass(x *tensor.Mat, dy *tensor.Mat) {
	dx, fresh := t.into(x)
	if !fresh {
		t.add(dx, dy)
		return
	}
	t.rows(dx.R, dx.C, func(lo, hi int) { copy(dx.X[lo*dx.C:hi*dx.C], dy.X[lo*dy.C:]) })
}

// arena hands out float32 slices that are free again after reset. After the
// first parts it is one slice that fits the largest part met so far.
type arena struct {
	buf   []float32
	used  int
	total int // handed out since reset, in buf or beside it
}

func (a *arena) reset() {
	if a.total > len(a.buf) {
		a.buf = nil // before the new one is made: both would be twice the memory
		a.buf = make([]float32, a.total+a.total/8)
	}
	a.used, a.total = 0, 0
}

func (a *arena) take(n int) []float32 {
	a.total += n
	if a.used+n > len(a.buf) {
		return make([]float32, n)
	}
	s := a.buf[a.used : a.used+n : a.used+n]
	a.used += n
	return s
}
