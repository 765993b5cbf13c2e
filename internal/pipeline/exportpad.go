package pipeline

import (
	"slmc/model"
)

// padFFN returns m with FFNs of width to instead of their own, which must be at
// least that: gate and up get rows of zeros, whose product is zero, and down
// columns of zeros. That changes no output by a bit. It is the only width that
// can be padded: RMS norms take a mean over the hidden size, and more heads would
// keep keys and values of their own.
func padFFN(m *model.Model, to int) *model.Model {
	g := m.Graph.Clone()
	v := paddedFFN{Values: m.Values, from: m.Graph, to: g}
	for i := range g.Blocks {
		b := &g.Blocks[i]
		b.FFN = to
		for _, w := range []int{b.Gate.W, b.Up.W, b.Gate.B, b.Up.B} {
			if w != model.None {
				g.Weights[w].Shape[0] = to
			}
		}
		g.Weights[b.Down.W].Shape[1] = to
	}
	return &model.Model{Graph: g, Values: v}
}

// paddedFFN reads the values of from with zeros where to has more.
type paddedFFN struct {
	model.Values
	from, to *model.Graph
}

// Read implements model.Values.
func (p paddedFFN) Read(i, off int, dst []float32) error {
	have, want := p.from.Weights[i].Shape, p.to.Weights[i].Shape
	cols, padded := have[len(have)-1], want[len(want)-1]
	if len(have) == 1 || cols == padded { // only rows, or bias elements, are added
		n := max(0, min(len(dst), p.from.Weights[i].Elems()-off))
		clear(dst[n:])
		if n == 0 {
			return nil
		}
		return p.Values.Read(i, off, dst[:n])
	}
	for len(dst) > 0 {
		row, col := off/padded, off%padded
		n := min(padded-col, len(dst))
		real := max(0, min(n, cols-col))
		if real > 0 {
			if err := p.Values.Read(i, row*cols+col, dst[:real]); err != nil {
				return err
			}
		}
		clear(dst[real:n])
		off, dst = off+n, dst[n:]
	}
	return nil
}
