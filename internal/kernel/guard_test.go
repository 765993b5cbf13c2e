//go:build linux || darwin

package kernel

import (
	"syscall"
	"testing"
	"unsafe"
)

// guarded returns a zeroed slice whose end is the end of a page that an
// unreadable page follows: a kernel that touches one byte more crashes, as it
// would at the end of a mapped bundle.
func guarded[E any](t testing.TB, n int) []E {
	t.Helper()
	var e E
	page := syscall.Getpagesize()
	size := n * int(unsafe.Sizeof(e))
	pages := (size+page-1)/page + 1
	mem, err := syscall.Mmap(-1, 0, pages*page, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		t.Fatalf("mapping %d pages: %v", pages, err)
	}
	t.Cleanup(func() {
		if err := syscall.Munmap(mem); err != nil {
			t.Error(err)
		}
	})
	end := (pages - 1) * page
	if err := syscall.Mprotect(mem[end:], syscall.PROT_NONE); err != nil {
		t.Fatal(err)
	}
	if n == 0 {
		return nil
	}
	return unsafe.Slice((*E)(unsafe.Pointer(&mem[end-size])), n)
}
