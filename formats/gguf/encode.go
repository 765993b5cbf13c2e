// Encoders for export, to the byte those of llama.cpp's reference quantizers
// (quantize_row_q8_0_ref, quantize_row_q4_0_ref in ggml/src/ggml-quants.c), for
// input they have a defined answer for. Where the reference divides by a scale
// so small that its reciprocal is infinite, its codes are undefined; here they
// are those of a zero block, whose float16 scale is zero as well. Where it
// would write an infinite scale, encoding fails.

package gguf

import (
	"math"

	"slmc/tensor"
)

// maxHalf is the largest value that rounds to a finite float16.
const maxHalf = 65519.996

func finite(x float32) bool { return x-x == 0 }

func encodeF32(dst []byte, src []float32) int {
	for i, x := range src {
		if !finite(x) {
			return i
		}
		le.PutUint32(dst[4*i:], math.Float32bits(x))
	}
	return -1
}

func encodeF16(dst []byte, src []float32) int {
	for i, x := range src {
		h := tensor.HalfFrom(x)
		if h&0x7c00 == 0x7c00 {
			return i
		}
		le.PutUint16(dst[2*i:], uint16(h))
	}
	return -1
}

func encodeBF16(dst []byte, src []float32) int {
	for i, x := range src {
		h := tensor.BFloatFrom(x)
		if h&0x7f80 == 0x7f80 {
			return i
		}
		le.PutUint16(dst[2*i:], uint16(h))
	}
	return -1
}

// peak returns the index of the first element of largest magnitude; a NaN or
// an Inf is the largest.
func peak(x []float32) int {
	at, most := 0, float32(0)
	for i, v := range x {
		if !finite(v) {
			return i
		}
		if v < 0 {
			v = -v
		}
		if v > most {
			at, most = i, v
		}
	}
	return at
}

// reciprocal returns 1/d, or 0 where that is infinite.
func reciprocal(d float32) float32 {
	if id := 1 / d; finite(id) {
		return id
	}
	return 0
}

// encodeQ8_0: d = max|x|/127, code = x/d rounded half away from zero.
func encodeQ8_0(dst []byte, src []float32) int {
	for at := 0; at < len(src); at, dst = at+32, dst[q8_0Bytes:] {
		x := src[at : at+32]
		top := at + peak(x)
		d := src[top] / 127
		if d < 0 {
			d = -d
		}
		if !(d <= maxHalf) {
			return top
		}
		le.PutUint16(dst, uint16(tensor.HalfFrom(d)))
		id := reciprocal(d)
		for j, v := range x {
			r := float64(v * id) // exact below: the sum has at most 53 bits
			if r < 0 {
				r -= 0.5
			} else {
				r += 0.5
			}
			dst[2+j] = byte(int32(r))
		}
	}
	return -1
}

// encodeQ4_0: d = the value of largest magnitude / -8, so that this value is
// code 0; code = x/d + 8 rounded half up, at most 15. The quotient is rounded
// before 8.5 is added: fused, a value just below a half would be truncated.
func encodeQ4_0(dst []byte, src []float32) int {
	for at := 0; at < len(src); at, dst = at+32, dst[q4_0Bytes:] {
		x := src[at : at+32]
		top := at + peak(x)
		d := src[top] / -8
		if !(d <= maxHalf && d >= -maxHalf) {
			return top
		}
		le.PutUint16(dst, uint16(tensor.HalfFrom(d)))
		id := reciprocal(d)
		for j := range 16 {
			low := min(15, int(float32(x[j]*id)+8.5))
			high := min(15, int(float32(x[j+16]*id)+8.5))
			dst[2+j] = byte(low | high<<4)
		}
	}
	return -1
}
