package pipeline

import (
	"slmc/formats"
	"slmc/formats/bundle"
	"slmc/internal/kernel"
	"slmc/model"
	"slmc/quant"
)

// Model is the model of a SOURCE or a BUNDLE with values that are read as they
// are asked for; those of a bundle are what its codes stand for.
func (o *Opened) Model() *model.Model {
	if o.Bundle != nil {
		return &model.Model{Graph: &o.Bundle.Manifest().Graph, Values: bundleValues{o.Bundle}}
	}
	return o.Checkpoint.Model
}

// bundleValues reads the weights of an open bundle as model.Values asks: rows
// are unpacked from their panels and decoded, one at a time. It is safe for
// concurrent use.
type bundleValues struct{ b *bundle.Bundle }

// Read implements model.Values.
func (v bundleValues) Read(i, off int, dst []float32) error {
	w := &v.b.Manifest().Graph.Weights[i]
	if err := formats.CheckRange(v.b.Name(), w.Name, off, len(dst), w.Elems()); err != nil {
		return err
	}
	if err := v.b.Guard(func() error { v.read(i, off, dst); return nil }); err != nil {
		return err
	}
	for k, x := range dst {
		if x-x != 0 {
			return formats.Corrupt(v.b.Name(), w.Name, -1, "element %d is %g: weights must be finite", off+k, x)
		}
	}
	return nil
}

func (v bundleValues) read(i, off int, dst []float32) {
	w := &v.b.Manifest().Graph.Weights[i]
	if !w.Role.Matrix() {
		copy(dst, v.b.Vector(i)[off:])
		return
	}
	cols := w.Shape[1]
	r := rowReader{v.b, i, make([]byte, v.b.Format(i).RowBytes(cols))}
	var whole []float32 // a row of which only a part is asked for
	for len(dst) > 0 {
		row, col := off/cols, off%cols
		n := min(cols-col, len(dst))
		if n == cols {
			r.format().Decode(dst[:n], r.row(row))
		} else {
			if whole == nil {
				whole = make([]float32, cols)
			}
			r.format().Decode(whole, r.row(row))
			copy(dst[:n], whole[col:])
		}
		off, dst = off+n, dst[n:]
	}
}

// rowReader takes rows of a matrix out of their panels; the caller guards.
type rowReader struct {
	b   *bundle.Bundle
	i   int
	buf []byte // RowBytes of a row
}

func (r rowReader) format() quant.Format { return r.b.Format(r.i) }

// row returns the row form of a row, valid until the next call.
func (r rowReader) row(n int) []byte {
	cols := r.b.Manifest().Graph.Weights[r.i].Shape[1]
	size := r.format().PanelBytes(cols)
	panel := r.b.Weight(r.i)[n/kernel.Rows*size:][:size]
	r.format().Unpack(r.buf, panel, n%kernel.Rows, cols)
	return r.buf
}
