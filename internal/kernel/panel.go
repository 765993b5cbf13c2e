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
// in order of k, where sw = half(scale)*f.factor. With c the codes, d is
// f.mul*(c . x) - f.zero*sum(x). The panel is decoded once for all tokens, and
// the accumulators live in dst.
func (f *format) matQ(dst []float32, ld int, w []byte, x *Acts, group, p0, p1 int) {
	size := PanelBytes(x.K, group, f.per)
	var codes [Rows / 2][Sub]int64
	var sw, dw [Rows]float32
	for p := p0; p < p1; p++ {
		rest := w[p*size : (p+1)*size]
		for t := range x.T {
			clear(dst[t*ld+p*Rows:][:Rows])
		}
		for g := 0; g < x.K; g += group {
			n := min(group, x.K-g)
			blocks := (n + f.per - 1) / f.per * 64
			for r := range sw {
				sw[r] = float32(half(binary.LittleEndian.Uint16(rest[blocks+2*r:])) * f.factor)
			}
			for s := g; s < g+n; s += Sub {
				f.decode(&codes, rest[(s-g)/f.per*64:blocks], min(Sub, g+n-s))
				for t := range x.T {
					i := t*(x.Stride/Sub) + s/Sub
					f.dots(&dw, &codes, (*[Sub]int8)(x.Codes[t*x.Stride+s:]), f.zero*x.Sums[i])
					out := (*[Rows]float32)(dst[t*ld+p*Rows:])
					for r, d := range &dw {
						out[r] = FMA32(d, float32(sw[r]*x.Scales[i]), out[r])
					}
				}
			}
			rest = rest[blocks+2*Rows:]
		}
	}
}

// format is what sets one quantized panel layout apart.
type format struct {
	per       int     // k in a block of 64 bytes
	bits      uint    // of a code
	mul, zero int32   // d = mul*(c . x) - zero*sum(x)
	factor    float32 // on the stored scale: W2 counts half levels
}

var (
	formatW8 = format{per: 4, bits: 8, mul: 1, zero: int32(ZeroW8), factor: 1}
	formatW4 = format{per: 8, bits: 4, mul: 1, zero: int32(ZeroW4), factor: 1}
	formatW2 = format{per: 16, bits: 2, mul: 2, zero: int32(ZeroW2), factor: 0.5}
)

// decode writes the codes of the first m columns of blocks, two rows to an
// element: codes[r][k] is row r's plus row r+8's times 2^32. Columns from m on
// stay as they are, since the activations there are zero.
func (f *format) decode(codes *[Rows / 2][Sub]int64, blocks []byte, m int) {
	mask := byte(1<<f.bits - 1)
	for k := 0; k < m; k += 4 {
		shift := f.bits * uint(k/4%(f.per/4))
		b := (*[64]byte)(blocks[k/f.per*64:])
		for r := range codes {
			c := (*[4]int64)(codes[r][k:])
			for i := range c {
				c[i] = int64(b[4*r+i]>>shift&mask) | int64(b[4*(r+Rows/2)+i]>>shift&mask)<<32
			}
		}
	}
}

// dots writes the 16 rows' d of one sub-group as floats, which hold them
// exactly: |d| < 2^24.
func (f *format) dots(d *[Rows]float32, codes *[Rows / 2][Sub]int64, x *[Sub]int8, zero int32) {
	for r := range codes {
		sum := int64(0)
		for k, c := range &codes[r] {
			sum += c * int64(x[k])
		}
		lo := int32(sum)
		hi := int32((sum - int64(lo)) >> 32)
		d[r], d[r+Rows/2] = float32(f.mul*lo-zero), float32(f.mul*hi-zero)
	}
}

func matW8(dst []float32, ld int, w []byte, x *Acts, group, p0, p1 int) {
	formatW8.matQ(dst, ld, w, x, group, p0, p1)
}

func matW4(dst []float32, ld int, w []byte, x *Acts, group, p0, p1 int) {
	formatW4.matQ(dst, ld, w, x, group, p0, p1)
}

func matW2(dst []float32, ld int, w []byte, x *Acts, group, p0, p1 int) {
	formatW2.matQ(dst, ld, w, x, group, p0, p1)
}

// matFloat is the definition of MatF for elements of size bytes. The panel is
// decoded once for all tokens, some columns at a time; the accumulators live
// in dst.
func matFloat(dst []float32, ld int, w []byte, x []float32, ldx, T, K, p0, p1, size int, at func(b []byte) float32) {
	var cols [32][Rows]float32
	for p := p0; p < p1; p++ {
		for t := range T {
			clear(dst[t*ld+p*Rows:][:Rows])
		}
		for k := 0; k < K; k += len(cols) {
			n := min(len(cols), K-k)
			b := w[(p*K+k)*Rows*size:]
			for i := range n * Rows {
				cols[i/Rows][i%Rows] = at(b[i*size:])
			}
			for t := range T {
				out := (*[Rows]float32)(dst[t*ld+p*Rows:])
				for i, v := range x[t*ldx+k:][:n] {
					fmaRows(out, &cols[i], float64(v))
				}
			}
		}
	}
}

// fmaRows is acc[r] = FMA32(w[r], v, acc[r]) without a call for each.
func fmaRows(acc, w *[Rows]float32, v float64) {
	for r, c := range w {
		p := float64(float64(c) * v)
		if s := p + float64(acc[r]); roundsOnce(s) {
			acc[r] = float32(s)
		} else {
			acc[r] = fmaOdd(p, float64(acc[r]))
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
