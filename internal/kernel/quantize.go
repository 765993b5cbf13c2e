package kernel

import "math"

// tiny is the largest magnitude below which a sub-group counts as zero, so
// that 127/m can not overflow.
const tiny = 0x1p-100

// quantizeA8 rounds a row of activations to 8 bits in sub-groups of Sub: with
// m = max|x| of the sub-group, scale = m/127 and code = RoundToEven(x*(127/m)),
// clamped to [-127,127]; m < 2^-100 gives scale 0 and codes 0.
//
// codes has len(x) rounded up to a multiple of Sub elements and is zeroed
// beyond len(x); scales and sums have one element per sub-group. It reports
// false, with unspecified results, when x holds a NaN or an Inf.
func quantizeA8(codes []int8, scales []float32, sums []int32, x []float32) bool {
	for g := range scales {
		lo := g * Sub
		hi := min(lo+Sub, len(x))
		m := absMax(x[lo:hi])
		if !(m <= math.MaxFloat32) {
			return false
		}
		clear(codes[lo : lo+Sub])
		if m < tiny {
			scales[g], sums[g] = 0, 0
			continue
		}
		scales[g] = m / 127
		sums[g] = round8(codes[lo:hi], x[lo:hi], 127/m)
	}
	return true
}

// round8 writes code = RoundToEven(x*inv) clamped to [-127,127] and returns
// the sum of the codes.
func round8(codes []int8, x []float32, inv float32) int32 {
	sum := int32(0)
	for i, v := range x {
		r := min(max(float32(v*inv), -127), 127)
		c := int8(RoundEven(r))
		codes[i] = c
		sum += int32(c)
	}
	return sum
}

// absMax returns the largest magnitude in x, or NaN if x holds one; 0 for an
// empty x.
func absMax(x []float32) float32 {
	m := uint32(0)
	for _, v := range x {
		// Magnitudes order as their bit patterns do, and NaN is above Inf.
		m = max(m, math.Float32bits(v)&^(1<<31))
	}
	return math.Float32frombits(m)
}

// quantizeKV8 rounds the E values of one cached key or value to 8 bits under
// a scale that the caller chose and stores: code = RoundToEven(x*(1/scale))
// clamped to [-127,127]; scale 0 gives codes 0.
func quantizeKV8(codes []int8, x []float32, scale float32) {
	if scale == 0 {
		clear(codes[:len(x)])
		return
	}
	round8(codes[:len(x)], x, 1/scale)
}
