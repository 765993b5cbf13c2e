// Qwen3 (arXiv 2505.09388), dense: Qwen2 without biases and with a norm over
// each head's query and key before rotation. Read from the behaviour of
// transformers' models/qwen3/modeling_qwen3.py.

package model

var archQwen3 = Arch{
	Name:    "qwen3",
	Types:   []string{"qwen3"},
	Classes: []string{"Qwen3ForCausalLM"},
	GGUF:    "qwen3",
	build: func(c *Config) *Graph {
		bias := c.BoolOr("attention_bias", false)
		return c.qwen(128, layer{qkNorm: true, qkvBias: bias, oBias: bias})
	},
}
