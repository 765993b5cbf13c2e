// Attention on arm64: Scores and Mix for caches of float32, float16 and 8-bit
// codes, with the bits of the scalar functions.
//
// Scores keeps the 16 lanes of a dot in v16..v19, 16 elements a step, and joins
// them by the fixed tree. Mix keeps 32 or 16 outputs in registers and walks the
// positions in order, so that each output is one chain of FMLA and the weights
// p are read once for 32 outputs. Elements beyond the last 16 are done one by
// one: a vector load there would leave the slice.
//
// Budget for 16 elements, counted as in matdot_arm64.s: 4 FMLA, 4 FCVTL more for
// float16, 6 SXTL and 4 SCVTF more for codes: 2, 8 and 9 cycles for 64, 32 and 16
// bytes of cache (FCVTL and SCVTF hold V0 for two cycles). A score adds the tree,
// 6 instructions in one chain, which overlaps with the next position on a core
// that works out of order.

//go:build !purego

#include "textflag.h"
#include "words_arm64.h"

// v4..v7 = 16 elements at register x, which moves on.
#define LOADF32(x) \
	LDPQP(4, 5, x, 32); \
	LDPQP(6, 7, x, 32)

#define LOADF16(x) \
	LDPQP(8, 9, x, 32); \
	FCVTL(4, 8); \
	FCVTLH(5, 8); \
	FCVTL(6, 9); \
	FCVTLH(7, 9)

#define LOADKV8(x) \
	LDQP(8, x, 16); \
	SXTL8H(9, 8); \
	SXTL8(8, 8); \
	SXTL16(4, 8); \
	SXTL16H(5, 8); \
	SXTL16(6, 9); \
	SXTL16H(7, 9); \
	SCVTF(4, 4); \
	SCVTF(5, 5); \
	SCVTF(6, 6); \
	SCVTF(7, 7)

// v4 = one element at R3 or another address register.
#define ONEF32(r, x) \
	LDSP(4, x)

#define ONEF16(r, x) \
	LDHP(4, x); \
	FCVTSH(4, 4)

#define ONEKV8(r, x) \
	MOVB.P	1(r), R15; \
	FMOVS	R15, F4; \
	SCVTFS(4, 4)

// s16 = the tree over v16..v19.
#define TREE \
	FADD(16, 16, 18); \
	FADD(17, 17, 19); \
	FADD(16, 16, 17); \
	HIGH(17, 16); \
	FADDH(16, 16, 17); \
	FADDPS(16, 16)

#define NOSCALE

// The score times the position's scale, before mul.
#define SCALE \
	LDHP(4, 7); \
	FCVTSH(4, 4); \
	FMULS	F4, F16, F16

// R0 dst, R1 positions, R2 q, R3 k, R5 E, R6 the frame's 16 lanes, R7 scales;
// f24 mul. LOAD takes 16 elements, ONE a single one.
#define SCORES(LOAD, ONE, FACTOR) \
	CBZ	R1, end; \
	AND	$15, R5, R8; \
	LSR	$4, R5, R9; \
position: \
	MOVD	R2, R10; \
	ZERO(16); \
	ZERO(17); \
	ZERO(18); \
	ZERO(19); \
	CBZ	R9, short; \
	MOVD	R9, R11; \
step: \
	LDPQP(0, 1, 10, 32); \
	LDPQP(2, 3, 10, 32); \
	LOAD(3); \
	FMLA(16, 0, 4); \
	FMLA(17, 1, 5); \
	FMLA(18, 2, 6); \
	FMLA(19, 3, 7); \
	SUBS	$1, R11; \
	BNE	step; \
short: \
	CBZ	R8, join; \
	STPQ(16, 17, 6, 0); \
	STPQ(18, 19, 6, 32); \
	MOVD	R6, R12; \
	MOVD	R8, R11; \
lane: \
	LDSP(0, 10); \
	ONE(R3, 3); \
	FMOVS	(R12), F16; \
	FMLAS(16, 0, 4); \
	FMOVS.P	F16, 4(R12); \
	SUBS	$1, R11; \
	BNE	lane; \
	LDPQ(16, 17, 6, 0); \
	LDPQ(18, 19, 6, 32); \
join: \
	TREE; \
	FACTOR; \
	FMULS	F24, F16, F16; \
	FMOVS.P	F16, 4(R0); \
	SUBS	$1, R1; \
	BNE	position; \
end:

// func scoresF32Neon(dst *float32, n int, q, k *float32, e int, mul float32)
TEXT ·scoresF32Neon(SB), NOSPLIT, $64-44
	MOVD	dst+0(FP), R0
	MOVD	n+8(FP), R1
	MOVD	q+16(FP), R2
	MOVD	k+24(FP), R3
	MOVD	e+32(FP), R5
	FMOVS	mul+40(FP), F24
	MOVD	$lanes-64(SP), R6
	SCORES(LOADF32, ONEF32, NOSCALE)
	RET

// func scoresF16Neon(dst *float32, n int, q *float32, k *uint16, e int, mul float32)
TEXT ·scoresF16Neon(SB), NOSPLIT, $64-44
	MOVD	dst+0(FP), R0
	MOVD	n+8(FP), R1
	MOVD	q+16(FP), R2
	MOVD	k+24(FP), R3
	MOVD	e+32(FP), R5
	FMOVS	mul+40(FP), F24
	MOVD	$lanes-64(SP), R6
	SCORES(LOADF16, ONEF16, NOSCALE)
	RET

// func scoresKV8Neon(dst *float32, n int, q *float32, k *int8, scales *uint16, e int, mul float32)
TEXT ·scoresKV8Neon(SB), NOSPLIT, $64-52
	MOVD	dst+0(FP), R0
	MOVD	n+8(FP), R1
	MOVD	q+16(FP), R2
	MOVD	k+24(FP), R3
	MOVD	scales+32(FP), R7
	MOVD	e+40(FP), R5
	FMOVS	mul+48(FP), F24
	MOVD	$lanes-64(SP), R6
	SCORES(LOADKV8, ONEKV8, SCALE)
	RET

// v0 = the position's weight; in MixKV8 times its scale, rounded.
#define PLAIN \
	LDSP(0, 10)

#define SCALED \
	LDSP(0, 10); \
	LDHP(1, 12); \
	FCVTSH(1, 1); \
	FMULS	F1, F0, F0

// R0 dst, R5 E, R1 p, R2 positions, R3 v, R7 scales; size is that of an element.
// R10, R11, R12 walk p, v and scales; R13 is what a step of 32 or 16 elements
// leaves of a row, in bytes.
#define MIX(LOAD, ONE, WEIGHT, size) \
	MOVD	$size, R14; \
	MUL	R14, R5, R14; \
wide: \
	CMP	$32, R5; \
	BLT	narrow; \
	ZERO(16); \
	ZERO(17); \
	ZERO(18); \
	ZERO(19); \
	ZERO(20); \
	ZERO(21); \
	ZERO(22); \
	ZERO(23); \
	MOVD	R1, R10; \
	MOVD	R3, R11; \
	MOVD	R7, R12; \
	SUB	$(32*size), R14, R13; \
	CBZ	R2, wideend; \
	MOVD	R2, R9; \
wideloop: \
	WEIGHT; \
	LOAD(11); \
	FMLAX(16, 4, 0, 0); \
	FMLAX(17, 5, 0, 0); \
	FMLAX(18, 6, 0, 0); \
	FMLAX(19, 7, 0, 0); \
	LOAD(11); \
	FMLAX(20, 4, 0, 0); \
	FMLAX(21, 5, 0, 0); \
	FMLAX(22, 6, 0, 0); \
	FMLAX(23, 7, 0, 0); \
	ADD	R13, R11; \
	SUBS	$1, R9; \
	BNE	wideloop; \
wideend: \
	STPQP(16, 17, 0, 32); \
	STPQP(18, 19, 0, 32); \
	STPQP(20, 21, 0, 32); \
	STPQP(22, 23, 0, 32); \
	ADD	$(32*size), R3; \
	SUB	$32, R5; \
	B	wide; \
narrow: \
	CMP	$16, R5; \
	BLT	single; \
	ZERO(16); \
	ZERO(17); \
	ZERO(18); \
	ZERO(19); \
	MOVD	R1, R10; \
	MOVD	R3, R11; \
	MOVD	R7, R12; \
	SUB	$(16*size), R14, R13; \
	CBZ	R2, narrowend; \
	MOVD	R2, R9; \
narrowloop: \
	WEIGHT; \
	LOAD(11); \
	FMLAX(16, 4, 0, 0); \
	FMLAX(17, 5, 0, 0); \
	FMLAX(18, 6, 0, 0); \
	FMLAX(19, 7, 0, 0); \
	ADD	R13, R11; \
	SUBS	$1, R9; \
	BNE	narrowloop; \
narrowend: \
	STPQP(16, 17, 0, 32); \
	STPQP(18, 19, 0, 32); \
	ADD	$(16*size), R3; \
	SUB	$16, R5; \
single: \
	CBZ	R5, end; \
	ZERO(16); \
	MOVD	R1, R10; \
	MOVD	R3, R11; \
	MOVD	R7, R12; \
	SUB	$size, R14, R13; \
	CBZ	R2, singleend; \
	MOVD	R2, R9; \
singleloop: \
	WEIGHT; \
	ONE(R11, 11); \
	FMLAS(16, 4, 0); \
	ADD	R13, R11; \
	SUBS	$1, R9; \
	BNE	singleloop; \
singleend: \
	FMOVS.P	F16, 4(R0); \
	ADD	$size, R3; \
	SUB	$1, R5; \
	B	single; \
end:

// func mixF32Neon(dst *float32, e int, p *float32, n int, v *float32)
TEXT ·mixF32Neon(SB), NOSPLIT, $0-40
	MOVD	dst+0(FP), R0
	MOVD	e+8(FP), R5
	MOVD	p+16(FP), R1
	MOVD	n+24(FP), R2
	MOVD	v+32(FP), R3
	MIX(LOADF32, ONEF32, PLAIN, 4)
	RET

// func mixF16Neon(dst *float32, e int, p *float32, n int, v *uint16)
TEXT ·mixF16Neon(SB), NOSPLIT, $0-40
	MOVD	dst+0(FP), R0
	MOVD	e+8(FP), R5
	MOVD	p+16(FP), R1
	MOVD	n+24(FP), R2
	MOVD	v+32(FP), R3
	MIX(LOADF16, ONEF16, PLAIN, 2)
	RET

// func mixKV8Neon(dst *float32, e int, p *float32, n int, v *int8, scales *uint16)
TEXT ·mixKV8Neon(SB), NOSPLIT, $0-48
	MOVD	dst+0(FP), R0
	MOVD	e+8(FP), R5
	MOVD	p+16(FP), R1
	MOVD	n+24(FP), R2
	MOVD	v+32(FP), R3
	MOVD	scales+40(FP), R7
	MIX(LOADKV8, ONEKV8, SCALED, 1)
	RET

// func divideSteps(x *float32, n int, by float32)
TEXT ·divideSteps(SB), NOSPLIT, $0-20
	MOVD	x+0(FP), R0
	MOVD	n+8(FP), R1
	FMOVS	by+16(FP), F8
	DUP(8, 8)
step:
	LDPQ(0, 1, 0, 0)
	LDPQ(2, 3, 0, 32)
	FDIV(0, 0, 8)
	FDIV(1, 1, 8)
	FDIV(2, 2, 8)
	FDIV(3, 3, 8)
	STPQP(0, 1, 0, 32)
	STPQP(2, 3, 0, 32)
	SUBS	$16, R1
	BGT	step
	RET

// func halfSteps(dst *uint16, x *float32, n int)
TEXT ·halfSteps(SB), NOSPLIT, $0-24
	MOVD	dst+0(FP), R0
	MOVD	x+8(FP), R2
	MOVD	n+16(FP), R1
step:
	LDPQP(0, 1, 2, 32)
	LDPQP(2, 3, 2, 32)
	FCVTN(4, 0)
	FCVTNH(4, 1)
	FCVTN(5, 2)
	FCVTNH(5, 3)
	STPQP(4, 5, 0, 32)
	SUBS	$16, R1
	BGT	step
	RET
