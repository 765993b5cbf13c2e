// Two formats outside the main families. Layouts are ggml's
// (ggml/src/ggml-common.h):
//
//	TQ2_0   64 bytes of 2-bit codes, d     2.0625 bits a weight, blocks of 256   d*(code-1)
//	IQ4_NL  d, 16 bytes of 4-bit codes     4.5, blocks of 32                     d*level[code]

package gguf

const (
	tq2Bytes   = 64 + scaleBytes
	iq4nlBytes = scaleBytes + 16
)

// The block sizes that ggml asserts.
var (
	_ [66]byte = [tq2Bytes]byte{}
	_ [18]byte = [iq4nlBytes]byte{}
)

// decodeTQ2: bits 2l of the 32 bytes of half h are weights 128h+32l to
// 128h+32l+31. Code 3 is not ternary, but decodes to 2d like the reference.
func decodeTQ2(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[256:], src[tq2Bytes:] {
		d := half(src[64:])
		for g := range 8 {
			y, shift := dst[32*g:][:32], 2*(g%4)
			for j, c := range src[32*(g/4):][:32] {
				y[j] = float32(int(c>>shift&3)-1) * d
			}
		}
	}
}

// iq4Levels are the 16 levels of IQ4_NL, in units of the scale.
var iq4Levels = [16]float32{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

func decodeIQ4NL(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[32:], src[iq4nlBytes:] {
		d, y := half(src), dst[:32]
		for j, c := range src[2:18] {
			y[j] = d * iq4Levels[c&15]
			y[j+16] = d * iq4Levels[c>>4]
		}
	}
}
