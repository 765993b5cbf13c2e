// What llama.cpp wants of a model file, by architecture: metadata keys, tensor
// names and which of a model's settings its graphs can't express. Read from
// llama.cpp release v0.5.0: src/llama-model.cpp (load_hparams),
// src/models/{llama,qwen2,qwen3,gemma2,gemma3}.cpp, conversion/*.py.
//
// Tensors (shapes row-major; D hidden, H heads, K KV heads, E head size, F
// FFN, V vocabulary), "b" for blk.N.:
//
//	token_embd.weight [V D]                  all
//	output_norm.weight [D]                   all
//	output.weight [V D]                      absent where tied; gemma2 is always tied
//	rope_freqs.weight [E/2]                  llama with llama3 scaling (RopeFactors), F32
//	b attn_norm.weight, ffn_norm.weight [D]  all
//	b attn_q.weight [H*E D], attn_k, attn_v.weight [K*E D], attn_output.weight [D H*E]
//	b attn_q.bias [H*E], attn_k, attn_v.bias [K*E]        qwen2, and llama with attention_bias
//	b attn_output.bias [D]                                llama with attention_bias
//	b attn_q_norm.weight, attn_k_norm.weight [E]          qwen3, gemma3
//	b post_attention_norm.weight, post_ffw_norm.weight [D] gemma2, gemma3; there ffn_norm is
//	                                         Hugging Face's pre_feedforward_layernorm
//	b ffn_gate.weight, ffn_up.weight [F D], ffn_down.weight [D F]; llama with mlp_bias: .bias too
//
// Tensors of one dimension must be F32: norms and biases enter operations that
// take nothing else. All norms of gemma2 and gemma3 are written as 1 + weight.
// q and k rows of llama are interleaved (Tensor.Heads; K heads for k).
//
// Tokenizer (Vocab.KVs). A SentencePiece vocabulary is Model "llama", Pre
// "default", with Scores and Types, its pieces as they are ("▁the"): <unk> is
// TokenUnknown, <s> and other special tokens TokenControl, <0x00> to <0xFF>
// TokenByte; llama.cpp merges the pair whose piece scores highest, so a
// vocabulary known by merges alone takes ScoresFromMerges. gemma sets
// AddSpacePrefix false. A byte-level BPE is Model "gpt2" with Merges, tokens in
// GPT-2's byte alphabet ("Ġthe") and Types; special added tokens are
// TokenControl, other added ones TokenUserDefined, both as plain text, and
// Pre names the splitting regex: "llama-bpe", "qwen2", "smollm", "gpt-2",
// "tekken", ... Rows of the embedding beyond the vocabulary get tokens
// "[PAD<id>]" of type TokenUnused, since the number of tokens must be that of
// the embedding's rows. AddBOS says what the post-processor does; llama.cpp's
// own default is true for "llama" and, with Pre "llama-bpe", for "gpt2".

package gguf

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

// ArchParams is a model's shape and settings in llama.cpp's terms. Zero means
// absent, except where it says otherwise.
type ArchParams struct {
	Arch string // llama, qwen2, qwen3, gemma2, gemma3
	Name string // general.name, free text
	Type Type   // the type of most weights, for general.file_type

	Vocab     int // rows of the embedding
	Context   int
	Embedding int // D
	Blocks    int // L
	FFN       int // F
	Heads     int // H
	KVHeads   int // K
	HeadDim   int // E
	NormEps   float64

	RopeBase      float64
	RopeBaseLocal float64 // of sliding layers: gemma3's rope_local_base_freq
	// RopeLinear is the factor of linear scaling, by which positions are
	// divided (in gemma3 those of global layers). Llama3 scaling has no key:
	// write RopeFactors as the tensor rope_freqs.weight.
	RopeLinear float64

	// QueryScale is what the scores are multiplied with, 0 for 1/sqrt(E).
	// llama.cpp has no key for it.
	QueryScale float64

	AttnSoftCap  float64 // gemma2
	FinalSoftCap float64 // gemma2, gemma3

	SlidingWindow int    // gemma2, gemma3: positions that a sliding layer sees
	Sliding       []bool // which layers slide, one a layer; nil: the architecture's own pattern
}

// archRule is what an architecture allows beyond the common part.
type archRule struct {
	name    string
	rotKey  bool // the converter writes rope.dimension_count and vocab_size
	gemma   bool
	square  bool // q has as many rows as columns: H*E = D
	pattern int  // sliding layers: all but every pattern-th
	tied    bool // the output is the embedding, whatever the file holds
	biases  string
}

const (
	qkvBiases = "attn_q attn_k attn_v"
	allBiases = qkvBiases + " attn_output ffn_gate ffn_up ffn_down"
)

var archRules = []archRule{
	{name: "llama", rotKey: true, biases: allBiases},
	{name: "qwen2", square: true, biases: qkvBiases},
	{name: "qwen3"},
	{name: "gemma2", gemma: true, pattern: 2, tied: true},
	{name: "gemma3", gemma: true, pattern: 6},
}

// Architectures lists the names that KVs writes.
func Architectures() []string {
	var names []string
	for _, r := range archRules {
		names = append(names, r.name)
	}
	return names
}

// fileTypes are llama.cpp's numbers of general.file_type ("mostly ...").
var fileTypes = []struct {
	typ   Type
	ftype uint32
}{{F32, 0}, {F16, 1}, {Q4_0, 2}, {Q8_0, 7}, {Q2_K, 10}, {BF16, 32}, {TQ2_0, 37}}

// KVs returns the general and the architecture's metadata, in the order of
// llama.cpp's converter. Settings that llama.cpp's graph of the architecture
// can't express are an error, since the file would load and compute something
// else.
func (p ArchParams) KVs() ([]KV, error) {
	rule, err := p.check()
	if err != nil {
		return nil, fmt.Errorf("gguf: architecture %q: %w", p.Arch, err)
	}
	kvs := []KV{{"general.architecture", p.Arch}, {"general.type", "model"}}
	if p.Name != "" {
		kvs = append(kvs, KV{"general.name", p.Name})
	}
	add := func(key string, v any) { kvs = append(kvs, KV{p.Arch + "." + key, v}) }
	count := func(key string, n int) { add(key, uint32(n)) }
	real := func(key string, x float64) {
		if x != 0 {
			add(key, float32(x))
		}
	}
	count("block_count", p.Blocks)
	count("context_length", p.Context)
	count("embedding_length", p.Embedding)
	count("feed_forward_length", p.FFN)
	count("attention.head_count", p.Heads)
	count("attention.head_count_kv", p.KVHeads)
	if p.RopeLinear != 0 {
		add("rope.scaling.type", "linear")
		real("rope.scaling.factor", p.RopeLinear)
	}
	real("rope.freq_base", p.RopeBase)
	if p.slides() {
		real("rope.freq_base_swa", p.RopeBaseLocal)
	}
	real("attention.layer_norm_rms_epsilon", p.NormEps)
	count("attention.key_length", p.HeadDim)
	count("attention.value_length", p.HeadDim)
	if rule.rotKey {
		count("vocab_size", p.Vocab)
		count("rope.dimension_count", p.HeadDim)
	}
	real("attn_logit_softcapping", p.AttnSoftCap)
	real("final_logit_softcapping", p.FinalSoftCap)
	if p.slides() {
		count("attention.sliding_window", p.SlidingWindow)
		if p.Sliding != nil && !rule.defaultPattern(p.Sliding) {
			add("attention.sliding_window_pattern", p.Sliding)
		}
	}
	for _, f := range fileTypes {
		if f.typ == p.Type {
			kvs = append(kvs, KV{"general.file_type", f.ftype})
		}
	}
	if elems, _ := p.Type.Block(); elems > 1 {
		kvs = append(kvs, KV{"general.quantization_version", uint32(2)})
	}
	return kvs, nil
}

// CheckTensor reports a tensor for which llama.cpp's graph of an architecture
// has no place, so that it would not load the file.
func CheckTensor(arch, name string) error {
	i := slices.IndexFunc(archRules, func(r archRule) bool { return r.name == arch })
	if i < 0 {
		return fmt.Errorf("gguf: architecture %q can't be written", arch)
	}
	r := archRules[i]
	part, isBias := strings.CutSuffix(name, ".bias")
	if isBias && !slices.Contains(strings.Fields(r.biases), part[strings.LastIndexByte(part, '.')+1:]) {
		return fmt.Errorf("gguf: architecture %q: %s, llama.cpp has no such bias here", arch, name)
	}
	if r.tied && name == "output.weight" {
		return fmt.Errorf("gguf: architecture %q: a head of its own, llama.cpp takes the embedding here", arch)
	}
	return nil
}

// slides reports whether any layer has a window. llama.cpp aborts on a window
// that no layer uses, so it is then not written.
func (p ArchParams) slides() bool {
	return p.SlidingWindow != 0 && (p.Sliding == nil || slices.Contains(p.Sliding, true))
}

// defaultPattern reports whether llama.cpp's pattern of sliding layers, all
// but the last of each group, is the given one.
func (r archRule) defaultPattern(sliding []bool) bool {
	for i, s := range sliding {
		if s != (i%r.pattern < r.pattern-1) {
			return false
		}
	}
	return true
}

// check returns the architecture's rule, or what is wrong.
func (p ArchParams) check() (archRule, error) {
	var rule archRule
	for _, r := range archRules {
		if r.name == p.Arch {
			rule = r
		}
	}
	if rule.name == "" {
		return rule, fmt.Errorf("can't be written; %s can", strings.Join(Architectures(), ", "))
	}
	for _, n := range []struct {
		name  string
		value int
	}{
		{"Vocab", p.Vocab}, {"Context", p.Context}, {"Embedding", p.Embedding}, {"Blocks", p.Blocks},
		{"FFN", p.FFN}, {"Heads", p.Heads}, {"KVHeads", p.KVHeads}, {"HeadDim", p.HeadDim},
	} {
		if n.value <= 0 || n.value > math.MaxInt32 {
			return rule, fmt.Errorf("%s is %d", n.name, n.value)
		}
	}
	switch {
	case !(p.NormEps > 0):
		return rule, fmt.Errorf("NormEps is %g", p.NormEps)
	case !(p.RopeBase > 0):
		return rule, fmt.Errorf("RopeBase is %g", p.RopeBase)
	case p.Heads%p.KVHeads != 0:
		return rule, fmt.Errorf("%d heads over %d KV heads", p.Heads, p.KVHeads)
	case rule.square && p.Heads*p.HeadDim != p.Embedding:
		return rule, fmt.Errorf("%d heads of %d are not the hidden size %d, which llama.cpp takes q's rows to be", p.Heads, p.HeadDim, p.Embedding)
	case p.Sliding != nil && len(p.Sliding) != p.Blocks:
		return rule, fmt.Errorf("pattern Sliding has %d entries for %d layers", len(p.Sliding), p.Blocks)
	}
	if err := p.checkScale(rule); err != nil {
		return rule, err
	}
	return rule, p.checkGemma(rule)
}

// checkScale compares QueryScale with what llama.cpp computes: 1/sqrt(E), but
// for the largest gemmas, told by their number of layers, 1/sqrt(D/H).
func (p ArchParams) checkScale(rule archRule) error {
	want := 1 / math.Sqrt(float64(p.HeadDim))
	if rule.gemma && (p.Arch == "gemma2" && p.Blocks == 46 || p.Arch == "gemma3" && p.Blocks == 62) {
		want = 1 / math.Sqrt(float64(p.Embedding/p.Heads))
	}
	have := p.QueryScale
	if have == 0 {
		have = 1 / math.Sqrt(float64(p.HeadDim))
	}
	if math.Abs(have-want) > 1e-6*want {
		return fmt.Errorf("scores are scaled by %g, llama.cpp scales them by %g", have, want)
	}
	return nil
}

func (p ArchParams) checkGemma(rule archRule) error {
	switch {
	case !rule.gemma && (p.AttnSoftCap != 0 || p.FinalSoftCap != 0):
		return fmt.Errorf("soft-caps %g and %g, llama.cpp has none here", p.AttnSoftCap, p.FinalSoftCap)
	case !rule.gemma && (p.SlidingWindow != 0 || p.Sliding != nil || p.RopeBaseLocal != 0):
		return errors.New("sliding attention, llama.cpp has none here")
	case p.Arch == "gemma2" && !(p.AttnSoftCap > 0 && p.FinalSoftCap > 0):
		return fmt.Errorf("soft-caps %g and %g, llama.cpp always caps here", p.AttnSoftCap, p.FinalSoftCap)
	case p.Arch == "gemma2" && !p.slides():
		return errors.New("no layer has a sliding window, llama.cpp wants one that does")
	case p.Arch == "gemma3" && p.AttnSoftCap != 0:
		return fmt.Errorf("a soft-cap of %g on scores, llama.cpp has none here", p.AttnSoftCap)
	case p.SlidingWindow < 0 || p.SlidingWindow == 0 && slices.Contains(p.Sliding, true):
		return fmt.Errorf("sliding layers with a window of %d", p.SlidingWindow)
	}
	return nil
}

// ScoresFromMerges gives a SentencePiece-style vocabulary that is known by its
// list of merges ("left right") the scores with which llama.cpp merges in that
// order: a piece scores minus the rank of the first merge that makes it.
// Pieces that no merge makes score below all others.
func ScoresFromMerges(tokens, merges []string) []float32 {
	rank := make(map[string]int, len(merges))
	for i, m := range merges {
		piece := strings.Replace(m, " ", "", 1)
		if _, seen := rank[piece]; !seen {
			rank[piece] = i
		}
	}
	scores := make([]float32, len(tokens))
	for i, t := range tokens {
		if r, ok := rank[t]; ok {
			scores[i] = -float32(r)
		} else {
			scores[i] = -float32(len(merges))
		}
	}
	return scores
}

// RopeFactors returns rope_freqs.weight [E/2] of llama3 scaling: what each
// frequency base^(-2i/E) is divided by. Wavelengths under
// originalContext/highFreq stay, those over originalContext/lowFreq are
// divided by factor, those between by a blend (conversion/llama.py,
// generate_extra_tensors; the published rule of Llama 3.1).
func RopeFactors(base float64, headDim int, factor, lowFreq, highFreq float64, originalContext int) []float32 {
	out := make([]float32, headDim/2)
	context := float64(originalContext)
	for i := range out {
		wavelength := 2 * math.Pi * math.Pow(base, float64(2*i)/float64(headDim))
		switch {
		case wavelength < context/highFreq:
			out[i] = 1
		case wavelength > context/lowFreq:
			out[i] = float32(factor)
		default:
			smooth := (context/wavelength - lowFreq) / (highFreq - lowFreq)
			out[i] = float32(1 / ((1-smooth)/factor + smooth))
		}
	}
	return out
}
