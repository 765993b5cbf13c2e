//go:build amd64

package peak

import (
	"math"
	"testing"
	"time"

	"golang.org/x/sys/cpu"
)

// BenchmarkPeak reports the fastest run, as the kernels' benchmarks do.
func BenchmarkPeak(b *testing.B) {
	const rounds = 100000
	for _, c := range []struct {
		name string
		ok   bool
		work float64
		run  func(n int)
	}{
		{"fma512", cpu.X86.HasAVX512F, 16 * 32, fma512},
		{"fma256", cpu.X86.HasFMA, 16 * 16, fma256},
	} {
		b.Run(c.name, func(b *testing.B) {
			if !c.ok {
				b.Skip("this CPU lacks it")
			}
			best := math.Inf(1)
			for b.Loop() {
				start := time.Now()
				c.run(rounds)
				best = min(best, time.Since(start).Seconds())
			}
			b.ReportMetric(rounds*c.work/best/1e9, "GOP/s")
		})
	}
}
