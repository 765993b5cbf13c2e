// MobileLLM (arXiv 2402.14905): a Llama that says by share_embedding, and not
// by tie_word_embeddings, that the head is the embedding, and whose layers may
// run twice in a row (layer_sharing, section 3.2.3 of the paper). Read from the
// behaviour of facebookresearch/MobileLLM, utils/modeling_llama.py, where the
// second pass of a layer would append to the first's cache: here each pass has
// a slot of its own, which is what the model computes without a cache.

package model

var archMobileLLM = Arch{
	Name:    "mobilellm",
	Types:   []string{"mobilellm"},
	Classes: []string{"MobileLLMForCausalLM"},
	GGUF:    "llama", // without layer sharing
	build: func(c *Config) *Graph {
		repeat := 1
		if c.BoolOr("layer_sharing", false) {
			repeat = 2
		}
		tied := c.BoolOr("tie_word_embeddings", false)
		return c.llama(repeat, c.BoolOr("share_embedding", tied) || tied)
	},
}
