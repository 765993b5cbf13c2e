// Encoders of the 2-bit types for float sources. Both look for the least squared
// error, where llama.cpp's reference weighs errors in Q2_K by magnitude and takes
// the largest magnitude as the scale of TQ2_0; the bytes differ, their meaning
// does not.

package gguf

import (
	"slices"

	"slmc/tensor"
)

// firstBad returns the index of the first element that is not finite or beyond
// a float16, or -1.
func firstBad(x []float32) int {
	return slices.IndexFunc(x, func(v float32) bool { return !(v <= maxHalf && v >= -maxHalf) })
}

// encodeTQ2: of all sets of weights that get a level other than 0 the best are
// the k largest magnitudes for some k; their scale is their mean, and takes
// k*mean^2 off the error.
func encodeTQ2(dst []byte, src []float32) int {
	for at := 0; at < len(src); at, dst = at+256, dst[tq2Bytes:] {
		x := src[at : at+256]
		if i := firstBad(x); i >= 0 {
			return at + i
		}
		d := ternaryScale(x)
		le.PutUint16(dst[64:], uint16(d))
		clear(dst[:64])
		half := d.Float32() / 2
		for i, v := range x {
			c := byte(1)
			switch {
			case v > half:
				c = 2
			case v < -half:
				c = 0
			}
			dst[32*(i/128)+i%32] |= c << (2 * (i % 128 / 32))
		}
	}
	return -1
}

func ternaryScale(x []float32) tensor.Half {
	var size [256]float32
	for i, v := range x {
		size[i] = max(v, -v)
	}
	slices.Sort(size[:])
	best, scale, sum := 0.0, 0.0, 0.0
	for k := 1; k <= 256; k++ {
		sum += float64(size[256-k])
		if gain := float64(sum*sum) / float64(k); gain > best {
			best, scale = gain, sum/float64(k)
		}
	}
	return tensor.HalfFrom(float32(scale))
}

// encodeQ2K fits a scale and a minimum to each group of 16, rounds them to
// multiples of d and dmin, and fits d and dmin to the codes that follow, as
// long as the error falls.
func encodeQ2K(dst []byte, src []float32) int {
	for at := 0; at < len(src); at, dst = at+q2kElems, dst[q2kBytes:] {
		x := src[at : at+q2kElems]
		if i := firstBad(x); i >= 0 {
			return at + i
		}
		var b q2kBlock
		b.start(x)
		err := b.code(x)
		for range 4 {
			next := b
			next.refit(x)
			if e := next.code(x); e < err {
				b, err = next, e
			} else {
				break
			}
		}
		b.write(dst)
	}
	return -1
}

// q2kBlock is a block under construction.
type q2kBlock struct {
	d, dmin   float32 // values of float16
	scale, mn [q2kGroups]byte
	codes     [q2kElems]byte
}

// start fits the groups one by one.
func (b *q2kBlock) start(x []float32) {
	var scales, mins [q2kGroups]float32
	topScale, topMin := float32(0), float32(0)
	for g := range q2kGroups {
		scales[g], mins[g] = fitGroup(x[16*g:][:16])
		topScale, topMin = max(topScale, scales[g]), max(topMin, mins[g])
	}
	b.d, b.dmin = tensor.HalfFrom(topScale/15).Float32(), tensor.HalfFrom(topMin/15).Float32()
	for g := range q2kGroups {
		b.scale[g], b.mn[g] = toNibble(scales[g], b.d), toNibble(mins[g], b.dmin)
	}
}

func toNibble(v, unit float32) byte {
	if unit == 0 {
		return 0
	}
	return byte(min(15, int(v/unit+0.5)))
}

// fitGroup returns the scale and the minimum, both not negative, of nearly the
// least squared error of scale*code - minimum, codes 0 to 3. For codes that a
// guess gives, both are a linear fit; the guesses stretch the range of x from
// clipped by a sixth to a third too wide.
func fitGroup(x []float32) (scale, least float32) {
	lo, hi := min(slices.Min(x), 0), slices.Max(x)
	if !(hi > lo) {
		return 0, -lo
	}
	best := -1.0
	for step := range 16 {
		inv := (2.5 + float32(0.1*float32(step))) / (hi - lo)
		var n, q, qq, sum, sumq, sumsq float64
		for _, v := range x {
			c := float64(min(3, int(float32((v-lo)*inv)+0.5)))
			n, q, qq = n+1, q+c, qq+float64(c*c)
			sum, sumq, sumsq = sum+float64(v), sumq+float64(c*float64(v)), sumsq+float64(float64(v)*float64(v))
		}
		det := float64(n*qq) - float64(q*q)
		if det <= 0 {
			continue
		}
		s := (float64(n*sumq) - float64(q*sum)) / det
		m := (float64(q*sumq) - float64(qq*sum)) / det // the minimum, positive downwards
		if m < 0 {
			s, m = sumq/qq, 0
		}
		// |x - s q + m|^2
		err := sumsq - float64(2*float64(s*sumq)) + float64(2*float64(m*sum)) + float64(float64(s*s)*qq) - float64(2*float64(float64(s*m)*q)) + float64(float64(m*m)*n)
		if s > 0 && (best < 0 || err < best) {
			best, scale, least = err, float32(s), float32(m)
		}
	}
	return scale, least
}

// code chooses the nearest codes and returns the squared error.
func (b *q2kBlock) code(x []float32) float64 {
	err := 0.0
	for i, v := range x {
		scale, least := b.d*float32(b.scale[i/16]), b.dmin*float32(b.mn[i/16])
		c := 0
		if scale > 0 {
			c = max(0, min(3, int((v+least)/scale+0.5)))
		}
		b.codes[i] = byte(c)
		diff := float64(v) - (float64(scale*float32(c)) - float64(least))
		err += float64(diff * diff)
	}
	return err
}

// refit gives d and dmin of least squared error for the codes, scales and
// minima as they are.
func (b *q2kBlock) refit(x []float32) {
	var aa, ab, bb, ax, bx float64
	for i, v := range x {
		p, m := float64(int(b.scale[i/16])*int(b.codes[i])), float64(b.mn[i/16])
		aa, ab, bb = aa+p*p, ab+p*m, bb+m*m // integers: exact
		ax, bx = ax+float64(p*float64(v)), bx+float64(m*float64(v))
	}
	det := float64(aa*bb) - float64(ab*ab)
	switch {
	case det > 0:
		b.setUnits((float64(bb*ax)-float64(ab*bx))/det, (float64(ab*ax)-float64(aa*bx))/det)
	case aa > 0:
		b.setUnits(ax/aa, 0)
	}
}

func (b *q2kBlock) setUnits(d, dmin float64) {
	if d > 0 && dmin >= 0 && d < maxHalf && dmin < maxHalf {
		b.d, b.dmin = tensor.HalfFrom(float32(d)).Float32(), tensor.HalfFrom(float32(dmin)).Float32()
	}
}

func (b *q2kBlock) write(dst []byte) {
	clear(dst[:q2kBytes])
	for g := range q2kGroups {
		dst[g] = b.scale[g] | b.mn[g]<<4
		putQ2KCodes(dst, b.codes[16*g:][:16], g, 0)
	}
	le.PutUint16(dst[80:], uint16(tensor.HalfFrom(b.d)))
	le.PutUint16(dst[82:], uint16(tensor.HalfFrom(b.dmin)))
}
