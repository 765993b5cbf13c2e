package exec

import (
	"fmt"

	"slmc/model"
	"slmc/quant"
)

// Matrix is a weight matrix [Rows Cols] in panel form.
type Matrix struct {
	Format     quant.Format
	Rows, Cols int
	Panels     []byte // quant.MatrixBytes(Format, Rows, Cols) bytes, read only
}

// Params are the numbers of a graph in the form that the kernels use, indexed
// like Graph.Weights. They may lie in a mapped file and are never written.
type Params struct {
	Mats []Matrix    // zero Matrix for vectors
	Vecs [][]float32 // nil for matrices
	// Cos and Sin are the rotary tables of each of Graph.Ropes: [T E/2] for
	// as many positions as the session may hold.
	Cos, Sin [][]float32
}

// Format is the number format of matrix w.
func (p *Params) Format(w int) quant.Format { return p.Mats[w].Format }

// check panics on parameters that do not fit the graph: they come from readers
// that have verified them.
func (p *Params) check(g *model.Graph) {
	for i, w := range g.Weights {
		if w.Role.Matrix() {
			if m := p.Mats[i]; len(m.Panels) != quant.MatrixBytes(m.Format, w.Shape[0], w.Shape[1]) {
				panic(fmt.Sprintf("exec: %s has %d bytes of panels", w.Name, len(m.Panels)))
			}
		} else if len(p.Vecs[i]) != w.Shape[0] {
			panic(fmt.Sprintf("exec: %s has %d values", w.Name, len(p.Vecs[i])))
		}
	}
}
