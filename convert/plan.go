package convert

import (
	"fmt"

	"slmc/internal/kernel"
	"slmc/model"
	"slmc/quant"
)

// Align is the alignment of every weight in the packed data: a cache line, and
// the widest vector.
const Align = 64

// Plan says what becomes of each weight. It is decided before anything is
// written, so that sizes and offsets are known at the start.
type Plan struct {
	Graph   *model.Graph
	Stored  []Stored // in the order of their offsets
	Bytes   int64    // of all weight data, padding between weights included
	Params  int      // of the source, a tied embedding counted once
	Formats []quant.Format
}

// Stored is the place of one weight in the packed data: panels of 16 rows for a
// matrix, little-endian float32 for a vector.
type Stored struct {
	Weight int // index into Graph.Weights
	Format quant.Format
	Offset int64 // a multiple of Align
	Bytes  int64
}

// NewPlan places the weights of g, in the graph's order, in the formats that
// recipe gives them: the layout of a bundle's weights section.
func NewPlan(g *model.Graph, recipe model.Recipe) (*Plan, error) {
	formats, err := recipe.Formats(g)
	if err != nil {
		return nil, err
	}
	p := &Plan{Graph: g, Params: g.Parameters(), Formats: formats}
	for i, w := range g.Weights {
		s := Stored{Weight: i, Format: formats[i], Offset: alignUp(p.Bytes)}
		if w.Role.Matrix() {
			s.Bytes = int64(quant.MatrixBytes(s.Format, w.Shape[0], w.Shape[1]))
		} else {
			s.Bytes = 4 * int64(w.Elems())
		}
		p.Stored, p.Bytes = append(p.Stored, s), s.Offset+s.Bytes
	}
	return p, nil
}

func alignUp(n int64) int64 { return (n + Align - 1) / Align * Align }

// BPW is bits per weight: all weight data, with scales, norms and padding, over
// the source's parameters.
func (p *Plan) BPW() float64 { return 8 * float64(p.Bytes) / float64(p.Params) }

// chunkBytes is about how much a worker packs before it hands it on.
const chunkBytes = 256 << 10

// chunkPanels is the number of panels of a matrix that are packed at a time.
func (s Stored) chunkPanels(cols int) int {
	return max(1, chunkBytes/max(1, s.Format.PanelBytes(cols)))
}

// WorkBytes estimates the memory that Write takes with a number of threads: for
// each, 16 rows of the widest weight as float32 and their scales; and the packed
// chunks under way, two a thread.
func (p *Plan) WorkBytes(threads int) int64 {
	var rows, chunk int64
	for _, s := range p.Stored {
		w := p.Graph.Weights[s.Weight]
		cols := w.Shape[len(w.Shape)-1]
		rows = max(rows, int64(cols)*kernel.Rows*4)
		if w.Role.Matrix() {
			chunk = max(chunk, int64(s.chunkPanels(cols)*s.Format.PanelBytes(cols)))
		} else {
			chunk = max(chunk, s.Bytes)
		}
	}
	return int64(threads) * (rows*5/4 + 2*chunk)
}

// String summarizes the plan for a log.
func (p *Plan) String() string {
	return fmt.Sprintf("%d parameters in %d weights, %d bytes, %.3f bits per weight", p.Params, len(p.Stored), p.Bytes, p.BPW())
}
