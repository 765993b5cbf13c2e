package slmrt

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"slmc/internal/kernel"
)

// Sampling chooses the next token from logits. The zero value is greedy. The
// steps run in the order in which Hugging Face transformers runs them:
// repetition penalty (CTRL, arXiv 1909.05858, section 4.1), temperature, top-k,
// top-p (arXiv 1904.09751), min-p (arXiv 2407.01082), draw.
type Sampling struct {
	Temperature       float32 `json:"temperature"`        // 0: greedy
	TopK              int     `json:"top_k"`              // 0: all
	TopP              float32 `json:"top_p"`              // 0 or 1: all
	MinP              float32 `json:"min_p"`              // 0: all
	RepetitionPenalty float32 `json:"repetition_penalty"` // 0 or 1: none
	Seed              uint64  `json:"seed"`
}

// Check reports a setting outside its range.
func (c Sampling) Check() error {
	switch {
	case !(c.Temperature >= 0 && c.Temperature <= 100):
		return fmt.Errorf("temperature is %g, want 0 to 100", c.Temperature)
	case c.TopK < 0:
		return fmt.Errorf("top-k is %d, want 0 or more", c.TopK)
	case !(c.TopP >= 0 && c.TopP <= 1):
		return fmt.Errorf("top-p is %g, want 0 to 1", c.TopP)
	case !(c.MinP >= 0 && c.MinP <= 1):
		return fmt.Errorf("min-p is %g, want 0 to 1", c.MinP)
	case !(c.RepetitionPenalty == 0 || c.RepetitionPenalty > 0 && c.RepetitionPenalty <= 100):
		return fmt.Errorf("repetition penalty is %g, want above 0", c.RepetitionPenalty)
	}
	return nil
}

// Sampler draws tokens. All its arithmetic is float32 in a fixed order with
// the kernel's exp, so a seed gives the same tokens on every CPU.
type Sampler struct {
	c          Sampling
	rand       *rand.PCG
	cand, swap []candidate
	z          []float32
}

type candidate struct {
	id int32
	z  float32 // logit, then exp((logit - largest) / temperature)
}

// NewSampler returns a sampler that starts from the seed.
func NewSampler(c Sampling) *Sampler {
	return &Sampler{c: c, rand: rand.NewPCG(c.Seed, 0)}
}

// Next returns the token that follows logits z [V], which are left unchanged;
// seen holds the tokens so far, for the repetition penalty.
func (s *Sampler) Next(z []float32, seen []int32) int32 {
	z = s.penalise(z, seen)
	if s.c.Temperature == 0 {
		return int32(kernel.ArgMax(z))
	}
	c := s.largest(z)
	// The difference before the division: a logit over a tiny temperature is
	// infinite, and Inf - Inf no number.
	top, total := c[0].z, float32(0)
	for i := range c {
		c[i].z = kernel.Exp(float32(c[i].z-top) / s.c.Temperature)
		total += c[i].z
	}
	if s.c.TopP > 0 && s.c.TopP < 1 {
		c, total = nucleus(c, float32(s.c.TopP*total))
	}
	for len(c) > 1 && c[len(c)-1].z < s.c.MinP { // the first is exp(0) = 1
		total -= c[len(c)-1].z
		c = c[:len(c)-1]
	}
	u := float32(float32(s.rand.Uint64()>>40)*0x1p-24) * total
	for _, x := range c {
		if u -= x.z; u < 0 {
			return x.id
		}
	}
	return c[len(c)-1].id
}

// nucleus keeps the shortest prefix whose mass reaches goal.
func nucleus(c []candidate, goal float32) ([]candidate, float32) {
	mass := float32(0)
	for i, x := range c {
		if mass += x.z; mass >= goal {
			return c[:i+1], mass
		}
	}
	return c, mass
}

// penalise divides positive logits of seen tokens by the penalty and
// multiplies negative ones.
func (s *Sampler) penalise(z []float32, seen []int32) []float32 {
	p := s.c.RepetitionPenalty
	if p == 0 || p == 1 {
		return z
	}
	s.z = append(s.z[:0], z...)
	for _, id := range seen {
		if v := z[id]; v > 0 {
			s.z[id] = v / p
		} else {
			s.z[id] = v * p
		}
	}
	return s.z
}

// largest returns the candidates that top-k leaves, the largest logit first
// and the smaller id of equals.
func (s *Sampler) largest(z []float32) []candidate {
	if k := s.c.TopK; k > 0 && k <= len(z)/8 {
		return s.topK(z, k)
	}
	c := s.cand[:0]
	for i, v := range z {
		c = append(c, candidate{int32(i), v})
	}
	s.cand, s.swap = c, slices.Grow(s.swap[:0], len(c))[:len(c)]
	sortCandidates(c, s.swap)
	if s.c.TopK > 0 {
		c = c[:min(s.c.TopK, len(c))]
	}
	return c
}

// before says that a comes before b.
func before(a, b candidate) bool { return a.z > b.z || a.z == b.z && a.id < b.id }

// topK keeps the first k candidates in a heap whose root is the last of them.
func (s *Sampler) topK(z []float32, k int) []candidate {
	h := s.cand[:0]
	for i, v := range z {
		x := candidate{int32(i), v}
		if len(h) < k {
			h = append(h, x)
			for at := len(h) - 1; at > 0 && before(h[(at-1)/2], h[at]); at = (at - 1) / 2 {
				h[at], h[(at-1)/2] = h[(at-1)/2], h[at]
			}
			continue
		}
		if before(x, h[0]) {
			h[0] = x
			sink(h, 0)
		}
	}
	s.cand = h
	for n := len(h) - 1; n > 0; n-- {
		h[0], h[n] = h[n], h[0]
		sink(h[:n], 0)
	}
	return h
}

// sink moves h[at] down to its place.
func sink(h []candidate, at int) {
	for {
		last := at
		for _, child := range [2]int{2*at + 1, 2*at + 2} {
			if child < len(h) && before(h[last], h[child]) {
				last = child
			}
		}
		if last == at {
			return
		}
		h[at], h[last] = h[last], h[at]
		at = last
	}
}

// sortCandidates sorts c, whose ids ascend, byte by byte of the logits; equal
// ones keep their order. swap is as long as c.
func sortCandidates(c, swap []candidate) {
	for shift := 0; shift < 32; shift += 8 {
		var at [257]int
		for _, x := range c {
			at[descending(x.z)>>shift&255+1]++
		}
		for i := range 256 {
			at[i+1] += at[i]
		}
		for _, x := range c {
			k := descending(x.z) >> shift & 255
			swap[at[k]] = x
			at[k]++
		}
		c, swap = swap, c
	}
}

// descending maps z to a key that is smaller the larger z is, the same for both
// zeros.
func descending(z float32) uint32 {
	b := math.Float32bits(z + 0) // -0 + 0 = 0
	if b>>31 == 1 {
		return b
	}
	return ^b &^ (1 << 31)
}
