// Gemma 2 (arXiv 2408.00118), text: norms stored minus one, also after
// attention and FFN; GeGLU; scaled embeddings; soft caps; every other layer
// windowed, the first one included. Read from the behaviour of transformers'
// models/gemma2/modeling_gemma2.py.

package model

import (
	"math"
	"slices"

	"slmc/formats"
	"slmc/tensor"
)

var archGemma2 = Arch{
	Name:    "gemma2",
	Types:   []string{"gemma2"},
	Classes: []string{"Gemma2ForCausalLM"},
	GGUF:    "gemma2",
	build: func(c *Config) *Graph {
		g := gemma{attnCap: 50, logitCap: 30, context: 8192, theta: 10000}
		g.local = func(i int) bool { return i%2 == 0 }
		return c.gemma(g)
	},
}

// gemma is what Gemma 2 and 3 do not share: defaults, and which layers are
// windowed.
type gemma struct {
	attnCap, logitCap float64
	context           int
	theta             float64
	qkNorm            bool
	local             func(i int) bool
	// ropes reads the frequencies of full and of windowed layers; nil means
	// that all layers have the same.
	ropes func(c *Config, E int) (full, local Rope)
}

func (c *Config) gemma(m gemma) *Graph {
	c.Only("hidden_activation", "gelu_pytorch_tanh")
	c.Only("hidden_act", "gelu_pytorch_tanh")
	c.Only("use_bidirectional_attention", false)
	d := c.dims(4, 256)
	bias := c.BoolOr("attention_bias", false)
	windowed := c.sliding(d.L, m.local)
	window := c.IntOr("sliding_window", 4096, maxContext)
	if c.Null("sliding_window") && slices.Contains(windowed, true) {
		c.Fail(formats.ErrUnsupported, "sliding_window", "is null: wanted the window of the sliding layers")
	}
	c.Only("sliding_window_size", window) // an older name that some files still carry
	l := layer{qkvBias: bias, oBias: bias, qkNorm: m.qkNorm, sandwich: true, addOne: true, act: GELUTanh}
	l.attnScale = 1 / math.Sqrt(c.FloatOr("query_pre_attn_scalar", 256))
	l.attnCap = c.FloatNull("attn_logit_softcapping", m.attnCap)
	if *c.errs != nil {
		return nil
	}
	b := c.decoder(d, 1e-6, m.context, c.BoolOr("tie_word_embeddings", true), true)
	b.g.LogitCap = float32(c.FloatNull("final_logit_softcapping", m.logitCap))
	b.g.EmbedScale = c.embedScale(d.D)
	if m.ropes == nil {
		b.g.Ropes = []Rope{c.rope(d.E, m.theta)}
	} else {
		full, local := m.ropes(c, d.E)
		b.g.Ropes = []Rope{full, local}
	}
	return b.blocks(1, func(i int) layer {
		l := l
		if windowed[i] {
			l.window, l.rope = window, len(b.g.Ropes)-1
		}
		return l
	})
}

// embedScale is sqrt(D), rounded to the type of the checkpoint: transformers
// makes the normalizer a tensor of the hidden states' type, so that a bfloat16
// model of D 3072 was trained and is run with 55.5. The float forward pass keeps
// that value. A source that names no type (GGUF) has the float32 root, as
// llama.cpp has.
func (c *Config) embedScale(D int) float32 {
	root := float32(math.Sqrt(float64(D)))
	kind := c.TextOr("torch_dtype", c.TextOr("dtype", "float32"))
	switch kind {
	case "float32":
		return root
	case "bfloat16":
		return tensor.BFloatFrom(root).Float32()
	case "float16":
		return tensor.HalfFrom(root).Float32()
	}
	c.Fail(formats.ErrUnsupported, "torch_dtype", "is %q: float32, float16 or bfloat16 is wanted", kind)
	return root
}

// headScale is 1/sqrt(E).
func headScale(E int) float64 { return 1 / math.Sqrt(float64(E)) }
