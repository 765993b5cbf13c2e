package slmrt

import (
	goruntime "runtime"

	"golang.org/x/sys/unix"
)

// cores counts the performance cores of Apple silicon, the cores of others.
func cores() int {
	for _, name := range []string{"hw.perflevel0.physicalcpu", "hw.physicalcpu"} {
		if n, err := unix.SysctlUint32(name); err == nil && n > 0 {
			return int(n)
		}
	}
	return goruntime.NumCPU()
}
