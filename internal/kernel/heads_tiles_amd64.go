//go:build !purego

package kernel

// tilesAVX512 are guarded as checked guards the other operations.
var tilesAVX512 = Tiles{
	FloatsF16: func(dst []float32, x []uint16) {
		check(len(dst) >= len(x), "Tiles.FloatsF16")
		floatsF16AVX512(dst, x)
	},
	FloatsKV8: func(dst []float32, x []int8) {
		check(len(dst) >= len(x), "Tiles.FloatsKV8")
		floatsKV8AVX512(dst, x)
	},
	Transpose: func(tile, keys []float32, E int) {
		check(E > 0 && E%16 == 0 && len(tile) >= Tile*E && len(keys) >= Tile*E, "Tiles.Transpose")
		transposeAVX512(&tile[0], &keys[0], E)
	},
	Scores: func(dst []float32, ld int, q []float32, E int, tile, scales []float32, mul float32) {
		check(E > 0 && E%16 == 0 && len(q)%(TileQueries*E) == 0 && ld >= Tile && len(tile) >= Tile*E && len(scales) >= Tile, "Tiles.Scores")
		n := len(q) / E
		if n == 0 {
			return
		}
		check(len(dst) >= (n-1)*ld+Tile, "Tiles.Scores")
		tileScoresAVX512(&dst[0], ld, &q[0], E, n/TileQueries, &tile[0], &scales[0], mul)
	},
	Weigh: func(p []float32, scales []uint16) {
		check(len(scales) >= len(p), "Tiles.Weigh")
		weighAVX512(p, scales)
	},
	Mix: func(dst []float32, E int, p []float32, ld, n int, v []float32) {
		check(E > 0 && E%16 == 0 && len(dst)%E == 0 && n >= 0 && ld >= 0 && len(v) >= n*E, "Tiles.Mix")
		left := len(dst) / E
		if n == 0 || left == 0 {
			return
		}
		check(len(p) >= (left-1)*ld+n, "Tiles.Mix")
		for at := 0; left > 0; {
			take := heads(left)
			d, w := &dst[at*E], &p[at*ld]
			switch take {
			case 1:
				tileMix1AVX512(d, E, w, ld, n, &v[0])
			case 2:
				tileMix2AVX512(d, E, w, ld, n, &v[0])
			case 3:
				tileMix3AVX512(d, E, w, ld, n, &v[0])
			default:
				tileMix4AVX512(d, E, w, ld, n, &v[0])
			}
			at, left = at+take, left-take
		}
	},
}
