// Package model describes a language model as data: a Graph of blocks and
// weights that conversion, calibration, training and the runtime all walk.
// An architecture is described once, in its arch_*.go file.
//
// Letters in the comments: D hidden size, H heads, K KV heads, E head size,
// F FFN size, V vocabulary, L blocks, T tokens.
package model

import "slices"

// None is the index of a weight that is absent.
const None = -1

// Role says what a weight does. Number formats are chosen by Role.
type Role string

// The roles of weights.
const (
	RoleEmbed Role = "embed" // token embedding [V D]; also the head when tied
	RoleHead  Role = "head"  // output projection [V D]
	RoleAttnQ Role = "attn_q"
	RoleAttnK Role = "attn_k"
	RoleAttnV Role = "attn_v"
	RoleAttnO Role = "attn_o"
	RoleGate  Role = "ffn_gate"
	RoleUp    Role = "ffn_up"
	RoleDown  Role = "ffn_down"
	RoleNorm  Role = "norm" // vectors: norms
	RoleBias  Role = "bias" // vectors: biases
)

// Roles lists every role, matrices first.
var Roles = []Role{RoleEmbed, RoleHead, RoleAttnQ, RoleAttnK, RoleAttnV, RoleAttnO, RoleGate, RoleUp, RoleDown, RoleNorm, RoleBias}

// Matrix reports whether weights of this role are matrices.
func (r Role) Matrix() bool { return r != RoleNorm && r != RoleBias }

// Weight describes one tensor of the model. Shape is [out in] for a matrix,
// rows in the order of the Hugging Face checkpoint, and [n] for a vector.
type Weight struct {
	Name  string `json:"name"` // GGUF's name: "blk.3.attn_q.weight"
	Role  Role   `json:"role"`
	Shape []int  `json:"shape"`
	// Input labels the activation that a matrix multiplies: weights with the
	// same label share one set of activation statistics.
	Input string `json:"input,omitempty"`
	// Source is the tensor's name in a Hugging Face checkpoint.
	Source string `json:"-"`
	// AddOne: the checkpoint stores the weight minus one (Gemma's norms).
	AddOne bool `json:"-"`
	// RopeHeads is the number of rotary heads whose rows a checkpoint with
	// interleaved rotary order (Meta, GGUF) permutes; 0 for other weights.
	RopeHeads int `json:"-"`
}

// Linear is a matrix with an optional bias; W is None when absent.
type Linear struct {
	W int `json:"w"`
	B int `json:"b"` // None without bias
}

// Activation names the nonlinearity of a gated FFN.
type Activation string

// The activations.
const (
	SiLU     Activation = "silu"
	GELUTanh Activation = "gelu_tanh"
)

// Block is one transformer block as it is executed. Blocks that share weights
// (MobileLLM's layer sharing) carry the same weight indices.
//
//	h = norm(x, AttnNorm); q,k,v = Q h, K h, V h; q,k normed per head and rotated
//	x += norm?(O attention(q, k, v), PostAttnNorm)
//	h = norm(x, FFNNorm); x += norm?(Down(act(Gate h) * Up h), PostFFNNorm)
type Block struct {
	AttnNorm     int    `json:"attn_norm"`
	Q            Linear `json:"q"`
	K            Linear `json:"k"` // W is None in a taker
	V            Linear `json:"v"`
	O            Linear `json:"o"`
	QNorm        int    `json:"q_norm"`
	KNorm        int    `json:"k_norm"`
	PostAttnNorm int    `json:"post_attn_norm"`
	FFNNorm      int    `json:"ffn_norm"`
	Gate         Linear `json:"gate"`
	Up           Linear `json:"up"`
	Down         Linear `json:"down"`
	PostFFNNorm  int    `json:"post_ffn_norm"`

	Heads     int        `json:"heads"`
	KVHeads   int        `json:"kv_heads"`
	HeadDim   int        `json:"head_dim"`
	FFN       int        `json:"ffn"`
	Act       Activation `json:"act"`
	AttnScale float32    `json:"attn_scale"` // multiplies q.k
	AttnCap   float32    `json:"attn_cap"`   // soft-cap of scores; 0 none
	Window    int        `json:"window"`     // positions seen, itself included; 0 all
	Rope      int        `json:"rope"`       // index into Graph.Ropes; None: no rotation
	// KVFrom is the block whose keys and values this one reads: its own index
	// when it computes them (a giver), an earlier giver's otherwise (a taker).
	KVFrom int `json:"kv_from"`
}

// Rope is one set of rotary frequencies: InvFreq[i] for the pair (i, i+E/2).
// Base and Scaling say what they were computed from, for exports to formats
// that store that instead.
type Rope struct {
	HeadDim int         `json:"head_dim"`
	InvFreq []float32   `json:"inv_freq"` // [E/2], radians per position, scaling included
	Base    float64     `json:"base"`     // of the unscaled frequencies Base^(-2i/E); 0 where unknown
	Scaling RopeScaling `json:"scaling,omitzero"`
}

// RopeScaling is a scaling in the words of Hugging Face's rope_scaling, the
// zero value for none.
type RopeScaling struct {
	Type     string  `json:"type"` // "linear", "llama3" or FreqFactors
	Factor   float64 `json:"factor,omitzero"`
	LowFreq  float64 `json:"low_freq_factor,omitzero"`
	HighFreq float64 `json:"high_freq_factor,omitzero"`
	Context  int     `json:"original_max_position_embeddings,omitzero"`
	// Factors divide the frequencies, one each, under FreqFactors.
	Factors []float64 `json:"factors,omitempty"`
}

// Graph is a decoder-only language model.
type Graph struct {
	Arch       string  `json:"arch"`
	Hidden     int     `json:"hidden"`
	Vocab      int     `json:"vocab"`
	Context    int     `json:"context"`
	NormEps    float32 `json:"norm_eps"`
	EmbedScale float32 `json:"embed_scale"` // multiplies embedding rows; 1 for most
	LogitCap   float32 `json:"logit_cap"`   // soft-cap of the logits; 0 none
	Embed      int     `json:"embed"`
	Norm       int     `json:"norm"`
	Head       Linear  `json:"head"` // W equals Embed when tied

	Ropes   []Rope   `json:"ropes"`
	Blocks  []Block  `json:"blocks"`
	Weights []Weight `json:"weights"`
	// Unread are weights that a checkpoint of this config may hold although no
	// block reads them.
	Unread []Weight `json:"-"`
}

// Clone returns a deep copy, for stages that rewrite the graph.
func (g *Graph) Clone() *Graph {
	c := *g
	c.Ropes = slices.Clone(g.Ropes)
	for i := range c.Ropes {
		c.Ropes[i].InvFreq = slices.Clone(c.Ropes[i].InvFreq)
		c.Ropes[i].Scaling.Factors = slices.Clone(c.Ropes[i].Scaling.Factors)
	}
	c.Blocks = slices.Clone(g.Blocks)
	c.Weights = slices.Clone(g.Weights)
	for i := range c.Weights {
		c.Weights[i].Shape = slices.Clone(c.Weights[i].Shape)
	}
	return &c
}

// Tied reports whether the output projection is the embedding.
func (g *Graph) Tied() bool { return g.Head.W == g.Embed }

// Parameters counts the elements of all weights, a tied embedding once.
func (g *Graph) Parameters() int {
	n := 0
	for _, w := range g.Weights {
		n += w.Elems()
	}
	return n
}

// Elems is the number of elements of the weight.
func (w Weight) Elems() int {
	n := 1
	for _, d := range w.Shape {
		n *= d
	}
	return n
}

// Givers lists the blocks that compute keys and values, in order: each has one
// cache slot.
func (g *Graph) Givers() []int {
	var out []int
	for i, b := range g.Blocks {
		if b.KVFrom == i {
			out = append(out, i)
		}
	}
	return out
}

// Index returns the index of the weight of that name, or None.
func (g *Graph) Index(name string) int {
	return slices.IndexFunc(g.Weights, func(w Weight) bool { return w.Name == name })
}
