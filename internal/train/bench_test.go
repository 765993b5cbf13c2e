package train

import (
	"math"
	"testing"
	"time"

	"slmc/internal/kernel"
)

// BenchmarkProduct is the three products of a linear of 576 inputs and 1536
// outputs over 512 rows, on one thread; bench/gemm.md compares them with a
// BLAS. "packed" is with the weight already packed, as it is for all but the
// first part of a step.
func BenchmarkProduct(b *testing.B) {
	const T, in, out = 512, 576, 1536
	f, err := kernel.Select("")
	if err != nil {
		b.Fatal(err)
	}
	p := product{f: f, split: func(n, _ int, f func(lo, hi int)) { f(0, n) }}
	fill := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(i%17)/17 - 0.5
		}
		return x
	}
	x, w, dy := fill(T*in), fill(out*in), fill(T*out)
	y, dx, dw := fill(T*out), fill(T*in), fill(out*in)
	var forward, back panels
	cases := []struct {
		name string
		run  func()
	}{
		{"y=xW'", func() { p.pack(&forward, w, out, in, true); p.mul(y, x, &forward, T, out, in, false) }},
		{"y=xW'/packed", func() { p.mul(y, x, &forward, T, out, in, false) }},
		{"dx=dyW", func() { p.pack(&back, w, in, out, false); p.mul(dx, dy, &back, T, in, out, false) }},
		{"dx=dyW/packed", func() { p.mul(dx, dy, &back, T, in, out, false) }},
		{"dx+=dyW/packed", func() { p.mul(dx, dy, &back, T, in, out, true) }},
		{"dW+=dy'x", func() { p.held = nil; p.outer(dw, dy, x, out, in, T) }},
		{"dW+=dy'x/shared", func() { p.outer(dw, dy, x, out, in, T) }},
	}
	for _, c := range cases {
		b.Run(c.name, func(b *testing.B) {
			best := math.Inf(1)
			for b.Loop() {
				start := time.Now()
				c.run()
				best = min(best, time.Since(start).Seconds())
			}
			b.ReportMetric(2*T*in*out/best/1e9, "GFLOP/s")
		})
	}
}
