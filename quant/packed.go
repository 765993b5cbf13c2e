package quant

import (
	"encoding/binary"
	"fmt"

	"slmc/internal/kernel"
	"slmc/tensor"
)

// packed is what W2, W4 and W8 share: bits a code, the value of code 0 in half
// levels (so that W2's 1.5 stays an integer), and the number of codes.
type packed struct {
	group, bits int
	zero2       int // twice the zero point
}

// per is the number of k that a 64-byte block of a panel holds.
func (p packed) per() int { return 32 / p.bits }

func (p packed) rowBytes(K int) int {
	n := 0
	for g := 0; g < K; g += p.group {
		n += 2 + ceil(min(p.group, K-g)*p.bits, 8)
	}
	return n
}

func (p packed) panelBytes(K int) int { return kernel.PanelBytes(K, p.group, p.per()) }

// encode appends, group by group, the scale and the codes, lowest bits first.
// lo is the smallest code in use.
func (p packed) encode(dst []byte, row []float32, scales []tensor.Half, lo int) ([]byte, error) {
	if err := notFinite(row); err != nil {
		return nil, err
	}
	if want := ceil(len(row), p.group); len(scales) != want {
		return nil, fmt.Errorf("quant: %d scales for %d weights at GroupSize %d, want %d", len(scales), len(row), p.group, want)
	}
	for g, s := range scales {
		if s&0x7c00 == 0x7c00 {
			return nil, fmt.Errorf("scale of group %d is %g: %w", g, s.Float32(), ErrNotFinite)
		}
		inv := Inverse(s.Float32())
		group := row[g*p.group : min((g+1)*p.group, len(row))]
		dst = binary.LittleEndian.AppendUint16(dst, uint16(s))
		at := len(dst)
		dst = append(dst, make([]byte, ceil(len(group)*p.bits, 8))...)
		for i, x := range group {
			c := code(x, inv, p.zero2, lo, 1<<p.bits-1)
			dst[at+i*p.bits/8] |= byte(c << (i * p.bits % 8))
		}
	}
	return dst, nil
}

// Inverse is the factor by which a weight is multiplied before it is rounded:
// 1/scale, or 0 for a scale of 0.
func Inverse(scale float32) float32 {
	if scale == 0 {
		return 0
	}
	return 1 / scale
}

// code returns the code in [lo, hi] whose level is nearest to x*inv, where
// level = code - zero2/2: the one rounding of weights. The product is rounded
// to float32; ties go to the even integer among the levels (W4, W8), and for
// the half-integer levels of W2 to that of x*inv + 1/2. x must be finite.
func code(x, inv float32, zero2, lo, hi int) int {
	zero := zero2 >> 1
	v := float32(x * inv)
	if zero2&1 == 1 {
		v += 0.5
	}
	return int(kernel.RoundEven(min(max(v, float32(lo-zero)), float32(hi-zero)))) + zero
}

func (p packed) decode(dst []float32, row []byte) {
	mask := byte(1<<p.bits - 1)
	for g := 0; g < len(dst); g += p.group {
		group := dst[g:min(g+p.group, len(dst))]
		scale := tensor.Half(binary.LittleEndian.Uint16(row)).Float32()
		codes := row[2:]
		for i := range group {
			c := codes[i*p.bits/8] >> (i * p.bits % 8) & mask
			group[i] = float32(2*int(c)-p.zero2) * 0.5 * scale
		}
		row = codes[ceil(len(group)*p.bits, 8):]
	}
}

// walk visits the groups of a row of K weights: their sizes, and where they
// start in the row form and in the panel form.
func (p packed) walk(K int, visit func(n, rowAt, panelAt, scalesAt int)) {
	rowAt, panelAt := 0, 0
	for g := 0; g < K; g += p.group {
		n := min(p.group, K-g)
		blocks := ceil(n, p.per()) * 64
		visit(n, rowAt, panelAt, panelAt+blocks)
		rowAt += 2 + ceil(n*p.bits, 8)
		panelAt += blocks + 2*kernel.Rows
	}
}

// place is the byte and the shift, in a group's blocks of a panel, of row r's
// weight k.
func (p packed) place(r, k int) (at, shift int) {
	per := p.per()
	return k/per*64 + 4*r + k%4, k % per / 4 * p.bits
}

func (p packed) pack(panel []byte, rows [][]byte, K int) {
	clear(panel[:p.panelBytes(K)])
	mask := byte(1<<p.bits - 1)
	for r, row := range rows {
		p.walk(K, func(n, rowAt, panelAt, scalesAt int) {
			copy(panel[scalesAt+2*r:][:2], row[rowAt:])
			codes := row[rowAt+2:]
			for k := range n {
				at, shift := p.place(r, k)
				panel[panelAt+at] |= codes[k*p.bits/8] >> (k * p.bits % 8) & mask << shift
			}
		})
	}
}

func (p packed) unpack(row, panel []byte, r, K int) {
	clear(row[:p.rowBytes(K)])
	mask := byte(1<<p.bits - 1)
	p.walk(K, func(n, rowAt, panelAt, scalesAt int) {
		copy(row[rowAt:][:2], panel[scalesAt+2*r:])
		codes := row[rowAt+2:]
		for k := range n {
			at, shift := p.place(r, k)
			codes[k*p.bits/8] |= panel[panelAt+at] >> shift & mask << (k * p.bits % 8)
		}
	})
}
