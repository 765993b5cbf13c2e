// Float products on arm64: MatF32, MatF16 and MatBF16. Each of a panel's 16 rows
// is a lane of four registers; every k is one FMLA by element of x, in order,
// so the sums have the scalar function's bits. bfloat16 widens with a shift.
//
// Budget for 16 rows and one k, counted as in matdot_arm64.s: 4 FMLA a token and
// 4 SHLL or FCVTL to widen. One token takes 2 cycles (float32), 4 (bfloat16) or
// 8 (float16: FCVTL holds V0 for two cycles) by slots, but 4 at least, because
// each FMLA waits for the one before: 16, 8 and 4 bytes of weights a cycle. Four
// tokens take 8, 10 and 12 cycles for 64 products.

//go:build !purego

#include "textflag.h"
#include "words_arm64.h"

// The 16 weights of one k into v4..v7, moving R1 on.
#define WF32 \
	LDPQP(4, 5, 1, 32); \
	LDPQP(6, 7, 1, 32)

#define WF16 \
	LDPQP(8, 9, 1, 32); \
	FCVTL(4, 8); \
	FCVTLH(5, 8); \
	FCVTL(6, 9); \
	FCVTLH(7, 9)

#define WBF16 \
	LDPQP(8, 9, 1, 32); \
	SHLL(4, 8); \
	SHLLH(5, 8); \
	SHLL(6, 9); \
	SHLLH(7, 9)

// Token with sums a..a+3 and inputs x, element i.
#define FMLAROW(a, x, i) \
	FMLAX(a, 4, x, i); \
	FMLAX(a+1, 5, x, i); \
	FMLAX(a+2, 6, x, i); \
	FMLAX(a+3, 7, x, i)

#define ZEROROW(a) \
	ZERO(a); \
	ZERO(a+1); \
	ZERO(a+2); \
	ZERO(a+3)

#define STOREROW(a, x) \
	STPQ(a, a+1, x, 0); \
	STPQ(a+2, a+3, x, 32)

// R0 dst, R1 w, R2 x, R5 K.
#define PANEL1(W) \
	MOVD	dst+0(FP), R0; \
	MOVD	w+8(FP), R1; \
	MOVD	x+16(FP), R2; \
	MOVD	k+24(FP), R5; \
	ZEROROW(16); \
	SUBS	$4, R5; \
	BLT	rest; \
four: \
	LDQP(0, 2, 16); \
	W; \
	FMLAROW(16, 0, 0); \
	W; \
	FMLAROW(16, 0, 1); \
	W; \
	FMLAROW(16, 0, 2); \
	W; \
	FMLAROW(16, 0, 3); \
	SUBS	$4, R5; \
	BGE	four; \
rest: \
	ADDS	$4, R5; \
	BEQ	done; \
one: \
	LDSP(0, 2); \
	W; \
	FMLAROW(16, 0, 0); \
	SUBS	$1, R5; \
	BNE	one; \
done: \
	STOREROW(16, 0)

#define FMLAROWS(i) \
	FMLAROW(16, 0, i); \
	FMLAROW(20, 1, i); \
	FMLAROW(24, 2, i); \
	FMLAROW(28, 3, i)

// The same for four tokens: x at R2, R10, R11, R12, dst at R0 and R20 apart.
#define PANEL4(W) \
	MOVD	dst+0(FP), R0; \
	MOVD	ld+8(FP), R20; \
	LSL	$2, R20; \
	MOVD	w+16(FP), R1; \
	MOVD	x+24(FP), R2; \
	MOVD	ldx+32(FP), R21; \
	ADD	R21<<2, R2, R10; \
	ADD	R21<<2, R10, R11; \
	ADD	R21<<2, R11, R12; \
	MOVD	k+40(FP), R5; \
	ZEROROW(16); \
	ZEROROW(20); \
	ZEROROW(24); \
	ZEROROW(28); \
	SUBS	$4, R5; \
	BLT	rest; \
four: \
	LDQP(0, 2, 16); \
	LDQP(1, 10, 16); \
	LDQP(2, 11, 16); \
	LDQP(3, 12, 16); \
	W; \
	FMLAROWS(0); \
	W; \
	FMLAROWS(1); \
	W; \
	FMLAROWS(2); \
	W; \
	FMLAROWS(3); \
	SUBS	$4, R5; \
	BGE	four; \
rest: \
	ADDS	$4, R5; \
	BEQ	done; \
one: \
	LDSP(0, 2); \
	LDSP(1, 10); \
	LDSP(2, 11); \
	LDSP(3, 12); \
	W; \
	FMLAROWS(0); \
	SUBS	$1, R5; \
	BNE	one; \
done: \
	STOREROW(16, 0); \
	ADD	R20, R0; \
	STOREROW(20, 0); \
	ADD	R20, R0; \
	STOREROW(24, 0); \
	ADD	R20, R0; \
	STOREROW(28, 0)

// func f32Panel1(dst *float32, w *byte, x *float32, k int)
TEXT ·f32Panel1(SB), NOSPLIT, $0-32
	PANEL1(WF32)
	RET

// func f16Panel1(dst *float32, w *byte, x *float32, k int)
TEXT ·f16Panel1(SB), NOSPLIT, $0-32
	PANEL1(WF16)
	RET

// func bf16Panel1(dst *float32, w *byte, x *float32, k int)
TEXT ·bf16Panel1(SB), NOSPLIT, $0-32
	PANEL1(WBF16)
	RET

// func f32Panel4(dst *float32, ld int, w *byte, x *float32, ldx, k int)
TEXT ·f32Panel4(SB), NOSPLIT, $0-48
	PANEL4(WF32)
	RET

// func f16Panel4(dst *float32, ld int, w *byte, x *float32, ldx, k int)
TEXT ·f16Panel4(SB), NOSPLIT, $0-48
	PANEL4(WF16)
	RET

// func bf16Panel4(dst *float32, ld int, w *byte, x *float32, ldx, k int)
TEXT ·bf16Panel4(SB), NOSPLIT, $0-48
	PANEL4(WBF16)
	RET
