//go:build amd64 || arm64

package exec

// pause lets some time pass, on the order of 50 ns, without leaving the core.
func pause()
