// Gemma 3 (arXiv 2503.19786), text: Gemma 2 with norms over each head's query
// and key instead of soft caps, and with rotary frequencies of their own in the
// windowed layers, five of every six. Read from the behaviour of transformers'
// models/gemma3/modeling_gemma3.py. The image-and-text wrapper (model_type
// gemma3) is refused: its text part alone is not what that checkpoint is.

package model

import "slmc/formats"

var archGemma3 = Arch{
	Name:    "gemma3",
	Types:   []string{"gemma3_text"},
	Classes: []string{"Gemma3ForCausalLM"},
	GGUF:    "gemma3",
	build: func(c *Config) *Graph {
		pattern := c.IntOr("sliding_window_pattern", c.IntOr("_sliding_window_pattern", 6, maxLayers), maxLayers)
		return c.gemma(gemma{
			context: 131072, qkNorm: true, ropes: gemma3Ropes,
			local: func(i int) bool { return pattern == 0 || (i+1)%pattern != 0 },
		})
	},
}

// gemma3Ropes reads the frequencies: rope_theta and rope_scaling are those of
// the full layers, rope_local_base_freq is the windowed layers' base, never
// scaled; transformers 5 keeps both in rope_parameters by layer type.
func gemma3Ropes(c *Config, E int) (full, local Rope) {
	const theta, localTheta = 1e6, 1e4
	p := c.Sub("rope_parameters")
	if p == nil {
		full = scaledRope(E, c.FloatOr("rope_theta", theta), c.Sub("rope_scaling"), c)
		return full, scaledRope(E, c.FloatOr("rope_local_base_freq", localTheta), nil, c)
	}
	for _, key := range []string{"rope_theta", "rope_scaling", "rope_local_base_freq"} {
		if c.Has(key) {
			c.Fail(formats.ErrUnsupported, key, "stands beside rope_parameters: one of them is wanted")
		}
	}
	one := func(key string, theta float64) Rope {
		s := p.Sub(key)
		if s == nil {
			return scaledRope(E, theta, nil, c)
		}
		return scaledRope(E, s.FloatOr("rope_theta", theta), s, c)
	}
	full, local = one("full_attention", theta), one("sliding_attention", localTheta)
	p.RefuseUnread(nil)
	return full, local
}
