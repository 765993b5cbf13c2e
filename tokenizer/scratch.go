package tokenizer

import "sync/atomic"

// scratch holds what one call of Encode needs, kept between calls in a pool.
type scratch struct {
	cache  *wordCache
	ids    []int32
	prev   []int32
	next   []int32
	heap   []uint64
	sheap  []scorePair
	starts []int32
	buf    []byte
	pieces []piece
	other  []piece
}

// link makes prev and next a doubly linked list of n elements.
func (sc *scratch) link(n int) {
	if cap(sc.prev) < n {
		sc.prev, sc.next = make([]int32, n), make([]int32, n)
	}
	sc.prev, sc.next = sc.prev[:n], sc.next[:n]
	for i := range sc.prev {
		sc.prev[i], sc.next[i] = int32(i)-1, int32(i)+1
	}
	if n > 0 {
		sc.next[n-1] = -1
	}
}

// Sizes of the word cache: at most cacheSlots words of at most cacheWord
// bytes, about 2 MB when full of long words. English text repeats 95 % of its
// words within that.
const (
	cacheSlots = 1 << 14
	cacheWord  = 48
)

// wordCache remembers the encoding of words. A slot is replaced by the last
// word that falls on it, so its size is bounded; slots are swapped as whole
// immutable entries, so any number of goroutines may use it without a lock.
type wordCache struct {
	slots [cacheSlots]atomic.Pointer[cacheEntry]
}

type cacheEntry struct {
	word string
	ids  []int32
}

func (c *wordCache) get(w string) ([]int32, bool) {
	if len(w) > cacheWord {
		return nil, false
	}
	e := c.slots[hashString(w)%cacheSlots].Load()
	if e == nil || e.word != w {
		return nil, false
	}
	return e.ids, true
}

func (c *wordCache) put(w string, ids []int32) {
	if len(w) > cacheWord {
		return
	}
	// One allocation holds word and ids together with the entry's header: the
	// word is copied because w is a view of the caller's text.
	e := &cacheEntry{word: string([]byte(w)), ids: append([]int32(nil), ids...)}
	c.slots[hashString(w)%cacheSlots].Store(e)
}
