//go:build !purego

package kernel

import "golang.org/x/sys/cpu"

// archImpls returns the implementations for amd64, fastest first. Their
// assembly is written by the generator in asm; panel_amd64.go drives the
// matrix products.
func archImpls() []Impl {
	x := &cpu.X86
	two := x.HasAVX2 && x.HasFMA && x.HasF16C
	wide := two && x.HasBMI2 && x.HasAVX512F && x.HasAVX512BW && x.HasAVX512VL && x.HasAVX512DQ && x.HasAVX512VNNI
	return []Impl{{avx512Funcs("avx512gfni", gfni), wide && x.HasAVX512GFNI}, {avx512Funcs("avx512", avx512), wide}, {checked(avx2Funcs()), two}}
}

func avx512Funcs(name string, i isa) Funcs {
	f := Funcs{
		Name:    name,
		limits:  limitsAVX512,
		RMSNorm: rmsNormAVX512,
		Softmax: softmaxAVX512,
		SiluMul: siluMulAVX512, GeluMul: geluMulAVX512,
		SoftCap:   softCapAVX512,
		Rope:      ropeAVX512,
		Add:       addAVX512,
		AbsMax:    absMaxAVX512,
		ScoresF32: scoresF32AVX512, ScoresF16: scoresF16AVX512, ScoresKV8: scoresKV8AVX512,
		MixF32: mixF32AVX512, MixF16: mixF16AVX512, MixKV8: mixKV8AVX512,
		Divide: divideAVX512, Halves: halvesAVX512,
	}
	i.setMat(&f)
	i.setQuantize(&f)
	f = checked(f)
	setHeadsAVX512(&f)
	return f
}

func avx2Funcs() Funcs {
	f := Funcs{
		Name:    "avx2",
		limits:  limitsAVX2,
		RMSNorm: rmsNormAVX2,
		Softmax: softmaxAVX2,
		SiluMul: siluMulAVX2, GeluMul: geluMulAVX2,
		SoftCap: softCapAVX2,
		Rope:    ropeAVX2,
		Add:     addAVX2,
		AbsMax:  absMaxAVX2,
		Divide:  divideAVX2,
	}
	avx2.setMat(&f)
	avx2.setQuantize(&f)
	setAttentionAVX2(&f)
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

// setQuantize sets the functions that round to 8 bits.
func (i isa) setQuantize(f *Funcs) {
	f.Prepare = i.prepare
	f.QuantizeA8 = func(codes []int8, scales []float32, sums []int32, x []float32) bool {
		n := len(x) / Sub
		if n > 0 && !i.quantizeA8(&codes[0], &scales[0], &sums[0], &x[0], n) {
			return false
		}
		if n*Sub == len(x) {
			return true
		}
		// Zeros beyond the end have no effect but codes of 0, which are due.
		var rest [Sub]float32
		copy(rest[:], x[n*Sub:])
		return i.quantizeA8(&codes[n*Sub], &scales[n], &sums[n], &rest[0], 1)
	}
	f.QuantizeKV8 = func(codes []int8, x []float32, scale float32) {
		n := len(x)
		switch {
		case scale == 0 || n == 0:
			clear(codes[:n])
		case i.wide():
			quantizeKV8AVX512(&codes[0], &x[0], 1/scale, n)
		default:
			if n &^= 7; n > 0 {
				quantizeKV8AVX2(&codes[0], &x[0], 1/scale, n)
			}
			round8(codes[n:], x[n:], 1/scale)
		}
	}
}

func (i isa) quantizeA8(codes *int8, scales *float32, sums *int32, x *float32, n int) bool {
	if i.wide() {
		return quantizeA8AVX512(codes, scales, sums, x, n)
	}
	return quantizeA8AVX2(codes, scales, sums, x, n)
}

// setAttentionAVX2 sets Scores, Mix and Halves, whose assembly wants E to be a
// multiple of 8: it has no masked loads of 8 and 16 bits. No model at hand has
// another E, so the definitions serve there.
func setAttentionAVX2(f *Funcs) {
	f.Halves = func(dst []uint16, x []float32) {
		n := len(x) &^ 7
		halvesAVX2(dst, x[:n])
		halves(dst[n:], x[n:])
	}
	f.ScoresF32 = func(dst, q, k []float32, mul float32) {
		if len(q)%8 != 0 {
			scoresF32(dst, q, k, mul)
			return
		}
		scoresF32AVX2(dst, q, k, mul)
	}
	f.ScoresF16 = func(dst, q []float32, k []uint16, mul float32) {
		if len(q)%8 != 0 {
			scoresF16(dst, q, k, mul)
			return
		}
		scoresF16AVX2(dst, q, k, mul)
	}
	f.ScoresKV8 = func(dst, q []float32, k []int8, scales []uint16, mul float32) {
		if len(q)%8 != 0 {
			scoresKV8(dst, q, k, scales, mul)
			return
		}
		scoresKV8AVX2(dst, q, k, scales, mul)
	}
	f.MixF32 = func(dst, p, v []float32) {
		if len(dst)%8 != 0 {
			mixF32(dst, p, v)
			return
		}
		mixF32AVX2(dst, p, v)
	}
	f.MixF16 = func(dst, p []float32, v []uint16) {
		if len(dst)%8 != 0 {
			mixF16(dst, p, v)
			return
		}
		mixF16AVX2(dst, p, v)
	}
	f.MixKV8 = func(dst, p []float32, v []int8, scales []uint16) {
		if len(dst)%8 != 0 {
			mixKV8(dst, p, v, scales)
			return
		}
		mixKV8AVX2(dst, p, v, scales)
	}
}
