//go:build !purego

package kernel

// Products of many tokens by 2x2 tiles (mati8mm_arm64.s). For one panel, and
// some tokens that are a chunk: 128 columns at a time are made into sub-groups
// of signed levels in the order that SMMLA takes them, then multiplied with all
// tokens of the chunk, four by four. Each sum is still joined in order of k.

const (
	tile       = 4   // tokens that are multiplied at once
	tileChunk  = 64  // tokens for which columns are made ready once
	tileFrom   = 7   // tokens from which that pays, by the budget
	tileCols   = 128 // a multiple of every GroupSize
	tileSums   = tile * Rows
	levelBytes = Rows * Sub            // of a sub-group
	subBytes   = levelBytes + 2*Rows*4 // with each row's factor twice
)

// tiled is one number format's product: per columns lie in a 64-byte block, few
// takes the tokens that are not worth a tile.
type tiled struct {
	per int
	few quantized
}

// tileWork is a call's memory, on its stack. A chunk has less than
// tileChunk+tileFrom tokens, so that none is left with less than tileFrom.
type tileWork struct {
	sums [(tileChunk + tileFrom + tile - 1) / tile][tileSums]float32 // pair of tokens, pair of rows: r t, r t', r+1 t, r+1 t'
	subs [tileCols / Sub][subBytes]byte
	tail [levelBytes]byte // blocks of a short sub-group, and what was here before: activations are zero there
}

func (m tiled) mat(dst []float32, ld int, w []byte, x *Acts, group, p0, p1 int) {
	if x.T < tileFrom || x.K == 0 {
		m.few.mat(dst, ld, w, x, group, p0, p1)
		return
	}
	checkQ(m.few.name, dst, ld, w, x, group, p0, p1, m.per)
	var work tileWork
	size, sub := PanelBytes(x.K, group, m.per), x.Stride/Sub
	for p := p0; p < p1; p++ {
		panel := w[p*size:][:size]
		for t := 0; t < x.T; {
			n := x.T - t
			if n >= tileChunk+tileFrom {
				n = tileChunk
			}
			if n%tile == 1 {
				last := t + n - 1
				m.few.one(&dst[last*ld+p*Rows], &panel[0], &x.Codes[last*x.Stride], &x.Scales[last*sub], &x.Sums[last*sub], x.K, group)
			}
			m.chunk(&work, dst[p*Rows:], ld, panel, x, group, t, n)
			t += n
		}
	}
}

// chunk computes a panel's outputs for n tokens from t on, but for the last one
// if it would be alone in a tile. Two or three take the tokens before them
// along: these come out the same twice.
func (m tiled) chunk(work *tileWork, dst []float32, ld int, panel []byte, x *Acts, group, t, n int) {
	whole, sub := n/tile, x.Stride/Sub
	at := t + n - tile // the first token of a last tile that overlaps
	overlaps := n%tile > 1
	clear(work.sums[:])
	for k := 0; k < x.K; k += tileCols {
		var subs int
		subs, panel = m.levels(work, panel, min(tileCols, x.K-k), group)
		multiplyTiles(&work.sums[0][0], &work.subs[0][0], subs, &x.Codes[t*x.Stride+k], x.Stride, &x.Scales[t*sub+k/Sub], whole)
		if overlaps {
			multiplyTiles(&work.sums[whole][0], &work.subs[0][0], subs, &x.Codes[at*x.Stride+k], x.Stride, &x.Scales[at*sub+k/Sub], 1)
		}
	}
	for i := range whole {
		storeTile(&dst[(t+i*tile)*ld], ld, &work.sums[i][0])
	}
	if overlaps {
		storeTile(&dst[at*ld], ld, &work.sums[whole][0])
	}
}

// levels makes the next cols columns of a panel ready and returns the number of
// their sub-groups, and the panel's rest.
func (m tiled) levels(work *tileWork, panel []byte, cols, group int) (int, []byte) {
	subs := 0
	for g := 0; g < cols; g += group {
		n := min(group, cols-g)
		size := (n + m.per - 1) / m.per * 64
		blocks, scales := panel[:size], panel[size:][:2*Rows]
		panel = panel[size+2*Rows:]
		if whole := n / Sub; whole > 0 {
			m.make(&work.subs[subs], &blocks[0], &scales[0], whole)
			subs += whole
			blocks = blocks[whole*Sub/m.per*64:]
		}
		if n%Sub > 0 {
			copy(work.tail[:], blocks)
			m.make(&work.subs[subs], &work.tail[0], &scales[0], 1)
			subs++
		}
	}
	return subs, panel
}

// make writes n sub-groups of one group. The calls are direct, or what they
// point at would not stay on the stack.
func (m tiled) make(dst *[subBytes]byte, blocks, scales *byte, n int) {
	switch m.per {
	case 4:
		w8Levels(&dst[0], blocks, scales, n)
	case 8:
		w4Levels(&dst[0], blocks, scales, n)
	default:
		w2Levels(&dst[0], blocks, scales, n)
	}
}

//go:noescape
func w8Levels(dst, blocks, scales *byte, n int)

//go:noescape
func w4Levels(dst, blocks, scales *byte, n int)

//go:noescape
func w2Levels(dst, blocks, scales *byte, n int)

//go:noescape
func multiplyTiles(sums *float32, subs *byte, n int, x *int8, stride int, scales *float32, tiles int)

//go:noescape
func storeTile(dst *float32, ld int, sums *float32)
