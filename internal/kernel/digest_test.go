package kernel

import (
	"encoding/binary"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"testing"
)

// scalarDigests holds the FNV-1a hash of every scalar function's output over
// the inputs of digestInputs, made on amd64. A compiler that fuses a product
// into a sum (arm64 may) or a change of rounding shows up here.
var scalarDigests = map[string]uint64{
	"AbsMax":      0x7bd7e27b0f005d47,
	"Add":         0x27ad6489a0821565,
	"Exp":         0x72cc71d4e43d291b,
	"FMA32":       0x72a0e8a6dd9aba00,
	"GeluMul":     0x1bed5fea49170010,
	"Log":         0x245a7f41268e9887,
	"LogSumExp":   0xa9ea368b7e539ea7,
	"MatBF16":     0x87bee8b0aff92bbc,
	"MatF16":      0x420d0fabd15a4f51,
	"MatF32":      0x90f490c7361ad435,
	"MatW2":       0x9cfe72552fa692f1,
	"MatW4":       0x6dc4ec841a80c845,
	"MatW8":       0x790b506489c782b1,
	"Mix":         0xf3fb94f7c2216c12,
	"QuantizeA8":  0x4e69e540867440e0,
	"QuantizeKV8": 0xcd6e74b8f34b26d4,
	"RMSNorm":     0xabd2465263f1627a,
	"Rope":        0xfc1fc32b075b61e1,
	"Scores":      0x350d42a805802125,
	"SiluMul":     0xb368940ad0d3e6a8,
	"SoftCap":     0xfcfc0edf89706ddc,
	"Softmax":     0xa44643d8940d3cf8,
	"Tanh":        0x8b4c38acabd52658,
	"half":        0xe75123c49751d483,
	"sqrt":        0x1aee94a96cf44c4b,
}

// digest hashes float32 bit patterns and integers.
type digest struct{ b []byte }

func (d *digest) floats(x ...float32) {
	for _, v := range x {
		d.b = binary.LittleEndian.AppendUint32(d.b, math.Float32bits(v))
	}
}

func (d *digest) codes(x []int8) {
	for _, v := range x {
		d.b = append(d.b, byte(v))
	}
}

func (d *digest) ints(x []int32) {
	for _, v := range x {
		d.b = binary.LittleEndian.AppendUint32(d.b, uint32(v))
	}
}

func (d *digest) sum() uint64 {
	h := fnv.New64a()
	h.Write(d.b)
	return h.Sum64()
}

// digestSource draws the inputs. Only exact operations are used, so that the
// inputs themselves are the same on every CPU.
type digestSource struct{ *rand.Rand }

// floats draws n values of magnitude below 2^e, more of them small than large.
func (s digestSource) floats(n, e int) []float32 {
	x := make([]float32, n)
	for i := range x {
		m := s.Uint32() & 0x7fffff
		exp := 127 + e - 1 - s.IntN(12)
		x[i] = math.Float32frombits(s.Uint32()&(1<<31) | uint32(exp)<<23 | m)
	}
	return x
}

// halves draws n finite float16 values, subnormal ones among them.
func (s digestSource) halves(n int) []uint16 {
	x := make([]uint16, n)
	for i := range x {
		x[i] = uint16(s.Uint32()&0x8000) | uint16(s.IntN(20)<<10) | uint16(s.IntN(1024))
	}
	return x
}

func (s digestSource) bytes(n int) []byte {
	x := make([]byte, n)
	for i := range x {
		x[i] = byte(s.Uint32())
	}
	return x
}

func (s digestSource) codes(n int) []int8 {
	x := make([]int8, n)
	for i := range x {
		x[i] = int8(s.Uint32())
	}
	return x
}

// panels draws quantized panels of arbitrary codes and finite scales.
func (s digestSource) panels(n, K, group, per int) []byte {
	w := s.bytes(n * PanelBytes(K, group, per))
	for p := 0; p < len(w); {
		for g := 0; g < K; g += group {
			p += (min(group, K-g) + per - 1) / per * 64
			for _, h := range s.halves(Rows) {
				binary.LittleEndian.PutUint16(w[p:], h)
				p += 2
			}
		}
	}
	return w
}

// digestActs draws T rows of K activations and quantizes them.
func digestActs(s digestSource, T, K int) *Acts {
	a := &Acts{T: T, K: K, Stride: (K + Sub - 1) / Sub * Sub}
	n := a.Stride / Sub
	a.Codes, a.Scales, a.Sums = make([]int8, T*a.Stride), make([]float32, T*n), make([]int32, T*n)
	for t := range T {
		if !quantizeA8(a.Codes[t*a.Stride:][:a.Stride], a.Scales[t*n:][:n], a.Sums[t*n:][:n], s.floats(K, 3)) {
			panic("digestActs: not finite")
		}
	}
	return a
}

func TestScalarSameOnEveryCPU(t *testing.T) {
	check := func(name string, f func(s digestSource, d *digest)) {
		t.Run(name, func(t *testing.T) {
			var d digest
			f(digestSource{rand.New(rand.NewPCG(20, 26))}, &d)
			if got, want := d.sum(), scalarDigests[name]; got != want {
				t.Errorf("digest %#016x, on amd64 %#016x", got, want)
			}
		})
	}
	digestMath(check)
	digestMatrices(check)
	digestVectors(check)
	digestAttention(check)
}

type digestCheck func(name string, f func(s digestSource, d *digest))

func digestMath(check digestCheck) {
	check("FMA32", func(s digestSource, d *digest) {
		for range 4000 {
			x := s.floats(3, 4)
			d.floats(FMA32(x[0], x[1], x[2]))
		}
	})
	for name, f := range map[string]func(float32) float32{"Exp": Exp, "Tanh": Tanh, "Log": Log, "sqrt": sqrt} {
		check(name, func(s digestSource, d *digest) {
			for _, x := range s.floats(4000, 7) {
				if name == "Log" || name == "sqrt" {
					x = max(x, -x)
				}
				d.floats(f(x))
			}
		})
	}
	check("half", func(s digestSource, d *digest) {
		for _, h := range s.halves(4000) {
			d.floats(half(h))
		}
	})
}

func digestMatrices(check digestCheck) {
	for _, c := range []struct {
		name string
		f    MatQ
		per  int
	}{{"MatW8", matW8, 4}, {"MatW4", matW4, 8}, {"MatW2", matW2, 16}} {
		check(c.name, func(s digestSource, d *digest) {
			for _, K := range []int{44, 172, 192} {
				for _, group := range []int{32, 64, 128} {
					a := digestActs(s, 3, K)
					dst := make([]float32, a.T*2*Rows)
					c.f(dst, 2*Rows, s.panels(2, K, group, c.per), a, group, 0, 2)
					d.floats(dst...)
				}
			}
		})
	}
	for _, c := range []struct {
		name string
		f    MatF
		draw func(s digestSource, n int) []byte
	}{
		{"MatF32", matF32, func(s digestSource, n int) []byte {
			var d digest
			d.floats(s.floats(n, 1)...)
			return d.b
		}},
		{"MatF16", matF16, func(s digestSource, n int) []byte {
			var b []byte
			for _, h := range s.halves(n) {
				b = binary.LittleEndian.AppendUint16(b, h)
			}
			return b
		}},
		{"MatBF16", matBF16, func(s digestSource, n int) []byte {
			var b []byte
			for _, v := range s.floats(n, 1) {
				b = binary.LittleEndian.AppendUint16(b, uint16(math.Float32bits(v)>>16))
			}
			return b
		}},
	} {
		check(c.name, func(s digestSource, d *digest) {
			const T, K = 3, 77
			dst := make([]float32, T*2*Rows)
			c.f(dst, 2*Rows, c.draw(s, 2*K*Rows), s.floats(T*K, 2), K, T, K, 0, 2)
			d.floats(dst...)
		})
	}
}

func digestVectors(check digestCheck) {
	const n = 1003
	check("QuantizeA8", func(s digestSource, d *digest) {
		a := digestActs(s, 3, n)
		d.codes(a.Codes)
		d.floats(a.Scales...)
		d.ints(a.Sums)
	})
	check("QuantizeKV8", func(s digestSource, d *digest) {
		codes := make([]int8, n)
		quantizeKV8(codes, s.floats(n, 2), 0.0312)
		d.codes(codes)
	})
	check("AbsMax", func(s digestSource, d *digest) { d.floats(absMax(s.floats(n, 9))) })
	check("RMSNorm", func(s digestSource, d *digest) {
		dst := make([]float32, n)
		rmsNorm(dst, s.floats(n, 4), s.floats(n, 1), 1e-5)
		d.floats(dst...)
	})
	check("Softmax", func(s digestSource, d *digest) {
		for t0 := range 17 {
			x := s.floats(n, 5)
			d.floats(softmax(x, t0))
			d.floats(x...)
		}
	})
	for name, f := range map[string]func(dst, gate, up []float32){"SiluMul": siluMul, "GeluMul": geluMul} {
		check(name, func(s digestSource, d *digest) {
			dst := make([]float32, n)
			f(dst, s.floats(n, 5), s.floats(n, 3))
			d.floats(dst...)
		})
	}
	check("SoftCap", func(s digestSource, d *digest) {
		x := s.floats(n, 8)
		softCap(x, 30)
		d.floats(x...)
	})
	check("Rope", func(s digestSource, d *digest) {
		x := s.floats(96, 3)
		rope(x, s.floats(48, 1), s.floats(48, 1))
		d.floats(x...)
	})
	check("Add", func(s digestSource, d *digest) {
		x := s.floats(n, 3)
		add(x, s.floats(n, 3))
		d.floats(x...)
	})
	check("LogSumExp", func(s digestSource, d *digest) {
		d.floats(scalar.LogSumExp(s.floats(n, 5), make([]float32, n)))
	})
}

func digestAttention(check digestCheck) {
	const T, E = 19, 36
	check("Scores", func(s digestSource, d *digest) {
		q, scales, dst := s.floats(E, 2), s.halves(T), make([]float32, T)
		scoresF32(dst, q, s.floats(T*E, 2), 0.177)
		d.floats(dst...)
		scoresF16(dst, q, s.halves(T*E), 0.177)
		d.floats(dst...)
		scoresKV8(dst, q, s.codes(T*E), scales, 0.177)
		d.floats(dst...)
	})
	check("Mix", func(s digestSource, d *digest) {
		p, scales, dst := s.floats(T, 1), s.halves(T), make([]float32, E)
		mixF32(dst, p, s.floats(T*E, 2))
		d.floats(dst...)
		mixF16(dst, p, s.halves(T*E))
		d.floats(dst...)
		mixKV8(dst, p, s.codes(T*E), scales)
		d.floats(dst...)
	})
}
