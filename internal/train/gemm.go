package train

import (
	"unsafe"

	"slmc/internal/kernel"
)

// product is a matrix product over the kernels' float panels: B is packed into
// panels of 16 columns, which a kernel lane each owns, and every element of C
// accumulates over k in order, fused. Threads split panels. Figures against a
// BLAS are in bench/gemm.md.
type product struct {
	f      *kernel.Funcs
	split  Split
	own    panels   // of a B that is used once
	held   *float32 // the B that own holds; nil: none
	a, out []float32
}

// panels is a packed B.
type panels struct {
	x     []float32
	fresh bool // x is of the weight's present values
}

// packed is a weight W [out in] as B of the two products that read it.
type packed struct {
	forward panels // W^T, of y = x W^T
	back    panels // W, of dx = dy W
}

// pack makes panels of B, [K N] or, with trans, [N K].
func (p *product) pack(to *panels, b []float32, N, K int, trans bool) {
	P := (N + kernel.Rows - 1) / kernel.Rows
	to.x = grow(to.x, P*kernel.Rows*K)
	p.split(P, 1+(1<<13)/(K*kernel.Rows+1), func(lo, hi int) {
		for i := lo; i < hi; i++ {
			packPanel(to.x[i*kernel.Rows*K:(i+1)*kernel.Rows*K], b, i*kernel.Rows, N, K, trans)
		}
	})
	to.fresh = true
}

// mul computes C = A B, or C += A B with add, for row-major dense C [M N], A
// [M K] and packed B [K N].
func (p *product) mul(c, a []float32, b *panels, M, N, K int, add bool) {
	P := (N + kernel.Rows - 1) / kernel.Rows
	ld := P * kernel.Rows
	dst := c
	if add || ld != N {
		p.out = grow(p.out, M*ld)
		dst = p.out
	}
	w := floatBytes(b.x)
	grain := 1 + (1<<18)/(kernel.Rows*K*M+1) // multiply-adds below which a thread is not worth waking
	p.split(P, grain, func(lo, hi int) { p.f.MatF32(dst, ld, w, a, K, M, K, lo, hi) })
	if !add && ld == N {
		return
	}
	p.split(M, 1+(1<<13)/N, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			row := c[r*N : (r+1)*N]
			if add {
				p.f.Add(row, dst[r*ld:][:N])
			} else {
				copy(row, dst[r*ld:])
			}
		}
	})
}

// outer adds A^T B to C [M N] for A [K M] and B [K N]: the gradient of a
// weight, summed over the K rows of a batch. Calls in a row with the same B
// pack it once.
func (p *product) outer(c, a, b []float32, M, N, K int) {
	if p.held != &b[0] {
		p.pack(&p.own, b, N, K, false)
		p.held = &b[0]
	}
	p.a = grow(p.a, M*K)
	transpose(p.a, a, K, M, p.split)
	p.mul(c, p.a, &p.own, M, N, K, true)
}

// packPanel writes columns [n0, n0+16) of B as a panel [K 16], zeros beyond N.
func packPanel(panel, b []float32, n0, N, K int, trans bool) {
	n := min(kernel.Rows, N-n0)
	if n < kernel.Rows {
		clear(panel)
	}
	switch {
	case trans && n == kernel.Rows:
		transposeTiles(panel, b[n0*K:], kernel.Rows, K, 0, 0, K)
	case trans:
		for j := range n {
			for k, v := range b[(n0+j)*K:][:K] {
				panel[k*kernel.Rows+j] = v
			}
		}
	case n == kernel.Rows:
		for k := range K {
			*(*[kernel.Rows]float32)(panel[k*kernel.Rows:]) = *(*[kernel.Rows]float32)(b[k*N+n0:])
		}
	default:
		for k := range K {
			copy(panel[k*kernel.Rows:][:n], b[k*N+n0:])
		}
	}
}

// transpose writes the [R C] matrix x as [C R].
func transpose(dst, x []float32, R, C int, split Split) {
	const tile = 64
	split((C+tile-1)/tile, 1+(1<<13)/(R*tile), func(lo, hi int) {
		transposeTiles(dst, x, R, C, 0, lo*tile, min(hi*tile, C))
	})
}

// transposeTiles writes the columns [c0, c1) of the rows from r0 on of x [R C]
// as rows of dst [C R], 16 columns of 8 rows at a time: as many cache lines of
// either as fit where their strides are powers of two.
func transposeTiles(dst, x []float32, R, C, r0, c0, c1 int) {
	c := c0
	for ; c+16 <= c1; c += 16 {
		r := r0
		for ; r+8 <= R; r += 8 {
			at := x[r*C+c:]
			a, b, d, e := (*[16]float32)(at), (*[16]float32)(at[C:]), (*[16]float32)(at[2*C:]), (*[16]float32)(at[3*C:])
			f, g, h, k := (*[16]float32)(at[4*C:]), (*[16]float32)(at[5*C:]), (*[16]float32)(at[6*C:]), (*[16]float32)(at[7*C:])
			to := dst[c*R+r:]
			for i := range a {
				t := (*[8]float32)(to[i*R:])
				t[0], t[1], t[2], t[3] = a[i], b[i], d[i], e[i]
				t[4], t[5], t[6], t[7] = f[i], g[i], h[i], k[i]
			}
		}
		transposeRest(dst, x, R, C, r, c, c+16)
	}
	transposeRest(dst, x, R, C, r0, c, c1)
}

// transposeRest is transposeTiles from row r0 on, element by element.
func transposeRest(dst, x []float32, R, C, r0, c0, c1 int) {
	for r := r0; r < R; r++ {
		for c := c0; c < c1; c++ {
			dst[c*R+r] = x[r*C+c]
		}
	}
}

func grow(s []float32, n int) []float32 {
	if cap(s) < n {
		return make([]float32, n)
	}
	return s[:n]
}

// floatBytes views float32 as their bytes, little-endian as the kernels want.
func floatBytes(x []float32) []byte {
	if len(x) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), 4*len(x))
}
