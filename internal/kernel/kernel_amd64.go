//go:build !purego

package kernel

import "golang.org/x/sys/cpu"

// archImpls returns the implementations for amd64, fastest first. Their
// assembly is written by the generator in asm.
func archImpls() []Impl {
	x := &cpu.X86
	two := x.HasAVX2 && x.HasFMA && x.HasF16C
	wide := two && x.HasAVX512F && x.HasAVX512BW && x.HasAVX512VL && x.HasAVX512DQ && x.HasAVX512VNNI
	return []Impl{{checked(avx512Funcs()), wide}, {checked(avx2Funcs()), two}}
}

func avx512Funcs() Funcs {
	f := scalar
	f.Name = "avx512"
	avx512.setMat(&f)
	return f
}

func avx2Funcs() Funcs {
	f := scalar
	f.Name = "avx2"
	avx2.setMat(&f)
	return f
}

// setMat sets the matrix products of i.
func (i isa) setMat(f *Funcs) {
	f.MatW8 = func(dst []float32, ld int, w []byte, x *Acts, group, p0, p1 int) {
		i.matQ("MatW8", &formatW8, dst, ld, w, x, group, p0, p1)
	}
	f.MatW4 = func(dst []float32, ld int, w []byte, x *Acts, group, p0, p1 int) {
		i.matQ("MatW4", &formatW4, dst, ld, w, x, group, p0, p1)
	}
	f.MatW2 = func(dst []float32, ld int, w []byte, x *Acts, group, p0, p1 int) {
		i.matQ("MatW2", &formatW2, dst, ld, w, x, group, p0, p1)
	}
	f.MatF32 = func(dst []float32, ld int, w []byte, x []float32, ldx, T, K, p0, p1 int) {
		i.matF("MatF32", f32, dst, ld, w, x, ldx, T, K, p0, p1)
	}
	f.MatF16 = func(dst []float32, ld int, w []byte, x []float32, ldx, T, K, p0, p1 int) {
		i.matF("MatF16", f16, dst, ld, w, x, ldx, T, K, p0, p1)
	}
	f.MatBF16 = func(dst []float32, ld int, w []byte, x []float32, ldx, T, K, p0, p1 int) {
		i.matF("MatBF16", bf16, dst, ld, w, x, ldx, T, K, p0, p1)
	}
}
