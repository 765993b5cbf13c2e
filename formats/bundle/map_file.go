//go:build !js

package bundle

import (
	"os"

	"github.com/edsrzf/mmap-go"
)

// mapping is the file's bytes, valid until Unmap.
type mapping = mmap.MMap

// mapFile maps size bytes of f for reading.
func mapFile(f *os.File, size int) (mapping, error) {
	return mmap.MapRegion(f, size, mmap.RDONLY, 0, 0)
}
