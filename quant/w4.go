package quant

import (
	"fmt"

	"slmc/tensor"
)

// W4 is the 4-bit weight format: codes 0..15 stand for the levels -8..7, times
// one float16 scale per group, which may be negative so that the end with one
// level more serves the larger side. In row form a group is
//
//	scale  float16   2 bytes, little-endian
//	codes  4 bit     GroupSize/2 bytes, lowest bits first
//
// which is 4 + 16/GroupSize bits per weight (4.5 at GroupSize 32).
type W4 struct {
	GroupSize int // weights per scale: 32, 64 or 128
}

func (f W4) packed() packed { return packed{group: f.GroupSize, bits: 4, zero2: 16} }

// Name implements Format.
func (f W4) Name() string { return fmt.Sprintf("w4g%d", f.GroupSize) }

// Group implements Format.
func (f W4) Group() int { return f.GroupSize }

// Levels implements Format.
func (f W4) Levels() (lo, hi float32) { return -8, 7 }

// RowBytes implements Format.
func (f W4) RowBytes(K int) int { return f.packed().rowBytes(K) }

// PanelBytes implements Format.
func (f W4) PanelBytes(K int) int { return f.packed().panelBytes(K) }

// Encode implements Format.
func (f W4) Encode(dst []byte, row []float32, scales []tensor.Half) ([]byte, error) {
	return f.packed().encode(dst, row, scales, 0)
}

// Decode implements Format.
func (f W4) Decode(dst []float32, row []byte) { f.packed().decode(dst, row) }

// Pack implements Format.
func (f W4) Pack(panel []byte, rows [][]byte, K int) { f.packed().pack(panel, rows, K) }

// Unpack implements Format.
func (f W4) Unpack(row, panel []byte, r, K int) { f.packed().unpack(row, panel, r, K) }
