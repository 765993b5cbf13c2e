package pipeline_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"slmc/convert"
	"slmc/formats"
	"slmc/formats/gguf"
	"slmc/internal/pipeline"
	"slmc/model"
)

func testdata(parts ...string) string {
	return filepath.Join(append([]string{"..", "..", "testdata"}, parts...)...)
}

// shared returns a path beside the repository, or skips.
func shared(t testing.TB, parts ...string) string {
	t.Helper()
	path := filepath.Join(append([]string{"..", "..", "..", "shared"}, parts...)...)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("lacks ../shared/%s", filepath.Join(parts...))
	}
	return path
}

func open(t testing.TB, path string) *pipeline.Opened {
	t.Helper()
	o, err := pipeline.Open(t.Context(), path, pipeline.Env{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := o.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

var quiet = slog.New(slog.DiscardHandler)

// exported writes path as a GGUF file of that type.
func exported(t testing.TB, o *pipeline.Opened, opts pipeline.ExportOptions) (string, pipeline.ExportReport) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "model.gguf")
	r, err := pipeline.Export(t.Context(), o, out, opts, quiet, nil)
	if err != nil {
		t.Fatal(err)
	}
	return out, r
}

// quantized makes a bundle without golden vectors.
func quantized(t testing.TB, source, weights string) *pipeline.Opened {
	t.Helper()
	recipe, err := pipeline.DefaultRecipe(weights, "")
	if err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "model.slmb")
	if _, err := pipeline.Build(t.Context(), pipeline.Config{Source: source, Output: out, Recipe: recipe, Bare: true}, quiet); err != nil {
		t.Fatal(err)
	}
	return open(t, out)
}

// plainArchs are the reference checkpoints that llama.cpp can compute.
var plainArchs = []string{"llama", "llama-linear", "llama3", "mobilellm", "mobilellm-ls", "qwen2", "qwen3", "gemma2", "gemma3", "gemma3-types"}

// An F32 export of every architecture, from its checkpoint and from an F32
// bundle of it, is exact and the same bytes each time.
func TestExportArchitectures(t *testing.T) {
	for _, name := range plainArchs {
		source := testdata("arch", name)
		path, r := exported(t, open(t, source), pipeline.ExportOptions{Type: "f32"})
		if !r.Exact || r.MaxError != 0 || r.Tokenizer != "none" || len(r.SHA256) != 64 {
			t.Errorf("%s: %+v", name, r)
		}
		if shares := strings.Contains(strings.Join(r.Notes, "\n"), "share weights"); shares != (name == "mobilellm-ls") {
			t.Errorf("%s: notes %q", name, r.Notes)
		}
		again, _ := exported(t, open(t, source), pipeline.ExportOptions{Type: "f32"})
		sameTensors(t, name+" a second time", path, again)
		from, r := exported(t, quantized(t, source, "f32"), pipeline.ExportOptions{Type: "f32"})
		if !r.Exact {
			t.Errorf("%s from a bundle: off by %g", name, r.MaxError)
		}
		sameTensors(t, name+" from a bundle", path, from)
	}
}

// sameTensors holds two GGUF files to the same tensors, bit for bit, and to the
// same metadata but for the name of the model.
func sameTensors(t *testing.T, what, a, b string) {
	t.Helper()
	x, y := openGGUF(t, a), openGGUF(t, b)
	if !slices.EqualFunc(x.Tensors(), y.Tensors(), func(p, q formats.TensorInfo) bool {
		return p.Name == q.Name && p.Type == q.Type && slices.Equal(p.Shape, q.Shape)
	}) {
		t.Errorf("%s: other tensors", what)
		return
	}
	for i, kv := range x.KVs() {
		if kv.Key != "general.name" && len(y.KVs()) > i && kv.Key != y.KVs()[i].Key {
			t.Errorf("%s: key %s, wanted %s", what, y.KVs()[i].Key, kv.Key)
		}
	}
	p, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	q, err := os.ReadFile(b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(p[x.DataOffset():], q[y.DataOffset():]) {
		t.Errorf("%s: other values", what)
	}
}

func openGGUF(t *testing.T, path string) *gguf.File {
	t.Helper()
	f, err := gguf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// assistant-tiny has rows of 176, which are no whole blocks of 32.
func TestExportFallback(t *testing.T) {
	o := open(t, testdata("assistant-tiny"))
	out := filepath.Join(t.TempDir(), "out.gguf")
	_, err := pipeline.Export(t.Context(), o, out, pipeline.ExportOptions{Type: "q8_0"}, quiet, nil)
	if !errors.Is(err, formats.ErrUnsupported) || !strings.Contains(err.Error(), "blk.0.ffn_down.weight") || !strings.Contains(err.Error(), "--fallback") {
		t.Errorf("without a fallback: %v", err)
	}
	if left, _ := os.ReadDir(filepath.Dir(out)); len(left) != 0 {
		t.Errorf("files left: %v", left)
	}
	for _, typ := range []string{"f16", "bf16", "q8_0", "q4_0"} {
		path, r := exported(t, o, pipeline.ExportOptions{Type: typ, Fallback: "f16"})
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if r.FileBytes != st.Size() || r.FileBPW != 8*float64(st.Size())/408384 || r.Tokenizer != "llama" {
			t.Errorf("%s: %+v", typ, r)
		}
		if n := len(r.Fallback); typ[0] == 'q' != (n == 6) || typ[0] != 'q' && n != 0 {
			t.Errorf("%s: fallback %v", typ, r.Fallback)
		}
		if r.Exact != (typ == "f16") {
			t.Errorf("%s: exact %v, off by %g", typ, r.Exact, r.MaxError)
		}
		if embed := openGGUF(t, path).Tensors()[0]; typ == "q4_0" && (r.Embeddings != "Q8_0" || embed.Type != "Q8_0") {
			t.Errorf("%s: embedding is %s, reported %s", typ, embed.Type, r.Embeddings)
		}
		back := open(t, path)
		tok, err := back.Tokenizer()
		if err != nil {
			t.Fatal(err)
		}
		if ids, _ := tok.Encode("Hello, world!", true); !slices.Equal(ids, []int32{1, 465, 830, 1978, 2002, 284, 1436, 39}) {
			t.Errorf("%s: ids %v", typ, ids)
		}
		if !slices.Equal(back.Checkpoint.Tokenizer.EOS, []int{5}) || back.Checkpoint.Tokenizer.Template != o.Checkpoint.Tokenizer.Template {
			t.Errorf("%s: ends %v, template %.30q", typ, back.Checkpoint.Tokenizer.EOS, back.Checkpoint.Tokenizer.Template)
		}
	}
}

// A bundle's codes are carried over where blocks have room for its levels:
// every value of the file is the bundle's.
func TestExportCarriesCodes(t *testing.T) {
	for _, c := range []struct {
		weights, typ string
		exact        bool
	}{
		{"w8", "q8_0", true}, {"w8g64", "q8_0", true}, {"w4", "q8_0", true}, {"w4", "q4_0", true}, {"w4g128", "q4_0", true},
		{"w2", "q4_0", true}, {"w8", "q4_0", false}, {"w8", "f32", true},
	} {
		o := quantized(t, testdata("arch", "llama"), c.weights)
		_, err := pipeline.Export(t.Context(), o, filepath.Join(t.TempDir(), "x"), pipeline.ExportOptions{Type: c.typ}, quiet, nil)
		if c.typ != "f32" && !errors.Is(err, formats.ErrUnsupported) {
			t.Errorf("%s to %s: rows of 36 fit no blocks: %v", c.weights, c.typ, err)
		}
		o = quantized(t, testdata("assistant-tiny"), c.weights)
		if _, err := pipeline.Export(t.Context(), o, filepath.Join(t.TempDir(), "x"), pipeline.ExportOptions{Type: c.typ, Fallback: "f32"}, quiet, nil); (err == nil) != c.exact || err != nil && (!errors.Is(err, formats.ErrUnsupported) || !strings.Contains(err.Error(), "--requantize")) {
			t.Errorf("%s to %s without requantizing: %v", c.weights, c.typ, err)
		}
		path, r := exported(t, o, pipeline.ExportOptions{Type: c.typ, Fallback: "f32", Requantize: true})
		if r.Exact != c.exact {
			t.Errorf("%s to %s: exact %v, off by %g", c.weights, c.typ, r.Exact, r.MaxError)
		}
		if !c.exact && !(r.MaxError > 0) {
			t.Errorf("%s to %s: no error", c.weights, c.typ)
		}
		sameValues(t, c.weights+" to "+c.typ, o, open(t, path), r.MaxError)
	}
}

// sameValues compares two models weight by weight, independently of the
// export's own check.
func sameValues(t *testing.T, what string, a, b *pipeline.Opened, within float64) {
	t.Helper()
	x, y := a.Model(), b.Model()
	for i, w := range x.Weights {
		p, err := x.Tensor(i)
		if err != nil {
			t.Fatal(err)
		}
		q, err := y.Tensor(y.Index(w.Name))
		if err != nil {
			t.Fatal(err)
		}
		for k := range p {
			if d := float64(p[k]) - float64(q[k]); d > within || d < -within {
				t.Errorf("%s: %s element %d is %g, want %g", what, w.Name, k, q[k], p[k])
				break
			}
		}
	}
}

// Every form of the same weights gives the same F32 tensors.
func TestExportForms(t *testing.T) {
	want, _ := exported(t, open(t, testdata("assistant-tiny")), pipeline.ExportOptions{Type: "f32"})
	for _, form := range []string{"assistant-tiny-pt", "assistant-tiny-meta", "assistant-tiny-llama2c/model.bin", "assistant-tiny.gguf"} {
		got, r := exported(t, open(t, testdata(form)), pipeline.ExportOptions{Type: "f32"})
		if !r.Exact {
			t.Errorf("%s: off by %g", form, r.MaxError)
		}
		a, b := openGGUF(t, want), openGGUF(t, got)
		p, _ := os.ReadFile(want)
		q, _ := os.ReadFile(got)
		if !bytes.Equal(p[a.DataOffset():], q[b.DataOffset():]) {
			t.Errorf("%s: other values than from safetensors", form)
		}
	}
}

func TestExportRefuses(t *testing.T) {
	for _, c := range []struct {
		source string
		opts   pipeline.ExportOptions
		kind   error
		want   string
	}{
		{"arch/qwen2-window", pipeline.ExportOptions{Type: "f32"}, formats.ErrUnsupported, "sliding attention"},
		{"arch/gemma2-bf16", pipeline.ExportOptions{Type: "f32"}, formats.ErrUnsupported, "scores are scaled"},
		{"arch/llama", pipeline.ExportOptions{Type: "q5_0"}, pipeline.ErrUsage, "want one of auto, f32"},
		{"arch/llama", pipeline.ExportOptions{Type: "f32", Fallback: "q8_0"}, pipeline.ErrUsage, "want one of f16"},
		{"arch/llama", pipeline.ExportOptions{Type: ""}, pipeline.ErrUsage, "want one of auto, f32"},
	} {
		out := filepath.Join(t.TempDir(), "out.gguf")
		_, err := pipeline.Export(t.Context(), open(t, testdata(c.source)), out, c.opts, quiet, nil)
		if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %+v: %v, want %q", c.source, c.opts, err, c.want)
		}
		if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: a file was left", c.source)
		}
	}
	// A cancelled export leaves the old file and nothing else.
	out := filepath.Join(t.TempDir(), "out.gguf")
	if err := os.WriteFile(out, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := pipeline.Export(ctx, open(t, testdata("arch", "llama")), out, pipeline.ExportOptions{Type: "f32"}, quiet, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if b, err := os.ReadFile(out); string(b) != "old" || err != nil {
		t.Errorf("the old file is %q, %v", b, err)
	}
	if left, _ := os.ReadDir(filepath.Dir(out)); len(left) != 1 {
		t.Errorf("files left: %v", left)
	}
}

// KV sharing has no place in llama.cpp's graphs.
func TestExportRefusesSharedKV(t *testing.T) {
	c, err := convert.Open(t.Context(), testdata("arch", "llama"), convert.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	b := &c.Model.Blocks[2]
	b.K.W, b.V.W, b.KVFrom = -1, -1, 1
	_, err = pipeline.Export(t.Context(), &pipeline.Opened{Path: "x", Checkpoint: c}, filepath.Join(t.TempDir(), "x.gguf"), pipeline.ExportOptions{Type: "f32"}, quiet, nil)
	if !errors.Is(err, formats.ErrUnsupported) || !strings.Contains(err.Error(), "block 2 reads the keys and values of block 1") {
		t.Errorf("%v", err)
	}
}

// fickle values change after they were read once: what a bad disk may do.
type fickle struct {
	*model.Model
	reads map[[2]int]int
}

func (f fickle) Read(i, off int, dst []float32) error {
	if err := f.Model.Values.Read(i, off, dst); err != nil {
		return err
	}
	if f.reads[[2]int{i, off}]++; f.Weights[i].Name == "blk.1.ffn_up.weight" && f.reads[[2]int{i, off}] > 1 {
		dst[0]++
	}
	return nil
}

// What is read back is compared with the model before the file gets its name.
func TestExportReadsBack(t *testing.T) {
	for _, typ := range []string{"f32", "f16", "bf16", "q8_0", "q4_0"} {
		o := open(t, testdata("assistant-tiny"))
		o.Checkpoint.Model = &model.Model{Graph: o.Checkpoint.Model.Graph, Values: fickle{o.Checkpoint.Model, map[[2]int]int{}}}
		out := filepath.Join(t.TempDir(), "out.gguf")
		_, err := pipeline.Export(t.Context(), o, out, pipeline.ExportOptions{Type: typ, Fallback: "f16"}, quiet, nil)
		if !errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(), "blk.1.ffn_up.weight") {
			t.Errorf("%s: %v", typ, err)
		}
		if left, _ := os.ReadDir(filepath.Dir(out)); len(left) != 0 {
			t.Errorf("%s: files left: %v", typ, left)
		}
	}
	o := open(t, testdata("assistant-tiny"))
	o.Checkpoint.Model = &model.Model{Graph: o.Checkpoint.Model.Graph, Values: fickle{o.Checkpoint.Model, map[[2]int]int{}}}
	dir := filepath.Join(t.TempDir(), "hf")
	if _, err := pipeline.ConvertHF(t.Context(), o, dir, pipeline.HFOptions{DType: "f16"}, quiet, nil); !errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(), "up_proj") {
		t.Errorf("folder: %v", err)
	}
	if left, _ := os.ReadDir(filepath.Dir(dir)); len(left) != 0 {
		t.Errorf("folder: files left: %v", left)
	}
}

// The end of an answer is what the model's config says, not what the tokenizer
// guesses by its tokens' names; more ends take the places that GGUF has.
func TestExportEnds(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"config.json", "model.safetensors", "tokenizer.json"} {
		data, err := os.ReadFile(testdata("assistant-tiny", name))
		if err != nil {
			t.Fatal(err)
		}
		if name == "config.json" {
			data = []byte(strings.Replace(string(data), `"eos_token_id": 5`, `"eos_token_id": [4, 3, 5]`, 1))
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	path, r := exported(t, open(t, dir), pipeline.ExportOptions{Type: "f16"})
	v, err := openGGUF(t, path).Vocab()
	if err != nil {
		t.Fatal(err)
	}
	// 5 is <|end|>, which llama.cpp knows by its name.
	if v.EOS != 3 || v.EOT != 4 || v.EOM != -1 || len(r.Notes) != 0 {
		t.Errorf("eos %d, eot %d, eom %d, notes %q", v.EOS, v.EOT, v.EOM, r.Notes)
	}
	back := open(t, path)
	tok, err := back.Tokenizer()
	if err != nil {
		t.Fatal(err)
	}
	if ends := tok.EndIDs(); !slices.Equal(ends, []int32{2, 3, 4, 5}) {
		t.Errorf("ends %v", ends)
	}
}

// An embedding with more rows than there are tokens keeps its rows.
func TestExportPadsVocabulary(t *testing.T) {
	dir := t.TempDir()
	config, err := os.ReadFile(testdata("assistant-tiny", "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	padded := strings.Replace(string(config), `"vocab_size": 2048`, `"vocab_size": 2050`, 1)
	c, err := model.ParseConfig("config.json", strings.NewReader(padded), int64(len(padded)))
	if err != nil {
		t.Fatal(err)
	}
	g, err := model.Build(c)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := os.ReadFile(testdata("assistant-tiny", "tokenizer.json"))
	if err != nil {
		t.Fatal(err)
	}
	m := &model.Model{Graph: g, Values: randomValues{g}}
	if _, err := pipeline.ConvertHF(t.Context(), &pipeline.Opened{Path: "test", Checkpoint: &convert.Checkpoint{Model: m}}, filepath.Join(dir, "hf"), pipeline.HFOptions{}, quiet, nil); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "hf", "tokenizer.json"), tok, 0o600); err != nil {
		t.Fatal(err)
	}
	path, _ := exported(t, open(t, filepath.Join(dir, "hf")), pipeline.ExportOptions{Type: "f32"})
	v, err := openGGUF(t, path).Vocab()
	if err != nil {
		t.Fatal(err)
	}
	if len(v.Tokens) != 2050 || v.Tokens[2049] != "[PAD2049]" || v.Types[2049] != gguf.TokenUnused || len(v.Scores) != 2050 {
		t.Errorf("%d tokens, the last %q of type %d, %d scores", len(v.Tokens), v.Tokens[len(v.Tokens)-1], v.Types[len(v.Types)-1], len(v.Scores))
	}
}

// A setting for which llama.cpp has no key is told: the embedding's scale that
// a bfloat16 Gemma was trained with.
func TestExportNotesEmbedScale(t *testing.T) {
	data, err := os.ReadFile(testdata("arch", "gemma2", "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(data), `"torch_dtype": "float32"`, `"torch_dtype": "bfloat16"`, 1)
	c, err := model.ParseConfig("config.json", strings.NewReader(text), int64(len(text)))
	if err != nil {
		t.Fatal(err)
	}
	g, err := model.Build(c)
	if err != nil {
		t.Fatal(err)
	}
	o := &pipeline.Opened{Path: "test", Checkpoint: &convert.Checkpoint{Model: &model.Model{Graph: g, Values: randomValues{g}}}}
	if _, r := exported(t, o, pipeline.ExportOptions{Type: "f32"}); !strings.Contains(strings.Join(r.Notes, "\n"), "embeddings are scaled by 6.3125, llama.cpp scales them by 6.32") {
		t.Errorf("notes %q", r.Notes)
	}
}
