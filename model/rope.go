// Rotary position embeddings (RoFormer, arXiv 2104.09864): the frequencies, in
// the forms that Hugging Face's modeling_rope_utils.py computes, and the tables
// of cosines and sines. Where that code works in float32 throughout, we compute
// a frequency in float64 and round it once.

package model

import (
	"math"

	"slmc/formats"
)

// maxContext bounds positions, so that every angle stays below maxAngle.
const maxContext = maxAngle

// Tables returns the cosines and sines of r for the positions below context, at
// most 2^20: [context E/2], row-major. The angle is float32(position)*InvFreq
// rounded to float32, as the reference implementations have it; its cosine and
// sine are rounded once. The same bits come out on every CPU.
func (r Rope) Tables(context int) (cos, sin []float32) {
	if context > maxContext {
		panic("model.Rope.Tables: context beyond 2^20")
	}
	half := len(r.InvFreq)
	cos, sin = make([]float32, context*half), make([]float32, context*half)
	for p := range context {
		for i, f := range r.InvFreq {
			s, c := sinCos(float64(float32(float32(p) * f)))
			cos[p*half+i], sin[p*half+i] = float32(c), float32(s)
		}
	}
	return cos, sin
}

// rope reads the frequencies of a head of E elements from rope_theta with
// rope_scaling, or from rope_parameters, where transformers 5 keeps both.
func (c *Config) rope(E int, theta float64) Rope {
	p := c.Sub("rope_parameters")
	if p == nil {
		return scaledRope(E, c.FloatOr("rope_theta", theta), c.Sub("rope_scaling"), c)
	}
	if c.Has("rope_scaling") {
		c.Fail(formats.ErrUnsupported, "rope_scaling", "stands beside rope_parameters: one of them is wanted")
	}
	theta = c.FloatOr("rope_theta", theta)
	own := p.FloatOr("rope_theta", theta)
	if c.Has("rope_theta") && own != theta {
		c.Fail(formats.ErrCorrupt, "rope_theta", "is %g, but %g in rope_parameters", theta, own)
	}
	return scaledRope(E, own, p, c)
}

// scaledRope computes the frequencies of base theta under the scaling s, which
// may be nil.
func scaledRope(E int, theta float64, s, parent *Config) Rope {
	if theta < 1 {
		parent.Fail(formats.ErrCorrupt, "rope_theta", "is %g, wanted at least 1", theta)
		theta = 1
	}
	inv := make([]float64, E/2)
	for i := range inv {
		inv[i] = 1 / pow(theta, float64(2*i)/float64(E))
	}
	r := Rope{HeadDim: E, InvFreq: make([]float32, E/2), Base: theta}
	if s != nil {
		r.Scaling = s.scaleRope(inv)
		s.RefuseUnread(nil)
	}
	for i, f := range inv {
		r.InvFreq[i] = float32(f)
	}
	return r
}

// Factors returns what divides each unscaled frequency of r's base, [E/2].
func (r Rope) Factors() []float32 {
	out := make([]float32, len(r.InvFreq))
	for i, f := range r.InvFreq {
		out[i] = float32(1 / pow(r.Base, float64(2*i)/float64(r.HeadDim)) / float64(f))
	}
	return out
}

// FreqFactors is the rope_type under which a source gives, in "factors", the
// number that divides each frequency (GGUF's rope_freqs.weight).
const FreqFactors = "freq_factors"

// scaleRope applies the scaling that s describes and returns it.
func (s *Config) scaleRope(inv []float64) (out RopeScaling) {
	kind := s.TextOr("rope_type", s.TextOr("type", "default"))
	if old := s.TextOr("type", kind); old != kind {
		s.Fail(formats.ErrCorrupt, "type", "is %q, but rope_type is %q", old, kind)
	}
	s.Only("partial_rotary_factor", 1)
	switch kind {
	case "default", "linear":
		// Present in some files, and read by neither form.
		s.get("original_max_position_embeddings")
		if kind == "linear" {
			out = RopeScaling{Type: kind, Factor: s.scale("factor")}
			for i := range inv {
				inv[i] /= out.Factor
			}
		}
	case "llama3":
		out = s.llama3(inv)
	case FreqFactors:
		factors := s.Floats("factors")
		if len(factors) != len(inv) {
			s.Fail(formats.ErrCorrupt, "factors", "has %d numbers, wanted %d", len(factors), len(inv))
			return out
		}
		out = RopeScaling{Type: kind, Factors: factors}
		for i := range inv {
			inv[i] /= factors[i]
		}
	default:
		s.Fail(formats.ErrUnsupported, "rope_type", "is %q: only default, linear, llama3 are implemented", kind)
		for key := range s.values {
			s.read[key] = true // one complaint is enough
		}
	}
	return out
}

// scale is a required number of at least 1.
func (s *Config) scale(key string) float64 {
	f := s.Float(key)
	if f < 1 {
		s.Fail(formats.ErrUnsupported, key, "is %g, wanted at least 1", f)
		return 1
	}
	return f
}

// llama3 is the scaling of Llama 3.1 (Hugging Face's
// _compute_llama3_parameters): long wavelengths are divided by factor, short
// ones kept, those between mixed linearly in the frequency.
func (s *Config) llama3(inv []float64) RopeScaling {
	out := RopeScaling{
		Type: "llama3", Factor: s.scale("factor"), LowFreq: s.Float("low_freq_factor"), HighFreq: s.Float("high_freq_factor"),
		Context: s.Int("original_max_position_embeddings", maxContext),
	}
	factor, low, high, context := out.Factor, out.LowFreq, out.HighFreq, float64(out.Context)
	if !(low < high) {
		s.Fail(formats.ErrUnsupported, "high_freq_factor", "is %g, wanted more than low_freq_factor %g", high, low)
		return out
	}
	for i, f := range inv {
		turns := float64(context*f) / (2 * math.Pi) // of the pair within the original context
		switch {
		case turns > high:
		case turns < low:
			inv[i] = f / factor
		default:
			smooth := (turns - low) / (high - low)
			inv[i] = float64((1-smooth)*f)/factor + float64(smooth*f)
		}
	}
	return out
}
