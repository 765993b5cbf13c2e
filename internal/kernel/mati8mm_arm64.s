// Quantized products of many tokens with SMMLA: MatW8, MatW4 and MatW2 of
// "neoni8mm". mati8mm_arm64.go holds the loops over panels, columns and tokens
// and the layout of what passes between the functions here.
//
// SMMLA multiplies two rows of eight signed bytes with two others and adds the
// four sums to the four lanes: 32 products where SDOT has 16. A register of a
// panel holds four rows of four columns, so its operands are made: ZIP1 and
// ZIP2 of the registers of columns k..k+3 and k+4..k+7 are rows r, r+1 and rows
// r+2, r+3 of eight columns. That is one instruction for each operand, as many
// again to unpack it, and with four tokens a register is used twice. So 32
// columns of 16 rows are made once for all tokens, as signed levels, into 512
// bytes on the stack, and one loop multiplies them whatever the format.
//
// Budget for 16 rows and 32 activations: instructions counted in the object code,
// issue slots by LLVM's model of Neoverse N2 (AArch64SchedNeoverseN2.td: two
// 128-bit pipes, SMMLA and SDOT in either, a stored vector takes a slot, FCVTL
// two in V0; DUP from a general register none). Made ready once for all tokens,
// at the GroupSizes 32, 32 and 64:
//
//	    instructions  unpack  permute  stores  factors  slots  cycles
//	W8       102        32 EOR    32      40       16     120      60
//	W4       126        64        32      40       16     152      76
//	W2       154        96        32      40       10     178      89
//
// and then for four tokens, where neondot takes 126, 118 and 136 cycles:
//
//	    instructions  SMMLA  permute  float  stores         slots  cycles
//	         179        64       8      48      16            136      68
//
// A chunk of 64 tokens thus takes 17.9, 18.2 and 18.4 cycles a token for 512
// products, where neondot takes 31.5, 29.5 and 34.0. Of the 68 cycles the
// rounding rules ask for 24: a subtraction, a product of scales and a multiply-add
// for each output. The 85 loads have three pipes of their own. Up to six
// tokens neondot takes no longer, or hardly. None of this was timed: there was no
// such core, and time under an emulator means nothing.

//go:build !purego

#include "textflag.h"
#include "words_arm64.h"
#include "matq_arm64.h"

// What a sub-group is made into at R0, which moves on: four octets of columns,
// in each the pairs of rows 0 and 1 to 14 and 15, 16 bytes a pair; then the
// pairs' factors f: f[r] f[r] f[r+1] f[r+1].
#define STORE8(d) \
	STPQP(d, d+1, 0, 32); \
	STPQP(d+2, d+3, 0, 32); \
	STPQP(d+4, d+5, 0, 32); \
	STPQP(d+6, d+7, 0, 32)

// Eight columns, the first four in registers a.., the others in b...
#define OCTET(a, b) \
	ZIP1S(24, a, b); \
	ZIP2S(25, a, b); \
	ZIP1S(26, a+1, b+1); \
	ZIP2S(27, a+1, b+1); \
	ZIP1S(28, a+2, b+2); \
	ZIP2S(29, a+2, b+2); \
	ZIP1S(30, a+3, b+3); \
	ZIP2S(31, a+3, b+3); \
	STORE8(24)

// v16..v23 = the factors in v24..v27, each twice.
#define TWICE \
	ZIP1S(16, 24, 24); \
	ZIP2S(17, 24, 24); \
	ZIP1S(18, 25, 25); \
	ZIP2S(19, 25, 25); \
	ZIP1S(20, 26, 26); \
	ZIP2S(21, 26, 26); \
	ZIP1S(22, 27, 27); \
	ZIP2S(23, 27, 27)

#define ZERO8POINT(d) \
	SUBB(d, d, 9); \
	SUBB(d+1, d+1, 9); \
	SUBB(d+2, d+2, 9); \
	SUBB(d+3, d+3, 9)

#define W8OCTET \
	BLOCK(0); \
	BLOCK(4); \
	LEVELS8(0, 0); \
	LEVELS8(4, 4); \
	OCTET(0, 4)

#define W4OCTET \
	BLOCK(0); \
	LOW4(4, 0); \
	HIGH4(0, 0); \
	ZERO8POINT(4); \
	ZERO8POINT(0); \
	OCTET(4, 0)

#define W2OCTETS \
	BLOCK(0); \
	FIELD0(4, 0); \
	FIELD(10, 0, 1); \
	ZERO8POINT(4); \
	ZERO8POINT(10); \
	OCTET(4, 10); \
	FIELD(4, 0, 3); \
	FIELD(10, 0, 5); \
	ZERO8POINT(4); \
	ZERO8POINT(10); \
	OCTET(4, 10)

#define LEVELARGS \
	MOVD	dst+0(FP), R0; \
	MOVD	blocks+8(FP), R1; \
	MOVD	scales+16(FP), R9; \
	MOVD	n+24(FP), R5; \
	FACTORS(24, 0)

// func w8Levels(dst, blocks, scales *byte, n int)
TEXT ·w8Levels(SB), NOSPLIT, $0-32
	LEVELARGS
	TWICE
	VMOVI	$128, V8.B16

sub:
	W8OCTET
	W8OCTET
	W8OCTET
	W8OCTET
	STORE8(16)
	SUBS	$1, R5
	BNE	sub
	RET

// func w4Levels(dst, blocks, scales *byte, n int)
TEXT ·w4Levels(SB), NOSPLIT, $0-32
	LEVELARGS
	TWICE
	VMOVI	$15, V8.B16
	VMOVI	$8, V9.B16

sub:
	W4OCTET
	W4OCTET
	W4OCTET
	W4OCTET
	STORE8(16)
	SUBS	$1, R5
	BNE	sub
	RET

// func w2Levels(dst, blocks, scales *byte, n int)
// The levels are twice those of W2, the factors half.
TEXT ·w2Levels(SB), NOSPLIT, $0-32
	LEVELARGS
	MOVD	$0x3f000000, R8
	VDUP	R8, V14.S4
	FMUL4(24, 14)
	TWICE
	VMOVI	$6, V8.B16
	VMOVI	$3, V9.B16

sub:
	W2OCTETS
	W2OCTETS
	STORE8(16)
	SUBS	$1, R5
	BNE	sub
	RET

// Where accumulators start (matq_arm64.h), from memory: loads leave the
// vector pipes alone.
DATA magics<>+0(SB)/8, $0x4b4000004b400000
DATA magics<>+8(SB)/8, $0x4b4000004b400000
DATA magics<>+16(SB)/8, $0x4b4000004b400000
DATA magics<>+24(SB)/8, $0x4b4000004b400000
GLOBL magics<>(SB), RODATA|NOPTR, $32

// Sums of the pairs of rows: v16..v23 for tokens 0 and 1, v24..v31 for 2 and 3;
// R19 points at MAGICs.
#define STARTTILE \
	LDPQ(16, 17, 19, 0); \
	LDPQ(18, 19, 19, 0); \
	LDPQ(20, 21, 19, 0); \
	LDPQ(22, 23, 19, 0); \
	LDPQ(24, 25, 19, 0); \
	LDPQ(26, 27, 19, 0); \
	LDPQ(28, 29, 19, 0); \
	LDPQ(30, 31, 19, 0)

// v8..v11 = the octets of tokens 0 and 1, v12..v15 those of 2 and 3.
#define PAIRTOKENS \
	LDPQP(0, 1, 2, 32); \
	LDPQP(2, 3, 10, 32); \
	LDPQP(4, 5, 11, 32); \
	LDPQP(6, 7, 12, 32); \
	ZIP1D(8, 0, 2); \
	ZIP2D(9, 0, 2); \
	ZIP1D(10, 1, 3); \
	ZIP2D(11, 1, 3); \
	ZIP1D(12, 4, 6); \
	ZIP2D(13, 4, 6); \
	ZIP1D(14, 5, 7); \
	ZIP2D(15, 5, 7)

// One octet: x and y are its registers of tokens 0 and 1, 2 and 3.
#define MULTIPLY(x, y) \
	LDPQP(0, 1, 7, 32); \
	LDPQP(2, 3, 7, 32); \
	LDPQP(4, 5, 7, 32); \
	LDPQP(6, 7, 7, 32); \
	SMMLA(16, 0, x); \
	SMMLA(24, 0, y); \
	SMMLA(17, 1, x); \
	SMMLA(25, 1, y); \
	SMMLA(18, 2, x); \
	SMMLA(26, 2, y); \
	SMMLA(19, 3, x); \
	SMMLA(27, 3, y); \
	SMMLA(20, 4, x); \
	SMMLA(28, 4, y); \
	SMMLA(21, 5, x); \
	SMMLA(29, 5, y); \
	SMMLA(22, 6, x); \
	SMMLA(30, 6, y); \
	SMMLA(23, 7, x); \
	SMMLA(31, 7, y)

// v(d) = the two tokens' scales, twice.
#define TWOSCALES(d, a, b) \
	MOVWU.P	4(a), R23; \
	MOVWU.P	4(b), R24; \
	ORR	R24<<32, R23; \
	DUPX(d, 23)

// Two pairs of rows: float sums at R0+o += float(a, a+1) * (f, f+1 * sx in s).
#define JOINPAIRS(o, a, f, s) \
	FMUL(11, f, s); \
	FMUL(12, f+1, s); \
	LDPQ(13, 14, 0, o); \
	FSUB(a, a, 10); \
	FSUB(a+1, a+1, 10); \
	FMLA(13, a, 11); \
	FMLA(14, a+1, 12); \
	STPQ(13, 14, 0, o)

#define JOINTILE \
	LDPQP(0, 1, 7, 32); \
	LDPQP(2, 3, 7, 32); \
	LDPQP(4, 5, 7, 32); \
	LDPQP(6, 7, 7, 32); \
	TWOSCALES(8, R3, R13); \
	TWOSCALES(9, R14, R15); \
	LDQ(10, 19, 0); \
	JOINPAIRS(0, 16, 0, 8); \
	JOINPAIRS(32, 18, 2, 8); \
	JOINPAIRS(64, 20, 4, 8); \
	JOINPAIRS(96, 22, 6, 8); \
	JOINPAIRS(128, 24, 0, 9); \
	JOINPAIRS(160, 26, 2, 9); \
	JOINPAIRS(192, 28, 4, 9); \
	JOINPAIRS(224, 30, 6, 9)

// func multiplyTiles(sums *float32, subs *byte, n int, x *int8, stride int, scales *float32, tiles int)
TEXT ·multiplyTiles(SB), NOSPLIT, $0-56
	MOVD	sums+0(FP), R0
	MOVD	subs+8(FP), R1
	MOVD	n+16(FP), R5
	MOVD	x+24(FP), R2
	MOVD	stride+32(FP), R21
	MOVD	scales+40(FP), R3
	MOVD	tiles+48(FP), R6
	LSR	$3, R21, R22
	MOVD	$magics<>(SB), R19

tile:
	ADD	R21, R2, R10
	ADD	R21, R10, R11
	ADD	R21, R11, R12
	ADD	R21, R12, R16
	ADD	R22, R3, R13
	ADD	R22, R13, R14
	ADD	R22, R14, R15
	ADD	R22, R15, R17
	MOVD	R1, R7
	MOVD	R5, R8

sub:
	STARTTILE
	PAIRTOKENS
	MULTIPLY(8, 12)
	MULTIPLY(9, 13)
	MULTIPLY(10, 14)
	MULTIPLY(11, 15)
	JOINTILE
	SUBS	$1, R8
	BNE	sub
	ADD	$256, R0
	MOVD	R16, R2
	MOVD	R17, R3
	SUBS	$1, R6
	BNE	tile
	RET

// Rows of two tokens from their sums in v0..v7.
#define ROWS2 \
	LDPQP(0, 1, 1, 32); \
	LDPQP(2, 3, 1, 32); \
	LDPQP(4, 5, 1, 32); \
	LDPQP(6, 7, 1, 32); \
	UZP1S(16, 0, 1); \
	UZP1S(17, 2, 3); \
	UZP1S(18, 4, 5); \
	UZP1S(19, 6, 7); \
	UZP2S(20, 0, 1); \
	UZP2S(21, 2, 3); \
	UZP2S(22, 4, 5); \
	UZP2S(23, 6, 7); \
	STPQ(16, 17, 0, 0); \
	STPQ(18, 19, 0, 32); \
	ADD	R20, R0; \
	STPQ(20, 21, 0, 0); \
	STPQ(22, 23, 0, 32); \
	ADD	R20, R0

// func storeTile(dst *float32, ld int, sums *float32)
TEXT ·storeTile(SB), NOSPLIT, $0-24
	MOVD	dst+0(FP), R0
	MOVD	ld+8(FP), R20
	MOVD	sums+16(FP), R1
	LSL	$2, R20
	ROWS2
	ROWS2
	RET
