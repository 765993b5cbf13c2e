//go:build unix

package slmrt

import (
	goruntime "runtime"
	"syscall"
)

// PeakRSS is the largest resident set that this process has had, in bytes; 0
// where the system does not say.
func PeakRSS() int64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	if goruntime.GOOS == "darwin" || goruntime.GOOS == "ios" {
		return int64(u.Maxrss)
	}
	return int64(u.Maxrss) * 1024
}
