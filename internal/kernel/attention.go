package kernel

import "math"

// Attention of one query head over the cached keys and values of one KV head.
// A cache holds position after position, E values each; the slices given here
// start at the first position that the query may see. Scores are computed for
// len(dst) positions, weights p are joined with the values of len(p).

// scoresF32 writes dst[t] = (q . k[t]) * mul for keys k [len(dst) E], where the
// dot runs in 16 lanes by e mod 16, joined by the fixed tree.
func scoresF32(dst, q, k []float32, mul float32) {
	E := len(q)
	for t := range dst {
		var l [16]float32
		for e, v := range k[t*E:][:E] {
			l[e%16] = FMA32(q[e], v, l[e%16])
		}
		dst[t] = tree16(&l) * mul
	}
}

// scoresF16 is scoresF32 for keys stored as float16.
func scoresF16(dst, q []float32, k []uint16, mul float32) {
	E := len(q)
	for t := range dst {
		var l [16]float32
		for e, v := range k[t*E:][:E] {
			l[e%16] = FMA32(q[e], half(v), l[e%16])
		}
		dst[t] = tree16(&l) * mul
	}
}

// scoresKV8 is scoresF32 for keys of 8-bit codes with one float16 scale a
// position: dst[t] = ((q . codes[t]) * scale[t]) * mul.
func scoresKV8(dst, q []float32, k []int8, scales []uint16, mul float32) {
	E := len(q)
	for t := range dst {
		var l [16]float32
		for e, v := range k[t*E:][:E] {
			l[e%16] = FMA32(q[e], float32(v), l[e%16])
		}
		dst[t] = float32(tree16(&l)*half(scales[t])) * mul
	}
}

// mixF32 writes dst[e] = sum over t, in order, of p[t]*v[t,e], fused, from zero.
func mixF32(dst, p, v []float32) {
	E := len(dst)
	clear(dst)
	for t, w := range p {
		for e, x := range v[t*E:][:E] {
			dst[e] = FMA32(w, x, dst[e])
		}
	}
}

// mixF16 is mixF32 for values stored as float16.
func mixF16(dst, p []float32, v []uint16) {
	E := len(dst)
	clear(dst)
	for t, w := range p {
		for e, x := range v[t*E:][:E] {
			dst[e] = FMA32(w, half(x), dst[e])
		}
	}
}

// mixKV8 is mixF32 for values of 8-bit codes: the weight is p[t]*scale[t],
// rounded, the code a float.
func mixKV8(dst, p []float32, v []int8, scales []uint16) {
	E := len(dst)
	clear(dst)
	for t, w := range p {
		w = float32(w * half(scales[t]))
		for e, x := range v[t*E:][:E] {
			dst[e] = FMA32(w, float32(x), dst[e])
		}
	}
}

// divide divides every element of x by the same number.
func divide(x []float32, by float32) {
	for i := range x {
		x[i] /= by
	}
}

// HalfLimit is the smallest magnitude that rounds to an infinite float16.
const HalfLimit = 65520

// halves writes the float16 nearest to each x, ties to even, len(x) of them.
// Magnitudes of HalfLimit and above, and NaN, give unspecified results.
func halves(dst []uint16, x []float32) {
	for i, v := range x {
		dst[i] = halfFrom(v)
	}
}

// halfFrom rounds x below HalfLimit to a float16.
func halfFrom(x float32) uint16 {
	b := math.Float32bits(x)
	sign := uint16(b >> 16 & 0x8000)
	b &^= 1 << 31
	drop, h := uint32(13), b-112<<23 // bits to round away, and what they leave
	if b < 113<<23 {                 // a subnormal float16 counts 2^-24
		drop, h = min(126-b>>23, 25), b&(1<<23-1)|1<<23
	}
	rest, even := h&(1<<drop-1), uint32(1)<<(drop-1)
	h >>= drop
	if rest > even || rest == even && h&1 == 1 {
		h++
	}
	return sign | uint16(h)
}
