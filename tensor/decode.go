package tensor

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Decode converts raw, little-endian elements of type d, to float32 into dst.
// F64 values are rounded to nearest. len(raw) must be len(dst)*d.Size().
func Decode(dst []float32, raw []byte, d DType) error {
	if len(raw) != len(dst)*d.Size() {
		return fmt.Errorf("tensor: %d bytes for %d elements of %s", len(raw), len(dst), d)
	}
	switch d {
	case F32:
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*i:]))
		}
	case F16:
		for i := range dst {
			h := binary.LittleEndian.Uint16(raw[2*i:])
			if h&0x7c00 == 0x7c00 {
				dst[i] = Half(h).Float32()
				continue
			}
			// Shifted into place the exponent is 112 too small; the product
			// is exact, also for subnormals.
			dst[i] = math.Float32frombits(uint32(h&0x8000)<<16|uint32(h&0x7fff)<<13) * 0x1p112
		}
	case BF16:
		for ; len(dst) >= 4; dst, raw = dst[4:], raw[8:] { // four at a time: a third of the time
			v := binary.LittleEndian.Uint64(raw)
			dst[0] = math.Float32frombits(uint32(v) << 16)
			dst[1] = math.Float32frombits(uint32(v) & 0xffff0000)
			dst[2] = math.Float32frombits(uint32(v>>32) << 16)
			dst[3] = math.Float32frombits(uint32(v>>32) & 0xffff0000)
		}
		for i := range dst {
			dst[i] = BFloat(binary.LittleEndian.Uint16(raw[2*i:])).Float32()
		}
	case F64:
		for i := range dst {
			dst[i] = float32(math.Float64frombits(binary.LittleEndian.Uint64(raw[8*i:])))
		}
	default:
		return fmt.Errorf("tensor: unknown element type %s", d)
	}
	return nil
}

// Elems returns the product of the dimensions of shape; a negative dimension
// or a product over 2^48 is an error, so that the result can be multiplied by
// an element size without overflow. An empty shape is a scalar, 1 element.
func Elems(shape []int) (int, error) {
	n := 1
	for _, d := range shape {
		if d < 0 {
			return 0, fmt.Errorf("shape %v has a negative dimension", shape)
		}
		if d != 0 && n > 1<<48/d {
			return 0, fmt.Errorf("shape %v has more than 2^48 elements", shape)
		}
		n *= d
	}
	return n, nil
}
