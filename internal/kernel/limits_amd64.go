//go:build !purego

package kernel

// 16 VPDPBUSD of 64 products, or 8 pairs of VPMADDUBSW and VPADDW of 32.
var (
	limitsAVX512 = limits{read: read512, int8: int8Work{vnni512, 16 * 128}}
	limitsAVX2   = limits{read: read256, int8: int8Work{madd256, 8 * 64}}
)

//go:noescape
func vnni512(n int)

//go:noescape
func madd256(n int)

//go:noescape
func read512(p *byte, n int)

//go:noescape
func read256(p *byte, n int)
