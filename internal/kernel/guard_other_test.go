//go:build !(linux || darwin)

package kernel

import "testing"

// guarded is a plain slice where no page can be protected.
func guarded[E any](t testing.TB, n int) []E { return make([]E, n) }
