package bundle

import (
	"io"
	"os"
	"unsafe"
)

// mapping is the file's bytes, valid until Unmap. A browser maps no files: they
// are read.
type mapping []byte

// Unmap lets the garbage collector have them.
func (m mapping) Unmap() error { return nil }

// mapFile reads size bytes of f to where a mapping would lie, at a multiple of
// 64.
func mapFile(f *os.File, size int) (mapping, error) {
	const align = 64
	data := make([]byte, size+align)
	data = data[-uintptr(unsafe.Pointer(unsafe.SliceData(data)))%align:][:size]
	_, err := io.ReadFull(io.NewSectionReader(f, 0, int64(size)), data)
	return data, err
}
