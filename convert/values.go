package convert

import (
	"fmt"
	"math"

	"slmc/formats"
	"slmc/model"
)

// values reads the weights of a bound checkpoint as model.Values asks: rows in
// Hugging Face's order, one added where the graph says so, NaN and Inf refused.
// It holds nothing but what it is asked for and is safe for concurrent use.
type values struct {
	src         formats.Source
	interleaved bool
	weights     []stored1
}

// stored1 is a weight and the tensor that holds it.
type stored1 struct {
	model.Weight
	tensor formats.TensorInfo
}

// Read implements model.Values.
func (v *values) Read(i, off int, dst []float32) error {
	w := &v.weights[i]
	var err error
	if v.interleaved && w.RopeHeads > 0 {
		err = v.readRows(w, off, dst)
	} else {
		err = v.src.ReadF32(w.tensor.Name, off, dst)
	}
	if err != nil {
		return err
	}
	if at := notFinite(dst); at >= 0 {
		return formats.Corrupt(w.tensor.File, w.tensor.Name, w.tensor.Offset, "element %d is %g: weights must be finite", off+at, dst[at])
	}
	if w.AddOne {
		for k := range dst {
			dst[k]++
		}
	}
	return nil
}

// readRows reads a q or k weight whose rows are interleaved: row p of the half
// split order, in a head of E, is stored as row 2p for p < E/2 and as row
// 2(p-E/2)+1 for the others.
func (v *values) readRows(w *stored1, off int, dst []float32) error {
	cols := 1
	if len(w.Shape) == 2 {
		cols = w.Shape[1]
	}
	E := w.Shape[0] / w.RopeHeads
	for len(dst) > 0 {
		row, col := off/cols, off%cols
		n := min(cols-col, len(dst))
		head, p := row/E, row%E
		from := head*E + p%(E/2)*2 + p/(E/2)
		if err := v.src.ReadF32(w.tensor.Name, from*cols+col, dst[:n]); err != nil {
			return err
		}
		off, dst = off+n, dst[n:]
	}
	return nil
}

// notFinite returns the index of the first NaN or Inf, or -1.
func notFinite(x []float32) int {
	const exponent = 0x7f800000
	for i, f := range x {
		if math.Float32bits(f)&exponent == exponent {
			return i
		}
	}
	return -1
}

// Describe names where weight i is stored, for listings.
func (c *Checkpoint) Describe(i int) string {
	v := c.Model.Values.(*values)
	t := v.weights[i].tensor
	return fmt.Sprintf("%s in %s, %s", t.Name, t.File, t.Type)
}
