package model

import (
	"fmt"
	"slices"
	"strings"

	"slmc/formats"
)

// Arch is a known architecture.
type Arch struct {
	Name  string   // Graph.Arch
	Types []string // model_type of a config.json
	// Classes are the entries of "architectures" whose weights and outputs are
	// these: a sequence classifier of the same model_type is another model.
	Classes []string
	GGUF    string // general.architecture of a GGUF file that holds it
	build   func(c *Config) *Graph
}

// Archs lists the architectures; one file each describes them.
func Archs() []Arch {
	return []Arch{archLlama, archMobileLLM, archQwen2, archQwen3, archGemma2, archGemma3}
}

// Build describes the model of a config as a Graph. An architecture or a key
// that is not implemented is ErrUnsupported, named with its value; ignore lists
// keys that the user vouches for. Numbers that contradict each other are
// ErrCorrupt.
func Build(c *Config, ignore ...string) (*Graph, error) {
	arch, err := findArch(c)
	if err != nil {
		return nil, err
	}
	c.common()
	g := arch.build(c)
	c.Ignore(KVFromKey) // both are read below
	c.Ignore(sharedLayersKey)
	c.RefuseUnread(ignore)
	if err := c.Err(); err != nil {
		return nil, err
	}
	g = c.shareKV(g)
	if err := c.Err(); err != nil {
		return nil, err
	}
	g.Arch = arch.Name
	return g, nil
}

func findArch(c *Config) (Arch, error) {
	kind, classes := c.TextOr("model_type", ""), c.Texts("architectures")
	if err := c.Err(); err != nil {
		return Arch{}, err
	}
	var known []string
	for _, a := range Archs() {
		known = append(known, a.Types...)
		if !slices.Contains(a.Types, kind) && !(kind == "" && len(classes) == 1 && slices.Contains(a.Classes, classes[0])) {
			continue
		}
		for _, class := range classes {
			if !slices.Contains(a.Classes, class) {
				c.Fail(formats.ErrUnsupported, "architectures", "is %q: only %s is implemented for model_type %q", class, strings.Join(a.Classes, ", "), kind)
				return Arch{}, c.Err()
			}
		}
		return a, nil
	}
	c.Fail(formats.ErrUnsupported, "model_type", "is %q: only %s are implemented", kind, strings.Join(known, ", "))
	return Arch{}, c.Err()
}

// common refuses what no architecture here implements, whatever its name.
func (c *Config) common() {
	if q := c.Sub("quantization_config"); q != nil {
		c.Fail(formats.ErrUnsupported, "quantization_config", "has quant_method %q: the checkpoint is quantized already, a float one is wanted", q.TextOr("quant_method", ""))
	}
	c.Only("compression_config")
	c.Only("is_encoder_decoder", false)
	c.Only("is_decoder", false, true)
	c.Only("add_cross_attention", false)
	c.Only("partial_rotary_factor", 1)
	c.Only("rope_interleaved", false)
	if v, ok := c.get("pruned_heads").(map[string]any); ok && len(v) > 0 {
		c.Fail(formats.ErrUnsupported, "pruned_heads", "is %s: not implemented", brief(v))
	}
}

// Bounds on dimensions, far above any model that fits a phone: they keep a
// hostile config from asking for more than a graph's memory.
const (
	maxLayers = 4096
	maxHeads  = 4096
	maxWidth  = 1 << 20
	maxVocab  = 1 << 24
)

// dims are the dimensions that every decoder has.
type dims struct {
	D, H, K, E, F, V, L int
}

// dims reads the dimensions. kvHeads and headDim are defaults; 0 stands for as
// many as heads, and for D/H.
func (c *Config) dims(kvHeads, headDim int) dims {
	d := dims{
		D: c.Int("hidden_size", maxWidth),
		H: c.Int("num_attention_heads", maxHeads),
		F: c.Int("intermediate_size", maxWidth),
		V: c.Int("vocab_size", maxVocab),
		L: c.Int("num_hidden_layers", maxLayers),
	}
	if kvHeads == 0 {
		kvHeads = d.H
	}
	d.K = c.IntOr("num_key_value_heads", kvHeads, maxHeads)
	if headDim == 0 && d.H > 0 {
		headDim = d.D / d.H
		if d.D%d.H != 0 && !c.Has("head_dim") {
			c.Fail(formats.ErrCorrupt, "hidden_size", "is %d, which does not split into %d heads", d.D, d.H)
		}
	}
	d.E = c.IntOr("head_dim", headDim, maxHeads)
	if d.E%2 != 0 {
		c.Fail(formats.ErrUnsupported, "head_dim", "is %d, wanted an even number", d.E)
	}
	if d.K > 0 && d.H%d.K != 0 {
		c.Fail(formats.ErrCorrupt, "num_key_value_heads", "is %d, which does not divide %d heads", d.K, d.H)
	}
	return d
}

// layer is what may differ between the blocks of a decoder beside weights.
type layer struct {
	qkvBias, oBias, mlpBias bool
	qkNorm                  bool // norms over each head's q and k
	sandwich                bool // norms after attention and FFN too
	addOne                  bool // norms are stored minus one
	act                     Activation
	attnScale, attnCap      float64
	window, rope            int
}

// builder collects weights and blocks.
type builder struct {
	g *Graph
	d dims
}

// decoder starts the graph of a decoder whose embedding, final norm and head
// have the usual names. The caller has checked c.Err.
func (c *Config) decoder(d dims, eps float64, context int, tied, addOne bool) *builder {
	b := &builder{d: d, g: &Graph{
		Hidden: d.D, Vocab: d.V, EmbedScale: 1,
		Context: c.IntOr("max_position_embeddings", context, maxContext),
		NormEps: float32(c.FloatOr("rms_norm_eps", eps)),
	}}
	b.g.Embed = b.weight(Weight{Name: "token_embd.weight", Role: RoleEmbed, Source: "model.embed_tokens.weight", Shape: []int{d.V, d.D}})
	b.g.Norm = b.weight(Weight{Name: "output_norm.weight", Role: RoleNorm, Source: "model.norm.weight", Shape: []int{d.D}, AddOne: addOne})
	b.g.Head = Linear{W: b.g.Embed, B: None}
	const label = "output"
	if tied {
		b.g.Weights[b.g.Embed].Input = label
	} else {
		b.g.Head.W = b.weight(Weight{Name: "output.weight", Role: RoleHead, Source: "lm_head.weight", Shape: []int{d.V, d.D}, Input: label})
	}
	return b
}

func (b *builder) weight(w Weight) int {
	b.g.Weights = append(b.g.Weights, w)
	return len(b.g.Weights) - 1
}

// block adds the weights of checkpoint layer n and returns the block that
// reads them, whose KVFrom the caller sets.
func (b *builder) block(n int, l layer) Block {
	d, at := b.d, fmt.Sprintf("blk.%d.", n)
	from := fmt.Sprintf("model.layers.%d.", n)
	norm := func(on bool, name, source string, size int) int {
		if !on {
			return None
		}
		return b.weight(Weight{Name: at + name + ".weight", Role: RoleNorm, Source: from + source + ".weight", Shape: []int{size}, AddOne: l.addOne})
	}
	linear := func(role Role, bias bool, name, source, input string, out, in, ropeHeads int) Linear {
		w := Weight{Name: at + name + ".weight", Role: role, Source: from + source + ".weight", Shape: []int{out, in}, Input: at + input, RopeHeads: ropeHeads}
		lin := Linear{W: b.weight(w), B: None}
		if bias {
			lin.B = b.weight(Weight{Name: at + name + ".bias", Role: RoleBias, Source: from + source + ".bias", Shape: []int{out}, RopeHeads: ropeHeads})
		}
		return lin
	}
	blk := Block{Heads: d.H, KVHeads: d.K, HeadDim: d.E, FFN: d.F, Act: l.act,
		AttnScale: float32(l.attnScale), AttnCap: float32(l.attnCap), Window: l.window, Rope: l.rope}
	blk.AttnNorm = norm(true, "attn_norm", "input_layernorm", d.D)
	blk.Q = linear(RoleAttnQ, l.qkvBias, "attn_q", "self_attn.q_proj", "attn_in", d.H*d.E, d.D, d.H)
	blk.K = linear(RoleAttnK, l.qkvBias, "attn_k", "self_attn.k_proj", "attn_in", d.K*d.E, d.D, d.K)
	blk.V = linear(RoleAttnV, l.qkvBias, "attn_v", "self_attn.v_proj", "attn_in", d.K*d.E, d.D, 0)
	blk.O = linear(RoleAttnO, l.oBias, "attn_output", "self_attn.o_proj", "attn_out", d.D, d.H*d.E, 0)
	blk.QNorm = norm(l.qkNorm, "attn_q_norm", "self_attn.q_norm", d.E)
	blk.KNorm = norm(l.qkNorm, "attn_k_norm", "self_attn.k_norm", d.E)
	blk.PostAttnNorm, blk.PostFFNNorm = None, None
	ffnNorm := "post_attention_layernorm"
	if l.sandwich {
		blk.PostAttnNorm = norm(true, "post_attention_norm", ffnNorm, d.D)
		ffnNorm = "pre_feedforward_layernorm"
	}
	blk.FFNNorm = norm(true, "ffn_norm", ffnNorm, d.D)
	blk.Gate = linear(RoleGate, l.mlpBias, "ffn_gate", "mlp.gate_proj", "ffn_in", d.F, d.D, 0)
	blk.Up = linear(RoleUp, l.mlpBias, "ffn_up", "mlp.up_proj", "ffn_in", d.F, d.D, 0)
	blk.Down = linear(RoleDown, l.mlpBias, "ffn_down", "mlp.down_proj", "ffn_mid", d.D, d.F, 0)
	blk.PostFFNNorm = norm(l.sandwich, "post_ffw_norm", "post_feedforward_layernorm", d.D)
	return blk
}

// blocks adds one block for each checkpoint layer, or several in a row when
// each layer runs repeat times; every block that runs has a cache slot of its
// own.
func (b *builder) blocks(repeat int, layerOf func(i int) layer) *Graph {
	for i := range b.d.L {
		blk := b.block(i, layerOf(i))
		for range repeat {
			blk.KVFrom = len(b.g.Blocks)
			b.g.Blocks = append(b.g.Blocks, blk)
		}
	}
	return b.g
}

// sliding says, for each layer, whether its attention is windowed: by
// layer_types where the config lists them, else by def.
func (c *Config) sliding(layers int, def func(i int) bool) []bool {
	out := make([]bool, layers)
	types := c.Texts("layer_types")
	if types != nil && len(types) != layers {
		c.Fail(formats.ErrCorrupt, "layer_types", "has %d entries, wanted %d", len(types), layers)
		return out
	}
	for i := range out {
		switch {
		case types == nil:
			out[i] = def(i)
		case types[i] == "sliding_attention":
			out[i] = true
		case types[i] != "full_attention":
			c.Fail(formats.ErrUnsupported, "layer_types", "holds %q: only full_attention, sliding_attention are implemented", types[i])
			return out
		}
	}
	return out
}
