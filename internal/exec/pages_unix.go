//go:build linux || darwin

package exec

import "syscall"

// mapMemory returns n zero bytes from the system.
func mapMemory(n int) (b []byte, unmap func(), err error) {
	b, err = syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return nil, nil, err
	}
	// It only fails for what is not mapped.
	return b, func() { _ = syscall.Munmap(b) }, nil
}
