//go:build !purego

package kernel

import "golang.org/x/sys/cpu"

// archImpls returns the arm64 implementations, fastest first. Advanced SIMD is
// part of every arm64 that Go runs on. Dot products (FEAT_DotProd, Armv8.2
// optional, Armv8.4 mandatory) and matrix products (FEAT_I8MM, Armv8.2 optional,
// Armv8.6 mandatory) are looked up by x/sys/cpu: AT_HWCAP and AT_HWCAP2 on Linux
// and Android, which hold what all cores of a big.LITTLE system share;
// hw.optional.arm on Darwin, where macOS before 12 lacks the names and gets
// "neon", slower and the same bits; IsProcessorFeaturePresent on Windows. A
// system that x/sys cannot ask gets "neon" too.
func archImpls() []Impl {
	neon := scalar
	neon.Name, neon.limits = "neon", limitsNeon
	neon.MatW8 = quantized{"MatW8", 4, 2, w8Neon1, w8Neon2}.mat
	neon.MatW4 = quantized{"MatW4", 8, 2, w4Neon1, w4Neon2}.mat
	neon.MatW2 = quantized{"MatW2", 16, 2, w2Neon1, w2Neon2}.mat
	neon.MatF32 = floats{"MatF32", 4, f32Panel1, f32Panel4}.mat
	neon.MatF16 = floats{"MatF16", 2, f16Panel1, f16Panel4}.mat
	neon.MatBF16 = floats{"MatBF16", 2, bf16Panel1, bf16Panel4}.mat
	neon.ScoresF32, neon.ScoresF16, neon.ScoresKV8 = scoresF32Arm, scoresF16Arm, scoresKV8Arm
	neon.MixF32, neon.MixF16, neon.MixKV8 = mixF32Arm, mixF16Arm, mixKV8Arm
	neon.Divide, neon.Halves = divideArm, halvesArm
	neon.QuantizeA8, neon.QuantizeKV8, neon.AbsMax = quantizeA8Arm, quantizeKV8Arm, absMaxArm
	neon.RMSNorm, neon.Softmax, neon.SoftCap = rmsNormArm, softmaxArm, softCapArm
	neon.SiluMul, neon.GeluMul = siluMulArm, geluMulArm
	neon.Rope, neon.Add = ropeArm, addArm
	neon = checked(neon)

	w8 := quantized{"MatW8", 4, 4, w8Dot1, w8Dot4}
	w4 := quantized{"MatW4", 8, 4, w4Dot1, w4Dot4}
	w2 := quantized{"MatW2", 16, 4, w2Dot1, w2Dot4}
	dot := neon
	dot.Name, dot.limits = "neondot", limitsDot
	dot.MatW8, dot.MatW4, dot.MatW2 = w8.mat, w4.mat, w2.mat

	tiles := dot
	tiles.Name, tiles.limits = "neoni8mm", limitsI8mm
	tiles.MatW8, tiles.MatW4, tiles.MatW2 = tiled{4, w8}.mat, tiled{8, w4}.mat, tiled{16, w2}.mat

	return []Impl{{tiles, cpu.ARM64.HasI8MM && cpu.ARM64.HasASIMDDP}, {dot, cpu.ARM64.HasASIMDDP}, {neon, true}}
}
