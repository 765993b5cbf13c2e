// Quantized products in plain Advanced SIMD: MatW8, MatW4 and MatW2 of "neon",
// for cores without SDOT such as Cortex-A53.
//
// SMULL widens eight products of signed bytes to 16 bits. A register of 16
// weights is four rows by four k, so its lower half is rows 0 and 1, its upper
// half rows 2 and 3, each against the same four activation codes, repeated.
// What fits into 16 bits decides the rest:
//
//	W8  a level -128 times a code 127, twice: 32512 fits, three do not. So
//	    SMULL, SMLAL, then SADALP into 32 bits.
//	W4  codes 0..15 times 127, eight times (a lane's share of 32 k): 15240.
//	W2  twice the code, 0..6, likewise: 6096. Both stay in 16 bits for the
//	    whole sub-group; SADDLP once.
//
// Budget for 16 rows and 32 activations, counted as in matdot_arm64.s (SMULL and
// SMLAL run in V0 only, SADALP in V1 only):
//
//	         instructions  unpack  products  slots  in V0  cycles
//	W8  1 token     144     32 EOR    64+32     153     64      77
//	W4  1 token     132     32        64        141     64      71
//	W2  1 token     164     64        64        173     64      87
//	W8  2 tokens    260     32 EOR   128+64     290    136     145
//	W4  2 tokens    236     32       128        266    136     136
//	W2  2 tokens    272     64       128        302    136     151
//
// A Cortex-A53, in order and with pipes of 64 bits, needs at least twice that.

//go:build !purego

#include "textflag.h"
#include "words_arm64.h"
#include "matq_arm64.h"

// One token: sums v16..v23 (two registers for four rows), float sums v24..v27,
// factors v28..v31, codes v0, v1, packed weights v4..v7, unpacked v10..v13,
// v14 0.5; R11 minus the zero point, R12 MAGIC.
#define MLA8(a, x) \
	SMLAL(a, 10, x); \
	SMLAL2(a+1, 10, x); \
	SMLAL(a+2, 11, x); \
	SMLAL2(a+3, 11, x); \
	SMLAL(a+4, 12, x); \
	SMLAL2(a+5, 12, x); \
	SMLAL(a+6, 13, x); \
	SMLAL2(a+7, 13, x)

// Register i of a W8 block pair in u and v, their codes in x and y, into sums
// a, a+1 by way of s and t.
#define PAIR(a, u, v, x, y, s, t) \
	SMULL(s, u, x); \
	SMULL2(t, u, x); \
	SMLAL(s, v, y); \
	SMLAL2(t, v, y); \
	SADALP(a, s); \
	SADALP(a+1, t)

// PAIR without a second block.
#define SINGLE(a, u, x, s, t) \
	SMULL(s, u, x); \
	SMULL2(t, u, x); \
	SADALP(a, s); \
	SADALP(a+1, t)

#define W8PAIR \
	BLOCK(4); \
	LEVELS8(4, 4); \
	BLOCK(10); \
	LEVELS8(10, 10); \
	LD1RP(0, 2); \
	LD1RP(1, 2); \
	PAIR(16, 4, 10, 0, 1, 14, 15); \
	PAIR(18, 5, 11, 0, 1, 2, 3); \
	PAIR(20, 6, 12, 0, 1, 14, 15); \
	PAIR(22, 7, 13, 0, 1, 2, 3)

#define FULLW8 \
	W8PAIR; \
	W8PAIR; \
	W8PAIR; \
	W8PAIR

#define TAILW8 \
	BLOCK(4); \
	LEVELS8(4, 4); \
	LD1RP(0, 2); \
	SINGLE(16, 4, 0, 14, 15); \
	SINGLE(18, 5, 0, 2, 3); \
	SINGLE(20, 6, 0, 14, 15); \
	SINGLE(22, 7, 0, 2, 3)

#define W4BLOCK \
	BLOCK(4); \
	LOW4(10, 4); \
	LD1RP(0, 2); \
	MLA8(16, 0); \
	HIGH4(10, 4); \
	LD1RP(1, 2); \
	MLA8(16, 1)

#define FULLW4 \
	W4BLOCK; \
	W4BLOCK; \
	W4BLOCK; \
	W4BLOCK

#define W2BLOCK \
	BLOCK(4); \
	FIELD0(10, 4); \
	LD1RP(0, 2); \
	MLA8(16, 0); \
	FIELD(10, 4, 1); \
	LD1RP(1, 2); \
	MLA8(16, 1); \
	FIELD(10, 4, 3); \
	LD1RP(0, 2); \
	MLA8(16, 0); \
	FIELD(10, 4, 5); \
	LD1RP(1, 2); \
	MLA8(16, 1)

#define FULLW2 \
	W2BLOCK; \
	W2BLOCK

#define ZERO8(d) \
	ZERO4(d); \
	ZERO4(d+4)

#define START \
	ZERO8(16)

// W8: a row's sum is that of two lanes, one of which starts at MAGIC.
#define MAGIC8(d) \
	DUPX(d, 12); \
	DUPX(d+1, 12); \
	DUPX(d+2, 12); \
	DUPX(d+3, 12); \
	DUPX(d+4, 12); \
	DUPX(d+5, 12); \
	DUPX(d+6, 12); \
	DUPX(d+7, 12)

#define STARTW8 \
	MAGIC8(16)

#define SCALES \
	FACTORS(28, 4)

#define SCALESW2 \
	FACTORS(28, 4); \
	FMUL4(28, 14)

// Eight registers of two sums a row into four of one a row.
#define PAIRS(a) \
	ADDPI(a, a, a+1); \
	ADDPI(a+1, a+2, a+3); \
	ADDPI(a+2, a+4, a+5); \
	ADDPI(a+3, a+6, a+7)

// The same from 16-bit sums, plus MAGIC and the zero point's share of the
// codes' sum at r.
#define PAIRSZERO(a, r) \
	MOVW.P	4(r), R8; \
	MADDW	R11, R12, R8, R8; \
	DUPW(2, 8); \
	SADDLP(a, a); \
	SADDLP(a+1, a+1); \
	SADDLP(a+2, a+2); \
	SADDLP(a+3, a+3); \
	SADDLP(a+4, a+4); \
	SADDLP(a+5, a+5); \
	SADDLP(a+6, a+6); \
	SADDLP(a+7, a+7); \
	PAIRS(a); \
	ADDI(a, a, 2); \
	ADDI(a+1, a+1, 2); \
	ADDI(a+2, a+2, 2); \
	ADDI(a+3, a+3, 2)

#define JOINW8 \
	PAIRS(16); \
	DUPW(3, 12); \
	JOINREGS(3)

#define JOIN \
	PAIRSZERO(16, R4); \
	DUPW(3, 12); \
	JOINREGS(3)

#define STORE \
	STPQ(24, 25, 0, 0); \
	STPQ(26, 27, 0, 32)

// func w8Neon1(dst *float32, w *byte, x *int8, scales *float32, sums *int32, k, group int)
TEXT ·w8Neon1(SB), NOSPLIT, $0-56
	ARGS1
	MOVD	$MAGIC, R12
	VMOVI	$128, V8.B16
	ZERO4(24)
	WALK(4, 2, SCALES, STARTW8, FULLW8, TAILW8, JOINW8)
	STORE
	RET

// func w4Neon1(dst *float32, w *byte, x *int8, scales *float32, sums *int32, k, group int)
TEXT ·w4Neon1(SB), NOSPLIT, $0-56
	ARGS1
	MOVD	$MAGIC, R12
	VMOVI	$15, V8.B16
	MOVD	$-8, R11
	ZERO4(24)
	WALK(8, 3, SCALES, START, FULLW4, W4BLOCK, JOIN)
	STORE
	RET

// func w2Neon1(dst *float32, w *byte, x *int8, scales *float32, sums *int32, k, group int)
TEXT ·w2Neon1(SB), NOSPLIT, $0-56
	ARGS1
	MOVD	$MAGIC, R12
	VMOVI	$6, V8.B16
	MOVD	$-3, R11
	MOVD	$0x3f000000, R8
	VDUP	R8, V14.S4
	ZERO4(24)
	WALK(16, 4, SCALESW2, START, FULLW2, W2BLOCK, JOIN)
	STORE
	RET

// Two tokens: sums v16..v23 and v24..v31, float sums in dst, the rest as above.
// Codes at R2 and R10, scales R3 and R13, sums R4 and R16, dst R0 and R23.
#define ARGS2 \
	ARGSN; \
	ADD	R21, R2, R10; \
	ADD	R22, R3, R13; \
	ADD	R22, R4, R16; \
	ADD	R20, R0, R23; \
	ZERO(0); \
	STPQ(0, 0, 0, 0); \
	STPQ(0, 0, 0, 32); \
	STPQ(0, 0, 23, 0); \
	STPQ(0, 0, 23, 32)

#define W8PAIR2 \
	BLOCK(4); \
	LEVELS8(4, 4); \
	BLOCK(10); \
	LEVELS8(10, 10); \
	LD1RP(0, 2); \
	LD1RP(1, 2); \
	LD1RP(2, 10); \
	LD1RP(3, 10); \
	PAIR(16, 4, 10, 0, 1, 14, 15); \
	PAIR(24, 4, 10, 2, 3, 9, 14); \
	PAIR(18, 5, 11, 0, 1, 15, 9); \
	PAIR(26, 5, 11, 2, 3, 14, 15); \
	PAIR(20, 6, 12, 0, 1, 9, 14); \
	PAIR(28, 6, 12, 2, 3, 15, 9); \
	PAIR(22, 7, 13, 0, 1, 14, 15); \
	PAIR(30, 7, 13, 2, 3, 9, 14)

#define FULL2W8 \
	W8PAIR2; \
	W8PAIR2; \
	W8PAIR2; \
	W8PAIR2

#define TAIL2W8 \
	BLOCK(4); \
	LEVELS8(4, 4); \
	LD1RP(0, 2); \
	LD1RP(2, 10); \
	SINGLE(16, 4, 0, 14, 15); \
	SINGLE(24, 4, 2, 9, 3); \
	SINGLE(18, 5, 0, 14, 15); \
	SINGLE(26, 5, 2, 9, 3); \
	SINGLE(20, 6, 0, 14, 15); \
	SINGLE(28, 6, 2, 9, 3); \
	SINGLE(22, 7, 0, 14, 15); \
	SINGLE(30, 7, 2, 9, 3)

#define MLA2 \
	LD1RP(0, 2); \
	LD1RP(1, 10); \
	MLA8(16, 0); \
	MLA8(24, 1)

#define W4BLOCK2 \
	BLOCK(4); \
	LOW4(10, 4); \
	MLA2; \
	HIGH4(10, 4); \
	MLA2

#define FULL2W4 \
	W4BLOCK2; \
	W4BLOCK2; \
	W4BLOCK2; \
	W4BLOCK2

#define W2BLOCK2 \
	BLOCK(4); \
	FIELD0(10, 4); \
	MLA2; \
	FIELD(10, 4, 1); \
	MLA2; \
	FIELD(10, 4, 3); \
	MLA2; \
	FIELD(10, 4, 5); \
	MLA2

#define FULL2W2 \
	W2BLOCK2; \
	W2BLOCK2

#define START2 \
	ZERO8(16); \
	ZERO8(24)

#define START2W8 \
	MAGIC8(16); \
	MAGIC8(24)

#define NOSCALES

#define JOINROWS \
	DUPW(9, 12); \
	LD1RP(0, 3); \
	JOINROW(0, 16, 10, 0, 4, 9); \
	LD1RP(0, 13); \
	JOINROW(23, 24, 10, 0, 4, 9)

#define JOIN2W8 \
	PAIRS(16); \
	PAIRS(24); \
	FACTORS(10, 4); \
	JOINROWS

#define JOIN2 \
	PAIRSZERO(16, R4); \
	PAIRSZERO(24, R16); \
	FACTORS(10, 4); \
	JOINROWS

#define JOIN2W2 \
	PAIRSZERO(16, R4); \
	PAIRSZERO(24, R16); \
	FACTORS(10, 4); \
	FMUL4(10, 14); \
	JOINROWS

// func w8Neon2(dst *float32, ld int, w *byte, x *int8, stride int, scales *float32, sums *int32, k, group int)
TEXT ·w8Neon2(SB), NOSPLIT, $0-72
	ARGS2
	MOVD	$MAGIC, R12
	VMOVI	$128, V8.B16
	WALK(4, 2, NOSCALES, START2W8, FULL2W8, TAIL2W8, JOIN2W8)
	RET

// func w4Neon2(dst *float32, ld int, w *byte, x *int8, stride int, scales *float32, sums *int32, k, group int)
TEXT ·w4Neon2(SB), NOSPLIT, $0-72
	ARGS2
	MOVD	$MAGIC, R12
	VMOVI	$15, V8.B16
	MOVD	$-8, R11
	WALK(8, 3, NOSCALES, START2, FULL2W4, W4BLOCK2, JOIN2)
	RET

// func w2Neon2(dst *float32, ld int, w *byte, x *int8, stride int, scales *float32, sums *int32, k, group int)
TEXT ·w2Neon2(SB), NOSPLIT, $0-72
	ARGS2
	MOVD	$MAGIC, R12
	VMOVI	$6, V8.B16
	MOVD	$-3, R11
	MOVD	$0x3f000000, R8
	VDUP	R8, V14.S4
	WALK(16, 4, NOSCALES, START2, FULL2W2, W2BLOCK2, JOIN2W2)
	RET
