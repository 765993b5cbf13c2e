// Quantized products with SDOT: MatW8, MatW4 and MatW2 of "neondot".
//
// SDOT adds four products of signed bytes to each 32-bit lane; a lane is a row
// of the panel, and the by-element form takes the four activation codes from
// any 32 bits of a register, so nothing is broadcast. W8 codes become levels
// with one XOR by 0x80. W4 codes 0..15 and twice the W2 codes, 0..6, are fine
// as they are; their accumulators start below zero by 8*sum and 3*sum.
//
// Budget on a core of the Cortex-A76 class for 16 rows and 32 activations:
// instructions counted in the object code, issue slots by LLVM's model of
// Neoverse N1, that core's server form (AArch64SchedNeoverseN1.td: two 128-bit
// pipes, V0 and V1; shifts in V1 only, FCVTL in V0 twice; a stored vector and
// an LD1R take a slot too).
//
//	         instructions  unpack  SDOT  slots  cycles
//	W8  1 token      80     32 EOR   32     81      41
//	W4  1 token      76     32       32     77      39
//	W2  1 token     108     64       32    109      55
//	W8  4 tokens    228     32 EOR  128    252     126
//	W4  4 tokens    212     32      128    236     118
//	W2  4 tokens    248     64      128    272     136
//
// One token thus takes 12.6, 6.6 and 2.3 bytes of codes a cycle, more than such
// a core's share of a phone's memory bandwidth for W8 and W4; four tokens take
// 32, 30 and 34 cycles each for 512 products.

//go:build !purego

#include "textflag.h"
#include "words_arm64.h"
#include "matq_arm64.h"

// One token: integer sums v16..v19, float sums v24..v27, factors v28..v31,
// codes v0, v1, unpacked weights v20..v23, v10 0.5, v11 MAGIC; R10 minus the zero
// point, R11 MAGIC.
#define DOT(x, i) \
	SDOTX(16, 20, x, i); \
	SDOTX(17, 21, x, i); \
	SDOTX(18, 22, x, i); \
	SDOTX(19, 23, x, i)

#define W8BLOCK(x, i) \
	BLOCK(4); \
	LEVELS8(20, 4); \
	DOT(x, i)

#define W4BLOCK(x, i) \
	BLOCK(4); \
	LOW4(20, 4); \
	DOT(x, i); \
	HIGH4(20, 4); \
	DOT(x, i+1)

#define W2BLOCK(x) \
	BLOCK(4); \
	FIELD0(20, 4); \
	DOT(x, 0); \
	FIELD(20, 4, 1); \
	DOT(x, 1); \
	FIELD(20, 4, 3); \
	DOT(x, 2); \
	FIELD(20, 4, 5); \
	DOT(x, 3)

#define SCALES1 \
	FACTORS(28, 4)

#define SCALES1W2 \
	FACTORS(28, 4); \
	FMUL4(28, 10)

#define START1W8 \
	COPY4(16, 11)

#define START1 \
	STARTROW(16, R4, R10, R11)

#define FULL1W8 \
	LDPQP(0, 1, 2, 32); \
	W8BLOCK(0, 0); \
	W8BLOCK(0, 1); \
	W8BLOCK(0, 2); \
	W8BLOCK(0, 3); \
	W8BLOCK(1, 0); \
	W8BLOCK(1, 1); \
	W8BLOCK(1, 2); \
	W8BLOCK(1, 3)

#define TAIL1W8 \
	FMOVS.P	4(R2), F0; \
	W8BLOCK(0, 0)

#define FULL1W4 \
	LDPQP(0, 1, 2, 32); \
	W4BLOCK(0, 0); \
	W4BLOCK(0, 2); \
	W4BLOCK(1, 0); \
	W4BLOCK(1, 2)

#define TAIL1W4 \
	FMOVD.P	8(R2), F0; \
	W4BLOCK(0, 0)

#define FULL1W2 \
	LDPQP(0, 1, 2, 32); \
	W2BLOCK(0); \
	W2BLOCK(1)

#define TAIL1W2 \
	FMOVQ.P	16(R2), F0; \
	W2BLOCK(0)

#define JOIN1 \
	JOINREGS(11)

#define MAGIC1 \
	MOVD	$MAGIC, R11; \
	DUPW(11, 11)

#define STORE1 \
	STPQ(24, 25, 0, 0); \
	STPQ(26, 27, 0, 32)

// func w8Dot1(dst *float32, w *byte, x *int8, scales *float32, sums *int32, k, group int)
TEXT ·w8Dot1(SB), NOSPLIT, $0-56
	ARGS1
	VMOVI	$128, V8.B16
	MAGIC1
	ZERO4(24)
	WALK(4, 2, SCALES1, START1W8, FULL1W8, TAIL1W8, JOIN1)
	STORE1
	RET

// func w4Dot1(dst *float32, w *byte, x *int8, scales *float32, sums *int32, k, group int)
TEXT ·w4Dot1(SB), NOSPLIT, $0-56
	ARGS1
	VMOVI	$15, V8.B16
	MOVD	$-8, R10
	MAGIC1
	ZERO4(24)
	WALK(8, 3, SCALES1, START1, FULL1W4, TAIL1W4, JOIN1)
	STORE1
	RET

// func w2Dot1(dst *float32, w *byte, x *int8, scales *float32, sums *int32, k, group int)
TEXT ·w2Dot1(SB), NOSPLIT, $0-56
	ARGS1
	VMOVI	$6, V8.B16
	MOVD	$-3, R10
	MOVD	$0x3f000000, R8
	VDUP	R8, V10.S4
	MAGIC1
	ZERO4(24)
	WALK(16, 4, SCALES1W2, START1, FULL1W2, TAIL1W2, JOIN1)
	STORE1
	RET

// Four tokens: integer sums v16..v31, four a token; codes v0..v3, one register
// a token; packed weights v4..v7, unpacked v9..v12; v14 0.5, v15 MAGIC;
// R21 minus the zero point, R22 MAGIC. The float sums lie in dst, which the load and store pipes have room
// for. Codes at R2, R10, R11, R12; scales R3, R13, R14, R15; sums R4, R16, R17,
// R19; dst R0, R23, R24, R25.
#define ARGS4 \
	ARGSN; \
	ADD	R21, R2, R10; \
	ADD	R21, R10, R11; \
	ADD	R21, R11, R12; \
	ADD	R22, R3, R13; \
	ADD	R22, R13, R14; \
	ADD	R22, R14, R15; \
	ADD	R22, R4, R16; \
	ADD	R22, R16, R17; \
	ADD	R22, R17, R19; \
	ADD	R20, R0, R23; \
	ADD	R20, R23, R24; \
	ADD	R20, R24, R25; \
	ZERO(0); \
	STPQ(0, 0, 0, 0); \
	STPQ(0, 0, 0, 32); \
	STPQ(0, 0, 23, 0); \
	STPQ(0, 0, 23, 32); \
	STPQ(0, 0, 24, 0); \
	STPQ(0, 0, 24, 32); \
	STPQ(0, 0, 25, 0); \
	STPQ(0, 0, 25, 32); \
	MOVD	$MAGIC, R22; \
	DUPW(15, 22)

#define CODES4 \
	LDQP(0, 2, 16); \
	LDQP(1, 10, 16); \
	LDQP(2, 11, 16); \
	LDQP(3, 12, 16)

#define DOT4(i) \
	SDOTX(16, 9, 0, i); \
	SDOTX(20, 9, 1, i); \
	SDOTX(24, 9, 2, i); \
	SDOTX(28, 9, 3, i); \
	SDOTX(17, 10, 0, i); \
	SDOTX(21, 10, 1, i); \
	SDOTX(25, 10, 2, i); \
	SDOTX(29, 10, 3, i); \
	SDOTX(18, 11, 0, i); \
	SDOTX(22, 11, 1, i); \
	SDOTX(26, 11, 2, i); \
	SDOTX(30, 11, 3, i); \
	SDOTX(19, 12, 0, i); \
	SDOTX(23, 12, 1, i); \
	SDOTX(27, 12, 2, i); \
	SDOTX(31, 12, 3, i)

#define W8BLOCK4(i) \
	BLOCK(4); \
	LEVELS8(9, 4); \
	DOT4(i)

#define W4BLOCK4(i) \
	BLOCK(4); \
	LOW4(9, 4); \
	DOT4(i); \
	HIGH4(9, 4); \
	DOT4(i+1)

#define W2BLOCK4 \
	BLOCK(4); \
	FIELD0(9, 4); \
	DOT4(0); \
	FIELD(9, 4, 1); \
	DOT4(1); \
	FIELD(9, 4, 3); \
	DOT4(2); \
	FIELD(9, 4, 5); \
	DOT4(3)

#define SCALES4

#define START4W8 \
	COPY4(16, 15); \
	COPY4(20, 15); \
	COPY4(24, 15); \
	COPY4(28, 15)

#define START4 \
	STARTROW(16, R4, R21, R22); \
	STARTROW(20, R16, R21, R22); \
	STARTROW(24, R17, R21, R22); \
	STARTROW(28, R19, R21, R22)

#define HALF4W8 \
	CODES4; \
	W8BLOCK4(0); \
	W8BLOCK4(1); \
	W8BLOCK4(2); \
	W8BLOCK4(3)

#define FULL4W8 \
	HALF4W8; \
	HALF4W8

#define TAIL4W8 \
	FMOVS.P	4(R2), F0; \
	FMOVS.P	4(R10), F1; \
	FMOVS.P	4(R11), F2; \
	FMOVS.P	4(R12), F3; \
	W8BLOCK4(0)

#define FULL4W4 \
	CODES4; \
	W4BLOCK4(0); \
	W4BLOCK4(2); \
	CODES4; \
	W4BLOCK4(0); \
	W4BLOCK4(2)

#define TAIL4W4 \
	FMOVD.P	8(R2), F0; \
	FMOVD.P	8(R10), F1; \
	FMOVD.P	8(R11), F2; \
	FMOVD.P	8(R12), F3; \
	W4BLOCK4(0)

#define FULL4W2 \
	CODES4; \
	W2BLOCK4; \
	CODES4; \
	W2BLOCK4

#define TAIL4W2 \
	CODES4; \
	W2BLOCK4

#define JOINROWS \
	LD1RP(0, 3); \
	JOINROW(0, 16, 9, 0, 4, 15); \
	LD1RP(0, 13); \
	JOINROW(23, 20, 9, 0, 4, 15); \
	LD1RP(0, 14); \
	JOINROW(24, 24, 9, 0, 4, 15); \
	LD1RP(0, 15); \
	JOINROW(25, 28, 9, 0, 4, 15)

#define JOIN4 \
	FACTORS(9, 4); \
	JOINROWS

#define JOIN4W2 \
	FACTORS(9, 4); \
	FMUL4(9, 14); \
	JOINROWS

// func w8Dot4(dst *float32, ld int, w *byte, x *int8, stride int, scales *float32, sums *int32, k, group int)
TEXT ·w8Dot4(SB), NOSPLIT, $0-72
	ARGS4
	VMOVI	$128, V8.B16
	WALK(4, 2, SCALES4, START4W8, FULL4W8, TAIL4W8, JOIN4)
	RET

// func w4Dot4(dst *float32, ld int, w *byte, x *int8, stride int, scales *float32, sums *int32, k, group int)
TEXT ·w4Dot4(SB), NOSPLIT, $0-72
	ARGS4
	VMOVI	$15, V8.B16
	MOVD	$-8, R21
	WALK(8, 3, SCALES4, START4, FULL4W4, TAIL4W4, JOIN4)
	RET

// func w2Dot4(dst *float32, ld int, w *byte, x *int8, stride int, scales *float32, sums *int32, k, group int)
TEXT ·w2Dot4(SB), NOSPLIT, $0-72
	ARGS4
	VMOVI	$6, V8.B16
	MOVD	$-3, R21
	MOVD	$0x3f000000, R8
	VDUP	R8, V14.S4
	WALK(16, 4, SCALES4, START4, FULL4W2, TAIL4W2, JOIN4W2)
	RET
