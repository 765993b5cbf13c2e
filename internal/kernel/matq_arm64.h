// The walk over a quantized panel (panel.go) that all products share, with the
// arithmetic left to macros:
//
//	SCALES  turns the group's 16 float16 scales at R9 into factors
//	START   sets the integer accumulators to MAGIC-zero*sum
//	FULL    adds a sub-group of 32 codes and moves R1 and the x pointers on
//	TAIL    adds one 64-byte block of the last, short sub-group
//	JOIN    acc = float(d)*(sw*sx) + acc for the 16 rows
//
// MAGIC is the bits of the float 3<<22. An accumulator that starts there ends
// as the bits of 3<<22 + d, exactly, because |d| <= 32*128*127 < 2^22; one
// subtraction leaves float(d). SCVTF would do the same for two issue slots, both
// in the one pipe that has it.
//
// FULL reads every block of the sub-group, so it also serves a sub-group that
// is short by less than a block: activation codes are zero there. TAIL never
// reads a block that the panel lacks.
//
// R1 weights, R5 columns left, R6 group size, R7 columns left in the group,
// R9 the group's scales. per = columns a block holds = 1<<shift.
#define WALK(per, shift, SCALES, START, FULL, TAIL, JOIN) \
group: \
	CMP	R6, R5; \
	CSEL	LT, R5, R6, R7; \
	SUB	R7, R5; \
	ADD	$(per-1), R7, R8; \
	LSR	$shift, R8; \
	ADD	R8<<6, R1, R9; \
	SCALES; \
sub: \
	START; \
	CMP	$(32-per), R7; \
	BLE	tail; \
	FULL; \
	SUB	$32, R7; \
	B	join; \
tail: \
	TAIL; \
	SUB	$per, R7; \
	CMP	$0, R7; \
	BGT	tail; \
join: \
	JOIN; \
	CMP	$0, R7; \
	BGT	sub; \
	ADD	$32, R9, R1; \
	CBNZ	R5, group

// One token: R0 dst, R2 codes, R3 scales, R4 sums.
#define ARGS1 \
	MOVD	dst+0(FP), R0; \
	MOVD	w+8(FP), R1; \
	MOVD	x+16(FP), R2; \
	MOVD	scales+24(FP), R3; \
	MOVD	sums+32(FP), R4; \
	MOVD	k+40(FP), R5; \
	MOVD	group+48(FP), R6

// Several tokens: ARGS1 with the distance from row to row in R20 (dst, bytes),
// R21 (codes) and R22 (scales and sums, bytes).
#define ARGSN \
	MOVD	dst+0(FP), R0; \
	MOVD	ld+8(FP), R20; \
	LSL	$2, R20; \
	MOVD	w+16(FP), R1; \
	MOVD	x+24(FP), R2; \
	MOVD	stride+32(FP), R21; \
	MOVD	scales+40(FP), R3; \
	MOVD	sums+48(FP), R4; \
	LSR	$3, R21, R22; \
	MOVD	k+56(FP), R5; \
	MOVD	group+64(FP), R6

#define MAGIC 0x4b400000

// Factors of 16 rows from the float16 scales at R9.
#define FACTORS(d, t) \
	LDPQ(t, t+1, 9, 0); \
	FCVTL(d, t); \
	FCVTLH(d+1, t); \
	FCVTL(d+2, t+1); \
	FCVTLH(d+3, t+1)

#define FMUL4(d, m) \
	FMUL(d, d, m); \
	FMUL(d+1, d+1, m); \
	FMUL(d+2, d+2, m); \
	FMUL(d+3, d+3, m)

#define ZERO4(d) \
	ZERO(d); \
	ZERO(d+1); \
	ZERO(d+2); \
	ZERO(d+3)

#define COPY4(d, n) \
	COPY(d, n); \
	COPY(d+1, n); \
	COPY(d+2, n); \
	COPY(d+3, n)

// v(a..a+3) = MAGIC + R(zero)*sum for the sum at r, which moves on; MAGIC in
// R(magic). General registers, to leave the vector pipes alone.
#define STARTROW(a, r, zero, magic) \
	MOVW.P	4(r), R8; \
	MADDW	zero, magic, R8, R8; \
	DUPW(a, 8); \
	DUPW(a+1, 8); \
	DUPW(a+2, 8); \
	DUPW(a+3, 8)

// dst row of 16 at register x += float(a..a+3) * (f..f+3 * sx in lane 0 of s);
// v(m) holds MAGIC; s..s+3 and t..t+3 are overwritten.
#define JOINROW(x, a, f, s, t, m) \
	FMULX(t, f, s, 0); \
	FMULX(t+1, f+1, s, 0); \
	FMULX(t+2, f+2, s, 0); \
	FMULX(t+3, f+3, s, 0); \
	LDPQ(s, s+1, x, 0); \
	LDPQ(s+2, s+3, x, 32); \
	FSUB(a, a, m); \
	FSUB(a+1, a+1, m); \
	FSUB(a+2, a+2, m); \
	FSUB(a+3, a+3, m); \
	FMLA(s, a, t); \
	FMLA(s+1, a+1, t+1); \
	FMLA(s+2, a+2, t+2); \
	FMLA(s+3, a+3, t+3); \
	STPQ(s, s+1, x, 0); \
	STPQ(s+2, s+3, x, 32)

// acc v24..v27 = float(16..19) * (v28..v31 * sx) + acc; v(m) holds MAGIC; v0,
// v4..v7 are overwritten.
#define JOINREGS(m) \
	LD1RP(0, 3); \
	FMUL(4, 28, 0); \
	FMUL(5, 29, 0); \
	FMUL(6, 30, 0); \
	FMUL(7, 31, 0); \
	FSUB(16, 16, m); \
	FSUB(17, 17, m); \
	FSUB(18, 18, m); \
	FSUB(19, 19, m); \
	FMLA(24, 16, 4); \
	FMLA(25, 17, 5); \
	FMLA(26, 18, 6); \
	FMLA(27, 19, 7)

// A 64-byte block at R1 into four registers.
#define BLOCK(d) \
	LDPQP(d, d+1, 1, 32); \
	LDPQP(d+2, d+3, 1, 32)

// W8: v(d..d+3) = code^0x80, the level as a signed byte; v8 holds 0x80.
#define LEVELS8(d, s) \
	EORV(d, s, 8); \
	EORV(d+1, s+1, 8); \
	EORV(d+2, s+2, 8); \
	EORV(d+3, s+3, 8)

// W4: the low nibbles; v8 holds 0x0f.
#define LOW4(d, s) \
	ANDV(d, s, 8); \
	ANDV(d+1, s+1, 8); \
	ANDV(d+2, s+2, 8); \
	ANDV(d+3, s+3, 8)

// W4: the high nibbles.
#define HIGH4(d, s) \
	USHRB(d, s, 4); \
	USHRB(d+1, s+1, 4); \
	USHRB(d+2, s+2, 4); \
	USHRB(d+3, s+3, 4)

// W2: twice the code in bits 0 and 1; v8 holds 0x06.
#define FIELD0(d, s) \
	SHLB(d, s, 1); \
	SHLB(d+1, s+1, 1); \
	SHLB(d+2, s+2, 1); \
	SHLB(d+3, s+3, 1); \
	LOW4(d, d)

// W2: twice the code in bits k+1 and k+2, for k = 1, 3, 5.
#define FIELD(d, s, k) \
	USHRB(d, s, k); \
	USHRB(d+1, s+1, k); \
	USHRB(d+2, s+2, k); \
	USHRB(d+3, s+3, k); \
	LOW4(d, d)
