// Vector instructions that Go's assembler lacks, as words. Operands are plain
// register numbers in the order of Arm's manual (destination first), so that a
// macro can name a register relative to another: SDOTX(16+i, 4, 0, 1). The
// comment behind each word is the instruction it encodes, {d} standing for the
// number given as d; TestWords holds every word against GNU as' encoding of
// that comment. Bit layout: Arm Architecture Reference Manual (DDI 0487), C7.

// 8-bit dot products of four codes a lane. X: the four codes m[i] for all lanes.
#define SDOTX(d, n, m, i) WORD $(0x4f80e000 | ((i)&1)<<21 | ((i)>>1)<<11 | (m)<<16 | (n)<<5 | (d)) // sdot v{d}.4s, v{n}.16b, v{m}.4b[{i}]

// 2x2 products of 2x8 signed bytes: lane 2i+j adds row i of n times row j of m.
#define SMMLA(d, n, m) WORD $(0x4e80a400 | (m)<<16 | (n)<<5 | (d)) // smmla v{d}.4s, v{n}.16b, v{m}.16b

// Widening products and sums: 8 to 16 bits, 16 to 32 bits.
#define SMULL(d, n, m) WORD $(0x0e20c000 | (m)<<16 | (n)<<5 | (d)) // smull v{d}.8h, v{n}.8b, v{m}.8b
#define SMULL2(d, n, m) WORD $(0x4e20c000 | (m)<<16 | (n)<<5 | (d)) // smull2 v{d}.8h, v{n}.16b, v{m}.16b
#define SMLAL(d, n, m) WORD $(0x0e208000 | (m)<<16 | (n)<<5 | (d)) // smlal v{d}.8h, v{n}.8b, v{m}.8b
#define SMLAL2(d, n, m) WORD $(0x4e208000 | (m)<<16 | (n)<<5 | (d)) // smlal2 v{d}.8h, v{n}.16b, v{m}.16b
#define SADALP(d, n) WORD $(0x4e606800 | (n)<<5 | (d)) // sadalp v{d}.4s, v{n}.8h
#define SADDLP(d, n) WORD $(0x4e602800 | (n)<<5 | (d)) // saddlp v{d}.4s, v{n}.8h
#define SXTL8(d, n) WORD $(0x0f08a400 | (n)<<5 | (d)) // sxtl v{d}.8h, v{n}.8b
#define SXTL8H(d, n) WORD $(0x4f08a400 | (n)<<5 | (d)) // sxtl2 v{d}.8h, v{n}.16b
#define SXTL16(d, n) WORD $(0x0f10a400 | (n)<<5 | (d)) // sxtl v{d}.4s, v{n}.4h
#define SXTL16H(d, n) WORD $(0x4f10a400 | (n)<<5 | (d)) // sxtl2 v{d}.4s, v{n}.8h
#define XTN32(d, n) WORD $(0x0e612800 | (n)<<5 | (d)) // xtn v{d}.4h, v{n}.4s
#define XTN32H(d, n) WORD $(0x4e612800 | (n)<<5 | (d)) // xtn2 v{d}.8h, v{n}.4s
#define XTN16(d, n) WORD $(0x0e212800 | (n)<<5 | (d)) // xtn v{d}.8b, v{n}.8h
#define XTN16H(d, n) WORD $(0x4e212800 | (n)<<5 | (d)) // xtn2 v{d}.16b, v{n}.8h

// 32-bit integers.
#define ADDI(d, n, m) WORD $(0x4ea08400 | (m)<<16 | (n)<<5 | (d)) // add v{d}.4s, v{n}.4s, v{m}.4s
#define SUBI(d, n, m) WORD $(0x6ea08400 | (m)<<16 | (n)<<5 | (d)) // sub v{d}.4s, v{n}.4s, v{m}.4s
#define ADDPI(d, n, m) WORD $(0x4ea0bc00 | (m)<<16 | (n)<<5 | (d)) // addp v{d}.4s, v{n}.4s, v{m}.4s
#define ADDVI(d, n) WORD $(0x4eb1b800 | (n)<<5 | (d)) // addv s{d}, v{n}.4s
#define UMAXI(d, n, m) WORD $(0x6ea06400 | (m)<<16 | (n)<<5 | (d)) // umax v{d}.4s, v{n}.4s, v{m}.4s
#define UMAXVI(d, n) WORD $(0x6eb0a800 | (n)<<5 | (d)) // umaxv s{d}, v{n}.4s
#define DUPW(d, x) WORD $(0x4e040c00 | (x)<<5 | (d)) // dup v{d}.4s, w{x}
#define DUPX(d, x) WORD $(0x4e080c00 | (x)<<5 | (d)) // dup v{d}.2d, x{x}
#define SHLI(d, n, k) WORD $(0x4f205400 | (k)<<16 | (n)<<5 | (d)) // shl v{d}.4s, v{n}.4s, #{k}
#define SSHRI(d, n, k) WORD $(0x4f200400 | (32-(k))<<16 | (n)<<5 | (d)) // sshr v{d}.4s, v{n}.4s, #{k}

// Bytes and bits.
#define SHLB(d, n, k) WORD $(0x4f085400 | (k)<<16 | (n)<<5 | (d)) // shl v{d}.16b, v{n}.16b, #{k}
#define USHRB(d, n, k) WORD $(0x6f080400 | (8-(k))<<16 | (n)<<5 | (d)) // ushr v{d}.16b, v{n}.16b, #{k}
#define SUBB(d, n, m) WORD $(0x6e208400 | (m)<<16 | (n)<<5 | (d)) // sub v{d}.16b, v{n}.16b, v{m}.16b
#define ANDV(d, n, m) WORD $(0x4e201c00 | (m)<<16 | (n)<<5 | (d)) // and v{d}.16b, v{n}.16b, v{m}.16b
#define BICV(d, n, m) WORD $(0x4e601c00 | (m)<<16 | (n)<<5 | (d)) // bic v{d}.16b, v{n}.16b, v{m}.16b
#define EORV(d, n, m) WORD $(0x6e201c00 | (m)<<16 | (n)<<5 | (d)) // eor v{d}.16b, v{n}.16b, v{m}.16b
#define BSLV(d, n, m) WORD $(0x6e601c00 | (m)<<16 | (n)<<5 | (d)) // bsl v{d}.16b, v{n}.16b, v{m}.16b
#define BITV(d, n, m) WORD $(0x6ea01c00 | (m)<<16 | (n)<<5 | (d)) // bit v{d}.16b, v{n}.16b, v{m}.16b
#define COPY(d, n) WORD $(0x4ea01c00 | (n)<<16 | (n)<<5 | (d)) // mov v{d}.16b, v{n}.16b
#define ZERO(d) WORD $(0x4f000400 | (d)) // movi v{d}.4s, #0
#define HIGH(d, n) WORD $(0x6e004000 | (n)<<16 | (n)<<5 | (d)) // ext v{d}.16b, v{n}.16b, v{n}.16b, #8

// Permutations of 32- and 64-bit lanes.
#define ZIP1S(d, n, m) WORD $(0x4e803800 | (m)<<16 | (n)<<5 | (d)) // zip1 v{d}.4s, v{n}.4s, v{m}.4s
#define ZIP2S(d, n, m) WORD $(0x4e807800 | (m)<<16 | (n)<<5 | (d)) // zip2 v{d}.4s, v{n}.4s, v{m}.4s
#define ZIP1D(d, n, m) WORD $(0x4ec03800 | (m)<<16 | (n)<<5 | (d)) // zip1 v{d}.2d, v{n}.2d, v{m}.2d
#define ZIP2D(d, n, m) WORD $(0x4ec07800 | (m)<<16 | (n)<<5 | (d)) // zip2 v{d}.2d, v{n}.2d, v{m}.2d
#define UZP1S(d, n, m) WORD $(0x4e801800 | (m)<<16 | (n)<<5 | (d)) // uzp1 v{d}.4s, v{n}.4s, v{m}.4s
#define UZP2S(d, n, m) WORD $(0x4e805800 | (m)<<16 | (n)<<5 | (d)) // uzp2 v{d}.4s, v{n}.4s, v{m}.4s

// float32, each operation rounded once; X: by the element m[i].
#define FADD(d, n, m) WORD $(0x4e20d400 | (m)<<16 | (n)<<5 | (d)) // fadd v{d}.4s, v{n}.4s, v{m}.4s
#define FADDH(d, n, m) WORD $(0x0e20d400 | (m)<<16 | (n)<<5 | (d)) // fadd v{d}.2s, v{n}.2s, v{m}.2s
#define FADDPS(d, n) WORD $(0x7e30d800 | (n)<<5 | (d)) // faddp s{d}, v{n}.2s
#define FSUB(d, n, m) WORD $(0x4ea0d400 | (m)<<16 | (n)<<5 | (d)) // fsub v{d}.4s, v{n}.4s, v{m}.4s
#define FMUL(d, n, m) WORD $(0x6e20dc00 | (m)<<16 | (n)<<5 | (d)) // fmul v{d}.4s, v{n}.4s, v{m}.4s
#define FMULX(d, n, m, i) WORD $(0x4f809000 | ((i)&1)<<21 | ((i)>>1)<<11 | (m)<<16 | (n)<<5 | (d)) // fmul v{d}.4s, v{n}.4s, v{m}.s[{i}]
#define FDIV(d, n, m) WORD $(0x6e20fc00 | (m)<<16 | (n)<<5 | (d)) // fdiv v{d}.4s, v{n}.4s, v{m}.4s
#define FMLA(d, n, m) WORD $(0x4e20cc00 | (m)<<16 | (n)<<5 | (d)) // fmla v{d}.4s, v{n}.4s, v{m}.4s
#define FMLAX(d, n, m, i) WORD $(0x4f801000 | ((i)&1)<<21 | ((i)>>1)<<11 | (m)<<16 | (n)<<5 | (d)) // fmla v{d}.4s, v{n}.4s, v{m}.s[{i}]
#define FMLAS(d, n, m) WORD $(0x5f801000 | (m)<<16 | (n)<<5 | (d)) // fmla s{d}, s{n}, v{m}.s[0]
#define FMAX(d, n, m) WORD $(0x4e20f400 | (m)<<16 | (n)<<5 | (d)) // fmax v{d}.4s, v{n}.4s, v{m}.4s
#define FMIN(d, n, m) WORD $(0x4ea0f400 | (m)<<16 | (n)<<5 | (d)) // fmin v{d}.4s, v{n}.4s, v{m}.4s
#define FMAXV(d, n) WORD $(0x6e30f800 | (n)<<5 | (d)) // fmaxv s{d}, v{n}.4s
#define FABS(d, n) WORD $(0x4ea0f800 | (n)<<5 | (d)) // fabs v{d}.4s, v{n}.4s
#define FNEG(d, n) WORD $(0x6ea0f800 | (n)<<5 | (d)) // fneg v{d}.4s, v{n}.4s
#define FCMGT(d, n, m) WORD $(0x6ea0e400 | (m)<<16 | (n)<<5 | (d)) // fcmgt v{d}.4s, v{n}.4s, v{m}.4s
#define FRINTN(d, n) WORD $(0x4e218800 | (n)<<5 | (d)) // frintn v{d}.4s, v{n}.4s
#define FCVTZS(d, n) WORD $(0x4ea1b800 | (n)<<5 | (d)) // fcvtzs v{d}.4s, v{n}.4s
#define FCVTNS(d, n) WORD $(0x4e21a800 | (n)<<5 | (d)) // fcvtns v{d}.4s, v{n}.4s
#define SCVTF(d, n) WORD $(0x4e21d800 | (n)<<5 | (d)) // scvtf v{d}.4s, v{n}.4s
#define SCVTFS(d, n) WORD $(0x5e21d800 | (n)<<5 | (d)) // scvtf s{d}, s{n}
#define DUP(d, n) WORD $(0x4e040400 | (n)<<5 | (d)) // dup v{d}.4s, v{n}.s[0]

// float16 and bfloat16 to float32, lower and upper half; float32 to float16.
#define FCVTL(d, n) WORD $(0x0e217800 | (n)<<5 | (d)) // fcvtl v{d}.4s, v{n}.4h
#define FCVTLH(d, n) WORD $(0x4e217800 | (n)<<5 | (d)) // fcvtl2 v{d}.4s, v{n}.8h
#define FCVTN(d, n) WORD $(0x0e216800 | (n)<<5 | (d)) // fcvtn v{d}.4h, v{n}.4s
#define FCVTNH(d, n) WORD $(0x4e216800 | (n)<<5 | (d)) // fcvtn2 v{d}.8h, v{n}.4s
#define FCVTSH(d, n) WORD $(0x1ee24000 | (n)<<5 | (d)) // fcvt s{d}, h{n}
#define SHLL(d, n) WORD $(0x2e613800 | (n)<<5 | (d)) // shll v{d}.4s, v{n}.4h, #16
#define SHLLH(d, n) WORD $(0x6e613800 | (n)<<5 | (d)) // shll2 v{d}.4s, v{n}.8h, #16

// Memory; x is the number of the address register, o the offset in bytes.
#define LDQ(d, x, o) WORD $(0x3dc00000 | (o)<<6 | (x)<<5 | (d)) // ldr q{d}, [x{x}, #{o}]
#define LDPQ(d, n, x, o) WORD $(0xad400000 | (o)<<11 | (n)<<10 | (x)<<5 | (d)) // ldp q{d}, q{n}, [x{x}, #{o}]
#define LDPQP(d, n, x, o) WORD $(0xacc00000 | (o)<<11 | (n)<<10 | (x)<<5 | (d)) // ldp q{d}, q{n}, [x{x}], #{o}
#define LDQP(d, x, o) WORD $(0x3cc00400 | (o)<<12 | (x)<<5 | (d)) // ldr q{d}, [x{x}], #{o}
#define STPQ(d, n, x, o) WORD $(0xad000000 | (o)<<11 | (n)<<10 | (x)<<5 | (d)) // stp q{d}, q{n}, [x{x}, #{o}]
#define STPQP(d, n, x, o) WORD $(0xac800000 | (o)<<11 | (n)<<10 | (x)<<5 | (d)) // stp q{d}, q{n}, [x{x}], #{o}
#define LDSP(d, x) WORD $(0xbc404400 | (x)<<5 | (d)) // ldr s{d}, [x{x}], #4
#define LDHP(d, x) WORD $(0x7c402400 | (x)<<5 | (d)) // ldr h{d}, [x{x}], #2
#define LD1RP(d, x) WORD $(0x4ddfc800 | (x)<<5 | (d)) // ld1r {v{d}.4s}, [x{x}], #4
