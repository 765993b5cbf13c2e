package train

import (
	"unsafe"

	"slmc/internal/kernel"
)

// product is a matrix product over the kernels' float panels: B is packed into
// panels of 16 columns, which a kernel lane each owns, and every element of C
// accumulates over k in order, fused. Threads split panels.
type product struct {
	f      *kernel.Funcs
	split  Split
	panels []float32
	a, out []float32
}

// mul computes C = A B, or C += A B with add, for row-major C [M N]. A is
// [M K], or [K M] with transA; B is [K N], or [N K] with transB. Slices are
// dense and must have exactly these sizes.
func (p *product) mul(c, a, b []float32, M, N, K int, transA, transB, add bool) {
	P := (N + kernel.Rows - 1) / kernel.Rows
	p.panels = grow(p.panels, P*kernel.Rows*K)
	p.split(P, 1, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			packPanel(p.panels[i*kernel.Rows*K:(i+1)*kernel.Rows*K], b, i*kernel.Rows, N, K, transB)
		}
	})
	if transA {
		p.a = grow(p.a, M*K)
		transpose(p.a, a, K, M, p.split)
		a = p.a
	}
	ld := P * kernel.Rows
	dst := c
	if add || ld != N {
		p.out = grow(p.out, M*ld)
		dst = p.out
	}
	w := floatBytes(p.panels)
	p.split(P, 1, func(lo, hi int) { p.f.MatF32(dst, ld, w, a, K, M, K, lo, hi) })
	if !add && ld == N {
		return
	}
	p.split(M, 16, func(lo, hi int) {
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

// packPanel writes columns [n0, n0+16) of B as a panel [K 16], zeros beyond N.
func packPanel(panel, b []float32, n0, N, K int, transB bool) {
	n := min(kernel.Rows, N-n0)
	if n < kernel.Rows {
		clear(panel)
	}
	if !transB {
		for k := range K {
			copy(panel[k*kernel.Rows:][:n], b[k*N+n0:])
		}
		return
	}
	for j := range n {
		row := b[(n0+j)*K:][:K]
		for k, v := range row {
			panel[k*kernel.Rows+j] = v
		}
	}
}

// transpose writes the [R C] matrix x as [C R], in tiles that stay in cache.
func transpose(dst, x []float32, R, C int, split Split) {
	const tile = 32
	split((C+tile-1)/tile, 1, func(lo, hi int) {
		for c0 := lo * tile; c0 < min(hi*tile, C); c0 += tile {
			for r0 := 0; r0 < R; r0 += tile {
				for c := c0; c < min(c0+tile, C); c++ {
					for r := r0; r < min(r0+tile, R); r++ {
						dst[c*R+r] = x[r*C+c]
					}
				}
			}
		}
	})
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
