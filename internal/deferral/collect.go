package deferral

import (
	"math"

	"slmc/internal/kernel"
	"slmc/tensor"
)

// Collector gathers the features of one generation as the runtime computes it.
// It is not safe for concurrent use.
type Collector struct {
	r     *Router
	f     *kernel.Funcs
	shape Shape

	seen   int         // tokens of the prompt
	prompt [][]float32 // by block: sum of the states of the prompt's tokens
	last   [][]float32 // by block: state of the prompt's last token
	now    [][]float32 // by block: state of the last token so far
	answer [][]float32 // by block: sum of the states that tokens were chosen from
	// surprised is the sum of the states before the head, each weighted by how
	// unlikely the token was that was chosen from it: attention without
	// parameters.
	surprised []float32
	tokens    []token
	first     First
	view      View
	ood       float32

	ids                   []int32 // the prompt
	head                  []int32 // scratch of Answer
	zeros                 []float32
	scratch               []float32 // [V]
	logp, margin, entropy []float32
	features              []float32
	work                  Work
}

// token is what is kept of a generated token and its distribution.
type token struct {
	id      int32
	logp    float32 // of id, nats
	entropy float32
	margin  float32 // between the two likeliest
}

// First describes the distribution of an answer's first token.
type First struct {
	Entropy float32 // nats
	Top     [TopTokens]Ranked
}

// Ranked is a token with its log-probability.
type Ranked struct {
	ID   int32
	LogP float32
}

// TopTokens is how many of the likeliest tokens are looked at.
const TopTokens = 8

// NewCollector returns a collector whose sums the kernels f compute; any of
// them gives the same bits.
func (r *Router) NewCollector(f *kernel.Funcs) *Collector {
	c := &Collector{r: r, f: f, shape: r.shape, zeros: make([]float32, r.shape.width())}
	rows := func() [][]float32 {
		out := make([][]float32, r.shape.Blocks+1)
		for _, b := range r.shape.read() {
			out[b] = make([]float32, r.shape.Hidden)
		}
		return out
	}
	c.prompt, c.last, c.now, c.answer = rows(), rows(), rows(), rows()
	c.surprised = make([]float32, r.shape.Hidden)
	return c
}

// read lists the blocks whose input is looked at.
func (s Shape) read() []int { return []int{s.early(), s.inner(), s.late(), s.Blocks} }

// Start begins a generation from a prompt.
func (c *Collector) Start(ids []int32) {
	for _, list := range [][][]float32{c.prompt, c.last, c.now, c.answer} {
		for _, x := range list {
			clear(x)
		}
	}
	clear(c.surprised)
	c.seen, c.tokens, c.first, c.ood = len(ids), c.tokens[:0], First{}, 0
	c.ids = append(c.ids[:0], ids...)
}

// State takes the residual stream x [R D] that enters a block, or the head as
// block L.
func (c *Collector) State(block int, x *tensor.Mat) {
	if block < 0 || c.now[block] == nil {
		return
	}
	if len(c.tokens) == 0 {
		for r := range x.R {
			c.f.Add(c.prompt[block], x.Row(r))
		}
		copy(c.last[block], x.Row(x.R-1))
	}
	copy(c.now[block], x.Row(x.R-1))
}

// Prompt takes the logits z [V] after the prompt.
func (c *Collector) Prompt(z []float32) {
	c.distribution(z, &c.first)
	c.view.See(c.r.opinion, c.f, c.ids, &c.first)
	c.ood = c.r.Strangeness(&c.view, &c.first)
}

// First is the distribution of the first token; Prompt has been called.
func (c *Collector) First() First { return c.first }

// Answer returns the ids generated so far, at most Prefix of them.
func (c *Collector) Answer() []int32 {
	c.head = c.head[:0]
	for _, t := range c.tokens[:min(Prefix, len(c.tokens))] {
		c.head = append(c.head, t.id)
	}
	return c.head
}

// Token takes a generated token and the logits z [V] that it was chosen from.
func (c *Collector) Token(z []float32, id int32) {
	var d First
	lse := c.distribution(z, &d)
	t := token{id: id, logp: min(0, z[id]-lse), entropy: d.Entropy, margin: d.Top[0].LogP - d.Top[1].LogP}
	c.tokens = append(c.tokens, t)
	for _, b := range []int{c.shape.inner(), c.shape.Blocks} {
		c.f.Add(c.answer[b], c.now[b])
	}
	w := 1 - kernel.Exp(t.logp)
	for i, v := range c.now[c.shape.Blocks] {
		c.surprised[i] = kernel.FMA32(w, v, c.surprised[i])
	}
}

// distribution describes that of logits z and returns log(sum(exp(z))).
func (c *Collector) distribution(z []float32, d *First) (lse float32) {
	c.scratch = grow(c.scratch, len(z))
	most := z[kernel.ArgMax(z)]
	copy(c.scratch, z)
	sum := c.f.Softmax(c.scratch, 0)
	log := kernel.Log(sum)
	lse = most + log
	// Entropy is log(sum) - sum(e*(z-most))/sum.
	var lanes [4]float32
	for i, e := range c.scratch {
		lanes[i&3] += float32(e * float32(z[i]-most))
	}
	d.Entropy = max(0, log-float32(float32(lanes[0]+lanes[1])+float32(lanes[2]+lanes[3]))/sum)
	for i := range d.Top {
		d.Top[i] = Ranked{-1, -80}
	}
	for i, v := range z {
		if l := v - lse; l > d.Top[TopTokens-1].LogP {
			j := TopTokens - 1
			for ; j > 0 && d.Top[j-1].LogP < l; j-- {
				d.Top[j] = d.Top[j-1]
			}
			d.Top[j] = Ranked{int32(i), l}
		}
	}
	return lse
}

// Signals are what an answer says of itself without any training.
type Signals struct {
	Entropy float32 // mean over its tokens, nats
	LogProb float32 // summed
}

// Signals returns those of the tokens so far.
func (c *Collector) Signals() (s Signals) {
	for _, t := range c.tokens {
		s.Entropy += t.entropy
		s.LogProb += t.logp
	}
	s.Entropy /= float32(max(1, len(c.tokens)))
	return s
}

// Read returns the reading at a checkpoint; ended says at Post that the model
// ended its answer itself. It panics when the router has no head there.
func (c *Collector) Read(at Checkpoint, ended bool) Reading {
	c.features = c.Features(c.features[:0], at, ended)
	return c.r.Reading(at, c.features, c.ood, len(c.tokens), &c.work)
}

func sqrt32(x float32) float32 { return float32(math.Sqrt(float64(x))) }
