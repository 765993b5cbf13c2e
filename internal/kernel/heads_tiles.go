package kernel

// Attention of many queries at once: a prompt's rows read the same keys and
// values, so these are made floats once for a block of queries, and the keys
// turned so that a SIMD lane owns a position. A score's 16 lane accumulators are
// then 16 registers one after the other, and their tree needs no shuffle.

// Tile is the number of positions whose keys a tile holds.
const Tile = 32

// TileQueries is what the number of queries of Tiles.Scores is a multiple of.
const TileQueries = 4

// Tiles are the operations for many queries; E is a multiple of 16. They are
// defined by the functions of the same names, with which attention gives the
// bits of Scores and Mix.
type Tiles struct {
	// FloatsF16 and FloatsKV8 write cached elements as floats, codes without
	// their scales.
	FloatsF16 func(dst []float32, x []uint16)
	FloatsKV8 func(dst []float32, x []int8)
	Transpose func(tile, keys []float32, E int)
	Scores    func(dst []float32, ld int, q []float32, E int, tile, scales []float32, mul float32)
	Weigh     func(p []float32, scales []uint16)
	Mix       func(dst []float32, E int, p []float32, ld, n int, v []float32)
}

func floatsF16(dst []float32, x []uint16) {
	for i, v := range x {
		dst[i] = half(v)
	}
}

func floatsKV8(dst []float32, x []int8) {
	for i, v := range x {
		dst[i] = float32(v)
	}
}

// transpose writes keys [Tile E] as tile [E Tile].
func transpose(tile, keys []float32, E int) {
	for t := range Tile {
		for e, v := range keys[t*E:][:E] {
			tile[e*Tile+t] = v
		}
	}
}

// tileScores writes dst[i*ld+t] = ((q[i] . k[t]) * scales[t]) * mul for queries
// q [I E], I a multiple of TileQueries, and the Tile positions of tile.
func tileScores(dst []float32, ld int, q []float32, E int, tile, scales []float32, mul float32) {
	for i := range len(q) / E {
		for t := range Tile {
			var l [16]float32
			for e, v := range q[i*E:][:E] {
				l[e%16] = FMA32(v, tile[e*Tile+t], l[e%16])
			}
			dst[i*ld+t] = float32(tree16(&l)*scales[t]) * mul
		}
	}
}

// weigh multiplies weights by the float16 scales of their positions.
func weigh(p []float32, scales []uint16) {
	for i := range p {
		p[i] *= half(scales[i])
	}
}

// tileMix adds p[h*ld+t]*v[t] to dst[h] for each head h of dst [heads E], over
// the positions t < n of v [n E] in order, fused.
func tileMix(dst []float32, E int, p []float32, ld, n int, v []float32) {
	for h := range len(dst) / E {
		out := dst[h*E:][:E]
		for t, w := range p[h*ld:][:n] {
			for e, x := range v[t*E:][:E] {
				out[e] = FMA32(w, x, out[e])
			}
		}
	}
}
