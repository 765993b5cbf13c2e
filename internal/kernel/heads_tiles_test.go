package kernel

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

func TestTiles(t *testing.T) {
	eachVariant(t, func(t *testing.T, f *Funcs) {
		if f.Tiles == nil {
			t.Skip("this variant has none")
		}
		r := rand.New(rand.NewPCG(15, 16))
		for kind, E := range []int{16, 32, 48, 64, 80, 96, 112, 128, 256, 64, 64} {
			testTileKeys(t, f.Tiles, r, E, kind)
			testTileScores(t, f, r, E, kind)
			for heads := 0; heads <= 9; heads++ {
				for _, n := range []int{0, 1, 15, 16, 17, 64} {
					testTileMix(t, f.Tiles, r, E, heads, n, kind)
				}
			}
		}
		for n := range 50 {
			c := randomCache(t, r, 1, n, n)
			got, want := output(t, n), output(t, n)
			f.Tiles.FloatsF16(got, c.f16)
			floatsF16(want, c.f16)
			compare(t, fmt.Sprintf("FloatsF16 of %d", n), got, want)
			f.Tiles.FloatsKV8(got, c.kv8)
			floatsKV8(want, c.kv8)
			compare(t, fmt.Sprintf("FloatsKV8 of %d", n), got, want)
			got, want = clone(t, c.f32), clone(t, c.f32)
			f.Tiles.Weigh(got, c.f16)
			weigh(want, c.f16)
			compare(t, fmt.Sprintf("Weigh of %d", n), got, want)
		}
	})
}

func testTileKeys(t *testing.T, f *Tiles, r *rand.Rand, E, kind int) {
	c := randomCache(t, r, Tile, E, kind)
	got, want := output(t, Tile*E), output(t, Tile*E)
	f.Transpose(got, c.f32, E)
	transpose(want, c.f32, E)
	compare(t, fmt.Sprintf("Transpose E=%d", E), got, want)
}

// Scores of a tile are those of each query alone, in every form of the cache.
func testTileScores(t *testing.T, all *Funcs, r *rand.Rand, E, kind int) {
	const mul = 0.177
	f := all.Tiles
	c := randomCache(t, r, Tile, E, kind)
	ones, scales := output(t, Tile), output(t, Tile)
	for i := range ones {
		ones[i] = 1
	}
	f.FloatsF16(scales, c.scales)
	for _, queries := range []int{0, 4, 8, 12, 28} {
		q := guarded[float32](t, queries*E)
		for i := range q {
			q[i] = randomValue(r, kind)
		}
		ld := Tile + r.IntN(3)
		for _, form := range []struct {
			name   string
			floats func(dst []float32)
			scales []float32
			one    func(dst, q []float32)
		}{
			{"F32", func(dst []float32) { copy(dst, c.f32) }, ones, func(dst, q []float32) { scoresF32(dst, q, c.f32, mul) }},
			{"F16", func(dst []float32) { f.FloatsF16(dst, c.f16) }, ones, func(dst, q []float32) { scoresF16(dst, q, c.f16, mul) }},
			{"KV8", func(dst []float32) { f.FloatsKV8(dst, c.kv8) }, scales, func(dst, q []float32) { scoresKV8(dst, q, c.kv8, c.scales, mul) }},
		} {
			keys, tile := output(t, Tile*E), output(t, Tile*E)
			form.floats(keys)
			f.Transpose(tile, keys, E)
			n := max(0, (queries-1)*ld+Tile)
			got, want, defined := output(t, n), output(t, n), output(t, n)
			f.Scores(got, ld, q, E, tile, form.scales, mul)
			tileScores(defined, ld, q, E, tile, form.scales, mul)
			for i := range queries {
				form.one(want[i*ld:][:Tile], q[i*E:][:E])
			}
			what := fmt.Sprintf("Scores %s E=%d queries=%d kind=%d", form.name, E, queries, kind)
			compare(t, what, got, want)
			compare(t, what+", the definition", defined, want)
		}
	}
}

// Mix in two steps is the sum in one.
func testTileMix(t *testing.T, f *Tiles, r *rand.Rand, E, heads, n, kind int) {
	c := randomCache(t, r, n, E, kind)
	ld := n + r.IntN(3)
	p := guarded[float32](t, max(0, (heads-1)*ld+n))
	for i := range p {
		p[i] = randomValue(r, kind)
	}
	got, want := output(t, heads*E), output(t, heads*E)
	clear(got)
	if heads > 0 {
		first := r.IntN(n + 1)
		f.Mix(got, E, p, ld, first, c.f32)
		f.Mix(got, E, p[min(first, len(p)):], ld, n-first, c.f32[first*E:])
	}
	defined := make([]float32, heads*E)
	tileMix(defined, E, p, ld, n, c.f32)
	for h := range heads {
		mixF32(want[h*E:][:E], p[h*ld:][:n], c.f32)
	}
	compare(t, "the definition of Mix", defined, want)
	compare(t, fmt.Sprintf("Mix E=%d heads=%d positions=%d kind=%d", E, heads, n, kind), got, want)
}
