package quant

import (
	"math"

	"slmc/internal/kernel"
	"slmc/tensor"
)

// KV8 rounds one head's key or value of E elements to 8-bit codes with one
// float16 scale, the nearest to max|x|/127, and returns the scale. It reports
// false when x holds a NaN or Inf, or the scale is beyond float16.
func KV8(f *kernel.Funcs, codes []int8, x []float32) (tensor.Half, bool) {
	m := f.AbsMax(x)
	if !(m <= math.MaxFloat32) {
		return 0, false
	}
	s := tensor.HalfFrom(m / 127)
	if s&0x7c00 == 0x7c00 {
		return 0, false
	}
	f.QuantizeKV8(codes, x, s.Float32())
	return s, true
}
