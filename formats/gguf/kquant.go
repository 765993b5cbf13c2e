// The K formats: super-blocks of 256 weights, whose groups of 16 or 32 have
// small integer scales under one or two float16 factors. Layouts are ggml's
// (ggml/src/ggml-common.h):
//
//	Q2_K  16 scale and minimum nibbles, 64 bytes of 2-bit codes, d, dmin      2.625 bits a weight
//	Q3_K  32 bytes of high bits, 64 of 2-bit codes, 12 of 6-bit scales, d     3.4375
//	Q4_K  d, dmin, 12 bytes of 6-bit scales and minima, 128 of 4-bit codes    4.5
//	Q5_K  the same with 32 bytes of high bits before the codes                5.5
//	Q6_K  128 bytes of low nibbles, 64 of high pairs, 16 int8 scales, d       6.5625
//
// A weight is d*scale*code - dmin*minimum, or (d*scale)*(code - zero) where
// there are no minima. With minima the products have at most 22 bits, so they
// are exact in a float32 and it makes no difference whether the subtraction is
// fused; those of Q6_K have 25 and are rounded in the order written.

package gguf

const (
	q2kBytes = 16 + 64 + 2*scaleBytes
	q3kBytes = 32 + 64 + 12 + scaleBytes
	q4kBytes = 2*scaleBytes + 12 + 128
	q5kBytes = 2*scaleBytes + 12 + 32 + 128
	q6kBytes = 128 + 64 + 16 + scaleBytes
)

// The block sizes that ggml asserts.
var (
	_ [84]byte  = [q2kBytes]byte{}
	_ [110]byte = [q3kBytes]byte{}
	_ [144]byte = [q4kBytes]byte{}
	_ [176]byte = [q5kBytes]byte{}
	_ [210]byte = [q6kBytes]byte{}
)

// decodeQ2K: group g of 16 weights lies in half g/8; its codes are bits
// 2*(g%8/2) of the 16 bytes at 32*(g/8) + 16*(g%2).
func decodeQ2K(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[256:], src[q2kBytes:] {
		d, dmin := half(src[80:]), half(src[82:])
		for g, sc := range src[:16] {
			scale, least := d*float32(sc&15), dmin*float32(sc>>4)
			at := 16 + 32*(g/8) + 16*(g%2)
			y, shift := dst[16*g:][:16], 2*(g%8/2)
			for j, c := range src[at : at+16] {
				y[j] = scale*float32(c>>shift&3) - least
			}
		}
	}
}

// decodeQ3K: codes lie as in Q2_K; bit g/2 of the high byte of the weight's
// column clear means 4 less.
func decodeQ3K(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[256:], src[q3kBytes:] {
		high, scales, d := src[:32], src[96:108], half(src[108:])
		for g := range 16 {
			// Low nibbles of scales 0-7 and 8-15 share the first 8
			// bytes; the last 4 hold the upper 2 bits of all 16.
			low := scales[g%8] >> (4 * (g / 8)) & 15
			sc := int(low|scales[8+g%4]>>(2*(g/4))&3<<4) - 32
			scale := d * float32(sc)
			at := 32 + 32*(g/8) + 16*(g%2)
			y, shift, column := dst[16*g:][:16], 2*(g%8/2), high[16*(g%2):][:16]
			for j, c := range src[at : at+16] {
				code := int(c>>shift&3) - 4 + int(column[j]>>(g/2)&1)<<2
				y[j] = scale * float32(code)
			}
		}
	}
}

// scaleMin unpacks the 6-bit scale and minimum of group g, 0 to 7, from the
// 12 bytes that Q4_K and Q5_K share: the first four groups use the low 6 bits
// of bytes 0-3 and 4-7, the others nibbles of bytes 8-11 and the upper 2 bits
// of the first eight.
func scaleMin(p []byte, g int) (scale, least byte) {
	if g < 4 {
		return p[g] & 63, p[g+4] & 63
	}
	return p[g+4]&15 | p[g-4]>>6<<4, p[g+4]>>4 | p[g]>>6<<4
}

func decodeQ4K(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[256:], src[q4kBytes:] {
		decode45K(dst, half(src), half(src[2:]), src[4:16], nil, src[16:144])
	}
}

func decodeQ5K(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[256:], src[q5kBytes:] {
		decode45K(dst, half(src), half(src[2:]), src[4:16], src[16:48], src[48:176])
	}
}

// decode45K: groups 2i and 2i+1 of 32 weights are the low and high nibbles of
// the same 32 bytes; bit g of the high byte of a column is bit 4 of the code.
func decode45K(dst []float32, d, dmin float32, scales, high, codes []byte) {
	for g := range 8 {
		sc, mn := scaleMin(scales, g)
		scale, least := d*float32(sc), dmin*float32(mn)
		y, shift := dst[32*g:][:32], 4*(g%2)
		for j, c := range codes[32*(g/2):][:32] {
			code := c >> shift & 15
			if high != nil {
				code |= high[j] >> g & 1 << 4
			}
			y[j] = scale*float32(code) - least
		}
	}
}

// decodeQ6K: half h of 128 weights has 64 low bytes and 32 high ones; quarter
// q of its 32 weights takes low bytes 32*(q%2), nibble q/2, high bits 2q.
func decodeQ6K(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[256:], src[q6kBytes:] {
		d := half(src[208:])
		for h := range 2 {
			low, high, scales := src[64*h:][:64], src[128+32*h:][:32], src[192+8*h:][:8]
			for q := range 4 {
				y, codes := dst[128*h+32*q:][:32], low[32*(q%2):][:32]
				for j, c := range codes {
					code := int(c>>(4*(q/2))&15|high[j]>>(2*q)&3<<4) - 32
					y[j] = d * float32(int8(scales[2*q+j/16])) * float32(code)
				}
			}
		}
	}
}
