package exec

import (
	"slmc/internal/kernel"
	"slmc/model"
	"slmc/tensor"
)

// Attention of a prompt: a block of rows reads the keys and values of a KV head
// once, in tiles (kernel.Tiles). The bits are those of Cache.attend row by row.

const (
	blockQueries = 96 // bench/kernels.md
	mostRows     = 32 // a block computes the last row's scores for all its rows
	leastQueries = 8
	blockShare   = 4  // blocks of all heads for each thread, so that threads end together
	valueTile    = 64 // positions; 16 KiB of floats at E 64
)

// tiles is where a thread attends a block, cut from its work space.
type tiles struct {
	scores  []float32 // [queries ld]
	ld      int
	queries []float32 // [queries E]
	tile    []float32 // [E Tile]
	floats  []float32 // [valueTile E]
	scales  []float32 // [Tile]
	sums    []float32 // [queries]
}

// blockSpan is the number of positions that a block of R rows sees at most, of a
// batch that ends before position end.
func blockSpan(b *model.Block, R, end int) int {
	if b.Window > 0 {
		return min(end, b.Window+R-1)
	}
	return end
}

func cutTiles(b *model.Block, R, end int, work []float32) (t tiles, ok bool) {
	G, E := b.Heads/b.KVHeads, b.HeadDim
	n := roundUp(R*G, kernel.TileQueries)
	// Rows that are a power of two apart would share cache sets.
	t.ld = roundUp(blockSpan(b, R, end), kernel.Tile) + 16
	cut := func(n int) []float32 {
		n = roundUp(n, 16)
		if n > len(work) {
			work, ok = nil, false
			return nil
		}
		s := work[:n]
		work = work[n:]
		return s
	}
	ok = true
	t.tile, t.floats, t.scales = cut(kernel.Tile*E), cut(valueTile*E), cut(kernel.Tile)
	t.sums, t.queries, t.scores = cut(n), cut(n*E), cut(n*t.ld)
	return t, ok
}

func roundUp(n, to int) int { return (n + to - 1) / to * to }

// blockRows is the number of rows to attend together, of a batch of T that ends
// before position end, with that much work space for each of the threads: 1 if
// there is no gain.
func blockRows(f *kernel.Funcs, b *model.Block, T, end, threads int, work []float32) int {
	G := b.Heads / b.KVHeads
	if f.Tiles == nil || b.HeadDim%16 != 0 || T <= 1 { // none, where only the cache is wanted
		return 1
	}
	most := max(1, min(T, mostRows, blockQueries/G))
	if threads > 1 {
		most = min(most, (T*b.KVHeads+blockShare*threads-1)/(blockShare*threads))
	}
	for R := most; R*G >= leastQueries; R /= 2 {
		if _, ok := cutTiles(b, R, end, work); ok {
			blocks := (T + R - 1) / R
			return (T + blocks - 1) / blocks
		}
	}
	return 1
}

// attendBlock is attend for rows of q, the first at position pos, and KV head kv.
func (c *Cache) attendBlock(f *kernel.Funcs, b *model.Block, y, q *tensor.Mat, kv, r0, r1, pos int, w *tiles) {
	s := &c.slots[b.KVFrom]
	E, width := b.HeadDim, b.Heads/b.KVHeads*b.HeadDim
	G, ld := width/E, w.ld
	first := firstSeen(b, pos) // where the block's positions begin
	n := pos + r1 - r0 - first
	at := kv*c.Capacity + first
	for r := r0; r < r1; r++ {
		copy(w.queries[(r-r0)*width:], q.Row(r)[kv*width:][:width])
	}
	for t := 0; t < n; t += kernel.Tile {
		s.k.tile(f, w, E, at+t, min(kernel.Tile, n-t))
		// The rows before see none of the tile.
		i := max(0, first+t-pos) * G / kernel.TileQueries * kernel.TileQueries
		end := roundUp((r1-r0)*G, kernel.TileQueries)
		f.Tiles.Scores(w.scores[i*ld+t:], ld, w.queries[i*E:end*E], E, w.tile, w.scales, b.AttnScale)
	}
	for r := r0; r < r1; r++ {
		from, to := firstSeen(b, pos+r-r0)-first, pos+r-r0+1-first
		for i := (r - r0) * G; i < (r-r0+1)*G; i++ {
			p := w.scores[i*ld+from : i*ld+to]
			if b.AttnCap != 0 {
				f.SoftCap(p, b.AttnCap)
			}
			w.sums[i] = f.Softmax(p, first+from)
			if s.v.i8 != nil {
				f.Tiles.Weigh(p, s.v.scales[at+from:at+to])
			}
		}
		clear(y.Row(r)[kv*width:][:width])
	}
	for t := 0; t < n; t += valueTile {
		m := min(valueTile, n-t)
		v := s.v.floats(f, w.floats, E, at+t, m)
		for r := r0; r < r1; r++ {
			from, to := max(firstSeen(b, pos+r-r0)-first, t), min(pos+r-r0+1-first, t+m)
			if from < to {
				f.Tiles.Mix(y.Row(r)[kv*width:][:width], E, w.scores[(r-r0)*G*ld+from:], ld, to-from, v[(from-t)*E:])
			}
		}
	}
	for r := r0; r < r1; r++ {
		for h := range G {
			f.Divide(y.Row(r)[kv*width+h*E:][:E], w.sums[(r-r0)*G+h])
		}
	}
}

// tile makes w's tile and scales of the n keys from index at on, and whatever
// floats w holds beyond.
func (s *store) tile(f *kernel.Funcs, w *tiles, E, at, n int) {
	if s.i8 != nil {
		f.Tiles.FloatsF16(w.scales, s.scales[at:at+n])
	} else {
		for i := range w.scales {
			w.scales[i] = 1
		}
	}
	keys := s.floats(f, w.floats, E, at, n)
	if len(keys) < kernel.Tile*E {
		copy(w.floats, keys)
		keys = w.floats
	}
	f.Tiles.Transpose(w.tile, keys, E)
}

// floats returns the n vectors from index at on as floats [n E], without the
// scales of KV8: in dst, or in place.
func (s *store) floats(f *kernel.Funcs, dst []float32, E, at, n int) []float32 {
	lo, hi := at*E, (at+n)*E
	switch {
	case s.i8 != nil:
		f.Tiles.FloatsKV8(dst, s.i8[lo:hi])
	case s.f16 != nil:
		f.Tiles.FloatsF16(dst, s.f16[lo:hi])
	default:
		return s.f32[lo:hi]
	}
	return dst[:(hi - lo)]
}
