package slmrt

import (
	"cmp"
	"fmt"
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
	c    Sampling
	rand *rand.PCG
	cand []candidate
	z    []float32
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
	c := s.cand[:0]
	for i, v := range z {
		c = append(c, candidate{int32(i), v})
	}
	s.cand = c
	// Largest first, the smaller id of equals.
	slices.SortFunc(c, func(a, b candidate) int {
		if n := cmp.Compare(b.z, a.z); n != 0 {
			return n
		}
		return cmp.Compare(a.id, b.id)
	})
	if s.c.TopK > 0 {
		c = c[:min(s.c.TopK, len(c))]
	}
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
