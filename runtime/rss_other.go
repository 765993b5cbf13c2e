//go:build !unix

package slmrt

// PeakRSS is unknown on this system.
func PeakRSS() int64 { return 0 }
