// Q2_K as a container of slmc's own 2-bit weights, and rules for scales that
// make it one.
//
// A weight of Q2_K is d*sc*code - dmin*m with d and dmin float16, one each of
// 256 weights, and sc and m integers below 16, one each of 16 weights. The
// balanced levels (code - 3/2)*S need d*sc = S and dmin*m = 3/2 S: so all scales
// of a block are small multiples of one d, and dmin is 3/2 d (m = sc), or d/2
// (m = 3 sc) where 3/2 d is no float16. Products and difference then have at
// most 22 bits, so that llama.cpp's dequantizer gives the very float32 that
// slmc's gives.

package gguf

import (
	"fmt"

	"slmc/tensor"
)

const (
	q2kElems  = 256
	q2kGroups = 16 // of a block
)

// q2kScales are the scales of a block.
type q2kScales struct {
	d, dmin   tensor.Half
	scale     [q2kGroups]byte // the integer of each scale that was asked for
	minFactor byte            // a minimum is that times the scale
}

// splitQ2K writes magnitudes of scales as the products that Q2_K stores; ok is
// false where there are none.
func splitQ2K(scales []float32) (s q2kScales, ok bool) {
	most := float32(0)
	for _, v := range scales {
		most = max(most, v)
	}
	if most == 0 {
		return q2kScales{minFactor: 1}, true
	}
	for top := 1; top < 16; top++ {
		s.d = tensor.HalfFrom(most / float32(top))
		d := s.d.Float32()
		if d == 0 || !multiples(s.scale[:], scales, d) {
			continue
		}
		if s.dmin = tensor.HalfFrom(1.5 * d); s.dmin.Float32() == 1.5*d {
			s.minFactor = 1
			return s, true
		}
		if s.dmin = tensor.HalfFrom(d / 2); s.dmin.Float32() == d/2 && top <= 5 {
			s.minFactor = 3
			return s, true
		}
	}
	return q2kScales{}, false
}

// multiples writes each scale as a multiple of d below 16, if all are. The
// products are exact: 11 bits times 4.
func multiples(dst []byte, scales []float32, d float32) bool {
	for g, v := range scales {
		n := int(v/d + 0.5)
		if n > 15 || float32(n)*d != v {
			return false
		}
		dst[g] = byte(n)
	}
	return true
}

func magnitude(h tensor.Half) float32 { return (h &^ 0x8000).Float32() }

// EncodeBalancedQ2K writes a row of 2-bit codes that stand for (code - 3/2)*S as
// blocks of Q2_K: a scale S for every group weights, 16 or a multiple that
// divides 256, so that the blocks have the same float32 values. len(codes) is a
// multiple of 256 and len(dst) that of its blocks. It returns the first block
// whose scales Q2_K can't store, or -1.
func EncodeBalancedQ2K(dst, codes []byte, scales []tensor.Half, group int) int {
	if group < 16 || group%16 != 0 || q2kElems%group != 0 || len(codes)%q2kElems != 0 || len(codes) != group*len(scales) || len(dst) != len(codes)/q2kElems*q2kBytes {
		panic(fmt.Sprintf("gguf.EncodeBalancedQ2K: %d bytes for %d codes and %d scales, one for %d", len(dst), len(codes), len(scales), group))
	}
	per := q2kElems / group
	var sizes [q2kGroups]float32
	for b := 0; len(codes) > 0; b++ {
		for g, h := range scales[:per] {
			sizes[g] = magnitude(h)
		}
		s, ok := splitQ2K(sizes[:per])
		if !ok {
			return b
		}
		clear(dst[:q2kBytes])
		for g := range q2kGroups {
			sc := s.scale[g*16/group]
			dst[g] = sc | sc*s.minFactor<<4
			flip := byte(0)
			if scales[g*16/group]&0x8000 != 0 {
				flip = 3 // a negative scale swaps the levels' signs
			}
			putQ2KCodes(dst, codes[16*g:][:16], g, flip)
		}
		le.PutUint16(dst[80:], uint16(s.d))
		le.PutUint16(dst[82:], uint16(s.dmin))
		codes, dst, scales = codes[q2kElems:], dst[q2kBytes:], scales[per:]
	}
	return -1
}

// putQ2KCodes writes the 16 codes of group g (see decodeQ2K for their place).
func putQ2KCodes(dst, codes []byte, g int, flip byte) {
	at, shift := 16+32*(g/8)+16*(g%2), 2*(g%8/2)
	for j, c := range codes {
		dst[at+j] |= (c ^ flip) << shift
	}
}

// ConstrainQ2K rounds the scales of a row of balanced 2-bit weights, one for
// every group weights, to such as Q2_K stores exactly: of every 256 weights' worth
// those with the least sum of squared changes, where d has 7 significant bits.
// Those that Q2_K stores as they are keep their values; a negative scale counts as 0.
// dst and scales have the same length. A row may end in the middle of a block.
func ConstrainQ2K(dst []tensor.Half, scales []float32, group int) {
	per := q2kElems / group
	for ; len(scales) > 0; dst, scales = dst[min(per, len(dst)):], scales[min(per, len(scales)):] {
		constrainBlock(dst[:min(per, len(dst))], scales[:min(per, len(scales))])
	}
}

func constrainBlock(dst []tensor.Half, scales []float32) {
	var sizes [q2kGroups]float32
	x := sizes[:len(scales)]
	most, same := float32(0), true
	for g, v := range scales {
		x[g] = max(v, 0)
		most = max(most, x[g])
		dst[g] = tensor.HalfFrom(x[g])
		same = same && dst[g].Float32() == x[g]
	}
	if _, ok := splitQ2K(x); ok && same {
		return
	}
	best, d := -1.0, float32(0)
	// All m*2^e with m of 7 bits between a 16th of the largest scale and that
	// itself. From 2^-23 on 3/2 of it is a float16 too.
	e := float32(0x1p-23)
	for 127*e*15.5 < most {
		e *= 2
	}
	for m := float32(1); ; m++ {
		if m > 127 {
			m, e = 64, 2*e
		}
		if m*e > 1.02*most && best >= 0 || m*e > maxConstrained {
			break
		}
		if sum := constrainError(x, m*e); sum >= 0 && (best < 0 || sum < best) {
			best, d = sum, m*e
		}
	}
	for g, v := range x {
		dst[g] = tensor.HalfFrom(d * float32(nearestMultiple(v, d)))
	}
}

// maxConstrained bounds d: its products with 3/2 are finite float16.
const maxConstrained = 32768

func nearestMultiple(v, d float32) int { return min(15, int(v/d+0.5)) }

// constrainError is the sum of squared changes under d, or -1 where a scale
// would not be finite.
func constrainError(scales []float32, d float32) float64 {
	sum := 0.0
	for _, v := range scales {
		to := d * float32(nearestMultiple(v, d))
		if to > 65504 {
			return -1
		}
		diff := float64(to) - float64(v)
		sum += float64(diff * diff)
	}
	return sum
}

// HoldsBalancedQ2K reports the first block of a row whose scales, one for every
// group weights, Q2_K does not store, or -1. A row may end in the middle of a
// block.
func HoldsBalancedQ2K(scales []tensor.Half, group int) int {
	per := q2kElems / group
	var sizes [q2kGroups]float32
	for b := 0; len(scales) > 0; b++ {
		n := min(per, len(scales))
		for g, h := range scales[:n] {
			sizes[g] = magnitude(h)
		}
		if _, ok := splitQ2K(sizes[:n]); !ok {
			return b
		}
		scales = scales[n:]
	}
	return -1
}
