package kernel

import (
	"fmt"
	"math/rand/v2"
	"testing"
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

// gops reports the rate of a matrix product, two operations a weight.
func gops(b *testing.B, rows, K, T int) {
	ops := 2 * float64(rows) * float64(K) * float64(T) * float64(b.N)
	b.ReportMetric(ops/b.Elapsed().Seconds()/1e9, "GOP/s")
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
					dst := make([]float32, s.rows)
					b.SetBytes(int64(size))
					i := 0
					for b.Loop() {
						q.of(f)(dst, s.rows, w[i*size:], x, group, 0, s.rows/Rows)
						i = (i + 1) % n
					}
					gops(b, s.rows, s.K, 1)
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
					dst := make([]float32, rows*T)
					for b.Loop() {
						q.of(f)(dst, rows, w, x, group, 0, rows/Rows)
					}
					gops(b, rows, s.K, T)
				})
			})
		}
	}
}
