package qat

import (
	"slmc/internal/exec"
	"slmc/internal/train"
	"slmc/model"
	"slmc/tensor"
)

// pass runs the student's blocks over a part of a batch and back. With
// checkpoints it keeps only what enters each unit of blocks and runs the unit
// again on the way back: the same bits for a quarter more work (Chen et al.,
// arXiv 1604.06174).
type pass struct {
	g          *model.Graph
	tape       *train.Tape
	checkpoint bool
	units      [][2]int

	ids     []int32
	lengths []int
	y       *tensor.Mat   // of the whole tape
	saved   []*tensor.Mat // input of each unit
	out     *tensor.Mat   // last output, or gradient
}

// activationBytes is the memory that a pass may take for activations and their
// gradients before it uses checkpoints.
const activationBytes = 160 << 20

// newPass decides by the size of the model whether activations are kept.
func newPass(g *model.Graph, tape *train.Tape, longest int) *pass {
	p := &pass{g: g, tape: tape, units: units(g)}
	floats := 0
	for _, b := range g.Blocks {
		// What ops.go keeps for one token, with its gradients.
		floats += 14*g.Hidden + 4*(b.Heads+2*b.KVHeads)*b.HeadDim + 7*b.FFN + b.Heads*longest
	}
	p.checkpoint = 4*floats*max(microTokens, longest) > activationBytes
	p.saved = make([]*tensor.Mat, len(p.units)+1)
	return p
}

// forward returns the residual stream after the last block.
func (p *pass) forward(ids []int32, lengths []int) *tensor.Mat {
	p.ids, p.lengths = ids, lengths
	p.tape.Start(lengths, !p.checkpoint)
	x := p.tape.Embed(ids, 0)
	if !p.checkpoint {
		p.y = p.run(x, 0, len(p.g.Blocks))
		return p.y
	}
	for u, unit := range p.units {
		p.saved[u] = copyOf(p.saved[u], x)
		p.tape.Start(lengths, false)
		x = p.run(p.tape.Input(p.saved[u]), unit[0], unit[1])
	}
	p.out = copyOf(p.out, x)
	return p.out
}

// backward takes the gradient of what forward returned, and keeps it no longer.
func (p *pass) backward(dy *tensor.Mat) {
	if !p.checkpoint {
		p.tape.Backward(p.y, dy)
		return
	}
	for u := len(p.units) - 1; u >= 0; u-- {
		p.tape.Start(p.lengths, true)
		x := p.tape.Input(p.saved[u])
		p.tape.Backward(p.run(x, p.units[u][0], p.units[u][1]), dy)
		p.out = copyOf(p.out, p.tape.Grad(x))
		dy = p.out
	}
	p.tape.EmbedBack(p.ids, dy)
}

func (p *pass) run(x *tensor.Mat, first, end int) *tensor.Mat {
	for i := first; i < end; i++ {
		x = exec.Block(p.g, p.tape, i, x, 0)
	}
	return x
}

// copyOf copies x to the memory of m, if it fits.
func copyOf(m, x *tensor.Mat) *tensor.Mat {
	m = reshape(m, x.R, x.C)
	for r := range x.R {
		copy(m.Row(r), x.Row(r))
	}
	return m
}

// units lists runs of blocks [first, end) that share neither a cache nor weights
// with others.
func units(g *model.Graph) [][2]int {
	var out [][2]int
	owner := map[int]int{} // first block of a weight
	for i, b := range g.Blocks {
		from := min(i, b.KVFrom)
		for _, w := range []int{b.Q.W, b.Gate.W} {
			if j, shared := owner[w]; shared {
				from = min(from, j)
			} else {
				owner[w] = i
			}
		}
		out = append(out, [2]int{i, i + 1})
		// Everything from the block that it shares with on joins.
		for last := len(out) - 1; out[last][0] > from; last-- {
			out[last-1][1] = i + 1
			out = out[:last]
		}
	}
	return out
}
