// GGUF files: metadata is put into the words of a config.json, following
// llama.cpp's src/llama-model.cpp (load_hparams) for what the keys mean and what
// their absence means.

package convert

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"slmc/formats"
	"slmc/formats/gguf"
	"slmc/model"
)

func findGGUF(path string, folder bool) string {
	if !folder && (filepath.Ext(path) == ".gguf" || firstBytes(path, 4) == "GGUF") {
		return path
	}
	return ""
}

func openGGUF(_ context.Context, path string, _ Options) (*opened, error) {
	f, err := gguf.Open(path)
	if err != nil {
		return nil, err
	}
	op, err := newGGUF(f, filepath.Base(path))
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return op, nil
}

// newGGUF translates the metadata of f.
func newGGUF(f *gguf.File, name string) (*opened, error) {
	op := &opened{src: f, names: ggufNames, file: name}
	r := &ggufReader{File: f, file: name, prefix: f.Arch() + ".", read: map[string]bool{}, out: map[string]any{}}
	var err error
	if op.config, err = r.config(); err != nil {
		return nil, err
	}
	op.tok.GGUF, err = f.Vocab()
	if errors.Is(err, gguf.ErrMissing) {
		return op, nil
	}
	if err != nil {
		return nil, err
	}
	op.tok.fromVocab(op.tok.GGUF)
	return op, nil
}

// ggufNames: slmc's names are GGUF's, formats/gguf has put q and k rows in
// order, and Gemma's norms are stored with their one.
var ggufNames = naming{name: func(w model.Weight) string { return w.Name }, normsWhole: true}

// ggufReader collects a config; the first failure is kept in err.
type ggufReader struct {
	*gguf.File
	file, prefix string
	read         map[string]bool
	out          map[string]any
	err          error
}

// ggufArch is what the metadata of an architecture says beyond the common keys.
type ggufArch struct {
	arch, modelType string
	more            func(r *ggufReader)
}

// ggufArchs lists the values of general.architecture that are read; they are
// those of model.Archs.
func ggufArchs() []ggufArch {
	return []ggufArch{
		{"llama", "llama", (*ggufReader).llama},
		{"qwen2", "qwen2", func(*ggufReader) {}},
		{"qwen3", "qwen3", func(*ggufReader) {}},
		{"gemma2", "gemma2", (*ggufReader).gemma2},
		{"gemma3", "gemma3_text", (*ggufReader).gemma3},
	}
}

// config translates the metadata.
func (r *ggufReader) config() (*model.Config, error) {
	var known []string
	for _, a := range ggufArchs() {
		known = append(known, a.arch)
		if a.arch != r.Arch() {
			continue
		}
		r.out["model_type"] = a.modelType
		r.common()
		a.more(r)
		r.refuseUnread()
		if r.err != nil {
			return nil, r.err
		}
		return model.NewConfig(r.file, r.out), nil
	}
	return nil, formats.Unsupported(r.file, "", -1, "general.architecture is %q: only %s are implemented", r.Arch(), strings.Join(known, ", "))
}

func (r *ggufReader) fail(err error) {
	if r.err == nil {
		r.err = err
	}
}

// refuse records a key whose value is not implemented.
func (r *ggufReader) refuse(key string, v any, why string) {
	r.fail(formats.Unsupported(r.file, "", -1, "metadata key %q is %v: %s", r.prefix+key, v, why))
}

// count copies a count to a config key; a list must repeat one value, since no
// architecture here varies from block to block.
func (r *ggufReader) count(key, name string, required bool) int {
	r.read[key] = true
	all, err := r.Ints(r.prefix + key)
	if errors.Is(err, gguf.ErrMissing) && !required {
		return 0
	}
	if err != nil {
		r.fail(err)
		return 0
	}
	if len(all) == 0 || slices.Max(all) != slices.Min(all) {
		r.refuse(key, all, "differs from block to block")
		return 0
	}
	if name != "" {
		r.out[name] = json.Number(strconv.FormatInt(all[0], 10))
	}
	return int(all[0])
}

// number copies a float to a config key, in as few digits as name it, so that
// 1e-5 stays 1e-5.
func (r *ggufReader) number(key, name string) float64 {
	r.read[key] = true
	f, err := r.Float(r.prefix + key)
	if errors.Is(err, gguf.ErrMissing) {
		return 0
	}
	if err != nil {
		r.fail(err)
		return 0
	}
	if name != "" {
		r.out[name] = json.Number(strconv.FormatFloat(f, 'g', -1, 32))
	}
	return f
}

// common reads what all architectures have.
func (r *ggufReader) common() {
	r.count("embedding_length", "hidden_size", true)
	r.count("block_count", "num_hidden_layers", true)
	r.count("feed_forward_length", "intermediate_size", true)
	r.count("context_length", "max_position_embeddings", true)
	heads := r.count("attention.head_count", "num_attention_heads", true)
	r.count("attention.head_count_kv", "num_key_value_heads", false)
	r.number("attention.layer_norm_rms_epsilon", "rms_norm_eps")
	if r.number("rope.freq_base", "rope_theta") == 0 {
		r.out["rope_theta"] = json.Number("10000")
	}
	headDim := r.count("attention.key_length", "head_dim", false)
	if headDim == 0 && heads > 0 {
		headDim = r.count("embedding_length", "", true) / heads
		r.out["head_dim"] = json.Number(strconv.Itoa(headDim))
	}
	for _, key := range []string{"attention.value_length", "rope.dimension_count"} {
		if n := r.count(key, "", false); n != 0 && n != headDim {
			r.refuse(key, n, "only the head size "+strconv.Itoa(headDim)+" is implemented")
		}
	}
	if n := r.count("expert_count", "", false); n != 0 {
		r.refuse("expert_count", n, "mixtures of experts are not implemented")
	}
	r.scaling()
	if t, ok := find(r.File, "token_embd.weight"); ok && len(t.Shape) == 2 {
		r.out["vocab_size"] = json.Number(strconv.Itoa(t.Shape[0]))
	}
	_, untied := find(r.File, "output.weight")
	r.out["tie_word_embeddings"] = !untied
}

// ropeFactors is the tensor with the numbers that divide the frequencies, which
// stands for the scaling of Llama 3.1.
const ropeFactors = "rope_freqs.weight"

func (r *ggufReader) scaling() {
	kind, factor := "none", r.number("rope.scaling.factor", "")
	r.read["rope.scaling.type"] = true
	if s, err := r.String(r.prefix + "rope.scaling.type"); err == nil {
		kind = s
	} else if !errors.Is(err, gguf.ErrMissing) {
		r.fail(err)
	}
	if old := r.number("rope.scale_linear", ""); factor == 0 && old != 0 {
		kind, factor = "linear", old
	}
	if factor == 0 {
		factor = 1
	}
	scaling := map[string]any{}
	switch {
	case kind == "linear":
		scaling["rope_type"], scaling["factor"] = "linear", json.Number(strconv.FormatFloat(factor, 'g', -1, 32))
	case kind != "none":
		r.refuse("rope.scaling.type", kind, "only none, linear are implemented")
	}
	if t, ok := find(r.File, ropeFactors); ok {
		if kind == "linear" {
			r.refuse("rope.scaling.type", kind, "beside "+ropeFactors+" it is not implemented")
		}
		scaling["rope_type"], scaling["factors"] = model.FreqFactors, r.factors(t)
	}
	if len(scaling) > 0 {
		r.out["rope_scaling"] = scaling
	}
}

func (r *ggufReader) factors(t formats.TensorInfo) []any {
	if len(t.Shape) != 1 || t.Shape[0] > 1<<12 {
		r.fail(formats.Corrupt(r.file, t.Name, t.Offset, "shape %v, wanted one number a pair of a head", t.Shape))
		return nil
	}
	v := make([]float32, t.Shape[0])
	if err := r.ReadF32(t.Name, 0, v); err != nil {
		r.fail(err)
	}
	out := make([]any, len(v))
	for i, f := range v {
		out[i] = json.Number(strconv.FormatFloat(float64(f), 'g', -1, 32))
	}
	return out
}

func (r *ggufReader) llama() {
	_, qkv := find(r.File, "blk.0.attn_q.bias")
	_, mlp := find(r.File, "blk.0.ffn_gate.bias")
	r.out["attention_bias"], r.out["mlp_bias"] = qkv, mlp
}

// attnScale: llama.cpp does not store query_pre_attn_scalar. It is the head
// size but in the 27B models, which it knows by their number of layers.
func (r *ggufReader) attnScale(layers27B int) {
	scalar := r.out["head_dim"]
	if r.count("block_count", "", true) == layers27B {
		if heads := r.count("attention.head_count", "", true); heads > 0 {
			scalar = json.Number(strconv.Itoa(r.count("embedding_length", "", true) / heads))
		}
	}
	r.out["query_pre_attn_scalar"] = scalar
}

func (r *ggufReader) gemma2() {
	r.attnScale(46)
	r.count("attention.sliding_window", "sliding_window", false)
	r.pattern()
	r.number("attn_logit_softcapping", "attn_logit_softcapping")
	r.number("final_logit_softcapping", "final_logit_softcapping")
}

func (r *ggufReader) gemma3() {
	r.attnScale(62)
	r.pattern()
	if r.count("attention.sliding_window", "sliding_window", false) == 0 {
		r.out["sliding_window_pattern"] = json.Number("1") // no layer is windowed
	}
	r.number("rope.freq_base_swa", "rope_local_base_freq")
	r.number("final_logit_softcapping", "final_logit_softcapping")
	if _, ok := r.out["final_logit_softcapping"]; !ok {
		r.out["final_logit_softcapping"] = nil
	}
}

// pattern reads which layers are windowed: a period, or a list with one entry a
// block.
func (r *ggufReader) pattern() {
	const key = "attention.sliding_window_pattern"
	r.read[key] = true
	all, err := r.Ints(r.prefix + key)
	switch {
	case errors.Is(err, gguf.ErrMissing):
	case err != nil:
		r.fail(err)
	case len(all) == 1:
		r.out["sliding_window_pattern"] = json.Number(strconv.FormatInt(all[0], 10))
	default:
		types := make([]any, len(all))
		for i, on := range all {
			types[i] = "full_attention"
			if on != 0 {
				types[i] = "sliding_attention"
			}
		}
		r.out["layer_types"] = types
	}
}

// ggufHarmless lists keys of an architecture that change no numbers, or none
// that are read here.
var ggufHarmless = []string{"vocab_size", "tensor_data_layout", "expert_used_count", "rope.scaling.original_context_length", "rope.scaling.finetuned", "mm.tokens_per_image"}

// refuseUnread refuses the first key of the architecture that nothing has read.
func (r *ggufReader) refuseUnread() {
	for _, kv := range r.KVs() {
		key, ok := strings.CutPrefix(kv.Key, r.prefix)
		if ok && !r.read[key] && !slices.Contains(ggufHarmless, key) {
			r.refuse(key, kv.Value, "unknown, it may change the numbers")
		}
	}
}
