//go:build !purego

package kernel

// 16 SMMLA of 32 products, 16 SDOT of 16, or 8 pairs of SMULL and SADALP of 8.
var (
	limitsNeon = limits{read: readNeon, int8: int8Work{smullNeon, 8 * 16}}
	limitsDot  = limits{read: readNeon, int8: int8Work{sdotNeon, 16 * 32}}
	limitsI8mm = limits{read: readNeon, int8: int8Work{smmlaNeon, 16 * 64}}
)

//go:noescape
func readNeon(p *byte, n int)

//go:noescape
func smullNeon(n int)

//go:noescape
func sdotNeon(n int)

//go:noescape
func smmlaNeon(n int)
