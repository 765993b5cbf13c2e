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
	buf := make([]byte, 320<<20)
	for i := range buf {
		buf[i] = byte(i)
	}
	wide := cpu.X86.HasAVX512VNNI
	for _, c := range []struct {
		name string
		ok   bool
		unit string
		work float64
		run  func()
	}{
		{"vnni512", wide, "GOP/s", rounds * 16 * 128, func() { vnni512(rounds) }},
		{"fma512", wide, "GOP/s", rounds * 16 * 32, func() { fma512(rounds) }},
		{"fma256", cpu.X86.HasFMA, "GOP/s", rounds * 16 * 16, func() { fma256(rounds) }},
		{"madd256", cpu.X86.HasAVX2, "GOP/s", rounds * 8 * 64, func() { madd256(rounds) }},
		{"read512", wide, "GB/s", 2 << 20, next(buf, read512)},
		{"read256", cpu.X86.HasAVX2, "GB/s", 2 << 20, next(buf, read256)},
	} {
		b.Run(c.name, func(b *testing.B) {
			if !c.ok {
				b.Skip("this CPU lacks it")
			}
			best := math.Inf(1)
			for b.Loop() {
				start := time.Now()
				c.run()
				best = min(best, time.Since(start).Seconds())
			}
			b.ReportMetric(c.work/best/1e9, c.unit)
		})
	}
}

// next reads the next 2 MiB of buf at each call, the size of a layer's matrix.
func next(buf []byte, read func(p *byte, n int)) func() {
	at := 0
	return func() {
		read(&buf[at], 2<<20/256)
		at = (at + 2<<20) % len(buf)
	}
}
