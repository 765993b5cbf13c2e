package kernel

import (
	"encoding/binary"
	"math"
)

// A quantized panel is 16 rows of K weights, group after group. A group of n
// weights (GroupSize, or fewer at the end of the row) is a run of 64-byte
// blocks and then 16 float16 scales, one a row:
//
//	W8  ceil(n/4) blocks of 4 k:   byte 4r+i is row r, k = 4b+i; level = code-128
//	W4  ceil(n/8) blocks of 8 k:   byte 4r+i, low nibble k = 8b+i, high nibble k = 8b+4+i; level = code-8
//	W2  ceil(n/16) blocks of 16 k: byte 4r+i, bits 2j and 2j+1 are k = 16b+4j+i; level = code-1.5
//
// so that four consecutive k of a row fill one 32-bit lane. Codes that pad the
// last block are arbitrary: the activations there are zero. A float panel is,
// for each k, 16 elements, one a row.

// PanelBytes returns the size of a quantized panel of K columns when a block of
// 64 bytes holds per columns (4 for W8, 8 for W4, 16 for W2).
func PanelBytes(K, group, per int) int {
	full, rest := K/group, K%group
	n := full * ((group+per-1)/per*64 + 2*Rows)
	if rest > 0 {
		n += (rest+per-1)/per*64 + 2*Rows
	}
	return n
}

// matQ is the definition of MatQ: in each sub-group of 32 activations the dot
// d of levels and codes is an exact int32, then one fused multiply-add
//
//	acc = FMA32(float32(d), float32(sw*sx), acc)
//
// in order of k. dot returns d for one row and 32 activations or fewer; half
// is the factor on the stored scale (0.5 for W2, whose d counts half levels).
func matQ(dst []float32, ld int, w []byte, x *Acts, group, p0, p1, per int, factor float32, dot func(blocks []byte, r int, x []int8, sum int32) int32) {
	size := PanelBytes(x.K, group, per)
	for p := p0; p < p1; p++ {
		panel := w[p*size : (p+1)*size]
		for t := range x.T {
			var acc [Rows]float32
			rest := panel
			for g := 0; g < x.K; g += group {
				n := min(group, x.K-g)
				codes := (n + per - 1) / per * 64
				for s := g; s < g+n; s += Sub {
					m := min(Sub, g+n-s)
					sub := t*(x.Stride/Sub) + s/Sub
					xs := x.Codes[t*x.Stride+s:][:m]
					for r := range Rows {
						sw := float32(half(binary.LittleEndian.Uint16(rest[codes+2*r:])) * factor)
						d := dot(rest[(s-g)/per*64:codes], r, xs, x.Sums[sub])
						acc[r] = FMA32(float32(d), float32(sw*x.Scales[sub]), acc[r])
					}
				}
				rest = rest[codes+2*Rows:]
			}
			copy(dst[t*ld+p*Rows:], acc[:])
		}
	}
}

func matW8(dst []float32, ld int, w []byte, x *Acts, group, p0, p1 int) {
	matQ(dst, ld, w, x, group, p0, p1, 4, 1, func(b []byte, r int, x []int8, sum int32) int32 {
		d := -128 * sum
		for k, c := range x {
			d += int32(b[k/4*64+4*r+k%4]) * int32(c)
		}
		return d
	})
}

func matW4(dst []float32, ld int, w []byte, x *Acts, group, p0, p1 int) {
	matQ(dst, ld, w, x, group, p0, p1, 8, 1, func(b []byte, r int, x []int8, sum int32) int32 {
		d := -8 * sum
		for k, c := range x {
			d += int32(b[k/8*64+4*r+k%4]>>(k/4%2*4)&15) * int32(c)
		}
		return d
	})
}

func matW2(dst []float32, ld int, w []byte, x *Acts, group, p0, p1 int) {
	matQ(dst, ld, w, x, group, p0, p1, 16, 0.5, func(b []byte, r int, x []int8, sum int32) int32 {
		d := int32(0)
		for k, c := range x {
			d += int32(b[k/16*64+4*r+k%4]>>(k/4%4*2)&3) * int32(c)
		}
		return 2*d - 3*sum
	})
}

// matFloat is the definition of MatF for elements of size bytes.
func matFloat(dst []float32, ld int, w []byte, x []float32, ldx, T, K, p0, p1, size int, at func(b []byte) float32) {
	for p := p0; p < p1; p++ {
		panel := w[p*K*Rows*size : (p+1)*K*Rows*size]
		for t := range T {
			row := x[t*ldx:][:K]
			out := dst[t*ld+p*Rows:][:Rows]
			for r := range Rows {
				acc := float32(0)
				for k, v := range row {
					acc = FMA32(at(panel[(k*Rows+r)*size:]), v, acc)
				}
				out[r] = acc
			}
		}
	}
}

func matF32(dst []float32, ld int, w []byte, x []float32, ldx, T, K, p0, p1 int) {
	matFloat(dst, ld, w, x, ldx, T, K, p0, p1, 4, func(b []byte) float32 {
		return math.Float32frombits(binary.LittleEndian.Uint32(b))
	})
}

func matF16(dst []float32, ld int, w []byte, x []float32, ldx, T, K, p0, p1 int) {
	matFloat(dst, ld, w, x, ldx, T, K, p0, p1, 2, func(b []byte) float32 {
		return half(binary.LittleEndian.Uint16(b))
	})
}

func matBF16(dst []float32, ld int, w []byte, x []float32, ldx, T, K, p0, p1 int) {
	matFloat(dst, ld, w, x, ldx, T, K, p0, p1, 2, func(b []byte) float32 {
		return math.Float32frombits(uint32(binary.LittleEndian.Uint16(b)) << 16)
	})
}
