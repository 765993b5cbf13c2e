package exec

import (
	"fmt"
	"slices"
	"testing"

	"slmc/model"
)

func cacheGraph() *model.Graph {
	b := model.Block{Heads: 6, KVHeads: 3, HeadDim: 20}
	taker := b
	taker.KVFrom = 0
	giver := b
	giver.KVFrom = 2
	return &model.Graph{Blocks: []model.Block{b, taker, giver}}
}

// A cache's pieces are zero and share no byte, in every format, on both sides
// of the size from which they are mapped. It may be closed twice.
func TestCacheMemory(t *testing.T) {
	g := cacheGraph()
	for name, make := range map[string]func(*model.Graph, KVFormat, int) *Cache{"heap": NewCache, "mapped": MapCache} {
		for _, f := range []KVFormat{KV8, KVF16, KVF32} {
			for _, capacity := range []int{1, 7, worthMapping / 64} {
				t.Run(fmt.Sprintf("%s %s %d", name, f, capacity), func(t *testing.T) {
					c := make(g, f, capacity)
					defer c.Close()
					if got, want := fillStores(t, c), capacity*KVBytesPerToken(g, f); got != want {
						t.Errorf("%d bytes of cache, want %d", got, want)
					}
					c.Close()
				})
			}
		}
	}
}

// fillStores writes another number to each piece, checks that none was changed
// by the others, and returns their bytes.
func fillStores(t *testing.T, c *Cache) int {
	t.Helper()
	var each []store
	for _, s := range c.slots {
		each = append(each, s.k, s.v)
	}
	bytes := 0
	for i, s := range each {
		n := 4*i + 1
		bytes += fill(t, s.i8, int8(n)) + 2*fill(t, s.f16, uint16(n)) + 4*fill(t, s.f32, float32(n)) + 2*fill(t, s.scales, uint16(n+1))
	}
	for i, s := range each {
		n := 4*i + 1
		if !all(s.i8, int8(n)) || !all(s.f16, uint16(n)) || !all(s.f32, float32(n)) || !all(s.scales, uint16(n+1)) {
			t.Errorf("piece %d: another wrote into it", i)
		}
	}
	return bytes
}

func fill[E int8 | uint16 | float32](t *testing.T, x []E, v E) int {
	t.Helper()
	if !all(x, 0) {
		t.Error("new memory is not zero")
	}
	for i := range x {
		x[i] = v
	}
	return len(x)
}

func all[E comparable](x []E, v E) bool {
	return !slices.ContainsFunc(x, func(e E) bool { return e != v })
}
