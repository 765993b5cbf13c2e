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
// group becomes blocks of 32 with the group's scale, or a part of a block of 256.
func (e *export) carryCodes() {
	e.exact = make([]bool, len(e.tensors))
	for k := range e.tensors {
		t, w := &e.tensors[k], e.file.Weights[k]
		if w == model.None || !e.m.Weights[w].Role.Matrix() || !e.chosen[w].carry {
			continue
		}
		c := newCarrier(e, w, t)
		t.Raw, t.Read, t.Heads = c.raw, nil, 0
		e.exact[k] = c.times == 1 && !c.round
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
	b          *bundle.Bundle
	rows       rowReader
	typ        gguf.Type
	heads      int // > 0: q or k rows that the file interleaves
	shape      []int
	have, cols int  // rows and columns of the bundle's matrix; what is beyond is 0
	times      int  // of levels, to be integers
	round      bool // scales to such as Q2_K stores

	held   int // the file's row that block holds
	block  []byte
	levels []float32
	scales []tensor.Half
	codes  []byte
}

func newCarrier(e *export, w int, t *gguf.Tensor) *carrier {
	f, shape := e.o.Bundle.Format(w), e.src.Weights[w].Shape
	elems, bytes := t.Type.Block()
	c := &carrier{
		b: e.o.Bundle, rows: rowReader{e.o.Bundle, w, make([]byte, f.RowBytes(shape[1]))}, typ: t.Type, heads: t.Heads,
		shape: t.Shape, have: shape[0], cols: shape[1], times: 1, round: e.chosen[w].round,
		held: -1, block: make([]byte, t.Shape[1]/elems*bytes), levels: make([]float32, t.Shape[1]), scales: make([]tensor.Half, quant.Groups(f, shape[1])),
	}
	if t.Type == gguf.Q2_K {
		c.codes = make([]byte, t.Shape[1])
	} else {
		c.times, _ = blockLevels(t.Type, f)
	}
	return c
}

// raw fills dst with the bytes from off on, in the order of the file.
func (c *carrier) raw(off int64, dst []byte) error {
	return c.b.Guard(func() error {
		for len(dst) > 0 {
			row, at := int(off/int64(len(c.block))), int(off%int64(len(c.block)))
			if row != c.held {
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
	clear(c.levels)
	clear(c.scales)
	f := c.rows.format()
	if row < c.have {
		form := c.rows.row(row)
		f.Decode(c.levels[:c.cols], form)
		rowScales(c.scales, f, form)
	}
	for g, h := range c.scales {
		scale := h.Float32()
		if scale-scale != 0 {
			return formats.Corrupt(c.b.Name(), c.b.Manifest().Weights[c.rows.i].Name, -1, "row %d has a scale of %g", row, scale)
		}
		for i := g * f.Group(); i < min((g+1)*f.Group(), c.cols); i++ {
			if scale == 0 {
				c.levels[i] = 0
			} else {
				c.levels[i] /= scale
			}
		}
	}
	c.held = fileRow
	if c.typ == gguf.Q2_K {
		return c.encodeQ2K(f.Group(), row)
	}
	c.encode32(f.Group())
	return nil
}

// encode32 makes blocks of 32 levels under one scale.
func (c *carrier) encode32(group int) {
	out := c.block
	for k := 0; k < len(c.levels); k += 32 {
		scale := float32(0)
		if g := k / group; g < len(c.scales) {
			scale = c.scales[g].Float32()
		}
		binary.LittleEndian.PutUint16(out, uint16(tensor.HalfFrom(scale/float32(c.times))))
		x := c.levels[k : k+32]
		for i := range x {
			x[i] *= float32(c.times)
		}
		out = putLevels(out[2:], x, c.typ)
	}
}

// encodeQ2K makes blocks of 256, with a scale for every 16 weights.
func (c *carrier) encodeQ2K(group, row int) error {
	if c.round {
		gguf.ConstrainQ2K(c.scales, floatScales(c.scales), group)
	}
	const part = 16
	fine := make([]tensor.Half, len(c.levels)/part)
	for g := range fine {
		if g*part < c.cols {
			fine[g] = c.scales[g*part/group]
		}
	}
	for i, l := range c.levels {
		c.codes[i] = byte(int(l+1.5) & 3)
	}
	if b := gguf.EncodeBalancedQ2K(c.block, c.codes, fine, part); b >= 0 {
		return formats.Corrupt(c.b.Name(), c.b.Manifest().Weights[c.rows.i].Name, -1, "row %d: the scales from weight %d on have changed", row, 256*b)
	}
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
