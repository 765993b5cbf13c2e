// Qwen2 and Qwen2.5 (arXiv 2407.10671): a Llama whose q, k and v have biases
// and whose upper layers may be windowed. Read from the behaviour of
// transformers' models/qwen2/modeling_qwen2.py and configuration_qwen2.py.

package model

import "slmc/formats"

var archQwen2 = Arch{
	Name:    "qwen2",
	Types:   []string{"qwen2"},
	Classes: []string{"Qwen2ForCausalLM"},
	GGUF:    "qwen2",
	build: func(c *Config) *Graph {
		return c.qwen(0, layer{qkvBias: true})
	},
}

// qwen builds the graph of Qwen2 and Qwen3; headDim is the default, 0 for D/H.
func (c *Config) qwen(headDim int, l layer) *Graph {
	c.Only("hidden_act", "silu")
	c.Only("use_mrope", false)
	d := c.dims(0, headDim)
	windows := c.qwenWindows(d.L)
	if *c.errs != nil {
		return nil
	}
	l.act, l.attnScale = SiLU, headScale(d.E)
	b := c.decoder(d, 1e-6, 32768, c.BoolOr("tie_word_embeddings", false), false)
	b.g.Ropes = []Rope{c.rope(d.E, 10000)}
	return b.blocks(1, func(i int) layer {
		l.window = windows[i]
		return l
	})
}

// qwenWindows returns the window of each layer, 0 for none: sliding_window
// counts only under use_sliding_window, and then from layer max_window_layers
// on unless layer_types says otherwise.
func (c *Config) qwenWindows(layers int) []int {
	on := c.BoolOr("use_sliding_window", false)
	window := c.IntOr("sliding_window", 4096, maxContext)
	full := 28
	if n, ok := asInt(c.get("max_window_layers")); ok && n == 0 {
		full = 0
	} else {
		full = c.IntOr("max_window_layers", full, maxLayers)
	}
	out := make([]int, layers)
	for i, s := range c.sliding(layers, func(i int) bool { return on && i >= full }) {
		if s && !on {
			c.Fail(formats.ErrUnsupported, "layer_types", "holds sliding_attention while use_sliding_window is not true")
			break
		}
		if s {
			out[i] = window
		}
	}
	return out
}
