package kernel

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// Several heads at once give the bits of each head alone.
func TestHeads(t *testing.T) {
	eachVariant(t, func(t *testing.T, f *Funcs) {
		r := rand.New(rand.NewPCG(13, 14))
		kind := 0
		for _, E := range []int{4, 16, 24, 48, 64, 80, 128} {
			for _, heads := range []int{1, 2, 3, 4, 5, 7, 8} {
				for _, n := range []int{0, 1, 15, 16, 17, 40} {
					kind++
					testHeads(t, f, r, E, heads, n, kind)
				}
			}
		}
	})
}

func testHeads(t *testing.T, f *Funcs, r *rand.Rand, E, heads, n, kind int) {
	what := fmt.Sprintf("E=%d heads=%d positions=%d kind=%d", E, heads, n, kind)
	c := randomCache(t, r, n, E, kind)
	next := c
	if kind%2 == 0 { // what is fetched ahead may be less than what is read
		next = randomCache(t, r, n/2, E, kind)
	}
	values := func(n int) []float32 {
		x := guarded[float32](t, n)
		for i := range x {
			x[i] = randomValue(r, kind)
		}
		return x
	}
	const mul = 0.125
	q := values(heads * E)
	for _, op := range []struct {
		name string
		one  func(dst, q []float32)
		all  func(dst []float32)
	}{
		{"ScoresHeadsF32", func(dst, q []float32) { scoresF32(dst, q, c.f32, mul) }, func(dst []float32) { f.ScoresHeadsF32(dst, q, E, c.f32, mul, next.f32) }},
		{"ScoresHeadsF16", func(dst, q []float32) { scoresF16(dst, q, c.f16, mul) }, func(dst []float32) { f.ScoresHeadsF16(dst, q, E, c.f16, mul, next.f16) }},
		{"ScoresHeadsKV8", func(dst, q []float32) { scoresKV8(dst, q, c.kv8, c.scales, mul) }, func(dst []float32) { f.ScoresHeadsKV8(dst, q, E, c.kv8, c.scales, mul, next.kv8) }},
	} {
		got, want := output(t, heads*n), output(t, heads*n)
		for h := range heads {
			op.one(want[h*n:][:n], q[h*E:][:E])
		}
		op.all(got)
		compare(t, op.name+" "+what, got, want)
	}
	p := values(heads * n)
	for _, op := range []struct {
		name string
		one  func(dst, p []float32)
		all  func(dst, p []float32)
	}{
		{"MixHeadsF32", func(dst, p []float32) { mixF32(dst, p, c.f32) }, func(dst, p []float32) { f.MixHeadsF32(dst, p, E, c.f32, next.f32) }},
		{"MixHeadsF16", func(dst, p []float32) { mixF16(dst, p, c.f16) }, func(dst, p []float32) { f.MixHeadsF16(dst, p, E, c.f16, next.f16) }},
		{"MixHeadsKV8", func(dst, p []float32) { mixKV8(dst, p, c.kv8, c.scales) }, func(dst, p []float32) { f.MixHeadsKV8(dst, p, E, c.kv8, c.scales, next.kv8) }},
	} {
		got, want := output(t, heads*E), output(t, heads*E)
		for h := range heads {
			op.one(want[h*E:][:E], p[h*n:][:n])
		}
		op.all(got, clone(t, p))
		compare(t, op.name+" "+what, got, want)
	}
}
