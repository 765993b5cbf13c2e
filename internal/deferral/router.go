package deferral

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"slmc/internal/kernel"
)

// Parts are what a router is made of.
type Parts struct {
	Shape Shape
	// Weights is the root digest of the weights section of the bundle that the
	// router was trained on; it fits no other.
	Weights    [32]byte
	Opinion    *Opinion // nil without one
	Strange    Strange
	Heads      []Head
	Table      Table
	References []Reference
}

// Router reads a model and says when to defer. It is immutable and shared.
type Router struct {
	shape   Shape
	weights [32]byte
	opinion *Opinion
	strange Strange
	heads   []Head
	table   Table
	refs    []Reference
	id      string
}

// MaxParameters bounds the numbers that a router learned.
const MaxParameters = 100_000

// New returns the router of these parts, which it keeps, after checking them.
// One without heads can collect features and nothing else.
func New(p Parts) (*Router, error) {
	if err := p.check(); err != nil {
		return nil, fmt.Errorf("router: %w", err)
	}
	if p.Opinion != nil {
		p.Opinion.Index()
	}
	r := &Router{p.Shape, p.Weights, p.Opinion, p.Strange, p.Heads, p.Table, p.References, ""}
	text, err := r.Encode()
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	r.id = hex.EncodeToString(sum[:8])
	return r, nil
}

// ID names the router in logs: the first digits of its section's SHA-256.
func (r *Router) ID() string { return r.id }

// Weights is the root digest of the weights that the router was trained on.
func (r *Router) Weights() [32]byte { return r.weights }

// Shape is that of the model.
func (r *Router) Shape() Shape { return r.shape }

// Opinion is the second opinion; nil without one.
func (r *Router) Opinion() *Opinion { return r.opinion }

// Parts returns what the router is made of, not to be changed.
func (r *Router) Parts() Parts {
	return Parts{r.shape, r.weights, r.opinion, r.strange, r.heads, r.table, r.refs}
}

// Parameters counts what was learned.
func (r *Router) Parameters() int {
	p := r.Parts()
	return p.parameters()
}

func (p *Parts) parameters() int {
	n := 0
	if o := p.Opinion; o != nil {
		n += len(o.Table) + len(o.Out) + len(o.Bias)
	}
	for i := range p.Heads {
		n += p.Heads[i].Parameters()
	}
	return n
}

// Table is the certified table. It must not be changed.
func (r *Router) Table() *Table { return &r.table }

// Reference returns the scores' distribution at a checkpoint; ok is false when
// the router keeps none there.
func (r *Router) Reference(c Checkpoint) (ref Reference, ok bool) {
	for _, ref := range r.refs {
		if ref.Checkpoint == c {
			return ref, true
		}
	}
	return Reference{}, false
}

// ReferenceOOD is the distribution of Reading.OOD over the certificate's
// queries, which is not even: the shares are those of the training data.
func (r *Router) ReferenceOOD() (ref Reference, ok bool) { return r.Reference(OODReference) }

// OODReference names that distribution among those of the checkpoints.
const OODReference Checkpoint = "ood"

// Reads reports whether the router has a head for the checkpoint.
func (r *Router) Reads(c Checkpoint) bool { return r.head(c) != nil }

func (r *Router) head(c Checkpoint) *Head {
	for i := range r.heads {
		if r.heads[i].Checkpoint == c {
			return &r.heads[i]
		}
	}
	return nil
}

// Work is the scratch space of Reading; the zero value is ready.
type Work struct{ in, hidden []float32 }

// Reading is what the router says of a checkpoint's features when tokens have
// been generated; strange is Strange.Sum of the prompt. It panics when there is
// no head for the checkpoint.
func (r *Router) Reading(at Checkpoint, features []float32, strange float32, tokens int, w *Work) Reading {
	h := r.head(at)
	w.in, w.hidden = grow(w.in, len(h.Inputs)), grow(w.hidden, h.Hidden)
	var z [Outputs]float32
	h.Standardize(w.in, features)
	h.Logits(z[:], w.hidden, w.in)
	wrong, gain := Sigmoid(z[OutWrong]), Sigmoid(z[OutGain])
	return Reading{
		Checkpoint: at, Tokens: tokens,
		Wrong: h.Wrong.At(wrong), Gain: h.Gain.At(gain), Score: gain,
		OOD: r.strange.CDF.At(strange),
	}
}

// MACs counts the multiply-adds of a reading at a checkpoint: the second
// opinion and the head, what is pooled along the way aside.
func (r *Router) MACs(c Checkpoint) int {
	n := 0
	if h := r.head(c); h != nil {
		n += h.MACs()
	}
	if c == Pre && r.opinion != nil {
		n += len(r.opinion.Out)
	}
	return n
}

// Reference is the distribution of scores at one checkpoint over the
// certificate's queries, to notice drift against: Share[i] of them had a score
// below Edges[i] and not below Edges[i-1]; the last share has no upper edge.
type Reference struct {
	Checkpoint Checkpoint `json:"checkpoint"`
	Edges      []float32  `json:"edges"`
	Share      []float32  `json:"share"`
}

// Strange turns features into the out-of-distribution score: each of them,
// oriented so that more is stranger, standardized over the known queries, and
// added. CDF maps the sum to the share of known queries below it.
type Strange struct {
	Mean [StrangeSize]float32 `json:"mean"`
	Inv  [StrangeSize]float32 `json:"inv"` // 0: not used
	CDF  Curve                `json:"cdf"`
}

// StrangeSize is the number of features of Strange.
const StrangeSize = 4

// StrangeInputs are the features of Strange: the entropy of the first token's
// distribution (its logarithm), and of the second opinion its largest logit, its
// entropy, and how far it agrees with the model; larger is stranger.
func StrangeInputs(v *View, first *First) (u [StrangeSize]float32) {
	u[0] = kernel.Log(first.Entropy + 1e-3)
	if v.o != nil {
		u[1], u[2], u[3] = -v.most, v.entropy, -kernel.Log(v.overlap+1e-2)
	}
	return u
}

// Strangeness is the out-of-distribution score of a prompt before it is turned
// into a share of known queries.
func (r *Router) Strangeness(v *View, first *First) float32 {
	return r.strange.Sum(StrangeInputs(v, first))
}

// Sum is the score before CDF.
func (s *Strange) Sum(u [StrangeSize]float32) (sum float32) {
	for i, x := range u {
		sum += float32(float32(x-s.Mean[i]) * s.Inv[i])
	}
	return sum
}
