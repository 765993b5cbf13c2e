//go:build !purego

package kernel

// Wrappers of the matrix products: they check a caller's lengths, so that the
// assembly never leaves a slice (weights may be a file mapping that ends at a
// page boundary), and cut the work into calls of one panel and one token or
// several. A panel is walked for all tokens before the next one, so it comes
// from memory once.

// panelOne and panelMany write 16 outputs of one or several tokens.
type (
	panelOne  func(dst *float32, w *byte, x *int8, scales *float32, sums *int32, k, group int)
	panelMany func(dst *float32, ld int, w *byte, x *int8, stride int, scales *float32, sums *int32, k, group int)
)

// quantized is one number format's product: per columns lie in a 64-byte
// block, many takes n tokens.
type quantized struct {
	name   string
	per, n int
	one    panelOne
	many   panelMany
}

func (q quantized) mat(dst []float32, ld int, w []byte, x *Acts, group, p0, p1 int) {
	checkQ(q.name, dst, ld, w, x, group, p0, p1, q.per)
	if x.K == 0 {
		zero(dst, ld, x.T, p0, p1)
		return
	}
	size, sub := PanelBytes(x.K, group, q.per), x.Stride/Sub
	for p := p0; p < p1; p++ {
		t := 0
		for ; t+q.n <= x.T; t += q.n {
			q.many(&dst[t*ld+p*Rows], ld, &w[p*size], &x.Codes[t*x.Stride], x.Stride, &x.Scales[t*sub], &x.Sums[t*sub], x.K, group)
		}
		for ; t < x.T; t++ {
			q.one(&dst[t*ld+p*Rows], &w[p*size], &x.Codes[t*x.Stride], &x.Scales[t*sub], &x.Sums[t*sub], x.K, group)
		}
	}
}

// floats is one element type's product: size bytes an element.
type floats struct {
	name string
	size int
	one  func(dst *float32, w *byte, x *float32, k int)
	four func(dst *float32, ld int, w *byte, x *float32, ldx, k int)
}

func (f floats) mat(dst []float32, ld int, w []byte, x []float32, ldx, T, K, p0, p1 int) {
	checkF(f.name, dst, ld, w, x, ldx, T, K, p0, p1, f.size)
	if K == 0 {
		zero(dst, ld, T, p0, p1)
		return
	}
	for p := p0; p < p1; p++ {
		panel := &w[p*K*Rows*f.size]
		t := 0
		for ; t+4 <= T; t += 4 {
			f.four(&dst[t*ld+p*Rows], ld, panel, &x[t*ldx], ldx, K)
		}
		for ; t < T; t++ {
			f.one(&dst[t*ld+p*Rows], panel, &x[t*ldx], K)
		}
	}
}

// zero is a product over no columns: there is no weight to point at.
func zero(dst []float32, ld, T, p0, p1 int) {
	for t := range T {
		clear(dst[t*ld:][p0*Rows : p1*Rows])
	}
}

//go:noescape
func f32Panel1(dst *float32, w *byte, x *float32, k int)

//go:noescape
func f16Panel1(dst *float32, w *byte, x *float32, k int)

//go:noescape
func bf16Panel1(dst *float32, w *byte, x *float32, k int)

//go:noescape
func f32Panel4(dst *float32, ld int, w *byte, x *float32, ldx, k int)

//go:noescape
func f16Panel4(dst *float32, ld int, w *byte, x *float32, ldx, k int)

//go:noescape
func bf16Panel4(dst *float32, ld int, w *byte, x *float32, ldx, k int)

//go:noescape
func w8Dot1(dst *float32, w *byte, x *int8, scales *float32, sums *int32, k, group int)

//go:noescape
func w4Dot1(dst *float32, w *byte, x *int8, scales *float32, sums *int32, k, group int)

//go:noescape
func w2Dot1(dst *float32, w *byte, x *int8, scales *float32, sums *int32, k, group int)

//go:noescape
func w8Dot4(dst *float32, ld int, w *byte, x *int8, stride int, scales *float32, sums *int32, k, group int)

//go:noescape
func w4Dot4(dst *float32, ld int, w *byte, x *int8, stride int, scales *float32, sums *int32, k, group int)

//go:noescape
func w2Dot4(dst *float32, ld int, w *byte, x *int8, stride int, scales *float32, sums *int32, k, group int)

//go:noescape
func w8Neon1(dst *float32, w *byte, x *int8, scales *float32, sums *int32, k, group int)

//go:noescape
func w4Neon1(dst *float32, w *byte, x *int8, scales *float32, sums *int32, k, group int)

//go:noescape
func w2Neon1(dst *float32, w *byte, x *int8, scales *float32, sums *int32, k, group int)

//go:noescape
func w8Neon2(dst *float32, ld int, w *byte, x *int8, stride int, scales *float32, sums *int32, k, group int)

//go:noescape
func w4Neon2(dst *float32, ld int, w *byte, x *int8, stride int, scales *float32, sums *int32, k, group int)

//go:noescape
func w2Neon2(dst *float32, ld int, w *byte, x *int8, stride int, scales *float32, sums *int32, k, group int)
