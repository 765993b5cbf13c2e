package bundle

import (
	"runtime"
	"runtime/debug"
	"unsafe"

	"slmc/formats"
)

// Guard runs f and turns a fault inside the mapping into an error of kind
// ErrCorrupt that names the byte: a file that becomes shorter while it is
// mapped, or a page that the disk can no longer read, raises a signal at the
// instruction that touches it and would end the process.
//
// It guards the calling goroutine alone: every goroutine that touches the
// mapping must run under a Guard of its own, or its fault ends the process. A
// fault elsewhere, and any other panic, is passed on. Guards may nest; one
// costs less than a microsecond, so it belongs around a step, not an access.
func (b *Bundle) Guard(f func() error) (err error) {
	if b.data == nil {
		panic("bundle: " + b.name + " is used after Close")
	}
	start := uintptr(unsafe.Pointer(unsafe.SliceData(b.data)))
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		if p := recover(); p != nil {
			if err = b.fault(p, start); err == nil {
				panic(p)
			}
		}
	}()
	return f()
}

// fault returns the error for a panic that a page of the mapping caused, nil
// for any other.
func (b *Bundle) fault(p any, start uintptr) error {
	st, err := b.file.Stat()
	cut := err == nil && st.Size() < b.size
	at := int64(-1)
	switch e := p.(type) {
	case interface{ Addr() uintptr }:
		if e.Addr()-start >= uintptr(b.size) {
			return nil
		}
		at = int64(e.Addr() - start)
	case runtime.Error:
		// Emulators (QEMU 7) raise the signal without its address.
		if !cut {
			return nil
		}
	default:
		return nil
	}
	if cut {
		return formats.Corrupt(b.name, "", at, "the file was cut to %d bytes while it was mapped, it had %d", st.Size(), b.size)
	}
	return formats.Corrupt(b.name, "", at, "the disk cannot read this page of the mapped file")
}
