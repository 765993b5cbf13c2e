package quant

import (
	"encoding/binary"
	"fmt"
	"math"

	"slmc/internal/kernel"
	"slmc/tensor"
)

// Float is a format without scales: the row form is the little-endian
// elements, a panel has, for each k, the 16 rows' elements.
type Float struct{ Type tensor.DType }

// The float formats of a bundle.
var (
	F32  = Float{tensor.F32}
	F16  = Float{tensor.F16}
	BF16 = Float{tensor.BF16}
)

// Name implements Format.
func (f Float) Name() string {
	switch f.Type {
	case tensor.F16:
		return "f16"
	case tensor.BF16:
		return "bf16"
	}
	return "f32"
}

// Group implements Format: floats have no scales.
func (f Float) Group() int { return 0 }

// Levels implements Format: floats have none.
func (f Float) Levels() (lo, hi float32) { return 0, 0 }

// RowBytes implements Format.
func (f Float) RowBytes(K int) int { return K * f.Type.Size() }

// PanelBytes implements Format.
func (f Float) PanelBytes(K int) int { return K * kernel.Rows * f.Type.Size() }

// Encode implements Format, rounding to nearest. A finite value that becomes
// infinite is an error like one that was so already.
func (f Float) Encode(dst []byte, row []float32, _ []tensor.Half) ([]byte, error) {
	if err := notFinite(row); err != nil {
		return nil, err
	}
	for i, x := range row {
		switch f.Type {
		case tensor.F16:
			h := tensor.HalfFrom(x)
			if h&0x7c00 == 0x7c00 {
				return nil, fmt.Errorf("index %d: %g is beyond float16's 65504: %w", i, x, ErrNotFinite)
			}
			dst = binary.LittleEndian.AppendUint16(dst, uint16(h))
		case tensor.BF16:
			h := tensor.BFloatFrom(x)
			if h&0x7f80 == 0x7f80 {
				return nil, fmt.Errorf("index %d: %g is beyond bfloat16: %w", i, x, ErrNotFinite)
			}
			dst = binary.LittleEndian.AppendUint16(dst, uint16(h))
		default:
			dst = binary.LittleEndian.AppendUint32(dst, math.Float32bits(x))
		}
	}
	return dst, nil
}

// Decode implements Format.
func (f Float) Decode(dst []float32, row []byte) {
	if err := tensor.Decode(dst, row[:f.RowBytes(len(dst))], f.Type); err != nil {
		panic("quant.Float.Decode: " + err.Error())
	}
}

// Pack implements Format.
func (f Float) Pack(panel []byte, rows [][]byte, K int) {
	n := f.Type.Size()
	clear(panel[:f.PanelBytes(K)])
	for r, row := range rows {
		for k := range K {
			copy(panel[(k*kernel.Rows+r)*n:][:n], row[k*n:])
		}
	}
}

// Unpack implements Format.
func (f Float) Unpack(row, panel []byte, r, K int) {
	n := f.Type.Size()
	for k := range K {
		copy(row[k*n:][:n], panel[(k*kernel.Rows+r)*n:])
	}
}
