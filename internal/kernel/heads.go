package kernel

// Attention of the query heads that share one KV head. What they compute is
// defined head by head by Scores and Mix: dst and p are [heads n] where n is
// the number of positions, q and dst [heads E], a row a head. An implementation
// may read each key and value once for several heads.
//
// next is what will be read of the cache after this call, if anything: an
// implementation may fetch it into the CPU's caches meanwhile, as many positions
// as it reads. A decode step walks through each head's keys and values once; no
// prediction of the CPU's sees the jump from one to the other.

// loopHeads fills the operations for heads that f lacks with loops over its
// operations for one.
func loopHeads(f Funcs) Funcs {
	if f.ScoresHeadsF32 == nil {
		f.ScoresHeadsF32 = func(dst, q []float32, E int, k []float32, mul float32, _ []float32) {
			n := positions("ScoresHeadsF32", len(dst), len(q), E)
			for h := 0; h < len(q)/E; h++ {
				f.ScoresF32(dst[h*n:][:n], q[h*E:][:E], k, mul)
			}
		}
		f.ScoresHeadsF16 = func(dst, q []float32, E int, k []uint16, mul float32, _ []uint16) {
			n := positions("ScoresHeadsF16", len(dst), len(q), E)
			for h := 0; h < len(q)/E; h++ {
				f.ScoresF16(dst[h*n:][:n], q[h*E:][:E], k, mul)
			}
		}
		f.ScoresHeadsKV8 = func(dst, q []float32, E int, k []int8, scales []uint16, mul float32, _ []int8) {
			n := positions("ScoresHeadsKV8", len(dst), len(q), E)
			for h := 0; h < len(q)/E; h++ {
				f.ScoresKV8(dst[h*n:][:n], q[h*E:][:E], k, scales, mul)
			}
		}
	}
	if f.MixHeadsF32 == nil {
		f.MixHeadsF32 = func(dst, p []float32, E int, v, _ []float32) {
			n := positions("MixHeadsF32", len(p), len(dst), E)
			for h := 0; h < len(dst)/E; h++ {
				f.MixF32(dst[h*E:][:E], p[h*n:][:n], v)
			}
		}
		f.MixHeadsF16 = func(dst, p []float32, E int, v, _ []uint16) {
			n := positions("MixHeadsF16", len(p), len(dst), E)
			for h := 0; h < len(dst)/E; h++ {
				f.MixF16(dst[h*E:][:E], p[h*n:][:n], v)
			}
		}
		f.MixHeadsKV8 = func(dst, p []float32, E int, v []int8, scales []uint16, _ []int8) {
			n := positions("MixHeadsKV8", len(p), len(dst), E)
			for h := 0; h < len(dst)/E; h++ {
				f.MixKV8(dst[h*E:][:E], p[h*n:][:n], v, scales)
			}
		}
	}
	return f
}

// positions returns how many positions weights of length all for heads of E
// elements, width together, stand for.
func positions(name string, all, width, E int) int {
	if E < 1 || width%E != 0 || width == 0 || all%(width/E) != 0 {
		panic("kernel." + name + ": slices too short or sizes out of range")
	}
	return all / (width / E)
}
