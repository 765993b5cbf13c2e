//go:build !purego

package kernel

import "unsafe"

// Wrappers of the attention loops. Lengths are checked by checked; pointers to
// empty slices are passed on and never followed, since the count beside is 0.

func scoresF32Arm(dst, q, k []float32, mul float32) {
	scoresF32Neon(unsafe.SliceData(dst), len(dst), unsafe.SliceData(q), unsafe.SliceData(k), len(q), mul)
}

func scoresF16Arm(dst, q []float32, k []uint16, mul float32) {
	scoresF16Neon(unsafe.SliceData(dst), len(dst), unsafe.SliceData(q), unsafe.SliceData(k), len(q), mul)
}

func scoresKV8Arm(dst, q []float32, k []int8, scales []uint16, mul float32) {
	scoresKV8Neon(unsafe.SliceData(dst), len(dst), unsafe.SliceData(q), unsafe.SliceData(k), unsafe.SliceData(scales), len(q), mul)
}

func mixF32Arm(dst, p, v []float32) {
	mixF32Neon(unsafe.SliceData(dst), len(dst), unsafe.SliceData(p), len(p), unsafe.SliceData(v))
}

func mixF16Arm(dst, p []float32, v []uint16) {
	mixF16Neon(unsafe.SliceData(dst), len(dst), unsafe.SliceData(p), len(p), unsafe.SliceData(v))
}

func mixKV8Arm(dst, p []float32, v []int8, scales []uint16) {
	mixKV8Neon(unsafe.SliceData(dst), len(dst), unsafe.SliceData(p), len(p), unsafe.SliceData(v), unsafe.SliceData(scales))
}

func divideArm(x []float32, by float32) {
	n := len(x) &^ (step - 1)
	if n > 0 {
		divideSteps(&x[0], n, by)
	}
	divide(x[n:], by)
}

func halvesArm(dst []uint16, x []float32) {
	n := len(x) &^ (step - 1)
	if n > 0 {
		halfSteps(&dst[0], &x[0], n)
	}
	halves(dst[n:], x[n:])
}

//go:noescape
func divideSteps(x *float32, n int, by float32)

//go:noescape
func halfSteps(dst *uint16, x *float32, n int)

//go:noescape
func scoresF32Neon(dst *float32, n int, q, k *float32, e int, mul float32)

//go:noescape
func scoresF16Neon(dst *float32, n int, q *float32, k *uint16, e int, mul float32)

//go:noescape
func scoresKV8Neon(dst *float32, n int, q *float32, k *int8, scales *uint16, e int, mul float32)

//go:noescape
func mixF32Neon(dst *float32, e int, p *float32, n int, v *float32)

//go:noescape
func mixF16Neon(dst *float32, e int, p *float32, n int, v *uint16)

//go:noescape
func mixKV8Neon(dst *float32, e int, p *float32, n int, v *int8, scales *uint16)
