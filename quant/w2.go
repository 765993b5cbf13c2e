package quant

import (
	"fmt"

	"slmc/tensor"
)

// W2 is the 2-bit weight format: codes 0..3 stand for the levels
// -1.5, -0.5, +0.5, +1.5 (ParetoQ, arXiv 2502.02631, section 4), times one
// float16 scale per group. In row form a group is
//
//	scale  float16   2 bytes, little-endian
//	codes  2 bit     GroupSize/4 bytes, lowest bits first
//
// which is 2 + 16/GroupSize bits per weight (2.25 at GroupSize 64). There is no
// zero level: a dead channel costs half a scale, unless its scale is 0.
type W2 struct {
	GroupSize int // weights per scale: 32, 64 or 128
}

func (f W2) packed() packed { return packed{group: f.GroupSize, bits: 2, zero2: 3} }

// Name implements Format.
func (f W2) Name() string { return fmt.Sprintf("w2g%d", f.GroupSize) }

// Group implements Format.
func (f W2) Group() int { return f.GroupSize }

// Levels implements Format.
func (f W2) Levels() (lo, hi float32) { return -1.5, 1.5 }

// RowBytes implements Format.
func (f W2) RowBytes(K int) int { return f.packed().rowBytes(K) }

// PanelBytes implements Format.
func (f W2) PanelBytes(K int) int { return f.packed().panelBytes(K) }

// Encode implements Format.
func (f W2) Encode(dst []byte, row []float32, scales []tensor.Half) ([]byte, error) {
	return f.packed().encode(dst, row, scales, 0)
}

// Decode implements Format.
func (f W2) Decode(dst []float32, row []byte) { f.packed().decode(dst, row) }

// Pack implements Format.
func (f W2) Pack(panel []byte, rows [][]byte, K int) { f.packed().pack(panel, rows, K) }

// Unpack implements Format.
func (f W2) Unpack(row, panel []byte, r, K int) { f.packed().unpack(row, panel, r, K) }
