package kernel

import "unsafe"

// sink keeps what scalarLimits compute from being compiled away.
type sink struct{ v uint64 }

var scalarLimits = limits{read: readScalar, int8: int8Work{int8Scalar, 16}}

//go:noinline
func readScalar(p *byte, blocks int) {
	var s sink
	for _, x := range unsafe.Slice((*[32]uint64)(unsafe.Pointer(p)), blocks) {
		s.v |= x[0] | x[1] | x[2] | x[3] | x[4] | x[5] | x[6] | x[7]
		s.v |= x[8] | x[9] | x[10] | x[11] | x[12] | x[13] | x[14] | x[15]
		s.v |= x[16] | x[17] | x[18] | x[19] | x[20] | x[21] | x[22] | x[23]
		s.v |= x[24] | x[25] | x[26] | x[27] | x[28] | x[29] | x[30] | x[31]
	}
	keep(s)
}

//go:noinline
func int8Scalar(n int) {
	var a [8]int64
	x := int64(n)
	for i := range n {
		for j := range a {
			a[j] += x * int64(int8(i))
		}
	}
	s := sink{}
	for _, v := range a {
		s.v |= uint64(v)
	}
	keep(s)
}

//go:noinline
func keep(sink) {}
