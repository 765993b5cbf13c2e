// Package exec is the one forward pass over a model.Graph. What an operation
// does is a parameter: Plain runs the kernels on float or packed weights with
// a cache, training hands in operations that remember how to go backward.
//
// Letters in the comments: T tokens of the batch, D hidden size, H heads, K KV
// heads, E head size, F FFN size, V vocabulary.
package exec

import (
	"slmc/model"
	"slmc/tensor"
)

// Batch is a run of tokens of one sequence: IDs[i] stands at position Pos+i.
type Batch struct {
	IDs []int32
	Pos int
}

// Ops are the operations of the forward pass. An operation may return its
// first matrix, changed in place; what it returns is valid until the next call
// of Begin or, for the residual stream, of the end of the pass. Failures are
// kept and reported by Err, so that the pass reads as the formulas do.
type Ops interface {
	// Begin is called before the embedding (block -1), each block, and the
	// head (block L); x is what lives on.
	Begin(block int, x *tensor.Mat) *tensor.Mat
	// Embed returns the scaled embedding rows [T D] of the batch: ids[i] stands
	// at position pos+i.
	Embed(ids []int32, pos int) *tensor.Mat
	// Norm is RMSNorm with weight w over each width consecutive columns.
	Norm(x *tensor.Mat, w, width int) *tensor.Mat
	// Linear returns x W^T + bias, [R out].
	Linear(x *tensor.Mat, l model.Linear) *tensor.Mat
	// Rope rotates the heads of x, whose last row is that of the batch's last
	// token.
	Rope(x *tensor.Mat, rope, headDim int) *tensor.Mat
	// Attend adds k and v [T K*E] to the cache of the block's giver (nil in a
	// taker) and returns the attention of q [R H*E], R <= T, the last rows of
	// the batch.
	Attend(block int, q, k, v *tensor.Mat) *tensor.Mat
	// Gate returns act(gate)*up.
	Gate(act model.Activation, gate, up *tensor.Mat) *tensor.Mat
	// Add returns x+y.
	Add(x, y *tensor.Mat) *tensor.Mat
	// SoftCap returns limit*tanh(x/limit).
	SoftCap(x *tensor.Mat, limit float32) *tensor.Mat
	// Rows returns the rows from r on.
	Rows(x *tensor.Mat, r int) *tensor.Mat
	Err() error
}

// Forward runs the batch and returns the logits [T-from V] of the tokens from
// index from on. Blocks after the last giver, and everything but keys and
// values in the last giver itself, run for those tokens only: nothing else
// reads the others, so the bits are those of the whole computation. With from =
// T no logits are wanted: the cache is filled and the result is nil.
func Forward(g *model.Graph, ops Ops, b Batch, from int) (*tensor.Mat, error) {
	last := LastGiver(g)
	ops.Begin(-1, nil)
	x := ops.Embed(b.IDs, b.Pos)
	for i := range g.Blocks {
		x = ops.Begin(i, x)
		if i == last && from == len(b.IDs) {
			h := ops.Norm(x, g.Blocks[i].AttnNorm, g.Hidden)
			b := &g.Blocks[i]
			k, v := ops.Linear(h, b.K), ops.Linear(h, b.V)
			ops.Attend(i, ops.Rows(h, from), finishKeys(ops, b, k), v)
			return nil, ops.Err()
		}
		drop := 0
		if i == last {
			drop = from
		}
		x = Block(g, ops, i, x, drop)
		if err := ops.Err(); err != nil {
			return nil, err
		}
	}
	logits := Head(g, ops, ops.Begin(len(g.Blocks), x))
	return logits, ops.Err()
}

// LastGiver is the index of the last block that computes keys and values.
func LastGiver(g *model.Graph) int {
	last := -1
	for i, b := range g.Blocks {
		if b.KVFrom == i {
			last = i
		}
	}
	return last
}

// Block runs block i on the residual stream x and returns the new one, without
// its first drop rows, for which only keys and values are computed.
func Block(g *model.Graph, ops Ops, i int, x *tensor.Mat, drop int) *tensor.Mat {
	b := &g.Blocks[i]
	plain, joins := ops.(*Plain)
	h := normFor(g, ops, x, b.AttnNorm, b.Q)
	var q, k, v *tensor.Mat
	switch {
	case b.KVFrom == i && drop == 0 && joins:
		q, k, v = plain.project(h, b)
	case b.KVFrom == i:
		k, v = ops.Linear(h, b.K), ops.Linear(h, b.V)
	}
	if b.KVFrom == i {
		k = finishKeys(ops, b, k)
	}
	if drop > 0 {
		x, h = ops.Rows(x, drop), ops.Rows(h, drop)
	}
	if q == nil {
		q = ops.Linear(h, b.Q)
	}
	if b.QNorm != model.None {
		q = ops.Norm(q, b.QNorm, b.HeadDim)
	}
	if b.Rope != model.None {
		q = ops.Rope(q, b.Rope, b.HeadDim)
	}
	x = addLinear(g, ops, x, ops.Attend(i, q, k, v), b.O, b.PostAttnNorm)
	h = normFor(g, ops, x, b.FFNNorm, b.Gate)
	var f *tensor.Mat
	if joins {
		f = plain.gated(h, b)
	} else {
		f = ops.Gate(b.Act, ops.Linear(h, b.Gate), ops.Linear(h, b.Up))
	}
	return addLinear(g, ops, x, f, b.Down, b.PostFFNNorm)
}

// normFor returns the normed x, which l is the first to read.
func normFor(g *model.Graph, ops Ops, x *tensor.Mat, w int, l model.Linear) *tensor.Mat {
	if plain, ok := ops.(*Plain); ok {
		return plain.normFor(x, w, l)
	}
	return ops.Norm(x, w, g.Hidden)
}

// addLinear returns x plus the product of h, normed if post is a weight.
func addLinear(g *model.Graph, ops Ops, x, h *tensor.Mat, l model.Linear, post int) *tensor.Mat {
	if post != model.None {
		return ops.Add(x, ops.Norm(ops.Linear(h, l), post, g.Hidden))
	}
	if plain, ok := ops.(*Plain); ok {
		return plain.linearAdd(x, h, l)
	}
	return ops.Add(x, ops.Linear(h, l))
}

// finishKeys norms and rotates the keys of a giver.
func finishKeys(ops Ops, b *model.Block, k *tensor.Mat) *tensor.Mat {
	if b.KNorm != model.None {
		k = ops.Norm(k, b.KNorm, b.HeadDim)
	}
	if b.Rope != model.None {
		k = ops.Rope(k, b.Rope, b.HeadDim)
	}
	return k
}

// Head returns the logits [R V] of the residual stream x [R D].
func Head(g *model.Graph, ops Ops, x *tensor.Mat) *tensor.Mat {
	z := ops.Linear(ops.Norm(x, g.Norm, g.Hidden), g.Head)
	if g.LogitCap != 0 {
		z = ops.SoftCap(z, g.LogitCap)
	}
	return z
}
