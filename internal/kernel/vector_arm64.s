// Norm, softmax, activations, RoPE and sums on arm64. Every function works on
// whole steps of 16 elements (RoPE of 4 pairs); vector_arm64.go brings the rest.
//
// exp and tanh are the polynomials of math.go, operation by operation, on 16
// elements at once so that an in-order core has four independent chains. Their
// constants come from the table expTable (vector_arm64.go), one vector each:
// a load costs no vector slot, a copy would.
//
// Budget for 16 elements, counted as in matdot_arm64.s: softmax's second pass 112
// instructions and 62 cycles, SiLU 120 and 78, GELU 204 and 120, soft-cap 180
// and 120, norm 12 and 8 in two passes.

//go:build !purego

#include "textflag.h"
#include "words_arm64.h"

// Offsets in expTable, whose LN2HI and LN2LO are negated as Exp uses them.
#define LOG2E 0
#define LN2HI 16
#define LN2LO 32
#define EXPC0 48
#define EXPC1 64
#define EXPC2 80
#define EXPC3 96
#define EXPC4 112
#define EXPC5 128
#define ONE 144
#define EXPMAX 160
#define EXPMIN 176
#define INF 192
#define SMALL 208
#define TANHC0 224
#define TANHC1 240
#define TANHC2 256
#define TANHC3 272
#define TANHC4 288
#define TWO 304
#define SIGN 320
#define GELUA 336
#define GELUB 352
#define HALF 368

// An operation on four registers each: OP4 with four of every operand, OPC4
// with one register, usually a constant, as the last.
#define TABLE4(d, o) LDQ(d, 20, o); LDQ(d+1, 20, o); LDQ(d+2, 20, o); LDQ(d+3, 20, o)
#define COPY4(d, n) COPY(d, n); COPY(d+1, n+1); COPY(d+2, n+2); COPY(d+3, n+3)
#define FADD4(d, n, m) FADD(d, n, m); FADD(d+1, n+1, m+1); FADD(d+2, n+2, m+2); FADD(d+3, n+3, m+3)
#define FADDC4(d, n, c) FADD(d, n, c); FADD(d+1, n+1, c); FADD(d+2, n+2, c); FADD(d+3, n+3, c)
#define FSUBC4(d, n, c) FSUB(d, n, c); FSUB(d+1, n+1, c); FSUB(d+2, n+2, c); FSUB(d+3, n+3, c)
#define FRSUBC4(d, n, c) FSUB(d, c, n); FSUB(d+1, c, n+1); FSUB(d+2, c, n+2); FSUB(d+3, c, n+3)
#define FMUL4(d, n, m) FMUL(d, n, m); FMUL(d+1, n+1, m+1); FMUL(d+2, n+2, m+2); FMUL(d+3, n+3, m+3)
#define FMULC4(d, n, c) FMUL(d, n, c); FMUL(d+1, n+1, c); FMUL(d+2, n+2, c); FMUL(d+3, n+3, c)
#define FMLA4(d, n, m) FMLA(d, n, m); FMLA(d+1, n+1, m+1); FMLA(d+2, n+2, m+2); FMLA(d+3, n+3, m+3)
#define FMLAC4(d, n, c) FMLA(d, n, c); FMLA(d+1, n+1, c); FMLA(d+2, n+2, c); FMLA(d+3, n+3, c)
#define FDIV4(d, n, m) FDIV(d, n, m); FDIV(d+1, n+1, m+1); FDIV(d+2, n+2, m+2); FDIV(d+3, n+3, m+3)
#define FDIVC4(d, n, c) FDIV(d, n, c); FDIV(d+1, n+1, c); FDIV(d+2, n+2, c); FDIV(d+3, n+3, c)
#define FRDIVC4(d, n, c) FDIV(d, c, n); FDIV(d+1, c, n+1); FDIV(d+2, c, n+2); FDIV(d+3, c, n+3)
#define FNEG4(d, n) FNEG(d, n); FNEG(d+1, n+1); FNEG(d+2, n+2); FNEG(d+3, n+3)
#define FABS4(d, n) FABS(d, n); FABS(d+1, n+1); FABS(d+2, n+2); FABS(d+3, n+3)
#define FRINTN4(d, n) FRINTN(d, n); FRINTN(d+1, n+1); FRINTN(d+2, n+2); FRINTN(d+3, n+3)
#define FCVTZS4(d, n) FCVTZS(d, n); FCVTZS(d+1, n+1); FCVTZS(d+2, n+2); FCVTZS(d+3, n+3)
#define FCMGTC4(d, n, c) FCMGT(d, n, c); FCMGT(d+1, n+1, c); FCMGT(d+2, n+2, c); FCMGT(d+3, n+3, c)
#define FCMLTC4(d, n, c) FCMGT(d, c, n); FCMGT(d+1, c, n+1); FCMGT(d+2, c, n+2); FCMGT(d+3, c, n+3)
#define HALVE4(d, n) SSHRI(d, n, 1); SSHRI(d+1, n+1, 1); SSHRI(d+2, n+2, 1); SSHRI(d+3, n+3, 1)
#define EXPONENT4(d, n) SHLI(d, n, 23); SHLI(d+1, n+1, 23); SHLI(d+2, n+2, 23); SHLI(d+3, n+3, 23)
#define SUBI4(d, n, m) SUBI(d, n, m); SUBI(d+1, n+1, m+1); SUBI(d+2, n+2, m+2); SUBI(d+3, n+3, m+3)
#define ADDIC4(d, n, c) ADDI(d, n, c); ADDI(d+1, n+1, c); ADDI(d+2, n+2, c); ADDI(d+3, n+3, c)
#define BITC4(d, c, m) BITV(d, c, m); BITV(d+1, c, m+1); BITV(d+2, c, m+2); BITV(d+3, c, m+3)
#define BIC4(d, n, m) BICV(d, n, m); BICV(d+1, n+1, m+1); BICV(d+2, n+2, m+2); BICV(d+3, n+3, m+3)
#define BSL4(d, n, m) BSLV(d, n, m); BSLV(d+1, n+1, m+1); BSLV(d+2, n+2, m+2); BSLV(d+3, n+3, m+3)
#define LOAD4(d, x) LDPQ(d, d+1, x, 0); LDPQ(d+2, d+3, x, 32)
#define LOADP4(d, x) LDPQP(d, d+1, x, 32); LDPQP(d+2, d+3, x, 32)
#define STOREP4(d, x) STPQP(d, d+1, x, 32); STPQP(d+2, d+3, x, 32)

// v20..v23 = Exp(v16..v19). n in v0.., r in v4.., scratch v24..v29; R20 holds
// expTable. FRINTN gives -0 where roundEven gives +0, which no later bit shows:
// n*c + x is x then, and exp(-0) = 1 either way. Out of range everything is
// computed and then replaced, as the scalar function's early returns have it.
#define EXP \
	LDQ(28, 20, LOG2E); \
	FMULC4(0, 16, 28); \
	FRINTN4(0, 0); \
	COPY4(4, 16); \
	LDQ(28, 20, LN2HI); \
	FMLAC4(4, 0, 28); \
	LDQ(29, 20, LN2LO); \
	FMLAC4(4, 0, 29); \
	LDQ(28, 20, EXPC0); \
	TABLE4(20, EXPC1); \
	FMLAC4(20, 4, 28); \
	TABLE4(24, EXPC2); \
	FMLA4(24, 20, 4); \
	TABLE4(20, EXPC3); \
	FMLA4(20, 24, 4); \
	TABLE4(24, EXPC4); \
	FMLA4(24, 20, 4); \
	TABLE4(20, EXPC5); \
	FMLA4(20, 24, 4); \
	FMUL4(24, 4, 4); \
	FMLA4(4, 20, 24); \
	LDQ(28, 20, ONE); \
	FADDC4(20, 4, 28); \
	FCVTZS4(0, 0); \
	HALVE4(24, 0); \
	SUBI4(0, 0, 24); \
	EXPONENT4(24, 24); \
	EXPONENT4(0, 0); \
	ADDIC4(24, 24, 28); \
	ADDIC4(0, 0, 28); \
	FMUL4(20, 20, 24); \
	FMUL4(20, 20, 0); \
	LDQ(28, 20, EXPMAX); \
	FCMGTC4(24, 16, 28); \
	LDQ(29, 20, INF); \
	BITC4(20, 29, 24); \
	LDQ(28, 20, EXPMIN); \
	FCMLTC4(24, 16, 28); \
	BIC4(20, 20, 24)

// v0..v3 = Tanh(v12..v15), both branches and then a choice; v8..v11 are kept.
// The branch for large arguments is positive, so its sign is or-ed in.
#define TANH \
	FABS4(16, 12); \
	FADD4(16, 16, 16); \
	EXP; \
	LDQ(28, 20, ONE); \
	FADDC4(20, 20, 28); \
	LDQ(29, 20, TWO); \
	FRDIVC4(20, 20, 29); \
	FRSUBC4(20, 20, 28); \
	LDQ(29, 20, SIGN); \
	BITC4SIGN(20, 12, 29); \
	FMUL4(4, 12, 12); \
	LDQ(28, 20, TANHC0); \
	TABLE4(24, TANHC1); \
	FMLAC4(24, 4, 28); \
	TABLE4(16, TANHC2); \
	FMLA4(16, 24, 4); \
	TABLE4(24, TANHC3); \
	FMLA4(24, 16, 4); \
	TABLE4(16, TANHC4); \
	FMLA4(16, 24, 4); \
	FMUL4(16, 16, 4); \
	COPY4(24, 12); \
	FMLA4(24, 16, 12); \
	LDQ(28, 20, SMALL); \
	FABS4(0, 12); \
	FCMLTC4(0, 0, 28); \
	BSL4(0, 24, 20)

// The sign bits (mask c) of n..n+3 into d..d+3.
#define BITC4SIGN(d, n, c) BITV(d, n, c); BITV(d+1, n+1, c); BITV(d+2, n+2, c); BITV(d+3, n+3, c)

// func expSum(x *float32, n int, m float32, lanes *[16]float32)
// x = Exp(x-m), lanes[i] += x[i], x[16+i], ... for n elements, n > 0.
TEXT ·expSum(SB), NOSPLIT, $0-32
	MOVD	x+0(FP), R0
	MOVD	n+8(FP), R1
	FMOVS	m+16(FP), F12
	MOVD	lanes+24(FP), R2
	MOVD	$·expTable(SB), R20
	DUP(12, 12)
	LOAD4(8, 2)
step:
	LOAD4(16, 0)
	FSUBC4(16, 16, 12)
	EXP
	STOREP4(20, 0)
	FADD4(8, 8, 20)
	SUBS	$16, R1
	BGT	step
	STOREP4(8, 2)
	RET

// func maximum(x *float32, n int) float32
// The largest of n > 0 elements, NaN if one is.
TEXT ·maximum(SB), NOSPLIT, $0-20
	MOVD	x+0(FP), R0
	MOVD	n+8(FP), R1
	LOAD4(16, 0)
step:
	LOADP4(0, 0)
	FMAX(16, 16, 0)
	FMAX(17, 17, 1)
	FMAX(18, 18, 2)
	FMAX(19, 19, 3)
	SUBS	$16, R1
	BGT	step
	FMAX(16, 16, 17)
	FMAX(18, 18, 19)
	FMAX(16, 16, 18)
	FMAXV(16, 16)
	FMOVS	F16, ret+16(FP)
	RET

// func siluSteps(dst, gate, up *float32, n int)
TEXT ·siluSteps(SB), NOSPLIT, $0-32
	MOVD	dst+0(FP), R0
	MOVD	gate+8(FP), R1
	MOVD	up+16(FP), R2
	MOVD	n+24(FP), R3
	MOVD	$·expTable(SB), R20
step:
	LOADP4(8, 1)
	FNEG4(16, 8)
	EXP
	LDQ(28, 20, ONE)
	FADDC4(20, 20, 28)
	FDIV4(20, 8, 20)
	LOADP4(12, 2)
	FMUL4(20, 20, 12)
	STOREP4(20, 0)
	SUBS	$16, R3
	BGT	step
	RET

// func geluSteps(dst, gate, up *float32, n int)
TEXT ·geluSteps(SB), NOSPLIT, $0-32
	MOVD	dst+0(FP), R0
	MOVD	gate+8(FP), R1
	MOVD	up+16(FP), R2
	MOVD	n+24(FP), R3
	MOVD	$·expTable(SB), R20
step:
	LOADP4(8, 1)
	LDQ(28, 20, GELUB)
	FMULC4(0, 8, 28)
	TABLE4(12, ONE)
	FMLA4(12, 0, 8)
	FMUL4(12, 8, 12)
	LDQ(28, 20, GELUA)
	FMULC4(12, 12, 28)
	TANH
	LDQ(28, 20, ONE)
	FADDC4(0, 0, 28)
	LDQ(29, 20, HALF)
	FMULC4(8, 8, 29)
	FMUL4(0, 8, 0)
	LOADP4(12, 2)
	FMUL4(0, 0, 12)
	STOREP4(0, 0)
	SUBS	$16, R3
	BGT	step
	RET

// func capSteps(x *float32, n int, limit float32)
TEXT ·capSteps(SB), NOSPLIT, $0-20
	MOVD	x+0(FP), R0
	MOVD	n+8(FP), R1
	FMOVS	limit+16(FP), F8
	MOVD	$·expTable(SB), R20
	DUP(8, 8)
step:
	LOAD4(12, 0)
	FDIVC4(12, 12, 8)
	TANH
	FMULC4(0, 0, 8)
	STOREP4(0, 0)
	SUBS	$16, R1
	BGT	step
	RET

// func squares(x *float32, n int, lanes *[16]float32)
// lanes[i] = x[i]^2 + x[16+i]^2 + ..., fused, from zero.
TEXT ·squares(SB), NOSPLIT, $0-24
	MOVD	x+0(FP), R0
	MOVD	n+8(FP), R1
	MOVD	lanes+16(FP), R2
	ZERO(8)
	ZERO(9)
	ZERO(10)
	ZERO(11)
step:
	LOADP4(0, 0)
	FMLA4(8, 0, 0)
	SUBS	$16, R1
	BGT	step
	STOREP4(8, 2)
	RET

// func normSteps(dst, x, w *float32, n int, inv float32)
TEXT ·normSteps(SB), NOSPLIT, $0-36
	MOVD	dst+0(FP), R0
	MOVD	x+8(FP), R1
	MOVD	w+16(FP), R2
	MOVD	n+24(FP), R3
	FMOVS	inv+32(FP), F16
	DUP(16, 16)
step:
	LOADP4(0, 1)
	LOADP4(4, 2)
	FMULC4(0, 0, 16)
	FMUL4(0, 0, 4)
	STOREP4(0, 0)
	SUBS	$16, R3
	BGT	step
	RET

// func addSteps(dst, x *float32, n int)
TEXT ·addSteps(SB), NOSPLIT, $0-24
	MOVD	dst+0(FP), R0
	MOVD	x+8(FP), R1
	MOVD	n+16(FP), R2
step:
	LOAD4(0, 0)
	LOADP4(4, 1)
	FADD4(0, 0, 4)
	STOREP4(0, 0)
	SUBS	$16, R2
	BGT	step
	RET

// func ropeSteps(a, b, cos, sin *float32, n int)
// Rotates n pairs (a[i], b[i]), a multiple of 4.
TEXT ·ropeSteps(SB), NOSPLIT, $0-40
	MOVD	a+0(FP), R0
	MOVD	b+8(FP), R1
	MOVD	cos+16(FP), R2
	MOVD	sin+24(FP), R3
	MOVD	n+32(FP), R4
step:
	LDQ(0, 0, 0)
	LDQ(1, 1, 0)
	LDQP(2, 2, 16)
	LDQP(3, 3, 16)
	FMUL(4, 1, 3)
	FNEG(4, 4)
	FMUL(5, 0, 3)
	FMLA(4, 0, 2)
	FMLA(5, 1, 2)
	FMOVQ.P	F4, 16(R0)
	FMOVQ.P	F5, 16(R1)
	SUBS	$4, R4
	BGT	step
	RET
