package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
	"time"
)

// Benchmarks of every implementation on one core, at the shapes of a
// 350M-parameter model (D 960, FFN 2560). bench/kernels.md holds figures and
// the limits that they are measured against.

// eachBench runs bench for each implementation that this CPU has.
func eachBench(b *testing.B, bench func(b *testing.B, f *Funcs)) {
	for _, im := range Impls() {
		if im.OK {
			b.Run(im.Name, func(b *testing.B) { bench(b, &im.Funcs) })
		}
	}
}

// measure runs f and reports the rate of its ops, and of its bytes if it is
// bound by memory, in the fastest run: the machine may be shared.
func measure(b *testing.B, ops, bytes float64, f func()) {
	best := math.Inf(1)
	for b.Loop() {
		start := time.Now()
		f()
		best = min(best, time.Since(start).Seconds())
	}
	if ops > 0 {
		b.ReportMetric(ops/best/1e9, "GOP/s")
	}
	if bytes > 0 {
		b.ReportMetric(bytes/best/1e9, "GB/s")
	}
}

// BenchmarkLimits reports what the other figures are compared with: 8-bit
// multiply-adds from registers, and reads of 2 MiB, a layer's matrix, at a time.
func BenchmarkLimits(b *testing.B) {
	const rounds, part = 100000, 2 << 20
	buf := make([]byte, 320<<20)
	for i := range buf {
		buf[i] = byte(i)
	}
	eachBench(b, func(b *testing.B, f *Funcs) {
		b.Run("int8", func(b *testing.B) { measure(b, float64(f.Int8(1))*rounds, 0, func() { f.Int8(rounds) }) })
		at := 0
		b.Run("read", func(b *testing.B) {
			measure(b, 0, part, func() {
				f.Read(buf[at:][:part])
				at = (at + part) % len(buf)
			})
		})
	})
}

// layerShapes are the products of a layer, rows by K.
var layerShapes = []struct{ rows, K int }{{2560, 960}, {960, 2560}}

// decodeBytes is how much weight a decode benchmark walks through: more than
// the caches hold, so that memory is what is measured.
const decodeBytes = 320 << 20

func BenchmarkDecode(b *testing.B) {
	for _, q := range quantFormats {
		group := 32
		if q.name == "W2" {
			group = 64
		}
		for _, s := range layerShapes {
			b.Run(fmt.Sprintf("%s/%dx%d", q.name, s.rows, s.K), func(b *testing.B) {
				eachBench(b, func(b *testing.B, f *Funcs) {
					r := rand.New(rand.NewPCG(1, 1))
					size := s.rows / Rows * PanelBytes(s.K, group, q.per)
					n := 1
					if f.Name != "scalar" {
						n = decodeBytes / size
					}
					w := make([]byte, n*size)
					fillPanels(r, w[:size], s.rows/Rows, s.K, group, q.per, random)
					for i := 1; i < n; i++ {
						copy(w[i*size:], w[:size])
					}
					x := randomActs(b, r, 1, s.K, random)
					q.prepare(f, x)
					dst := make([]float32, s.rows)
					i := 0
					measure(b, 2*float64(s.rows*s.K), float64(size), func() {
						q.of(f)(dst, s.rows, w[i*size:], x, group, 0, s.rows/Rows)
						i = (i + 1) % n
					})
				})
			})
		}
	}
}

func BenchmarkPrefill(b *testing.B) {
	const T = 128
	for _, q := range quantFormats {
		group := 32
		if q.name == "W2" {
			group = 64
		}
		for _, s := range layerShapes {
			b.Run(fmt.Sprintf("%s/%dx%dx%d", q.name, s.rows, s.K, T), func(b *testing.B) {
				eachBench(b, func(b *testing.B, f *Funcs) {
					r := rand.New(rand.NewPCG(1, 1))
					rows := s.rows
					if f.Name == "scalar" {
						rows = 64
					}
					w := make([]byte, rows/Rows*PanelBytes(s.K, group, q.per))
					fillPanels(r, w, rows/Rows, s.K, group, q.per, random)
					x := randomActs(b, r, T, s.K, random)
					q.prepare(f, x)
					dst := make([]float32, rows*T)
					measure(b, 2*float64(rows*s.K*T), 0, func() {
						q.of(f)(dst, rows, w, x, group, 0, rows/Rows)
					})
				})
			})
		}
	}
}

func BenchmarkFloat(b *testing.B) {
	for _, q := range floatFormats {
		for _, T := range []int{1, 128} {
			const rows, K = 960, 2560
			b.Run(fmt.Sprintf("%s/%dx%dx%d", q.name, rows, K, T), func(b *testing.B) {
				eachBench(b, func(b *testing.B, f *Funcs) {
					r := rand.New(rand.NewPCG(1, 1))
					rows := rows
					if f.Name == "scalar" {
						rows = 32
					}
					w := make([]byte, rows*K*q.size)
					for i := 0; i < len(w); i += q.size {
						q.put(w[i:], float32(r.NormFloat64()))
					}
					x := make([]float32, T*K)
					for i := range x {
						x[i] = float32(r.NormFloat64())
					}
					dst := make([]float32, T*rows)
					measure(b, 2*float64(rows*K*T), float64(len(w)), func() {
						q.of(f)(dst, rows, w, x, K, T, K, 0, rows/Rows)
					})
				})
			})
		}
	}
}

// BenchmarkOps runs the other operations at a decode step's sizes: D 960, FFN
// 2560, heads of 64 over 1024 positions.
func BenchmarkOps(b *testing.B) {
	r := rand.New(rand.NewPCG(2, 2))
	vec := func(n int) []float32 { return contents(b, r, n, 0) }
	x, y, w, dst := vec(2560), vec(2560), vec(2560), make([]float32, 2560)
	codes, scales, sums := make([]int8, 2560), make([]float32, 80), make([]int32, 80)
	const E, n = 64, 1024
	c := randomCache(b, r, n, E, 1)
	q, scores, head := vec(E), vec(n), make([]float32, E)
	q3, scores3, head3, p3, p3w := vec(3*E), vec(3*n), make([]float32, 3*E), vec(3*n), vec(3*n)
	for _, op := range []struct {
		name string
		work float64 // elements, or products
		run  func(f *Funcs)
	}{
		{"QuantizeA8/2560", 2560, func(f *Funcs) { f.QuantizeA8(codes, scales, sums, x) }},
		{"RMSNorm/960", 960, func(f *Funcs) { f.RMSNorm(dst, x[:960], w, 1e-5) }},
		{"Softmax/1024", n, func(f *Funcs) { copy(scores, x); f.Softmax(scores, 0) }},
		{"SiluMul/2560", 2560, func(f *Funcs) { f.SiluMul(dst, x, y) }},
		{"GeluMul/2560", 2560, func(f *Funcs) { f.GeluMul(dst, x, y) }},
		{"SoftCap/1024", n, func(f *Funcs) { f.SoftCap(scores, 50) }},
		{"Rope/64", 64, func(f *Funcs) { f.Rope(head, x, y) }},
		{"Add/960", 960, func(f *Funcs) { f.Add(dst[:960], x[:960]) }},
		{"AbsMax/960", 960, func(f *Funcs) { f.AbsMax(x[:960]) }},
		{"QuantizeKV8/64", E, func(f *Funcs) { f.QuantizeKV8(codes, q, 0.03) }},
		{"ScoresF32", n * E, func(f *Funcs) { f.ScoresF32(scores, q, c.f32, 0.125) }},
		{"ScoresF16", n * E, func(f *Funcs) { f.ScoresF16(scores, q, c.f16, 0.125) }},
		{"ScoresKV8", n * E, func(f *Funcs) { f.ScoresKV8(scores, q, c.kv8, c.scales, 0.125) }},
		{"MixF32", n * E, func(f *Funcs) { f.MixF32(head, y[:n], c.f32) }},
		{"MixF16", n * E, func(f *Funcs) { f.MixF16(head, y[:n], c.f16) }},
		{"ScoresHeadsF16/3", 3 * n * E, func(f *Funcs) { f.ScoresHeadsF16(scores3, q3, E, c.f16, 0.125, nil) }},
		{"ScoresHeadsKV8/3", 3 * n * E, func(f *Funcs) { f.ScoresHeadsKV8(scores3, q3, E, c.kv8, c.scales, 0.125, nil) }},
		{"MixHeadsF16/3", 3 * n * E, func(f *Funcs) { f.MixHeadsF16(head3, p3, E, c.f16, nil) }},
		{"MixHeadsKV8/3", 3 * n * E, func(f *Funcs) { copy(p3w, p3); f.MixHeadsKV8(head3, p3w, E, c.kv8, c.scales, nil) }},
		{"MixKV8", n * E, func(f *Funcs) { f.MixKV8(head, y[:n], c.kv8, c.scales) }},
	} {
		b.Run(op.name, func(b *testing.B) {
			eachBench(b, func(b *testing.B, f *Funcs) {
				// Ten calls to a measurement, for the clock's sake.
				measure(b, 10*op.work, 0, func() {
					for range 10 {
						op.run(f)
					}
				})
			})
		})
	}
}

// BenchmarkTiles runs the parts of attention over many rows: a tile of 32
// positions and 48 queries, E 64.
func BenchmarkTiles(b *testing.B) {
	r := rand.New(rand.NewPCG(4, 4))
	const E, queries, ld = 64, 48, 1040
	c := randomCache(b, r, 64, E, 1)
	vec := func(n int) []float32 { return contents(b, r, n, 0) }
	q, tile, floats, scales, out, head := vec(queries*E), vec(Tile*E), vec(64*E), vec(Tile), vec(queries*ld), vec(3*E)
	for _, op := range []struct {
		name string
		work float64
		run  func(f *Tiles)
	}{
		{"FloatsF16", 64 * E, func(f *Tiles) { f.FloatsF16(floats, c.f16) }},
		{"FloatsKV8", 64 * E, func(f *Tiles) { f.FloatsKV8(floats, c.kv8) }},
		{"Transpose", Tile * E, func(f *Tiles) { f.Transpose(tile, floats, E) }},
		{"Scores", queries * Tile * E, func(f *Tiles) { f.Scores(out, ld, q, E, tile, scales, 0.125) }},
		{"Mix/3", 3 * 64 * E, func(f *Tiles) { f.Mix(head, E, out, ld, 64, floats) }},
	} {
		b.Run(op.name, func(b *testing.B) {
			eachBench(b, func(b *testing.B, f *Funcs) {
				if f.Tiles == nil {
					b.Skip("this variant has none")
				}
				measure(b, 100*op.work, 0, func() {
					for range 100 {
						op.run(f.Tiles)
					}
				})
			})
		})
	}
}
