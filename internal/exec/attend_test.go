package exec

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"slmc/internal/kernel"
	"slmc/model"
	"slmc/tensor"
)

// Blocks of rows get the bits that each row alone gets from the definitions.
func TestAttendBlocks(t *testing.T) {
	ran := false
	for _, im := range kernel.Impls() {
		if !im.OK || im.Tiles == nil {
			continue
		}
		ran = true
		t.Run(im.Name, func(t *testing.T) {
			r := rand.New(rand.NewPCG(31, 32))
			for i := range 60 {
				testAttendBlocks(t, &im.Funcs, r, i)
			}
		})
	}
	if !ran {
		t.Skip("no kernel of this CPU has tiles")
	}
}

func testAttendBlocks(t *testing.T, f *kernel.Funcs, r *rand.Rand, i int) {
	scalar, err := kernel.Select("scalar")
	if err != nil {
		t.Fatal(err)
	}
	K, G := 1+r.IntN(3), 1+r.IntN(9)
	b := &model.Block{Heads: K * G, KVHeads: K, HeadDim: 16 * (1 + r.IntN(8)), AttnScale: 0.11}
	if i%3 == 0 {
		b.Window = 1 + r.IntN(90)
	}
	if i%5 == 0 {
		b.AttnCap = 5
	}
	T, pos := 2+r.IntN(30), r.IntN(100)
	if i%7 == 0 {
		pos = 0
	}
	format := []KVFormat{KVF32, KVF16, KV8}[i%3]
	what := fmt.Sprintf("%s E=%d, %d heads on %d, %d rows from %d, window %d", format, b.HeadDim, b.Heads, K, T, pos, b.Window)
	normal := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(r.NormFloat64())
		}
		return x
	}
	g := &model.Graph{Blocks: []model.Block{*b}}
	c := NewCache(g, format, pos+T+r.IntN(40))
	s := &c.slots[0]
	for j := range K * c.Capacity {
		if j%c.Capacity >= pos+T { // never written: what is there must not matter
			continue
		}
		if !s.k.put(f, j, normal(b.HeadDim)) || !s.v.put(f, j, normal(b.HeadDim)) {
			t.Fatal("put refuses finite values")
		}
	}
	width := b.Heads * b.HeadDim
	q := &tensor.Mat{R: T, C: width, Stride: width, X: normal(T * width)}
	got, want := &tensor.Mat{R: T, C: width, Stride: width, X: normal(T * width)}, &tensor.Mat{R: T, C: width, Stride: width, X: normal(T * width)}
	scores := make([]float32, G*(c.Capacity+1))
	for row := range T {
		for kv := range K {
			n := G * b.HeadDim
			c.attend(scalar, b, want.Row(row)[kv*n:][:n], q.Row(row)[kv*n:][:n], kv, pos+row, scores)
		}
	}
	work := normal(1 << 20)
	for j := range work {
		if j%11 == 0 {
			work[j] = float32(math.NaN()) // what a buffer held before must not matter
		}
	}
	R := min(T, 2+r.IntN(31))
	w, ok := cutTiles(b, R, pos+T, work)
	if !ok {
		t.Fatalf("%s: 4 MiB are too little", what)
	}
	for r0 := 0; r0 < T; r0 += R {
		for kv := range K {
			c.attendBlock(f, b, got, q, kv, r0, min(r0+R, T), pos+r0, &w)
		}
	}
	for j, v := range want.X {
		if math.Float32bits(got.X[j]) != math.Float32bits(v) {
			t.Fatalf("%s, blocks of %d: row %d, element %d is %b, the definition gives %b", what, R, j/width, j%width, got.X[j], v)
		}
	}
}

// With less work space blocks become smaller, and in the end single rows.
func TestBlockRows(t *testing.T) {
	f := &kernel.Funcs{Tiles: &kernel.Tiles{}}
	b := &model.Block{Heads: 15, KVHeads: 5, HeadDim: 64}
	for _, c := range []struct{ T, end, threads, work, want int }{
		{1, 600, 1, 1 << 20, 1},
		{2, 600, 1, 1 << 20, 1}, // 6 queries
		{3, 600, 1, 1 << 20, 3},
		{64, 600, 1, 1 << 20, 32},
		{64, 600, 2, 1 << 20, 32},
		{64, 600, 8, 1 << 20, 10}, // 7 blocks on 5 heads
		{40, 600, 1, 1 << 20, 20}, // two equal blocks
		{64, 600, 1, 50000, 16},
		{64, 600, 1, 30000, 8},
		{64, 600, 1, 18000, 4},
		{64, 600, 1, 9000, 1},
		{64, 1 << 20, 1, 1 << 20, 1},
	} {
		if got := blockRows(f, b, c.T, c.end, c.threads, make([]float32, c.work)); got != c.want {
			t.Errorf("%d rows that end at %d, %d threads with %d elements of work space: blocks of %d, want %d", c.T, c.end, c.threads, c.work, got, c.want)
		}
	}
	if got := blockRows(&kernel.Funcs{}, b, 64, 600, 1, make([]float32, 1<<20)); got != 1 {
		t.Errorf("without tiles: blocks of %d", got)
	}
}
