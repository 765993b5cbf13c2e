//go:build linux || darwin

package exec

import (
	"syscall"
	"testing"
)

// Making a cache touches none of its pages, even where one was before.
func TestMapCacheTouchesNothing(t *testing.T) {
	g := cacheGraph()
	const capacity = 64 << 10
	pages := int64(KVBytesPerToken(g, KVF32) * capacity / syscall.Getpagesize())
	for range 3 {
		before := pageFaults(t)
		c := MapCache(g, KVF32, capacity)
		if n := pageFaults(t) - before; n > pages/10 {
			t.Errorf("%d page faults for a new cache of %d pages", n, pages)
		}
		fillStores(t, c)
		c.Close()
	}
}

func pageFaults(t *testing.T) int64 {
	t.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		t.Fatal(err)
	}
	return u.Minflt
}
