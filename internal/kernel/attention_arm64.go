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
