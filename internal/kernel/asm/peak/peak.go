//go:build amd64

// Package peak measures the float multiply-adds that a core can do at most, from
// registers, for the kernels' figures to be compared with. The other limits, which
// slmc shows to its users, are in internal/kernel. It is written by hand because
// nothing in it is generated twice.
package peak

// Each function runs n rounds of 16 independent instructions.

//go:noescape
func fma512(n int) // VFMADD231PS, 32 operations each

//go:noescape
func fma256(n int) // VFMADD231PS, 16 operations each
