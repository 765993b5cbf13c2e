package deferral

import (
	"slices"

	"slmc/internal/kernel"
)

// This file turns what a Collector has gathered into the features of a
// checkpoint. All logarithms and exponentials are the kernel's, all sums run in
// the order of tokens or features: bits are the same everywhere.

// Shape is what the features of a model depend on.
type Shape struct {
	Blocks int `json:"blocks"` // L
	Hidden int `json:"hidden"` // D
	// Giver is the last block that computes keys and values: states beyond it
	// exist for the last token of a prompt only.
	Giver int `json:"giver"`
}

// Sketch is the width to which states are reduced; narrower ones stay.
const Sketch = 64

// width is the number of features that one state becomes.
func (s Shape) width() int { return min(s.Hidden, Sketch) }

// The blocks whose input is read: a third and two thirds of the way, and the
// last before the head, none beyond the last giver.
func (s Shape) early() int { return min(s.Blocks/3, s.Giver) }
func (s Shape) inner() int { return min(2*s.Blocks/3, s.Giver) }
func (s Shape) late() int  { return min(s.Blocks-1, s.Giver) }

// The counts of plain numbers.
const (
	preStats   = 5 + TopTokens
	extremes   = 6
	textStats  = 41
	preViews   = 6
	postViews  = 3
	preStates  = 5
	postStates = 6
)

// Layout says how many features of each kind a checkpoint has, in their order.
type Layout struct {
	Stats   int // numbers of the logits
	Opinion int // what the second opinion says, its hidden vector included
	States  int // pooled states
}

// Size is the number of features.
func (l Layout) Size() int { return l.Stats + l.Opinion + l.States }

// Layout is that of a checkpoint, with a second opinion of dim elements (0: none).
func (s Shape) Layout(c Checkpoint, dim int) Layout {
	l := Layout{Stats: preStats, States: preStates * s.width()}
	if dim > 0 {
		l.Opinion = preViews + dim
	}
	if c != Pre {
		l.Stats, l.States = textStats, postStates*s.width()
		if dim > 0 {
			l.Opinion += postViews
		}
	}
	return l
}

// MeanEntropy is the feature of Mid and Post that holds the mean entropy of the
// answer's tokens in nats; SumLogProb the sum of their log-probabilities. The
// first feature of Pre is the entropy of the first token.
const (
	SumLogProb   = 0
	MeanEntropy  = 2
	FirstEntropy = 0
)

// tiny keeps logarithms of quantities that may be 0 finite.
const tiny = 1e-4

// Features appends those of a checkpoint, Layout.Size of them; ended says that
// the model ended its answer itself.
func (c *Collector) Features(dst []float32, at Checkpoint, ended bool) []float32 {
	if at == Pre {
		dst = c.preStats(dst)
		dst = c.view.Features(dst, at, nil)
		dst = c.state(dst, c.last[c.shape.Blocks], 1)
		dst = c.state(dst, c.last[c.shape.inner()], 1)
		for _, b := range []int{c.shape.early(), c.shape.inner(), c.shape.late()} {
			dst = c.state(dst, c.prompt[b], float32(c.seen))
		}
		return dst
	}
	dst = c.textStats(dst, ended)
	dst = c.view.Features(dst, at, c.Answer())
	n, L := float32(max(1, len(c.tokens))), c.shape.Blocks
	dst = c.state(dst, c.answer[L], n)
	dst = c.state(dst, c.now[L], 1)
	dst = c.state(dst, c.surprised, 1)
	dst = c.state(dst, c.last[L], 1)
	dst = c.state(dst, c.prompt[c.shape.inner()], float32(c.seen))
	return c.state(dst, c.answer[c.shape.inner()], n)
}

// state appends the sketch of sum/n, scaled to a root mean square of one: each
// element is added with a sign to one of the sketch's by a hash (count sketch,
// Charikar et al. 2002).
func (c *Collector) state(dst, sum []float32, n float32) []float32 {
	at := len(dst)
	dst = append(dst, c.zeros...)
	out := dst[at:]
	for i, v := range sum {
		v /= n
		if len(sum) <= Sketch {
			out[i] = v
			continue
		}
		h := mix(uint32(i))
		if h&1 == 1 {
			v = -v
		}
		out[h>>1%Sketch] += v
	}
	square := float32(0)
	for _, v := range out {
		square = kernel.FMA32(v, v, square)
	}
	scale := 1 / sqrt32(float32(square/float32(len(out)))+1e-5)
	for i := range out {
		out[i] *= scale
	}
	return dst
}

// preStats appends the numbers of the first token's distribution.
func (c *Collector) preStats(dst []float32) []float32 {
	t := &c.first
	p0, p1 := kernel.Exp(t.Top[0].LogP), kernel.Exp(t.Top[1].LogP)
	dst = append(dst, t.Entropy, kernel.Log(t.Entropy+tiny), kernel.Log(float32(c.seen)), p0, p0-p1)
	for _, x := range t.Top {
		dst = append(dst, x.LogP)
	}
	return dst
}

// textStats appends the numbers of the tokens generated so far.
func (c *Collector) textStats(dst []float32, ended bool) []float32 {
	var sumLogP, sumEntropy float32
	unsure, doubtful := float32(0), float32(0)
	c.logp, c.margin, c.entropy = c.logp[:0], c.margin[:0], c.entropy[:0]
	for _, t := range c.tokens {
		sumLogP += t.logp
		sumEntropy += t.entropy
		if t.logp < -0.2 {
			unsure++
		}
		if t.logp < -0.7 {
			doubtful++
		}
		c.logp, c.margin, c.entropy = append(c.logp, t.logp), append(c.margin, t.margin), append(c.entropy, -t.entropy)
	}
	n := float32(max(1, len(c.tokens)))
	dst = append(dst, sumLogP, sumLogP/n, sumEntropy/n, sumEntropy,
		kernel.Log(n), kernel.Log(float32(c.seen)),
		kernel.Log(tiny-sumLogP), kernel.Log(sumEntropy+tiny), unsure, doubtful)
	for i := range 3 {
		var t token
		if i < len(c.tokens) {
			t = c.tokens[i]
		}
		dst = append(dst, t.logp, t.entropy)
	}
	for _, x := range c.first.Top[1:5] {
		dst = append(dst, x.LogP)
	}
	dst = smallest(dst, c.logp, extremes, 0)
	at := len(dst)
	dst = smallest(dst, c.margin, 4, 10)
	for i := at; i < len(dst); i++ {
		dst[i] = kernel.Log(1 + dst[i])
	}
	dst = smallest(dst, c.entropy, 4, 0)
	dst = append(dst, kernel.Log(tiny-dst[at-extremes]))
	return append(dst, c.window(ended)...)
}

// window returns entropy, margin, surprisal and repetition over the last
// MidEvery tokens, whether the answer ended, and the room of its length in
// windows.
func (c *Collector) window(ended bool) []float32 {
	part := c.tokens[max(0, len(c.tokens)-MidEvery):]
	n := float32(max(1, len(part)))
	var entropy, margin, surprisal, again, end float32
	for i, t := range part {
		entropy += t.entropy
		margin += min(t.margin, 10)
		surprisal -= t.logp
		if slices.ContainsFunc(part[:i], func(o token) bool { return o.id == t.id }) {
			again++
		}
	}
	if ended {
		end = 1
	}
	return []float32{entropy / n, margin / n, surprisal / n, again / n, end, float32(len(c.tokens)) / MidEvery}
}

// smallest appends the n smallest of x, which it sorts, filled up with fill.
func smallest(dst, x []float32, n int, fill float32) []float32 {
	slices.Sort(x)
	for i := range n {
		if i < len(x) {
			dst = append(dst, x[i])
		} else {
			dst = append(dst, fill)
		}
	}
	return dst
}
