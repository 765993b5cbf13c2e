// The formats with blocks of 32 weights and one float16 scale d, in some also
// a float16 minimum m. Layouts are ggml's (ggml/src/ggml-common.h), all
// little-endian:
//
//	Q4_0  d, 16 bytes of codes              4.5 bits a weight   d*(code-8)
//	Q4_1  d, m, 16 bytes of codes           5                   d*code + m
//	Q5_0  d, high bits, 16 bytes of codes   5.5                 d*(code-16)
//	Q5_1  d, m, high bits, 16 bytes         6                   d*code + m
//	Q8_0  d, 32 signed codes                8.5                 d*code
//
// A byte of codes holds weight j in its low half and weight j+16 in its high
// half; bit j of the high bits, a 32-bit number, is bit 4 of code j.
//
// The product of a float16 and a code is exact in a float32, so it makes no
// difference whether the addition of the minimum is fused with it.

package gguf

import "slmc/tensor"

const (
	scaleBytes = 2
	q4_0Bytes  = scaleBytes + 16
	q4_1Bytes  = 2*scaleBytes + 16
	q5_0Bytes  = scaleBytes + 4 + 16
	q5_1Bytes  = 2*scaleBytes + 4 + 16
	q8_0Bytes  = scaleBytes + 32
)

// The block sizes that ggml asserts.
var (
	_ [18]byte = [q4_0Bytes]byte{}
	_ [20]byte = [q4_1Bytes]byte{}
	_ [22]byte = [q5_0Bytes]byte{}
	_ [24]byte = [q5_1Bytes]byte{}
	_ [34]byte = [q8_0Bytes]byte{}
)

func half(src []byte) float32 { return tensor.Half(le.Uint16(src)).Float32() }

func decodeQ4_0(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[32:], src[q4_0Bytes:] {
		d, codes, y := half(src), src[2:18], dst[:32]
		for j, c := range codes {
			y[j] = d * float32(int(c&15)-8)
			y[j+16] = d * float32(int(c>>4)-8)
		}
	}
}

func decodeQ4_1(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[32:], src[q4_1Bytes:] {
		d, m, codes, y := half(src), half(src[2:]), src[4:20], dst[:32]
		for j, c := range codes {
			y[j] = d*float32(c&15) + m
			y[j+16] = d*float32(c>>4) + m
		}
	}
}

func decodeQ5_0(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[32:], src[q5_0Bytes:] {
		d, high, codes, y := half(src), le.Uint32(src[2:]), src[6:22], dst[:32]
		for j, c := range codes {
			y[j] = d * float32(int(c&15)+int(high>>j&1)<<4-16)
			y[j+16] = d * float32(int(c>>4)+int(high>>(j+16)&1)<<4-16)
		}
	}
}

func decodeQ5_1(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[32:], src[q5_1Bytes:] {
		d, m, high, codes, y := half(src), half(src[2:]), le.Uint32(src[4:]), src[8:24], dst[:32]
		for j, c := range codes {
			y[j] = d*float32(int(c&15)+int(high>>j&1)<<4) + m
			y[j+16] = d*float32(int(c>>4)+int(high>>(j+16)&1)<<4) + m
		}
	}
}

func decodeQ8_0(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[32:], src[q8_0Bytes:] {
		d, codes, y := half(src), src[2:34], dst[:32]
		for j, c := range codes {
			y[j] = d * float32(int8(c))
		}
	}
}
