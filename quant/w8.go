package quant

import (
	"fmt"

	"slmc/tensor"
)

// W8 is the 8-bit weight format: codes 1..255 stand for the levels -127..127,
// times one float16 scale per group. Code 0 is not used, so that levels are
// symmetric. In row form a group is
//
//	scale  float16   2 bytes, little-endian
//	codes  8 bit     one byte a weight
//
// which is 8 + 16/GroupSize bits per weight (8.5 at GroupSize 32).
type W8 struct {
	GroupSize int // weights per scale: 32, 64 or 128
}

func (f W8) packed() packed { return packed{group: f.GroupSize, bits: 8, zero2: 256} }

// Name implements Format.
func (f W8) Name() string { return fmt.Sprintf("w8g%d", f.GroupSize) }

// Group implements Format.
func (f W8) Group() int { return f.GroupSize }

// Levels implements Format.
func (f W8) Levels() (lo, hi float32) { return -127, 127 }

// RowBytes implements Format.
func (f W8) RowBytes(K int) int { return f.packed().rowBytes(K) }

// PanelBytes implements Format.
func (f W8) PanelBytes(K int) int { return f.packed().panelBytes(K) }

// Encode implements Format.
func (f W8) Encode(dst []byte, row []float32, scales []tensor.Half) ([]byte, error) {
	return f.packed().encode(dst, row, scales, 1)
}

// Decode implements Format.
func (f W8) Decode(dst []float32, row []byte) { f.packed().decode(dst, row) }

// Pack implements Format.
func (f W8) Pack(panel []byte, rows [][]byte, K int) { f.packed().pack(panel, rows, K) }

// Unpack implements Format.
func (f W8) Unpack(row, panel []byte, r, K int) { f.packed().unpack(row, panel, r, K) }
