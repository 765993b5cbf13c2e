package pipeline_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"slmc/formats"
	"slmc/internal/pipeline"
	"slmc/kvshare"
	"slmc/model"
)

// converted writes a model as a Hugging Face folder.
func converted(t *testing.T, o *pipeline.Opened, opts pipeline.HFOptions) (string, pipeline.HFReport) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "hf")
	r, err := pipeline.ConvertHF(t.Context(), o, out, opts, quiet, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out, r
}

// sameModel holds b to the graph and the values of a.
func sameModel(t *testing.T, what string, a, b *pipeline.Opened, within float64) {
	t.Helper()
	x, y := a.Graph(), b.Graph()
	if x.Arch != y.Arch || x.Context != y.Context || x.NormEps != y.NormEps || x.EmbedScale != y.EmbedScale || x.LogitCap != y.LogitCap || x.Tied() != y.Tied() {
		t.Errorf("%s: graph %s %d %g %g %g, want %s %d %g %g %g", what, y.Arch, y.Context, y.NormEps, y.EmbedScale, y.LogitCap, x.Arch, x.Context, x.NormEps, x.EmbedScale, x.LogitCap)
	}
	if !slices.Equal(x.Blocks, y.Blocks) {
		t.Errorf("%s: blocks %+v, want %+v", what, y.Blocks[0], x.Blocks[0])
	}
	for i := range x.Ropes {
		if !slices.Equal(x.Ropes[i].InvFreq, y.Ropes[i].InvFreq) || x.Ropes[i].Base != y.Ropes[i].Base {
			t.Errorf("%s: frequencies %v, want %v", what, y.Ropes[i], x.Ropes[i])
		}
	}
	sameValues(t, what, a, b, within)
}

// Every architecture, from its checkpoint and from a bundle, is the same model
// in a Hugging Face folder. From a bundle config.json is made of the graph.
func TestConvertArchitectures(t *testing.T) {
	dirs, err := filepath.Glob(testdata("arch", "*"))
	if err != nil || len(dirs) < 10 {
		t.Fatal(dirs, err)
	}
	for _, dir := range dirs {
		name := filepath.Base(dir)
		o := open(t, dir)
		path, r := converted(t, o, pipeline.HFOptions{})
		if !r.Exact || r.MaxError != 0 {
			t.Errorf("%s: off by %g", name, r.MaxError)
		}
		if want := map[string]string{"F16": "f16", "BF16": "bf16", "F32": "f32"}[o.Checkpoint.Types[0].Type]; r.DType != want {
			t.Errorf("%s: stored as %s, the source is %s", name, r.DType, want)
		}
		sameModel(t, name, o, open(t, path), 0)
		b := quantized(t, dir, "f32")
		path, r = converted(t, b, pipeline.HFOptions{})
		if !r.Exact || r.DType != "f32" {
			t.Errorf("%s from a bundle: %s, off by %g", name, r.DType, r.MaxError)
		}
		sameModel(t, name+" from a bundle", o, open(t, path), 0)
	}
}

// Every form of assistant-tiny, and a W8 bundle of it.
func TestConvertForms(t *testing.T) {
	source := open(t, testdata("assistant-tiny"))
	for _, form := range []string{"assistant-tiny", "assistant-tiny-pt", "assistant-tiny-legacy", "assistant-tiny-sharded", "assistant-tiny-meta",
		"assistant-tiny-llama2c/ckpt.pt", "assistant-tiny-llama2c/model.bin", "assistant-tiny.gguf"} {
		o := open(t, testdata(form))
		path, r := converted(t, o, pipeline.HFOptions{})
		back := open(t, path)
		sameModel(t, form, o, back, 0)
		sameValues(t, form, source, back, 0)
		if want := map[bool]string{true: "f32", false: "f16"}[strings.HasSuffix(form, "model.bin")]; r.DType != want {
			t.Errorf("%s: stored as %s, want %s", form, r.DType, want)
		}
		if made := strings.HasSuffix(form, ".gguf"); slices.Contains(r.Files, "tokenizer.model") == made || made && !slices.Contains(r.Files, "tokenizer.json") {
			t.Errorf("%s: files %v", form, r.Files)
		}
	}
	b := quantized(t, testdata("assistant-tiny"), "w8")
	path, r := converted(t, b, pipeline.HFOptions{})
	if !r.Exact || r.DType != "f32" || len(r.Notes) != 0 || !slices.Contains(r.Files, "chat_template.jinja") || !slices.Contains(r.Files, "tokenizer.json") {
		t.Errorf("%+v", r)
	}
	back := open(t, path)
	sameModel(t, "w8", b, back, 0)
	if !slices.Equal(back.Checkpoint.Tokenizer.EOS, []int{5}) || back.Checkpoint.Tokenizer.Template != source.Checkpoint.Tokenizer.Template {
		t.Errorf("ends %v, template %.30q", back.Checkpoint.Tokenizer.EOS, back.Checkpoint.Tokenizer.Template)
	}
	tok, err := back.Tokenizer()
	if err != nil {
		t.Fatal(err)
	}
	if ids, err := tok.Encode("Hello, world!", true); err != nil || !slices.Equal(ids, []int32{1, 465, 830, 1978, 2002, 284, 1436, 39}) {
		t.Errorf("ids %v, %v", ids, err)
	}
	_, r = converted(t, b, pipeline.HFOptions{DType: "bf16"})
	if r.Exact || !(r.MaxError > 0) || r.MaxError > 0.02 {
		t.Errorf("w8 as bf16: exact %v, off by %g", r.Exact, r.MaxError)
	}
}

// Weights beyond a shard's size go into the next, and the index finds them.
func TestConvertShards(t *testing.T) {
	o := open(t, testdata("assistant-tiny"))
	path, r := converted(t, o, pipeline.HFOptions{ShardBytes: 300_000})
	if !slices.Contains(r.Files, "model-00001-of-00003.safetensors") || !slices.Contains(r.Files, "model.safetensors.index.json") {
		t.Errorf("files %v", r.Files)
	}
	var index struct {
		Metadata struct {
			TotalSize int64 `json:"total_size"`
		}
		WeightMap map[string]string `json:"weight_map"`
	}
	data, err := os.ReadFile(filepath.Join(path, "model.safetensors.index.json"))
	if err != nil || json.Unmarshal(data, &index) != nil || index.Metadata.TotalSize != 2*408384 || len(index.WeightMap) != len(o.Graph().Weights) {
		t.Errorf("index %+v, %v", index, err)
	}
	sameModel(t, "shards", o, open(t, path), 0)
}

// config.json keeps the source's keys, whatever they are, but for the type.
func TestConvertKeepsConfig(t *testing.T) {
	o := open(t, testdata("assistant-tiny"))
	path, _ := converted(t, o, pipeline.HFOptions{DType: "bf16"})
	read := func(path string) (m map[string]any) {
		data, err := os.ReadFile(path)
		if err == nil {
			err = json.Unmarshal(data, &m)
		}
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	want, got := read(testdata("assistant-tiny", "config.json")), read(filepath.Join(path, "config.json"))
	want["torch_dtype"] = "bfloat16"
	for k, v := range want {
		if a, _ := json.Marshal(v); true {
			if b, _ := json.Marshal(got[k]); string(a) != string(b) {
				t.Errorf("%s is %s, want %s", k, b, a)
			}
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d keys, want %d", len(got), len(want))
	}
	// The type decides the embedding's scale of a Gemma: it is kept then.
	gemma := open(t, testdata("arch", "gemma2-bf16"))
	path, r := converted(t, gemma, pipeline.HFOptions{DType: "f32"})
	if !strings.Contains(strings.Join(r.Notes, "\n"), "torch_dtype stays bfloat16") {
		t.Errorf("notes %q", r.Notes)
	}
	sameModel(t, "gemma2-bf16 as f32", gemma, open(t, path), 0)
}

func TestConvertRefuses(t *testing.T) {
	o := open(t, testdata("assistant-tiny"))
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "mine"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := pipeline.ConvertHF(t.Context(), o, dir, pipeline.HFOptions{}, quiet, nil); !errors.Is(err, pipeline.ErrUsage) || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("a folder with a file: %v", err)
	}
	if _, err := pipeline.ConvertHF(t.Context(), o, filepath.Join(dir, "new"), pipeline.HFOptions{DType: "int4"}, quiet, nil); !errors.Is(err, pipeline.ErrUsage) {
		t.Errorf("int4: %v", err)
	}
	// Factors that are no published scaling have no words in config.json.
	g := open(t, testdata("arch", "llama3"))
	gg, _ := exported(t, g, pipeline.ExportOptions{Type: "f32"})
	_, err := pipeline.ConvertHF(t.Context(), open(t, gg), filepath.Join(dir, "new"), pipeline.HFOptions{}, quiet, nil)
	if !errors.Is(err, formats.ErrUnsupported) || !strings.Contains(err.Error(), "config.json has no words") {
		t.Errorf("factors: %v", err)
	}
	if left, _ := os.ReadDir(dir); len(left) != 1 {
		t.Errorf("files left: %v", left)
	}
}

// A model whose blocks share keys and values keeps its map and only the weights
// that are left; GGUF has no words for it.
func TestConvertShared(t *testing.T) {
	for _, name := range []string{"llama", "gemma2", "mobilellm-ls", "qwen3"} {
		o := open(t, testdata("arch", name))
		last := len(o.Graph().Blocks) - 1
		from := 1
		if name == "gemma2" {
			from = last - 2 // the same window
		}
		m, err := kvshare.Rewrite(o.Checkpoint.Model, kvshare.Plan{last: from})
		if err != nil {
			t.Fatal(err)
		}
		o.Checkpoint.Model = m
		o.Checkpoint.Form = "rewritten" // config.json of the source is not the model's
		path, r := converted(t, o, pipeline.HFOptions{})
		if !r.Exact || !strings.Contains(strings.Join(r.Notes, "\n"), model.KVFromKey) {
			t.Errorf("%s: %+v", name, r)
		}
		back := open(t, path)
		sameModel(t, name+" shared", o, back, 0)
		if got := kvshare.Of(back.Graph()); got.String() != (kvshare.Plan{last: from}).String() {
			t.Errorf("%s: the folder shares %s", name, got)
		}
		_, err = pipeline.Export(t.Context(), back, filepath.Join(t.TempDir(), "out.gguf"), pipeline.ExportOptions{Type: "f32"}, quiet, nil)
		if !errors.Is(err, formats.ErrUnsupported) || !strings.Contains(err.Error(), fmt.Sprintf("block %d reads the keys and values of block %d", last, from)) {
			t.Errorf("%s: export says %v", name, err)
		}
	}
}

// GGUF's factors of Llama 3.1's scaling become its words again.
func TestConvertFindsLlama3(t *testing.T) {
	config, err := os.ReadFile(testdata("arch", "llama3", "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	weights, err := os.ReadFile(testdata("arch", "llama3", "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	text := strings.NewReplacer(`"original_max_position_embeddings": 32`, `"original_max_position_embeddings": 8192`, `"rope_theta": 500.0`, `"rope_theta": 500000.0`).Replace(string(config))
	if err := errors.Join(os.WriteFile(filepath.Join(dir, "config.json"), []byte(text), 0o600), os.WriteFile(filepath.Join(dir, "model.safetensors"), weights, 0o600)); err != nil {
		t.Fatal(err)
	}
	o := open(t, dir)
	gg, _ := exported(t, o, pipeline.ExportOptions{Type: "f32"})
	path, _ := converted(t, open(t, gg), pipeline.HFOptions{})
	back := open(t, path)
	if s := back.Graph().Ropes[0].Scaling; s.Type != "llama3" || s.Factor != 8 || s.Context != 8192 {
		t.Errorf("scaling %+v", s)
	}
	sameModel(t, "llama3 through GGUF", o, back, 0)
}
