// Package tensor holds the element types and shapes that every other package
// speaks about. It knows nothing of files, formats or models.
package tensor

import (
	"fmt"
	"math"
	"math/bits"
)

// DType is the element type of a stored float tensor.
type DType uint8

// The element types that a checkpoint may store.
const (
	F32 DType = iota
	F16
	BF16
	F64
)

var dtypes = [...]struct {
	name string
	size int
}{F32: {"F32", 4}, F16: {"F16", 2}, BF16: {"BF16", 2}, F64: {"F64", 8}}

// String returns the safetensors spelling, for example "BF16".
func (d DType) String() string {
	if int(d) < len(dtypes) {
		return dtypes[d].name
	}
	return fmt.Sprintf("DType(%d)", uint8(d))
}

// Size returns the bytes of one element.
func (d DType) Size() int { return dtypes[d].size }

// Half is an IEEE 754 binary16 bit pattern.
type Half uint16

// HalfFrom rounds x to the nearest half, ties to even. Values beyond the
// largest half (65504) give an infinity, NaN gives a quiet NaN.
func HalfFrom(x float32) Half {
	b := math.Float32bits(x)
	sign := uint16(b >> 16 & 0x8000)
	b &= 0x7fffffff
	switch {
	case b > 0x7f800000:
		return Half(sign | 0x7e00)
	case b >= 0x477ff000: // 65520 and above round to infinity
		return Half(sign | 0x7c00)
	case b < 0x33000001: // at most 2^-25: ties to even give zero
		return Half(sign)
	case b < 0x38800000: // subnormal half: round the 24-bit significand at 2^-24
		shift := 126 - b>>23
		m := b&0x7fffff | 0x800000
		h := m >> shift
		rest, half := m&(1<<shift-1), uint32(1)<<(shift-1)
		if rest > half || rest == half && h&1 == 1 {
			h++
		}
		return Half(sign | uint16(h))
	}
	h := (b - 0x38000000) >> 13
	if rest := b & 0x1fff; rest > 0x1000 || rest == 0x1000 && h&1 == 1 {
		h++
	}
	return Half(sign | uint16(h))
}

// Float32 returns the exact value of h.
func (h Half) Float32() float32 {
	sign := uint32(h&0x8000) << 16
	exp, man := uint32(h>>10&0x1f), uint32(h&0x3ff)
	switch {
	case exp == 0x1f:
		return math.Float32frombits(sign | 0x7f800000 | man<<13)
	case exp != 0:
		return math.Float32frombits(sign | (exp+112)<<23 | man<<13)
	case man == 0:
		return math.Float32frombits(sign)
	}
	up := uint32(bits.LeadingZeros32(man) - 21) // shift that sets bit 10
	return math.Float32frombits(sign | (113-up)<<23 | (man<<up&0x3ff)<<13)
}

// BFloat is a bfloat16 bit pattern: the upper half of a float32.
type BFloat uint16

// Float32 returns the exact value of h.
func (h BFloat) Float32() float32 { return math.Float32frombits(uint32(h) << 16) }

// BFloatFrom rounds x to the nearest bfloat16, ties to even; NaN stays NaN.
func BFloatFrom(x float32) BFloat {
	b := math.Float32bits(x)
	if b&0x7fffffff > 0x7f800000 {
		return BFloat(b>>16 | 0x40)
	}
	return BFloat((b + 0x7fff + b>>16&1) >> 16)
}
