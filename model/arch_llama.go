// Llama: Llama 2 (arXiv 2307.09288), Llama 3 (arXiv 2407.21783), TinyLlama,
// SmolLM2, and Mistral without a sliding window, which is the same model. Read
// from the behaviour of transformers' models/llama/modeling_llama.py.

package model

import "slmc/formats"

var archLlama = Arch{
	Name:    "llama",
	Types:   []string{"llama", "mistral"},
	Classes: []string{"LlamaForCausalLM", "MistralForCausalLM"},
	GGUF:    "llama",
	build: func(c *Config) *Graph {
		if c.TextOr("model_type", "") == "mistral" && !c.Null("sliding_window") && !c.Has("sliding_window") {
			c.Fail(formats.ErrUnsupported, "sliding_window", "is absent, which stands for 4096 in a mistral: only null is implemented")
		}
		c.Only("sliding_window")
		return c.llama(1, c.BoolOr("tie_word_embeddings", false))
	},
}

// llama builds the graph of a Llama whose layers each run repeat times in a
// row.
func (c *Config) llama(repeat int, tied bool) *Graph {
	c.Only("hidden_act", "silu")
	d := c.dims(0, 0)
	l := layer{act: SiLU}
	l.qkvBias = c.BoolOr("attention_bias", false)
	l.oBias = l.qkvBias
	l.mlpBias = c.BoolOr("mlp_bias", false)
	if *c.errs != nil {
		return nil // the dimensions are not to be trusted
	}
	l.attnScale = headScale(d.E)
	b := c.decoder(d, 1e-6, 2048, tied, false)
	b.g.Ropes = []Rope{c.rope(d.E, 10000)}
	return b.blocks(repeat, func(int) layer { return l })
}
