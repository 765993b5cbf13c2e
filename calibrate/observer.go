package calibrate

import (
	"slmc/internal/exec"
	"slmc/model"
	"slmc/tensor"
)

// observer is exec's operations with an eye on the inputs of Linear. Once the
// last input that is wanted has been seen it computes nothing more until the
// next batch: what comes out of the pass then has the right shape and no
// meaning.
type observer struct {
	exec.Ops
	g    *model.Graph
	sums map[string]*accumulator // by label; labels that are not there are not wanted
	last string                  // the label counted already in this block; matrices are used again, so their addresses say nothing
	// expect: this is the float model, whose inputs the quantized one is to be
	// compared with.
	expect   bool
	residual *tensor.Mat // the residual stream as it is now

	block     int    // that runs
	lastBlock int    // that reads a wanted input, or -1 to run to the end
	lastLabel string // the last such input there
	done      bool
	zeros     []float32
}

// newObserver makes an observer of a pass through blocks, which ends with the
// last input wanted.
func newObserver(ops exec.Ops, g *model.Graph, blocks []int, sums map[string]*accumulator) *observer {
	o := &observer{Ops: ops, g: g, sums: sums, lastBlock: -1}
	for _, i := range blocks {
		b := &g.Blocks[i]
		for _, l := range []model.Linear{b.K, b.V, b.Q, b.O, b.Gate, b.Up, b.Down} {
			if l.W != model.None && sums[g.Weights[l.W].Input] != nil {
				o.lastBlock, o.lastLabel = i, g.Weights[l.W].Input
			}
		}
	}
	return o
}

// Begin implements exec.Ops.
func (o *observer) Begin(block int, x *tensor.Mat) *tensor.Mat {
	o.block, o.done, o.last = block, o.done && block >= 0, ""
	o.residual = o.Ops.Begin(block, x)
	return o.residual
}

// Linear implements exec.Ops.
func (o *observer) Linear(x *tensor.Mat, l model.Linear) *tensor.Mat {
	w := o.g.Weights[l.W]
	if a := o.sums[w.Input]; a != nil && w.Input != o.last && !o.done {
		if o.expect {
			a.expect(x, o.residual)
		} else {
			a.add(x, o.residual)
		}
		o.last = w.Input
		o.done = o.block == o.lastBlock && w.Input == o.lastLabel
	}
	if o.done {
		return o.blank(x.R, w.Shape[0])
	}
	return o.Ops.Linear(x, l)
}

// blank is a matrix [R C] of nothing.
func (o *observer) blank(R, C int) *tensor.Mat {
	if len(o.zeros) < R*C {
		o.zeros = make([]float32, R*C)
	}
	return &tensor.Mat{R: R, C: C, Stride: C, X: o.zeros[:R*C]}
}

// Norm implements exec.Ops.
func (o *observer) Norm(x *tensor.Mat, w, width int) *tensor.Mat {
	if o.done {
		return x
	}
	return o.Ops.Norm(x, w, width)
}

// Rope implements exec.Ops.
func (o *observer) Rope(x *tensor.Mat, rope, headDim int) *tensor.Mat {
	if o.done {
		return x
	}
	return o.Ops.Rope(x, rope, headDim)
}

// Attend implements exec.Ops.
func (o *observer) Attend(block int, q, k, v *tensor.Mat) *tensor.Mat {
	if o.done {
		return q
	}
	return o.Ops.Attend(block, q, k, v)
}

// Gate implements exec.Ops.
func (o *observer) Gate(act model.Activation, gate, up *tensor.Mat) *tensor.Mat {
	if o.done {
		return gate
	}
	return o.Ops.Gate(act, gate, up)
}

// Add implements exec.Ops.
func (o *observer) Add(x, y *tensor.Mat) *tensor.Mat {
	if o.done {
		return x
	}
	o.residual = o.Ops.Add(x, y)
	return o.residual
}
