package exec

import (
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"slmc/internal/kernel"
	"slmc/model"
	"slmc/quant"
)

// KVFormat is how cached keys and values are stored.
type KVFormat string

// The cache formats: KV8 is 8-bit codes with one float16 scale per token, KV
// head, and K or V.
const (
	KVF32 KVFormat = "f32"
	KVF16 KVFormat = "f16"
	KV8   KVFormat = "kv8"
)

// ParseKV returns the cache format of that name.
func ParseKV(name string) (KVFormat, error) {
	switch f := KVFormat(name); f {
	case KVF32, KVF16, KV8:
		return f, nil
	}
	return "", fmt.Errorf("KV format %q is unknown; have kv8, f16, f32", name)
}

// VectorBytes is the size of one cached key or value of E elements.
func (f KVFormat) VectorBytes(E int) int {
	switch f {
	case KV8:
		return E + 2
	case KVF16:
		return 2 * E
	}
	return 4 * E
}

// KVBytesPerToken is what one position takes in a cache of format f: keys and
// values of every giver.
func KVBytesPerToken(g *model.Graph, f KVFormat) int {
	n := 0
	for _, i := range g.Givers() {
		b := g.Blocks[i]
		n += 2 * b.KVHeads * f.VectorBytes(b.HeadDim)
	}
	return n
}

// Cache holds the keys and values of one sequence: a slot for each giver, and
// in it, for each KV head, position after position.
type Cache struct {
	Format    KVFormat
	Capacity  int // positions
	slots     []slot
	free      func() // gives mapped memory back, once; nil: there is none
	forgotten runtime.Cleanup
}

// slot is the cache of one giver: k and v are [K Capacity E] in the one of the
// three forms that the format uses, scales [K Capacity].
type slot struct {
	k, v store
}

type store struct {
	f32    []float32
	f16    []uint16
	i8     []int8
	scales []uint16
}

// NewCache allocates a cache for the givers of g.
func NewCache(g *model.Graph, f KVFormat, capacity int) *Cache {
	return newCache(g, f, capacity, make(pages, cacheBytes(g, f, capacity)))
}

// MapCache is NewCache with memory from the system where it has some to give:
// making it takes no time, and a position takes room when it is reached. Close
// gives it back.
func MapCache(g *model.Graph, f KVFormat, capacity int) *Cache {
	mem, free := mapPages(cacheBytes(g, f, capacity))
	c := newCache(g, f, capacity, mem)
	c.free = sync.OnceFunc(free)
	c.forgotten = runtime.AddCleanup(c, func(free func()) { free() }, c.free)
	return c
}

// Close gives the memory of MapCache back. The cache must not be used afterwards.
func (c *Cache) Close() {
	c.slots = nil
	if c.free != nil {
		c.forgotten.Stop()
		c.free()
	}
}

// cacheBytes is the memory of a cache, with pieces that keep apart.
func cacheBytes(g *model.Graph, f KVFormat, capacity int) int {
	return KVBytesPerToken(g, f)*capacity + len(g.Givers())*4*apart
}

func newCache(g *model.Graph, f KVFormat, capacity int, mem pages) *Cache {
	c := &Cache{Format: f, Capacity: capacity, slots: make([]slot, len(g.Blocks))}
	for _, i := range g.Givers() {
		b := g.Blocks[i]
		n := b.KVHeads * capacity
		c.slots[i] = slot{newStore(&mem, f, n, b.HeadDim), newStore(&mem, f, n, b.HeadDim)}
	}
	return c
}

func newStore(mem *pages, f KVFormat, n, E int) store {
	switch f {
	case KV8:
		return store{i8: carve[int8](mem, n*E), scales: carve[uint16](mem, n)}
	case KVF16:
		return store{f16: carve[uint16](mem, n*E)}
	}
	return store{f32: carve[float32](mem, n*E)}
}

// put stores one vector of E elements at index at. It reports false when the
// vector is not finite or beyond the format.
func (s *store) put(f *kernel.Funcs, at int, x []float32) bool {
	E := len(x)
	switch {
	case s.i8 != nil:
		scale, ok := quant.KV8(f, s.i8[at*E:][:E], x)
		s.scales[at] = uint16(scale)
		return ok
	case s.f16 != nil:
		if !(f.AbsMax(x) < kernel.HalfLimit) {
			return false
		}
		f.Halves(s.f16[at*E:][:E], x)
		return true
	}
	copy(s.f32[at*E:], x)
	return kernel.Finite(x)
}

// scores writes the scaled products [G n] of the query heads q [G E] with the n
// keys from index at on. The n values at the same index of next are read next.
func (s *store) scores(f *kernel.Funcs, dst, q []float32, E, at, n int, mul float32, next *store) {
	lo, hi := at*E, (at+n)*E
	switch {
	case s.i8 != nil:
		f.ScoresHeadsKV8(dst, q, E, s.i8[lo:hi], s.scales[at:at+n], mul, next.i8[lo:hi])
	case s.f16 != nil:
		f.ScoresHeadsF16(dst, q, E, s.f16[lo:hi], mul, next.f16[lo:hi])
	default:
		f.ScoresHeadsF32(dst, q, E, s.f32[lo:hi], mul, next.f32[lo:hi])
	}
}

// mix writes the n values from index at on, weighted by p [G n], as dst [G E].
// It may overwrite p. The keys of next from index then on are read next, if then
// is not beyond them.
func (s *store) mix(f *kernel.Funcs, dst, p []float32, E, at, n int, next *store, then int) {
	lo, hi := at*E, (at+n)*E
	switch {
	case s.i8 != nil:
		f.MixHeadsKV8(dst, p, E, s.i8[lo:hi], s.scales[at:at+n], next.i8[min(then*E, len(next.i8)):])
	case s.f16 != nil:
		f.MixHeadsF16(dst, p, E, s.f16[lo:hi], next.f16[min(then*E, len(next.f16)):])
	default:
		f.MixHeadsF32(dst, p, E, s.f32[lo:hi], next.f32[min(then*E, len(next.f32)):])
	}
}

// attend writes the attention of the query heads q that share KV head kv, at
// position pos, over the positions that the window lets them see. scores has
// room for each head's.
func (c *Cache) attend(f *kernel.Funcs, b *model.Block, dst, q []float32, kv, pos int, scores []float32) {
	s := &c.slots[b.KVFrom]
	first := firstSeen(b, pos)
	at, n, E := kv*c.Capacity+first, pos+1-first, b.HeadDim
	heads := len(q) / E
	p, sums := scores[:heads*n], scores[heads*n:][:heads]
	s.k.scores(f, p, q, E, at, n, b.AttnScale, &s.v)
	if b.AttnCap != 0 {
		f.SoftCap(p, b.AttnCap)
	}
	for h := range sums {
		sums[h] = f.Softmax(p[h*n:][:n], first)
	}
	s.v.mix(f, dst, p, E, at, n, &s.k, at+c.Capacity) // the next KV head's keys
	for h, sum := range sums {
		f.Divide(dst[h*E:][:E], sum)
	}
}

// firstSeen is the first position that the query at position pos sees.
func firstSeen(b *model.Block, pos int) int {
	if b.Window > 0 {
		return max(0, pos+1-b.Window)
	}
	return 0
}

// scratch is where threads keep scores, a slot each. A thread takes a free
// slot, since parts of a loop belong to no thread.
type scratch struct {
	slots []float32
	size  int
	taken []atomic.Bool // slot by slot
}

func (s *scratch) make(g *model.Graph, threads, capacity int) {
	s.size = scratchBytes(g, capacity) / 4
	s.slots = make([]float32, threads*s.size)
	s.taken = make([]atomic.Bool, threads)
}

// scratchBytes is the size of a slot: the scores of all the query heads that
// share a KV head, and their sums.
func scratchBytes(g *model.Graph, capacity int) int {
	most := 1
	for _, b := range g.Blocks {
		most = max(most, b.Heads/b.KVHeads)
	}
	return 4 * most * (capacity + 1)
}

// take returns a slot that nobody has. There is one for each thread, so that
// there is always one: to wait in line for it would cost more than a loop.
func (s *scratch) take() int {
	for i := 0; ; i = (i + 1) % len(s.taken) {
		if s.taken[i].CompareAndSwap(false, true) {
			return i
		}
	}
}

func (s *scratch) give(slot int)         { s.taken[slot].Store(false) }
func (s *scratch) of(slot int) []float32 { return s.slots[slot*s.size:][:s.size] }
