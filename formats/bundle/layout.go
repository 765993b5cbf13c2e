package bundle

import (
	"fmt"

	"slmc/model"
	"slmc/quant"
)

// This file computes where everything lies. A writer follows it and a reader
// demands it, so that a bundle has one layout.

// align rounds n up to a multiple of a.
func align(n, a int64) int64 { return (n + a - 1) / a * a }

// leafCount counts the leaves of all sections but the one that lists them.
func leafCount(all []Section) (n int64) {
	for _, s := range all {
		if s.Name != SectionLeaves {
			n += leavesOf(s.Length)
		}
	}
	return n
}

// leavesOf is the number of leaves of a section of that length.
func leavesOf(length int64) int64 { return align(length, LeafBytes) / LeafBytes }

// layWeights computes where the weights of m.Graph lie in their formats, and
// the length of the weights section. The graph has been checked.
func layWeights(m *Manifest, fs []quant.Format) (out []Stored, length int64, err error) {
	for i, w := range m.Graph.Weights {
		s := Stored{Name: w.Name, Format: fs[i].Name(), Offset: align(length, WeightAlign)}
		if w.Role.Matrix() {
			s.Bytes = int64(quant.MatrixBytes(fs[i], w.Shape[0], w.Shape[1]))
		} else {
			if fs[i] != quant.F32 {
				return nil, 0, fmt.Errorf("weight %q: a vector in format %s, wanted f32", w.Name, s.Format)
			}
			s.Bytes = int64(quant.F32.RowBytes(w.Shape[0]))
		}
		length = s.Offset + s.Bytes
		out = append(out, s)
	}
	return out, length, nil
}

// table is the place in the rope section of the cosines and of the sines of one
// rope, each [context E/2] float32.
type table struct{ cos, sin, bytes int64 }

// ropeTables lays out the rope section and returns its length.
func ropeTables(g *model.Graph, context int) (out []table, length int64) {
	for _, r := range g.Ropes {
		t := table{bytes: int64(context) * int64(len(r.InvFreq)) * 4}
		t.cos = align(length, WeightAlign)
		t.sin = align(t.cos+t.bytes, WeightAlign)
		length = t.sin + t.bytes
		out = append(out, t)
	}
	return out, length
}

// bpw is bits per weight, rounded to the nearest 1/10000, half up.
func bpw(bytes, parameters int64) float64 {
	const parts = 1e4
	return float64((8*parts*bytes+parameters/2)/parameters) / parts
}
