// Package exec is the one forward pass over a model.Graph. What an operation
// does is a parameter: Plain runs the kernels on float or packed weights with
// a cache, training hands in operations that remember how to go backward.
//
// Letters in the comments: T tokens of the batch, D hidden size, H heads, K KV
// heads, E head size, F FFN size, V vocabulary.
package exec

import "slmc/model"

// Mat is a row-major matrix of activations [R C]; row r starts at X[r*Stride].
type Mat struct {
	R, C, Stride int
	X            []float32
}

// Row returns row r, C values.
func (m *Mat) Row(r int) []float32 { return m.X[r*m.Stride:][:m.C:m.C] }

// From returns the rows from r on, sharing memory.
func (m *Mat) From(r int) *Mat {
	return &Mat{R: m.R - r, C: m.C, Stride: m.Stride, X: m.X[r*m.Stride:]}
}

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
	Begin(block int, x *Mat) *Mat
	// Embed returns the scaled embedding rows [T D] of the batch.
	Embed(b Batch) *Mat
	// Norm is RMSNorm with weight w over each width consecutive columns.
	Norm(x *Mat, w, width int) *Mat
	// Linear returns x W^T + bias, [R out].
	Linear(x *Mat, l model.Linear) *Mat
	// Rope rotates the heads of x, whose last row is that of the batch's last
	// token.
	Rope(x *Mat, rope, headDim int) *Mat
	// Attend adds k and v [T K*E] to the cache of the block's giver (nil in a
	// taker) and returns the attention of q [R H*E], R <= T, the last rows of
	// the batch.
	Attend(block int, q, k, v *Mat) *Mat
	// Gate returns act(gate)*up.
	Gate(act model.Activation, gate, up *Mat) *Mat
	// Add returns x+y.
	Add(x, y *Mat) *Mat
	// SoftCap returns limit*tanh(x/limit).
	SoftCap(x *Mat, limit float32) *Mat
	// Rows returns the rows from r on.
	Rows(x *Mat, r int) *Mat
	Err() error
}

// Forward runs the batch and returns the logits [T-from V] of the tokens from
// index from on. Blocks after the last giver, and everything but keys and
// values in the last giver itself, run for those tokens only: nothing else
// reads the others, so the bits are those of the whole computation.
func Forward(g *model.Graph, ops Ops, b Batch, from int) (*Mat, error) {
	last := LastGiver(g)
	ops.Begin(-1, nil)
	x := ops.Embed(b)
	for i := range g.Blocks {
		x = ops.Begin(i, x)
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
func Block(g *model.Graph, ops Ops, i int, x *Mat, drop int) *Mat {
	b := &g.Blocks[i]
	h := ops.Norm(x, b.AttnNorm, g.Hidden)
	var k, v *Mat
	if b.KVFrom == i {
		k = ops.Linear(h, b.K)
		v = ops.Linear(h, b.V)
		if b.KNorm != model.None {
			k = ops.Norm(k, b.KNorm, b.HeadDim)
		}
		if b.Rope != model.None {
			k = ops.Rope(k, b.Rope, b.HeadDim)
		}
	}
	if drop > 0 {
		x, h = ops.Rows(x, drop), ops.Rows(h, drop)
	}
	q := ops.Linear(h, b.Q)
	if b.QNorm != model.None {
		q = ops.Norm(q, b.QNorm, b.HeadDim)
	}
	if b.Rope != model.None {
		q = ops.Rope(q, b.Rope, b.HeadDim)
	}
	a := ops.Linear(ops.Attend(i, q, k, v), b.O)
	if b.PostAttnNorm != model.None {
		a = ops.Norm(a, b.PostAttnNorm, g.Hidden)
	}
	x = ops.Add(x, a)
	h = ops.Norm(x, b.FFNNorm, g.Hidden)
	f := ops.Linear(ops.Gate(b.Act, ops.Linear(h, b.Gate), ops.Linear(h, b.Up)), b.Down)
	if b.PostFFNNorm != model.None {
		f = ops.Norm(f, b.PostFFNNorm, g.Hidden)
	}
	return ops.Add(x, f)
}

// Head returns the logits [R V] of the residual stream x [R D].
func Head(g *model.Graph, ops Ops, x *Mat) *Mat {
	z := ops.Linear(ops.Norm(x, g.Norm, g.Hidden), g.Head)
	if g.LogitCap != 0 {
		z = ops.SoftCap(z, g.LogitCap)
	}
	return z
}
