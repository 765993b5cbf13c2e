// What a core can do at most; see limits.go.

//go:build !purego

#include "textflag.h"
#include "words_arm64.h"

// func readNeon(p *byte, n int)
TEXT ·readNeon(SB), NOSPLIT, $0-16
	MOVD p+0(FP), R0
	MOVD n+8(FP), R1

loop:
	VLD1.P 64(R0), [V0.B16, V1.B16, V2.B16, V3.B16]
	VLD1.P 64(R0), [V4.B16, V5.B16, V6.B16, V7.B16]
	VLD1.P 64(R0), [V0.B16, V1.B16, V2.B16, V3.B16]
	VLD1.P 64(R0), [V4.B16, V5.B16, V6.B16, V7.B16]
	SUBS   $1, R1
	BNE    loop
	RET

// func sdotNeon(n int)
// The accumulators are v16 to v31; what v0 and v1 hold does not matter.
TEXT ·sdotNeon(SB), NOSPLIT, $0-8
	MOVD n+0(FP), R1

loop:
	SDOTX(16, 0, 1, 0)
	SDOTX(17, 0, 1, 1)
	SDOTX(18, 0, 1, 2)
	SDOTX(19, 0, 1, 3)
	SDOTX(20, 0, 1, 0)
	SDOTX(21, 0, 1, 1)
	SDOTX(22, 0, 1, 2)
	SDOTX(23, 0, 1, 3)
	SDOTX(24, 0, 1, 0)
	SDOTX(25, 0, 1, 1)
	SDOTX(26, 0, 1, 2)
	SDOTX(27, 0, 1, 3)
	SDOTX(28, 0, 1, 0)
	SDOTX(29, 0, 1, 1)
	SDOTX(30, 0, 1, 2)
	SDOTX(31, 0, 1, 3)
	SUBS $1, R1
	BNE  loop
	RET

// func smullNeon(n int)
TEXT ·smullNeon(SB), NOSPLIT, $0-8
	MOVD n+0(FP), R1

loop:
	SMULL(2, 0, 1)
	SMULL2(3, 0, 1)
	SMULL(4, 0, 1)
	SMULL2(5, 0, 1)
	SADALP(16, 2)
	SADALP(17, 3)
	SADALP(18, 4)
	SADALP(19, 5)
	SMULL(6, 0, 1)
	SMULL2(7, 0, 1)
	SMULL(2, 0, 1)
	SMULL2(3, 0, 1)
	SADALP(20, 6)
	SADALP(21, 7)
	SADALP(22, 2)
	SADALP(23, 3)
	SUBS $1, R1
	BNE  loop
	RET

// func smmlaNeon(n int)
TEXT ·smmlaNeon(SB), NOSPLIT, $0-8
	MOVD n+0(FP), R1

loop:
	SMMLA(16, 0, 1)
	SMMLA(17, 0, 1)
	SMMLA(18, 0, 1)
	SMMLA(19, 0, 1)
	SMMLA(20, 0, 1)
	SMMLA(21, 0, 1)
	SMMLA(22, 0, 1)
	SMMLA(23, 0, 1)
	SMMLA(24, 0, 1)
	SMMLA(25, 0, 1)
	SMMLA(26, 0, 1)
	SMMLA(27, 0, 1)
	SMMLA(28, 0, 1)
	SMMLA(29, 0, 1)
	SMMLA(30, 0, 1)
	SMMLA(31, 0, 1)
	SUBS $1, R1
	BNE  loop
	RET
