//go:build !purego

package kernel

// heads returns how many of the heads left the assembly takes at once, 1 if it
// takes none: 4, 3 or 2, and never such that one is left of several.
func heads(left int) int {
	switch left {
	case 1, 2, 3:
		return left
	case 5:
		return 3
	}
	return 4
}

// ahead is where to fetch from: next, or x, which is being read, if it is empty.
func ahead[E any](next, x []E) *E {
	if len(next) == 0 {
		next = x
	}
	return &next[0]
}

// setHeadsAVX512 sets the operations for several heads, where E is a multiple
// of 16; others, and single heads, are left to those for one.
func setHeadsAVX512(f *Funcs) {
	one := loopHeads(*f)
	f.ScoresHeadsF32 = func(dst, q []float32, E int, k []float32, mul float32, next []float32) {
		n := positions("ScoresHeadsF32", len(dst), len(q), E)
		check(len(k) >= n*E, "ScoresHeadsF32")
		for at, left := 0, len(q)/E; left > 0; {
			take := heads(left)
			d, x := dst[at*n:], q[at*E:]
			switch {
			case n == 0 || E%16 != 0 || take == 1:
				one.ScoresHeadsF32(d, x, E, k, mul, next)
				return
			case take == 2:
				scores2xF32AVX512(&d[0], n, &x[0], E, n, &k[0], mul, ahead(next, k))
			case take == 3:
				scores3xF32AVX512(&d[0], n, &x[0], E, n, &k[0], mul, ahead(next, k))
			default:
				scores4xF32AVX512(&d[0], n, &x[0], E, n, &k[0], mul, ahead(next, k))
			}
			at, left = at+take, left-take
		}
	}
	f.ScoresHeadsF16 = func(dst, q []float32, E int, k []uint16, mul float32, next []uint16) {
		n := positions("ScoresHeadsF16", len(dst), len(q), E)
		check(len(k) >= n*E, "ScoresHeadsF16")
		for at, left := 0, len(q)/E; left > 0; {
			take := heads(left)
			d, x := dst[at*n:], q[at*E:]
			switch {
			case n == 0 || E%16 != 0 || take == 1:
				one.ScoresHeadsF16(d, x, E, k, mul, next)
				return
			case take == 2:
				scores2xF16AVX512(&d[0], n, &x[0], E, n, &k[0], mul, ahead(next, k))
			case take == 3:
				scores3xF16AVX512(&d[0], n, &x[0], E, n, &k[0], mul, ahead(next, k))
			default:
				scores4xF16AVX512(&d[0], n, &x[0], E, n, &k[0], mul, ahead(next, k))
			}
			at, left = at+take, left-take
		}
	}
	f.ScoresHeadsKV8 = func(dst, q []float32, E int, k []int8, scales []uint16, mul float32, next []int8) {
		n := positions("ScoresHeadsKV8", len(dst), len(q), E)
		check(len(k) >= n*E && len(scales) >= n, "ScoresHeadsKV8")
		for at, left := 0, len(q)/E; left > 0; {
			take := heads(left)
			d, x := dst[at*n:], q[at*E:]
			switch {
			case n == 0 || E%16 != 0 || take == 1:
				one.ScoresHeadsKV8(d, x, E, k, scales, mul, next)
				return
			case take == 2:
				scores2xKV8AVX512(&d[0], n, &x[0], E, n, &k[0], &scales[0], mul, ahead(next, k))
			case take == 3:
				scores3xKV8AVX512(&d[0], n, &x[0], E, n, &k[0], &scales[0], mul, ahead(next, k))
			default:
				scores4xKV8AVX512(&d[0], n, &x[0], E, n, &k[0], &scales[0], mul, ahead(next, k))
			}
			at, left = at+take, left-take
		}
	}
	setMixHeadsAVX512(f, one)
	f.Tiles = &tilesAVX512
}

func setMixHeadsAVX512(f *Funcs, one Funcs) {
	f.MixHeadsF32 = func(dst, p []float32, E int, v, next []float32) {
		n := positions("MixHeadsF32", len(p), len(dst), E)
		check(len(v) >= n*E, "MixHeadsF32")
		for at, left := 0, len(dst)/E; left > 0; {
			take := heads(left)
			d, w := dst[at*E:], p[at*n:]
			switch {
			case n == 0 || E%16 != 0 || take == 1:
				one.MixHeadsF32(d, w, E, v, next)
				return
			case take == 2:
				mix2xF32AVX512(&d[0], E, &w[0], n, n, &v[0], ahead(next, v))
			case take == 3:
				mix3xF32AVX512(&d[0], E, &w[0], n, n, &v[0], ahead(next, v))
			default:
				mix4xF32AVX512(&d[0], E, &w[0], n, n, &v[0], ahead(next, v))
			}
			at, left = at+take, left-take
		}
	}
	f.MixHeadsF16 = func(dst, p []float32, E int, v, next []uint16) {
		n := positions("MixHeadsF16", len(p), len(dst), E)
		check(len(v) >= n*E, "MixHeadsF16")
		for at, left := 0, len(dst)/E; left > 0; {
			take := heads(left)
			d, w := dst[at*E:], p[at*n:]
			switch {
			case n == 0 || E%16 != 0 || take == 1:
				one.MixHeadsF16(d, w, E, v, next)
				return
			case take == 2:
				mix2xF16AVX512(&d[0], E, &w[0], n, n, &v[0], ahead(next, v))
			case take == 3:
				mix3xF16AVX512(&d[0], E, &w[0], n, n, &v[0], ahead(next, v))
			default:
				mix4xF16AVX512(&d[0], E, &w[0], n, n, &v[0], ahead(next, v))
			}
			at, left = at+take, left-take
		}
	}
	f.MixHeadsKV8 = func(dst, p []float32, E int, v []int8, scales []uint16, next []int8) {
		n := positions("MixHeadsKV8", len(p), len(dst), E)
		check(len(v) >= n*E && len(scales) >= n, "MixHeadsKV8")
		for at, left := 0, len(dst)/E; left > 0; {
			take := heads(left)
			d, w := dst[at*E:], p[at*n:]
			switch {
			case n == 0 || E%16 != 0 || take == 1:
				one.MixHeadsKV8(d, w, E, v, scales, next)
				return
			case take == 2:
				mix2xKV8AVX512(&d[0], E, &w[0], n, n, &v[0], &scales[0], ahead(next, v))
			case take == 3:
				mix3xKV8AVX512(&d[0], E, &w[0], n, n, &v[0], &scales[0], ahead(next, v))
			default:
				mix4xKV8AVX512(&d[0], E, &w[0], n, n, &v[0], &scales[0], ahead(next, v))
			}
			at, left = at+take, left-take
		}
	}
}
