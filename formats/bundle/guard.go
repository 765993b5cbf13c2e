package bundle

import (
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
// costs about 100 ns, so it belongs around a step and not around an access.
func (b *Bundle) Guard(f func() error) (err error) {
	if b.data == nil {
		panic("bundle: " + b.name + " is used after Close")
	}
	start := uintptr(unsafe.Pointer(unsafe.SliceData(b.data)))
	old := debug.SetPanicOnFault(true)
	defer debug.SetPanicOnFault(old)
	defer func() {
		switch p := recover().(type) {
		case nil:
		case interface{ Addr() uintptr }:
			at := p.Addr() - start
			if at >= uintptr(b.size) {
				panic(p)
			}
			err = b.fault(int64(at))
		default:
			panic(p)
		}
	}()
	return f()
}

// fault describes a page of the mapping that cannot be read.
func (b *Bundle) fault(at int64) error {
	if st, err := b.file.Stat(); err == nil && st.Size() < b.size {
		return formats.Corrupt(b.name, "", at, "the file was cut to %d bytes while it was mapped, it had %d", st.Size(), b.size)
	}
	return formats.Corrupt(b.name, "", at, "the disk cannot read this page of the mapped file")
}
