package convert

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"slmc/formats"
	"slmc/formats/gguf"
	"slmc/formats/safetensors"
	"slmc/model"
	"slmc/tensor"
)

// folder is a checkpoint in memory that a test damages before it is written.
type folder struct {
	config  map[string]any
	tensors map[string]*fixture
}

type fixture struct {
	shape []int
	data  []float32
}

// tiny reads the reference checkpoint of an architecture.
func tiny(t testing.TB, name string) *folder {
	t.Helper()
	f := &folder{config: map[string]any{}, tensors: map[string]*fixture{}}
	readJSON(t, testdata("arch", name, "config.json"), &f.config)
	s, err := safetensors.Open(testdata("arch", name, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, info := range s.Tensors() {
		n, err := tensor.Elems(info.Shape)
		if err != nil {
			t.Fatal(err)
		}
		x := &fixture{info.Shape, make([]float32, n)}
		if err := s.ReadF32(info.Name, 0, x.data); err != nil {
			t.Fatal(err)
		}
		f.tensors[info.Name] = x
	}
	return f
}

// write writes the folder, weights as float32.
func (f *folder) write(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	b, err := json.Marshal(f.config)
	if err != nil {
		t.Fatal(err)
	}
	var list []safetensors.Tensor
	for name, x := range f.tensors {
		list = append(list, safetensors.Tensor{Name: name, Type: tensor.F32, Shape: x.shape, Data: func(w io.Writer) error {
			b := make([]byte, 0, 4*len(x.data))
			for _, v := range x.data {
				b = append(b, byte(math.Float32bits(v)), byte(math.Float32bits(v)>>8), byte(math.Float32bits(v)>>16), byte(math.Float32bits(v)>>24))
			}
			_, err := w.Write(b)
			return err
		}})
	}
	var weights bytes.Buffer
	if err := safetensors.Write(&weights, nil, list...); err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"config.json": b, "model.safetensors": weights.Bytes()} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func (f *folder) zeros(name string, shape ...int) {
	n := 1
	for _, d := range shape {
		n *= d
	}
	f.tensors[name] = &fixture{shape, make([]float32, n)}
}

// refused holds an error to its kind and to what it must name.
func refused(t *testing.T, what string, err error, kind error, parts ...string) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Errorf("%s: %v, want an error that is %q", what, err, kind)
		return
	}
	for _, p := range parts {
		if !strings.Contains(err.Error(), p) {
			t.Errorf("%s: %q does not say %q", what, err, p)
		}
	}
}

// Tensors that do not fit the config are refused by file, name and shape.
func TestBindRefuses(t *testing.T) {
	const q = "model.layers.1.self_attn.q_proj.weight"
	for _, c := range []struct {
		name, arch string
		change     func(f *folder)
		kind       error
		parts      []string
	}{
		{"missing", "llama", func(f *folder) { delete(f.tensors, q) }, formats.ErrCorrupt, []string{"model.safetensors", q, "missing", "[32 36]"}},
		{"missing bias", "qwen2", func(f *folder) { delete(f.tensors, "model.layers.2.self_attn.k_proj.bias") }, formats.ErrCorrupt, []string{"k_proj.bias", "missing"}},
		{"missing norm", "qwen3", func(f *folder) { delete(f.tensors, "model.layers.0.self_attn.q_norm.weight") }, formats.ErrCorrupt, []string{"q_norm", "missing"}},
		{"missing head", "llama", func(f *folder) { delete(f.tensors, "lm_head.weight") }, formats.ErrCorrupt, []string{"lm_head.weight", "missing"}},
		{"surplus bias", "llama", func(f *folder) { f.zeros("model.layers.0.self_attn.q_proj.bias", 32) }, formats.ErrCorrupt, []string{"q_proj.bias", "surplus"}},
		{"surplus layer", "llama", func(f *folder) { f.config["num_hidden_layers"] = 2 }, formats.ErrCorrupt, []string{"model.layers.2.", "surplus", "9 such"}},
		{"surplus adapter", "llama", func(f *folder) { f.zeros("base_model.lora_A.weight", 4, 4) }, formats.ErrCorrupt, []string{"lora_A", "surplus"}},
		{"wrong shape", "llama", func(f *folder) { f.zeros(q, 36, 32) }, formats.ErrCorrupt, []string{q, "[36 32]", "[32 36]"}},
		{"wrong width", "llama", func(f *folder) { f.config["intermediate_size"] = 48 }, formats.ErrCorrupt, []string{"mlp.gate_proj.weight", "[44 36]", "[48 36]"}},
		{"wrong vocabulary", "llama", func(f *folder) { f.config["vocab_size"] = 51 }, formats.ErrCorrupt, []string{"embed_tokens", "[50 36]", "[51 36]"}},
		{"tied, other head", "llama3", func(f *folder) { f.zeros("lm_head.weight", 50, 36) }, formats.ErrCorrupt, []string{"lm_head.weight", "differs", "embed_tokens"}},
		{"tied, misshapen head", "mobilellm", func(f *folder) { f.zeros("lm_head.weight", 10, 36) }, formats.ErrCorrupt, []string{"lm_head.weight", "differs"}},
		{"unknown key", "llama", func(f *folder) { f.config["logit_scale"] = 0.5 }, formats.ErrUnsupported, []string{"config.json", "logit_scale", "0.5"}},
		{"unknown architecture", "llama", func(f *folder) { f.config["model_type"] = "rwkv" }, formats.ErrUnsupported, []string{"rwkv", "gemma2"}},
		{"quantized", "llama", func(f *folder) { f.config["quantization_config"] = map[string]any{"quant_method": "awq"} }, formats.ErrUnsupported, []string{"awq"}},
	} {
		f := tiny(t, c.arch)
		c.change(f)
		_, err := Open(t.Context(), f.write(t), Options{})
		refused(t, c.name, err, c.kind, c.parts...)
	}
}

// What does no harm is accepted: old buffers, and a stored copy of a tied head.
func TestBindAccepts(t *testing.T) {
	f := tiny(t, "llama3")
	f.zeros("model.layers.0.self_attn.rotary_emb.inv_freq", 4)
	f.tensors["lm_head.weight"] = f.tensors["model.embed_tokens.weight"]
	c := open(t, f.write(t), Options{})
	if len(c.Ignored) != 2 || !c.Model.Tied() || c.Model.Index("output.weight") != model.None {
		t.Errorf("ignored %v", c.Ignored)
	}
	// So are the takers' own keys and values, which some models store and none reads.
	shared := tiny(t, "llama")
	shared.config["num_kv_shared_layers"] = 1
	c = open(t, shared.write(t), Options{})
	last := len(c.Model.Blocks) - 1
	if len(c.Ignored) != 2 || c.Model.Blocks[last].KVFrom != last-1 {
		t.Errorf("ignored %v, the last block reads %d", c.Ignored, c.Model.Blocks[last].KVFrom)
	}
	f.config["my_note"] = "x"
	dir := f.write(t)
	if _, err := Open(t.Context(), dir, Options{}); !errors.Is(err, formats.ErrUnsupported) {
		t.Errorf("unknown key: %v", err)
	}
	if c := open(t, dir, Options{IgnoreKeys: []string{"my_note"}, Context: 77}); c.Model.Context != 77 {
		t.Errorf("context %d", c.Model.Context)
	}
	// Rows beyond the tokenizer's vocabulary are part of the model.
	if open(t, testdata("arch", "llama"), Options{}).Model.Vocab != 50 {
		t.Error("padded rows lost")
	}
}

// NaN and Inf are found when they are read, and named.
func TestValuesRefuse(t *testing.T) {
	const name = "model.layers.2.mlp.up_proj.weight"
	for _, v := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		f := tiny(t, "llama")
		f.tensors[name].data[1234] = float32(v)
		m := open(t, f.write(t), Options{}).Model
		i := m.Index("blk.2.ffn_up.weight")
		_, err := m.Tensor(i)
		refused(t, "whole", err, formats.ErrCorrupt, "model.safetensors", name, "element 1234")
		err = m.Values.Read(i, 1200, make([]float32, 40))
		refused(t, "piece", err, formats.ErrCorrupt, name, "element 1234")
		if err := m.Values.Read(i, 0, make([]float32, 1234)); err != nil {
			t.Errorf("elements before: %v", err)
		}
		err = Write(t.Context(), io.Discard, m, plan(t, m.Graph, "w8"), writeOptions(t, 2))
		refused(t, "write", err, formats.ErrCorrupt, name, "element 1234")
	}
}

// Pieces of any size and place are those of the whole, in every row order.
func TestValuesPieces(t *testing.T) {
	for _, path := range []string{"assistant-tiny-llama2c/model.bin", "assistant-tiny.gguf", "arch/gemma2"} {
		m := open(t, testdata(path), Options{}).Model
		for _, name := range []string{"blk.1.attn_q.weight", "blk.1.attn_k.weight", "blk.1.attn_norm.weight"} {
			i := m.Index(name)
			whole, err := m.Tensor(i)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range []int{1, 7, 33, 100, len(whole)} {
				for off := 0; off+n <= len(whole); off += max(1, len(whole)/13) {
					got := make([]float32, n)
					if err := m.Values.Read(i, off, got); err != nil {
						t.Fatal(err)
					}
					for k := range got {
						if got[k] != whole[off+k] {
							t.Fatalf("%s %s: element %d, read in %d from %d, is %g, want %g", path, name, off+k, n, off, got[k], whole[off+k])
						}
					}
				}
			}
		}
	}
}

// GGUF settings that are not implemented are refused by key.
func TestGGUFRefuses(t *testing.T) {
	m := open(t, testdata("arch", "llama"), Options{}).Model
	base, err := GGUF(m, "test", gguf.F32, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		key   string
		value any
		parts []string
	}{
		{"general.architecture", "mamba", []string{"mamba", "llama, qwen2"}},
		{"llama.rope.scaling.type", "yarn", []string{"llama.rope.scaling.type", "yarn"}},
		{"llama.rope.dimension_count", uint32(4), []string{"rope.dimension_count", "4"}},
		{"llama.attention.value_length", uint32(16), []string{"attention.value_length"}},
		{"llama.expert_count", uint32(8), []string{"expert_count", "8"}},
		{"llama.attention.sliding_window", uint32(512), []string{"llama.attention.sliding_window", "512"}},
		{"llama.logit_scale", float32(0.1), []string{"llama.logit_scale"}},
		{"llama.attention.head_count_kv", []int32{2, 2, 1}, []string{"head_count_kv", "differs"}},
	} {
		var kvs []gguf.KV
		for _, kv := range base.KVs {
			if kv.Key != c.key {
				kvs = append(kvs, kv)
			}
		}
		path := filepath.Join(t.TempDir(), "m.gguf")
		var b bytes.Buffer
		tensors := base.Tensors
		if c.key == "general.architecture" || strings.HasSuffix(c.key, "head_count_kv") { // q and k need the known arch
			tensors = tensors[:1]
		}
		if err := gguf.Write(t.Context(), &b, append(kvs, gguf.KV{Key: c.key, Value: c.value}), tensors); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := Open(t.Context(), path, Options{})
		refused(t, c.key, err, formats.ErrUnsupported, c.parts...)
	}
}

// Meta's settings that are not implemented are refused by key.
func TestMetaRefuses(t *testing.T) {
	var base map[string]any
	readJSON(t, testdata("assistant-tiny-meta", "params.json"), &base)
	weights, err := os.ReadFile(testdata("assistant-tiny-meta", "consolidated.00.pth"))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change map[string]any
		kind   error
		parts  []string
	}{
		{"scaled", map[string]any{"use_scaled_rope": true}, formats.ErrUnsupported, []string{"use_scaled_rope", "params.json"}},
		{"experts", map[string]any{"moe": map[string]any{"num_experts": 8}}, formats.ErrUnsupported, []string{"moe"}},
		{"no layers", map[string]any{"n_layers": nil}, formats.ErrCorrupt, []string{"n_layers", "missing"}},
		{"more layers", map[string]any{"n_layers": 7}, formats.ErrCorrupt, []string{"layers.6.", "missing"}},
		{"other width", map[string]any{"dim": 96}, formats.ErrCorrupt, []string{"tok_embeddings.weight", "[2048 64]", "[2048 96]"}},
	} {
		dir := t.TempDir()
		params := map[string]any{}
		for k, v := range base {
			params[k] = v
		}
		for k, v := range c.change {
			params[k] = v
		}
		b, err := json.Marshal(params)
		if err != nil {
			t.Fatal(err)
		}
		for name, data := range map[string][]byte{"params.json": b, "consolidated.00.pth": weights} {
			if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err = Open(t.Context(), dir, Options{})
		refused(t, c.name, err, c.kind, c.parts...)
		if c.name != "scaled" {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, "consolidated.01.pth"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err = Open(t.Context(), dir, Options{})
		refused(t, "two parts", err, formats.ErrUnsupported)
	}
	// A torch file that nothing describes.
	path := filepath.Join(t.TempDir(), "weights.pth")
	if err := os.WriteFile(path, weights, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), path, Options{})
	refused(t, "alone", err, formats.ErrUnsupported, "weights.pth", "model_args")
}

// A checkpoint of 300 MB, sparse on disk, is converted in a few MB: what is held
// does not grow with it.
func TestWriteMemory(t *testing.T) {
	dir := sparse(t, 4096, 1, 8192, 4000)
	c := open(t, dir, Options{})
	p := plan(t, c.Model.Graph, "w8")
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	peak := uint64(0)
	o := writeOptions(t, 2)
	o.Progress = func(done, total int64) {
		if done>>23 != (done-chunkBytes)>>23 { // every 8 MB
			runtime.ReadMemStats(&after)
			peak = max(peak, after.HeapAlloc)
		}
	}
	if err := Write(t.Context(), io.Discard, c.Model, p, o); err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after)
	t.Logf("%d parameters: heap %d bytes at most, %d bytes allocated in all, planned %d", p.Params, peak, after.TotalAlloc-before.TotalAlloc, p.WorkBytes(2))
	if peak > before.HeapAlloc+16<<20 || after.TotalAlloc-before.TotalAlloc > 16<<20 {
		t.Errorf("heap grew from %d to %d, %d allocated in all", before.HeapAlloc, peak, after.TotalAlloc-before.TotalAlloc)
	}
}

// sparse writes a BF16 llama whose weights are holes in the file: all zero.
func sparse(t *testing.T, D, layers, ffn, vocab int) string {
	t.Helper()
	dir := t.TempDir()
	config, err := json.Marshal(map[string]any{
		"model_type": "llama", "hidden_size": D, "num_attention_heads": D / 64, "num_key_value_heads": D / 512, "num_hidden_layers": layers,
		"intermediate_size": ffn, "vocab_size": vocab, "hidden_act": "silu", "tie_word_embeddings": true,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := model.ParseConfig("config.json", bytes.NewReader(config), int64(len(config)))
	if err != nil {
		t.Fatal(err)
	}
	g, err := model.Build(c)
	if err != nil {
		t.Fatal(err)
	}
	header, at := map[string]any{}, 0
	for _, w := range g.Weights {
		header[w.Source] = map[string]any{"dtype": "BF16", "shape": w.Shape, "data_offsets": []int{at, at + 2*w.Elems()}}
		at += 2 * w.Elems()
	}
	text, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	head := append([]byte{byte(len(text)), byte(len(text) >> 8), byte(len(text) >> 16), 0, 0, 0, 0, 0}, text...)
	_, err = f.Write(head)
	if err := errors.Join(err, f.Truncate(int64(len(head)+at)), f.Close()); err != nil {
		t.Fatal(err)
	}
	return dir
}
