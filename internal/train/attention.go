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
	a.probs = t.pool.take(a.probsLen())
	t.split(len(t.seqs)*b.Heads, 1, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			a.forward(i/b.Heads, i%b.Heads)
		}
	})
	t.then(func() {
		a.dq, a.dk, a.dv, a.dy = t.grad(q), t.grad(kv.k), t.grad(kv.v), t.grad(y)
		// The query heads of one KV head add to the same keys: one goroutine.
		t.split(len(t.seqs)*b.KVHeads, 1, func(lo, hi int) {
			for i := lo; i < hi; i++ {
				group := b.Heads / b.KVHeads
				for h := range group {
					a.backward(i/b.KVHeads, i%b.KVHeads*group+h)
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
	copy(y.X, x.X)
	t.split(x.R, 8, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			for c := 0; c < x.C; c += headDim {
				t.round.Cached(y.Row(r)[c : c+headDim])
			}
		}
	})
	t.then(func() { t.f.Add(t.grad(x).X, t.grad(y).X) })
	return y
}

// attention is one block's attention over the batch.
type attention struct {
	t              *Tape
	b              *model.Block
	q, k, v, y     *tensor.Mat
	dq, dk, dv, dy *tensor.Mat
	probs          []float32 // [sequence][head][query][position], lower triangles as squares
}

// probsLen is the room that all score matrices take.
func (a *attention) probsLen() int {
	n := 0
	for _, s := range a.t.seqs {
		n += s * s * a.b.Heads
	}
	return n
}

// square returns the first row of sequence s, its length, and the scores of a
// head in it, [n n].
func (a *attention) square(s, head int) (row, n int, p []float32) {
	at := 0
	for i, m := range a.t.seqs {
		if i == s {
			n = m
			break
		}
		row += m
		at += m * m * a.b.Heads
	}
	return row, n, a.probs[at+head*n*n:][:n*n]
}

// first is the first position that position i sees.
func (a *attention) first(i int) int {
	if a.b.Window == 0 {
		return 0
	}
	return max(0, i+1-a.b.Window)
}

// gather copies the columns of one head of rows [row, row+n) of x together.
func gather(dst []float32, x *tensor.Mat, row, n, col, E int) {
	for i := range n {
		copy(dst[i*E:(i+1)*E], x.Row(row + i)[col:])
	}
}

func (a *attention) forward(s, head int) {
	b, f, E := a.b, a.t.f, a.b.HeadDim
	row, n, probs := a.square(s, head)
	kc := head / (b.Heads / b.KVHeads) * E
	k, v := make([]float32, n*E), make([]float32, n*E)
	gather(k, a.k, row, n, kc, E)
	gather(v, a.v, row, n, kc, E)
	for i := range n {
		at := a.first(i)
		p := probs[i*n+at : i*n+i+1]
		f.ScoresF32(p, a.q.Row(row + i)[head*E:][:E], k[at*E:(i+1)*E], b.AttnScale)
		if b.AttnCap != 0 {
			f.SoftCap(p, b.AttnCap)
		}
		sum := f.Softmax(p, at)
		for j := range p {
			p[j] /= sum
		}
		f.MixF32(a.y.Row(row + i)[head*E:][:E], p, v[at*E:(i+1)*E])
	}
}

func (a *attention) backward(s, head int) {
	b, f, E := a.b, a.t.f, a.b.HeadDim
	row, n, probs := a.square(s, head)
	kc := head / (b.Heads / b.KVHeads) * E
	k, v := make([]float32, n*E), make([]float32, n*E)
	gather(k, a.k, row, n, kc, E)
	gather(v, a.v, row, n, kc, E)
	dp, capped, dq := make([]float32, n), make([]float32, n), make([]float32, E)
	for i := range n {
		at := a.first(i)
		p, q := probs[i*n+at:i*n+i+1], a.q.Row(row + i)[head*E:][:E]
		do := a.dy.Row(row + i)[head*E:][:E]
		ds := dp[:len(p)]
		f.ScoresF32(ds, do, v[at*E:(i+1)*E], 1)
		var mean float64
		for j, x := range p {
			mean += float64(x) * float64(ds[j])
		}
		for j, x := range p {
			ds[j] = float32(x * float32(ds[j]-float32(mean)))
		}
		if c := b.AttnCap; c != 0 {
			z := capped[:len(p)]
			f.ScoresF32(z, q, k[at*E:(i+1)*E], b.AttnScale)
			f.SoftCap(z, c)
			for j, x := range z {
				ds[j] *= float32(1 - float32(float32(x/c)*float32(x/c)))
			}
		}
		f.MixF32(dq, ds, k[at*E:(i+1)*E])
		axpy(a.dq.Row(row + i)[head*E:][:E], b.AttnScale, dq)
		for j, x := range p {
			axpy(a.dv.Row(row + at + j)[kc:kc+E], x, do)
			axpy(a.dk.Row(row + at + j)[kc:kc+E], float32(b.AttnScale*ds[j]), q)
		}
	}
}
