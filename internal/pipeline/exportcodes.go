package pipeline

import (
	"encoding/binary"

	"slmc/formats"
	"slmc/formats/bundle"
	"slmc/formats/gguf"
	"slmc/model"
	"slmc/quant"
	"slmc/tensor"
)

// carryCodes hands the codes of a bundle on to the blocks of the file where
// these have room for its levels, so that nothing is rounded a second time: a
// group becomes blocks of 32 with the group's scale.
func (e *export) carryCodes() {
	e.exact = make([]bool, len(e.tensors))
	if e.o.Bundle == nil {
		return
	}
	for k := range e.tensors {
		t, w := &e.tensors[k], e.file.Weights[k]
		if w == model.None || !e.m.Weights[w].Role.Matrix() {
			continue
		}
		times, ok := blockLevels(t.Type, e.o.Bundle.Format(w))
		if !ok {
			continue
		}
		c := newCarrier(e.o.Bundle, w, t, times)
		t.Raw, t.Read, t.Heads = c.raw, nil, 0
		e.exact[k] = times == 1
	}
}

// blockLevels reports whether the levels of f, multiplied to be integers, are
// levels of t's blocks.
func blockLevels(t gguf.Type, f quant.Format) (times int, ok bool) {
	lo, hi := f.Levels()
	if f.Group() == 0 {
		return 0, false
	}
	times = 1
	if lo != float32(int(lo)) {
		times = 2 // W2's levels are half integers
	}
	least, most := int(lo*float32(times)), int(hi*float32(times))
	switch t {
	case gguf.Q8_0:
		return times, least >= -128 && most <= 127
	case gguf.Q4_0:
		return times, least >= -8 && most <= 7
	}
	return 0, false
}

// carrier encodes the rows of one matrix of a bundle as blocks.
type carrier struct {
	b     *bundle.Bundle
	rows  rowReader
	typ   gguf.Type
	heads int // > 0: q or k rows that the file interleaves
	shape []int
	times int

	have   int // the file's row that block holds
	block  []byte
	levels []float32
}

func newCarrier(b *bundle.Bundle, w int, t *gguf.Tensor, times int) *carrier {
	cols := t.Shape[1]
	elems, bytes := t.Type.Block()
	return &carrier{
		b: b, rows: rowReader{b, w, make([]byte, b.Format(w).RowBytes(cols))}, typ: t.Type, heads: t.Heads, shape: t.Shape, times: times,
		have: -1, block: make([]byte, cols/elems*bytes), levels: make([]float32, cols),
	}
}

// raw fills dst with the bytes from off on, in the order of the file.
func (c *carrier) raw(off int64, dst []byte) error {
	return c.b.Guard(func() error {
		for len(dst) > 0 {
			row, at := int(off/int64(len(c.block))), int(off%int64(len(c.block)))
			if row != c.have {
				if err := c.encode(row); err != nil {
					return err
				}
			}
			n := copy(dst, c.block[at:])
			off, dst = off+int64(n), dst[n:]
		}
		return nil
	})
}

// encode makes the blocks of a row of the file. A value divided by its scale is
// its level exactly: the product of both had at most 19 bits.
func (c *carrier) encode(fileRow int) error {
	row := fileRow
	if c.heads > 0 {
		row = gguf.HalfSplit(fileRow, c.shape[0]/c.heads)
	}
	f := c.rows.format()
	form := c.rows.row(row)
	f.Decode(c.levels, form)
	group, groupBytes := f.Group(), f.RowBytes(f.Group())
	const block = 32
	out := c.block
	for k := 0; k < len(c.levels); k += block {
		scale := tensor.Half(binary.LittleEndian.Uint16(form[k/group*groupBytes:])).Float32()
		if scale-scale != 0 {
			return formats.Corrupt(c.b.Name(), c.b.Manifest().Weights[c.rows.i].Name, -1, "row %d has a scale of %g", row, scale)
		}
		binary.LittleEndian.PutUint16(out, uint16(tensor.HalfFrom(scale/float32(c.times))))
		x := c.levels[k : k+block]
		for i := range x {
			if scale == 0 {
				x[i] = 0
				continue
			}
			x[i] = x[i] / scale * float32(c.times)
		}
		out = putLevels(out[2:], x, c.typ)
	}
	c.have = fileRow
	return nil
}

// putLevels writes 32 levels and returns what follows them.
func putLevels(dst []byte, x []float32, t gguf.Type) []byte {
	if t == gguf.Q8_0 {
		for i, v := range x {
			dst[i] = byte(int8(v))
		}
		return dst[32:]
	}
	for i := range 16 {
		dst[i] = byte(int(x[i])+8) | byte(int(x[i+16])+8)<<4
	}
	return dst[16:]
}
