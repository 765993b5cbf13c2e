//go:build !purego && (amd64 || arm64)

package kernel

// checked returns f with every function guarded by the length checks that
// assembly cannot do: a caller's bug panics here, with the function's name,
// instead of touching memory beyond a slice. The matrix functions of f check
// for themselves (checkQ, checkF).
func checked(f Funcs) Funcs {
	c := f
	c.RMSNorm = func(dst, x, w []float32, eps float32) {
		check(len(dst) >= len(x) && len(w) >= len(x), "RMSNorm")
		f.RMSNorm(dst, x, w, eps)
	}
	c.Softmax = func(x []float32, t0 int) float32 {
		check(len(x) > 0 && t0 >= 0, "Softmax")
		return f.Softmax(x, t0)
	}
	c.SiluMul = func(dst, gate, up []float32) {
		check(len(dst) >= len(gate) && len(up) >= len(gate), "SiluMul")
		f.SiluMul(dst, gate, up)
	}
	c.GeluMul = func(dst, gate, up []float32) {
		check(len(dst) >= len(gate) && len(up) >= len(gate), "GeluMul")
		f.GeluMul(dst, gate, up)
	}
	c.Rope = func(x, cos, sin []float32) {
		check(len(cos) >= len(x)/2 && len(sin) >= len(x)/2, "Rope")
		f.Rope(x, cos, sin)
	}
	c.Add = func(dst, x []float32) {
		check(len(dst) >= len(x), "Add")
		f.Add(dst, x)
	}
	c.QuantizeA8 = func(codes []int8, scales []float32, sums []int32, x []float32) bool {
		n := (len(x) + Sub - 1) / Sub
		check(len(codes) >= n*Sub && len(scales) == n && len(sums) >= n, "QuantizeA8")
		return f.QuantizeA8(codes, scales, sums, x)
	}
	c.QuantizeKV8 = func(codes []int8, x []float32, scale float32) {
		check(len(codes) >= len(x), "QuantizeKV8")
		f.QuantizeKV8(codes, x, scale)
	}
	checkedAttention(&c, f)
	return c
}

// checkedAttention is the part of checked for Scores and Mix.
func checkedAttention(c *Funcs, f Funcs) {
	c.ScoresF32 = func(dst, q, k []float32, mul float32) {
		check(len(k) >= len(dst)*len(q), "ScoresF32")
		f.ScoresF32(dst, q, k, mul)
	}
	c.ScoresF16 = func(dst, q []float32, k []uint16, mul float32) {
		check(len(k) >= len(dst)*len(q), "ScoresF16")
		f.ScoresF16(dst, q, k, mul)
	}
	c.ScoresKV8 = func(dst, q []float32, k []int8, scales []uint16, mul float32) {
		check(len(k) >= len(dst)*len(q) && len(scales) >= len(dst), "ScoresKV8")
		f.ScoresKV8(dst, q, k, scales, mul)
	}
	c.Halves = func(dst []uint16, x []float32) {
		check(len(dst) >= len(x), "Halves")
		f.Halves(dst, x)
	}
	c.MixF32 = func(dst, p, v []float32) {
		check(len(v) >= len(p)*len(dst), "MixF32")
		f.MixF32(dst, p, v)
	}
	c.MixF16 = func(dst, p []float32, v []uint16) {
		check(len(v) >= len(p)*len(dst), "MixF16")
		f.MixF16(dst, p, v)
	}
	c.MixKV8 = func(dst, p []float32, v []int8, scales []uint16) {
		check(len(v) >= len(p)*len(dst) && len(scales) >= len(p), "MixKV8")
		f.MixKV8(dst, p, v, scales)
	}
}

func check(ok bool, name string) {
	if !ok {
		panic("kernel." + name + ": slices too short or sizes out of range")
	}
}

// checkQ panics unless the arguments of a MatQ fit each other; per is that of
// PanelBytes.
func checkQ(name string, dst []float32, ld int, w []byte, x *Acts, group, p0, p1, per int) {
	n := x.Stride / Sub
	check((group == 32 || group == 64 || group == 128) && 0 <= p0 && p0 <= p1 && x.T >= 0 &&
		x.K >= 0 && x.Stride >= x.K && x.Stride%Sub == 0, name)
	check(len(x.Codes) >= x.T*x.Stride && len(x.Scales) >= x.T*n && len(x.Sums) >= x.T*n &&
		len(w) >= p1*PanelBytes(x.K, group, per) && ld >= p1*Rows, name)
	check(x.T == 0 || p0 == p1 || len(dst) >= (x.T-1)*ld+p1*Rows && (x.K == 0 || x.Zero == zeroOf(per)), name)
}

// zeroOf is the zero point of the format with per columns in a block.
func zeroOf(per int) Zero {
	switch per {
	case formatW8.per:
		return ZeroW8
	case formatW4.per:
		return ZeroW4
	}
	return ZeroW2
}

// checkF is checkQ for MatF with elements of size bytes.
func checkF(name string, dst []float32, ld int, w []byte, x []float32, ldx, T, K, p0, p1, size int) {
	check(0 <= p0 && p0 <= p1 && T >= 0 && K >= 0 && ldx >= K && ld >= p1*Rows &&
		len(w) >= p1*K*Rows*size, name)
	check(T == 0 || p0 == p1 || len(x) >= (T-1)*ldx+K && len(dst) >= (T-1)*ld+p1*Rows, name)
}
