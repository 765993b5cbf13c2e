//go:build amd64

// Package peak measures what a core can do at most, for the kernels' figures
// to be compared with: multiply-adds from registers and reads from memory. It
// is written by hand because nothing in it is generated twice.
package peak

// Each function runs n rounds of 16 independent instructions.

//go:noescape
func vnni512(n int) // VPDPBUSD, 128 operations each

//go:noescape
func fma512(n int) // VFMADD231PS, 32 operations each

//go:noescape
func fma256(n int) // VFMADD231PS, 16 operations each

//go:noescape
func madd256(n int) // VPMADDUBSW and VPADDW, 64 operations a pair; 8 pairs

// read512 and read256 load n blocks of 256 bytes.
//
//go:noescape
func read512(p *byte, n int)

//go:noescape
func read256(p *byte, n int)
