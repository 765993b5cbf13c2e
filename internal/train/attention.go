package train

import (
	"slmc/model"
	"slmc/tensor"
)

// Attend implements exec.Ops: causal attention within each sequence, over the
// window that the block has. With scores s = mul*(q.k) (capped: c*tanh(s/c)),
// p = softmax(s) and o = sum p v, the way back is
//
//	dv_t = p_t do,  dp_t = do.v_t,  ds_t = p_t (dp_t - sum_u p_u dp_u),
//	dq = mul sum_t ds_t k_t,  dk_t = mul ds_t q
//
// with ds scaled by 1-(s/c)^2 where scores are capped.
func (t *Tape) Attend(block int, q, k, v *tensor.Mat) *tensor.Mat {
	b := &t.g.Blocks[block]
	if k != nil {
		t.kv[block] = keyed{t.cache(k, b.HeadDim), t.cache(v, b.HeadDim)}
	}
	kv := t.kv[b.KVFrom]
	y := t.mat(q.R, q.C)
	a := &attention{t: t, b: b, q: q, k: kv.k, v: kv.v, y: y}
	row, at := 0, 0
	for _, n := range t.seqs {
		a.starts, a.squares = append(a.starts, row), append(a.squares, at)
		row, at = row+n, at+n*n*b.Heads
	}
	if t.record {
		a.probs = t.pool.take(at)
	}
	grain := 1 + (1<<17)*len(t.seqs)/(1+at*b.HeadDim)
	t.split(len(t.seqs)*b.Heads, grain, func(lo, hi int) {
		w := newWork(b.HeadDim)
		for i := lo; i < hi; i++ {
			a.forward(w, i/b.Heads, i%b.Heads)
		}
	})
	t.then(func() {
		dq, _ := t.into(q)
		a.dq, a.dk, a.dv, a.dy = dq, t.Grad(kv.k), t.Grad(kv.v), t.Grad(y)
		// The query heads of one KV head add to the same keys: one goroutine.
		t.split(len(t.seqs)*b.KVHeads, grain, func(lo, hi int) {
			w, group := newWork(b.HeadDim), b.Heads/b.KVHeads
			for i := lo; i < hi; i++ {
				for h := range group {
					a.backward(w, i/b.KVHeads, i%b.KVHeads*group+h)
				}
			}
		})
	})
	return y
}

// cache returns x as the cache would give it back, rounded by heads.
func (t *Tape) cache(x *tensor.Mat, headDim int) *tensor.Mat {
	if t.round.Cached == nil {
		return x
	}
	y := t.mat(x.R, x.C)
	t.rows(x.R, x.C, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			copy(y.Row(r), x.Row(r))
			for c := 0; c < x.C; c += headDim {
				t.round.Cached(y.Row(r)[c : c+headDim])
			}
		}
	})
	t.then(func() { t.pass(x, t.Grad(y)) })
	return y
}

// attention is one block's attention over the batch.
type attention struct {
	t              *Tape
	b              *model.Block
	q, k, v, y     *tensor.Mat
	dq, dk, dv, dy *tensor.Mat
	starts         []int     // first row of each sequence
	squares        []int     // where its scores are in probs
	probs          []float32 // [sequence][head][query][position], n by n each; nil: not kept
}

// work is a goroutine's scratch space: the rows of one head of a sequence,
// [n E] each, and squares [n n]: the gradients of the scores, and one turned
// around.
type work struct {
	E            int
	q, k, v, do  []float32
	ds, turned   []float32
	line, capped []float32
	sum          []float32 // [E]
}

func newWork(E int) *work { return &work{E: E, sum: make([]float32, E)} }

func (w *work) fit(n int) {
	for _, s := range []*[]float32{&w.q, &w.k, &w.v, &w.do} {
		*s = grow(*s, n*w.E)
	}
	w.line, w.capped = grow(w.line, n), grow(w.capped, n)
}

// first is the first position that position i sees.
func (a *attention) first(i int) int {
	if a.b.Window == 0 {
		return 0
	}
	return max(0, i+1-a.b.Window)
}

// last is the last of n positions that sees position j.
func (a *attention) last(j, n int) int {
	if a.b.Window == 0 {
		return n - 1
	}
	return min(n-1, j+a.b.Window-1)
}

// gather copies the columns of one head of n rows of x together.
func gather(dst []float32, x *tensor.Mat, row, n, col, E int) {
	for i := range n {
		copy(dst[i*E:(i+1)*E], x.X[(row+i)*x.C+col:])
	}
}

func (a *attention) forward(w *work, s, head int) {
	b, f, E := a.b, a.t.f, a.b.HeadDim
	row, n := a.starts[s], a.t.seqs[s]
	kc := head / (b.Heads / b.KVHeads) * E
	w.fit(n)
	gather(w.k, a.k, row, n, kc, E)
	gather(w.v, a.v, row, n, kc, E)
	for i := range n {
		at := a.first(i)
		p := w.line[:i+1-at]
		if a.probs != nil {
			p = a.probs[a.squares[s]+(head*n+i)*n+at:][:i+1-at]
		}
		f.ScoresF32(p, a.q.Row(row + i)[head*E:][:E], w.k[at*E:(i+1)*E], b.AttnScale)
		if b.AttnCap != 0 {
			f.SoftCap(p, b.AttnCap)
		}
		sum := f.Softmax(p, at)
		for j := range p {
			p[j] /= sum
		}
		f.MixF32(a.y.Row(row + i)[head*E:][:E], p, w.v[at*E:(i+1)*E])
	}
}

// backward goes over the queries for dq, with the scores' gradients kept by
// position, then over the positions for dk and dv.
func (a *attention) backward(w *work, s, head int) {
	b, f, E := a.b, a.t.f, a.b.HeadDim
	row, n := a.starts[s], a.t.seqs[s]
	kc := head / (b.Heads / b.KVHeads) * E
	w.fit(n)
	w.ds, w.turned = grow(w.ds, n*n), grow(w.turned, n*n)
	probs := a.probs[a.squares[s]+head*n*n:][:n*n]
	gather(w.k, a.k, row, n, kc, E)
	gather(w.v, a.v, row, n, kc, E)
	gather(w.q, a.q, row, n, head*E, E)
	gather(w.do, a.dy, row, n, head*E, E)
	for i := range n {
		at := a.first(i)
		ds := w.ds[i*n+at : i*n+i+1]
		a.scores(w, ds, probs[i*n+at:i*n+i+1], i, at)
		f.MixF32(a.dq.Row(row + i)[head*E:][:E], ds, w.k[at*E:(i+1)*E])
	}
	a.mix(w, probs, w.do, a.dv, row, n, kc)
	a.mix(w, w.ds, w.q, a.dk, row, n, kc)
}

// mix adds, for each of n positions, the sum of the rows of x [n E] of all
// queries that see it, weighted by their square [n n], to dst.
func (a *attention) mix(w *work, square, x []float32, dst *tensor.Mat, row, n, col int) {
	const tile = 16
	for j := 0; j < n; j += tile {
		transposeTiles(w.turned, square, n, n, j, j, min(j+tile, n))
	}
	for j := range n {
		end := a.last(j, n) + 1
		a.t.f.MixF32(w.sum, w.turned[j*n+j:j*n+end], x[j*w.E:end*w.E])
		a.t.f.Add(dst.Row(row + j)[col:col+w.E], w.sum)
	}
}

// scores writes the gradients ds of query i's dots with the keys from position
// at on, where p is the softmax of its scores.
func (a *attention) scores(w *work, ds, p []float32, i, at int) {
	f, E := a.t.f, w.E
	f.ScoresF32(ds, w.do[i*E:(i+1)*E], w.v[at*E:(i+1)*E], 1)
	var mean float64
	for j, x := range p {
		mean += float64(x) * float64(ds[j])
	}
	for j, x := range p {
		ds[j] = float32(a.b.AttnScale * float32(x*float32(ds[j]-float32(mean))))
	}
	if c := a.b.AttnCap; c != 0 {
		z := w.capped[:len(p)]
		f.ScoresF32(z, w.q[i*E:(i+1)*E], w.k[at*E:(i+1)*E], a.b.AttnScale)
		f.SoftCap(z, c)
		for j, x := range z {
			ds[j] *= float32(1 - float32(float32(x/c)*float32(x/c)))
		}
	}
}
