package exec

import "unsafe"

// pages is memory for a cache, cut up from the front.
type pages []byte

// apart is the distance that pieces keep to: no line of the CPU's cache holds
// parts of two.
const apart = 64

// worthMapping is the size from which pages of its own pay: to clear less takes
// no longer than to ask the system, and each page's first touch.
const worthMapping = 1 << 20

// mapPages returns n zero bytes and the function that gives them back. Those of
// the system cost time and room page by page, when they are first touched, and
// a session touches the positions that it reaches; Go's heap clears whatever it
// uses a second time.
func mapPages(n int) (pages, func()) {
	if n >= worthMapping {
		if mem, unmap, err := mapMemory(n); err == nil {
			return mem, unmap
		}
	}
	return make(pages, n), func() {}
}

// carve cuts n elements from the front of p.
func carve[E int8 | uint16 | float32](p *pages, n int) []E {
	var e E
	size := n * int(unsafe.Sizeof(e))
	out := unsafe.Slice((*E)(unsafe.Pointer(unsafe.SliceData((*p)[:size]))), n)
	*p = (*p)[(size+apart-1)/apart*apart:]
	return out
}
