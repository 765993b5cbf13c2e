// Rounding to 8 bits on arm64: QuantizeA8, QuantizeKV8 and AbsMax.
//
// Magnitudes are compared as integers, as the scalar functions do, which also
// finds NaN and Inf. FCVTNS rounds to the nearest integer, ties to even: the
// same as roundEven for the magnitudes below 2^22 that occur here.
//
// QuantizeA8 needs no clamp: |x| <= m and 127/m is rounded once, x*(127/m) once
// more, so the product is below 127*(1+2^-23) and rounds to 127.
//
// Budget for 32 activations, counted as in matdot_arm64.s: 55 instructions, 42
// cycles.

//go:build !purego

#include "textflag.h"
#include "words_arm64.h"

// func quantizeSubs(codes *int8, scales *float32, sums *int32, x *float32, n int) bool
// Quantizes n > 0 whole sub-groups of 32; false if one is not finite.
TEXT ·quantizeSubs(SB), NOSPLIT, $0-41
	MOVD	codes+0(FP), R0
	MOVD	scales+8(FP), R1
	MOVD	sums+16(FP), R2
	MOVD	x+24(FP), R3
	MOVD	n+32(FP), R4
	MOVD	$0x7f800000, R5	// Inf
	MOVD	$0x0d800000, R6	// tiny
	FMOVS	$1.0, F31
	MOVD	$0x42fe0000, R7	// 127
	FMOVS	R7, F30
sub:
	LDPQP(0, 1, 3, 32)
	LDPQP(2, 3, 3, 32)
	LDPQP(4, 5, 3, 32)
	LDPQP(6, 7, 3, 32)
	FABS(16, 0)
	FABS(17, 1)
	FABS(18, 2)
	FABS(19, 3)
	FABS(20, 4)
	FABS(21, 5)
	FABS(22, 6)
	FABS(23, 7)
	UMAXI(16, 16, 17)
	UMAXI(18, 18, 19)
	UMAXI(20, 20, 21)
	UMAXI(22, 22, 23)
	UMAXI(16, 16, 18)
	UMAXI(20, 20, 22)
	UMAXI(16, 16, 20)
	UMAXVI(16, 16)
	FMOVS	F16, R8
	CMPW	R5, R8
	BHS	infinite
	CMPW	R6, R8
	BLO	nothing
	FDIVS	F30, F16, F17
	FDIVS	F16, F30, F18
	FMOVS.P	F17, 4(R1)
	FMULX(0, 0, 18, 0)
	FMULX(1, 1, 18, 0)
	FMULX(2, 2, 18, 0)
	FMULX(3, 3, 18, 0)
	FMULX(4, 4, 18, 0)
	FMULX(5, 5, 18, 0)
	FMULX(6, 6, 18, 0)
	FMULX(7, 7, 18, 0)
	FCVTNS(0, 0)
	FCVTNS(1, 1)
	FCVTNS(2, 2)
	FCVTNS(3, 3)
	FCVTNS(4, 4)
	FCVTNS(5, 5)
	FCVTNS(6, 6)
	FCVTNS(7, 7)
	ADDI(16, 0, 1)
	ADDI(17, 2, 3)
	ADDI(18, 4, 5)
	ADDI(19, 6, 7)
	ADDI(16, 16, 17)
	ADDI(18, 18, 19)
	ADDI(16, 16, 18)
	ADDVI(16, 16)
	FMOVS.P	F16, 4(R2)
	XTN32(0, 0)
	XTN32H(0, 1)
	XTN32(2, 2)
	XTN32H(2, 3)
	XTN32(4, 4)
	XTN32H(4, 5)
	XTN32(6, 6)
	XTN32H(6, 7)
	XTN16(0, 0)
	XTN16H(0, 2)
	XTN16(1, 4)
	XTN16H(1, 6)
	STPQP(0, 1, 0, 32)
	SUBS	$1, R4
	BNE	sub
	MOVD	$1, R8
	MOVB	R8, ret+40(FP)
	RET

nothing:
	ZERO(0)
	STPQP(0, 0, 0, 32)
	MOVW.P	ZR, 4(R1)
	MOVW.P	ZR, 4(R2)
	SUBS	$1, R4
	BNE	sub
	MOVD	$1, R8
	MOVB	R8, ret+40(FP)
	RET

infinite:
	MOVB	ZR, ret+40(FP)
	RET

// func roundSteps(codes *int8, x *float32, n int, inv float32)
// codes = x*inv clamped to [-127, 127] and rounded, n a multiple of 16.
TEXT ·roundSteps(SB), NOSPLIT, $0-28
	MOVD	codes+0(FP), R0
	MOVD	x+8(FP), R1
	MOVD	n+16(FP), R2
	FMOVS	inv+24(FP), F18
	MOVD	$0x42fe0000, R3	// 127
	VDUP	R3, V16.S4
	FNEG(17, 16)
step:
	LDPQP(0, 1, 1, 32)
	LDPQP(2, 3, 1, 32)
	FMULX(0, 0, 18, 0)
	FMULX(1, 1, 18, 0)
	FMULX(2, 2, 18, 0)
	FMULX(3, 3, 18, 0)
	FMAX(0, 0, 17)
	FMAX(1, 1, 17)
	FMAX(2, 2, 17)
	FMAX(3, 3, 17)
	FMIN(0, 0, 16)
	FMIN(1, 1, 16)
	FMIN(2, 2, 16)
	FMIN(3, 3, 16)
	FCVTNS(0, 0)
	FCVTNS(1, 1)
	FCVTNS(2, 2)
	FCVTNS(3, 3)
	XTN32(0, 0)
	XTN32H(0, 1)
	XTN32(2, 2)
	XTN32H(2, 3)
	XTN16(0, 0)
	XTN16H(0, 2)
	FMOVQ.P	F0, 16(R0)
	SUBS	$16, R2
	BGT	step
	RET

// func magnitude(x *float32, n int) uint32
// The largest bit pattern without sign of n > 0 elements, a multiple of 16.
TEXT ·magnitude(SB), NOSPLIT, $0-20
	MOVD	x+0(FP), R0
	MOVD	n+8(FP), R1
	ZERO(16)
	ZERO(17)
	ZERO(18)
	ZERO(19)
step:
	LDPQP(0, 1, 0, 32)
	LDPQP(2, 3, 0, 32)
	FABS(0, 0)
	FABS(1, 1)
	FABS(2, 2)
	FABS(3, 3)
	UMAXI(16, 16, 0)
	UMAXI(17, 17, 1)
	UMAXI(18, 18, 2)
	UMAXI(19, 19, 3)
	SUBS	$16, R1
	BGT	step
	UMAXI(16, 16, 17)
	UMAXI(18, 18, 19)
	UMAXI(16, 16, 18)
	UMAXVI(16, 16)
	FMOVS	F16, ret+16(FP)
	RET
