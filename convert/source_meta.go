// Meta's checkpoints (consolidated.00.pth with params.json) and those of
// llama2.c: the trainer's ckpt.pt and the exported .bin. All have Meta's names
// and rotate neighbouring rows of q and k. Their descriptions are put into the
// words of a Llama's config.json.

package convert

import (
	"context"
	"encoding/json"
	"errors"
	"path/filepath"
	"strconv"
	"strings"

	"slmc/formats"
	"slmc/formats/llama2c"
	"slmc/formats/pytorch"
	"slmc/model"
)

func findMeta(path string, folder bool) string {
	if !folder {
		path, folder = filepath.Dir(path), strings.HasPrefix(filepath.Base(path), "consolidated.")
	}
	if folder && exists(path, "consolidated.00.pth") && exists(path, "params.json") {
		return filepath.Join(path, "consolidated.00.pth")
	}
	return ""
}

func findTrainer(path string, folder bool) string {
	if folder {
		path = filepath.Join(path, "ckpt.pt")
	}
	if ext := filepath.Ext(path); (ext == ".pt" || ext == ".pth") && isTorch(path) {
		return path
	}
	return ""
}

func findLlama2c(path string, folder bool) string {
	if folder {
		path = filepath.Join(path, "model.bin")
	}
	if filepath.Ext(path) == ".bin" && exists(filepath.Dir(path), filepath.Base(path)) && !isTorch(path) {
		return path
	}
	return ""
}

func openMeta(ctx context.Context, path string, o Options) (*opened, error) {
	dir := filepath.Dir(path)
	params, err := readConfig(filepath.Join(dir, "params.json"))
	if err != nil {
		return nil, err
	}
	src, err := openSection(path, "")
	if err != nil {
		return nil, err
	}
	op := &opened{src: src, names: metaNames, file: filepath.Base(path), files: []string{filepath.Join(dir, "params.json")}}
	return op.meta(ctx, dir, params)
}

func openTrainer(ctx context.Context, path string, o Options) (*opened, error) {
	f, err := pytorch.Open(path)
	if err != nil {
		return nil, err
	}
	args, ok := f.Meta()["model_args"].(map[string]any)
	if !ok {
		return nil, errors.Join(formats.Unsupported(filepath.Base(path), "", -1, "a torch checkpoint without config.json or params.json beside it, and without the model_args of llama2.c's trainer"), f.Close())
	}
	src, err := f.Section("model")
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	op := &opened{src: src, names: metaNames, file: filepath.Base(path)}
	return op.meta(ctx, filepath.Dir(path), model.NewConfig(op.file+": model_args", numbers(args)))
}

func openLlama2c(ctx context.Context, path string, _ Options) (*opened, error) {
	f, err := llama2c.Open(path)
	if err != nil {
		return nil, err
	}
	c := f.Config()
	op := &opened{src: f, names: metaNames, file: filepath.Base(path)}
	return op.meta(ctx, filepath.Dir(path), model.NewConfig(op.file, numbers(map[string]any{
		"dim": c.Dim, "n_layers": c.Layers, "n_heads": c.Heads, "n_kv_heads": c.KVHeads, "vocab_size": c.Vocab, "max_seq_len": c.SeqLen,
	})))
}

// numbers turns Go's numbers into those of encoding/json, which a Config has.
func numbers(in map[string]any) map[string]any {
	out := map[string]any{}
	for k, v := range in {
		switch v := v.(type) {
		case int:
			out[k] = json.Number(strconv.Itoa(v))
		case float64:
			out[k] = json.Number(strconv.FormatFloat(v, 'g', -1, 64))
		default:
			out[k] = v
		}
	}
	return out
}

// metaContext is the context of a checkpoint that does not say its own: that
// of Llama 1 and of llama2.c's default. Options.Context sets another.
const metaContext = 2048

// meta completes op from params, the ModelArgs of Meta's llama/model.py.
func (op *opened) meta(ctx context.Context, dir string, params *model.Config) (*opened, error) {
	config, err := op.metaConfig(ctx, params)
	if err == nil {
		op.config = config
		op.tok, err = findTokenizer(dir)
	}
	if err != nil {
		return nil, errors.Join(err, op.src.Close())
	}
	return op, nil
}

// metaConfig translates ModelArgs. The width of the FFN and, where the file
// says -1, the vocabulary follow from the tensors.
func (op *opened) metaConfig(ctx context.Context, p *model.Config) (*model.Config, error) {
	const limit = 1 << 24
	out := map[string]any{
		"model_type": "llama", "hidden_act": "silu",
		"hidden_size":             p.Int("dim", limit),
		"num_hidden_layers":       p.Int("n_layers", limit),
		"num_attention_heads":     p.Int("n_heads", limit),
		"rms_norm_eps":            p.FloatOr("norm_eps", 1e-5),
		"rope_theta":              p.FloatOr("rope_theta", 10000),
		"max_position_embeddings": p.IntOr("max_seq_len", metaContext, limit),
	}
	out["num_key_value_heads"] = p.IntOr("n_kv_heads", out["num_attention_heads"].(int), limit)
	if p.BoolOr("use_scaled_rope", false) {
		if p.Has("rope_scaling_factor") {
			scaling := map[string]any{
				"factor": p.Float("rope_scaling_factor"), "low_freq_factor": 1.0,
				"high_freq_factor": p.FloatOr("rope_high_freq_factor", 4), "original_max_position_embeddings": 8192,
			}
			scaling = numbers(scaling)
			scaling["rope_type"] = "llama3"
			out["rope_scaling"] = scaling
		} else {
			p.Fail(formats.ErrUnsupported, "use_scaled_rope", "is true without rope_scaling_factor, which differs between Llama 3.1 and 3.2: convert the Hugging Face folder instead")
		}
	}
	// What follows from the tensors' shapes, or does not matter at inference.
	for _, key := range []string{"multiple_of", "ffn_dim_multiplier", "hidden_dim", "vocab_size", "dropout", "max_batch_size"} {
		p.Ignore(key)
	}
	p.RefuseUnread(nil)
	if err := p.Err(); err != nil {
		return nil, err
	}
	if err := op.metaShapes(ctx, out); err != nil {
		return nil, err
	}
	return model.NewConfig(p.File(), numbers(out)), nil
}

// metaShapes fills in what the tensors tell.
func (op *opened) metaShapes(ctx context.Context, out map[string]any) error {
	rows := func(name string) (int, error) {
		t, ok := find(op.src, name)
		if !ok {
			return 0, formats.Corrupt(op.file, name, -1, "missing")
		}
		if len(t.Shape) != 2 {
			return 0, formats.Corrupt(t.File, name, t.Offset, "shape %v, wanted a matrix", t.Shape)
		}
		return t.Shape[0], nil
	}
	var err error
	if out["vocab_size"], err = rows("tok_embeddings.weight"); err != nil {
		return err
	}
	if out["intermediate_size"], err = rows("layers.0.feed_forward.w1.weight"); err != nil {
		return err
	}
	tied := true
	if _, ok := find(op.src, "output.weight"); ok {
		// Weights that were tied in training are stored twice.
		if tied, err = equal(ctx, op.src, "output.weight", "tok_embeddings.weight"); err != nil {
			return err
		}
	}
	out["tie_word_embeddings"] = tied
	return nil
}

var metaNames = naming{name: metaName, interleaved: true}

// metaName gives Meta's name of a weight.
func metaName(w model.Weight) string {
	switch w.Name {
	case "token_embd.weight":
		return "tok_embeddings.weight"
	case "output_norm.weight":
		return "norm.weight"
	case "output.weight":
		return "output.weight"
	}
	rest, _ := strings.CutPrefix(w.Name, "blk.")
	layer, part, _ := strings.Cut(rest, ".")
	return "layers." + layer + "." + metaParts[part]
}

var metaParts = map[string]string{
	"attn_norm.weight": "attention_norm.weight", "ffn_norm.weight": "ffn_norm.weight",
	"attn_q.weight": "attention.wq.weight", "attn_k.weight": "attention.wk.weight",
	"attn_v.weight": "attention.wv.weight", "attn_output.weight": "attention.wo.weight",
	"ffn_gate.weight": "feed_forward.w1.weight", "ffn_down.weight": "feed_forward.w2.weight", "ffn_up.weight": "feed_forward.w3.weight",
}
