//go:build !amd64 && !arm64

package exec

import "runtime"

// pause lets another goroutine run, where the core has no instruction to wait.
func pause() { runtime.Gosched() }
