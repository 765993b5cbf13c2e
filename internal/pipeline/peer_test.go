package pipeline_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"slmc/bench/peer"
	"slmc/convert"
	"slmc/formats"
	"slmc/internal/exec"
	"slmc/internal/kernel"
	"slmc/internal/pipeline"
	"slmc/model"
	"slmc/tensor"
)

// llamaCpp is the oracle with one thread, float32 cache and no flash
// attention, or a skip.
func llamaCpp(t *testing.T) *peer.Oracle {
	t.Helper()
	o, err := peer.Find("")
	if err != nil {
		t.Skip(err)
	}
	return o
}

// floats runs a model in float32.
type floats struct {
	g   *model.Graph
	ops exec.Ops
	pos int
}

// start makes a session; wrap, which may be nil, changes its operations.
func start(t *testing.T, m *model.Model, context int, wrap func(*exec.Plain) exec.Ops) *floats {
	t.Helper()
	k, err := kernel.Select("")
	if err != nil {
		t.Fatal(err)
	}
	p, err := exec.LoadParams(m, context)
	if err != nil {
		t.Fatal(err)
	}
	pool := exec.NewPool(1)
	t.Cleanup(pool.Close)
	plain := exec.NewPlain(m.Graph, p, k, pool, exec.NewCache(m.Graph, exec.KVF32, context))
	f := &floats{g: m.Graph, ops: plain}
	if wrap != nil {
		f.ops = wrap(plain)
	}
	return f
}

// feed returns the logits after each of the ids from index from on.
func (f *floats) feed(t *testing.T, ids []int, from int) [][]float32 {
	t.Helper()
	short := make([]int32, len(ids))
	for i, id := range ids {
		short[i] = int32(id)
	}
	z, err := exec.Forward(f.g, f.ops, exec.Batch{IDs: short, Pos: f.pos}, from)
	if err != nil {
		t.Fatal(err)
	}
	f.pos += len(ids)
	var out [][]float32
	for r := range z.R {
		out = append(out, slices.Clone(z.Row(r)))
	}
	return out
}

// apart is the largest difference of two rows of logits, relative to the
// largest magnitude of a row.
func apart(got, want [][]float32) float64 {
	worst := 0.0
	for pos := range want {
		diff, size := 0.0, 0.0
		for i, w := range want[pos] {
			diff, size = max(diff, math.Abs(float64(got[pos][i])-float64(w))), max(size, math.Abs(float64(w)))
		}
		worst = max(worst, diff/size)
	}
	return worst
}

// tableGELU computes GELU as ggml does on float32: by a table of float16
// values at float16 arguments (ggml_vec_gelu_f32 under GGML_GELU_FP16), and
// outside [-10, 10] exactly.
type tableGELU struct{ *exec.Plain }

func (o tableGELU) Gate(act model.Activation, gate, up *tensor.Mat) *tensor.Mat {
	if act != model.GELUTanh {
		return o.Plain.Gate(act, gate, up)
	}
	for r := range gate.R {
		x, u := gate.Row(r), up.Row(r)
		for i, v := range x {
			switch {
			case v <= -10:
				x[i] = 0
			case v < 10:
				h := float64(tensor.HalfFrom(v).Float32())
				y := 0.5 * h * (1 + math.Tanh(0.79788456080286535587989211986876*h*(1+0.044715*h*h)))
				x[i] = tensor.HalfFrom(float32(y)).Float32()
			}
			x[i] *= u[i]
		}
	}
	return gate
}

// silentFFN are values in which no FFN adds anything, so that no GELU counts.
type silentFFN struct{ *model.Model }

func (s silentFFN) Read(i, off int, dst []float32) error {
	if s.Weights[i].Role == model.RoleDown {
		clear(dst)
		return nil
	}
	return s.Model.Values.Read(i, off, dst)
}

// difference exports m as F32 and compares llama.cpp's logits with slmc's.
func difference(t *testing.T, o *peer.Oracle, m *model.Model, ids []int, wrap func(*exec.Plain) exec.Ops) float64 {
	t.Helper()
	path, _ := exported(t, &pipeline.Opened{Path: "test", Checkpoint: &convert.Checkpoint{Model: m}}, pipeline.ExportOptions{Type: "f32"})
	theirs, err := o.Logits(t.Context(), path, ids)
	if err != nil {
		t.Fatal(err)
	}
	return apart(theirs, start(t, m, len(ids), wrap).feed(t, ids, 0))
}

// llama.cpp is the second oracle: it computes from our F32 export of every
// architecture the logits that slmc computes from the checkpoint. Gemma's
// differ by ggml's table of GELU: with the same table they agree but for values
// whose last bit picks the entry beside, a step of 2^-11; and without the FFNs
// they agree as the others do.
func TestPeerLogits(t *testing.T) {
	o := llamaCpp(t)
	for _, name := range plainArchs {
		var ref struct{ IDs []int }
		data, err := os.ReadFile(testdata("arch", name, "logits.json"))
		if err == nil {
			err = json.Unmarshal(data, &ref)
		}
		if err != nil {
			t.Fatal(err)
		}
		m := open(t, testdata("arch", name)).Model()
		plain := difference(t, o, m, ref.IDs, nil)
		if !strings.HasPrefix(name, "gemma") {
			t.Logf("%-14s %d tokens: logits differ by %.1e", name, len(ref.IDs), plain)
			if !(plain <= 1e-5) {
				t.Errorf("%s: logits differ by %.2g of a row's largest", name, plain)
			}
			continue
		}
		table := difference(t, o, m, ref.IDs, func(p *exec.Plain) exec.Ops { return tableGELU{p} })
		silent := difference(t, o, &model.Model{Graph: m.Graph, Values: silentFFN{m}}, ref.IDs, nil)
		t.Logf("%-14s %d tokens: logits differ by %.1e, with ggml's table of GELU by %.1e, without the FFNs by %.1e", name, len(ref.IDs), plain, table, silent)
		if !(plain <= 2e-3 && table <= 5e-4 && silent <= 1e-5) {
			t.Errorf("%s: logits differ by %.2g, %.2g, %.2g of a row's largest", name, plain, table, silent)
		}
	}
}

// randomValues gives weight i elements that depend on i and on their place
// alone: norms near one, all else near zero.
type randomValues struct{ g *model.Graph }

func (v randomValues) Read(i, off int, dst []float32) error {
	for k := range dst {
		r := rand.New(rand.NewPCG(uint64(i), uint64(off+k)))
		dst[k] = float32(0.2 * r.NormFloat64())
		if v.g.Weights[i].Role == model.RoleNorm {
			dst[k]++
		}
	}
	return nil
}

// Settings that no checkpoint of testdata has, with random weights.
func TestPeerVariants(t *testing.T) {
	o := llamaCpp(t)
	ids := []int{1, 7, 3, 20, 9, 49, 11, 12, 13, 2, 5, 30, 8, 8, 40, 33, 21, 6, 17, 4}
	for _, c := range []struct {
		what, arch string
		change     map[string]any
		refused    string
	}{
		{what: "other layers windowed", arch: "gemma2", change: map[string]any{"layer_types": []any{"full_attention", "full_attention", "sliding_attention", "full_attention"}}},
		{what: "linear scaling", arch: "gemma2", change: map[string]any{"rope_scaling": map[string]any{"rope_type": "linear", "factor": json.Number("4")}}},
		{what: "no scaling", arch: "gemma3", change: map[string]any{"rope_scaling": nil}},
		{what: "no windowed layer", arch: "gemma3", change: map[string]any{"sliding_window_pattern": json.Number("1")}},
		{what: "linear scaling", arch: "qwen2", change: map[string]any{"rope_scaling": map[string]any{"rope_type": "linear", "factor": json.Number("4")}}},
		{what: "untied head", arch: "qwen2", change: map[string]any{"tie_word_embeddings": false}},
		{what: "untied head", arch: "qwen3", change: map[string]any{"tie_word_embeddings": false}},
		{what: "untied head", arch: "gemma3", change: map[string]any{"tie_word_embeddings": false}},
		{what: "untied head", arch: "gemma2", change: map[string]any{"tie_word_embeddings": false}, refused: "takes the embedding"},
		{what: "biases", arch: "qwen3", change: map[string]any{"attention_bias": true}, refused: "no such bias"},
		{what: "biases", arch: "gemma2", change: map[string]any{"attention_bias": true}, refused: "no such bias"},
		{what: "no soft-caps", arch: "gemma2", change: map[string]any{"attn_logit_softcapping": nil}, refused: "always caps"},
		{what: "one head", arch: "llama", change: map[string]any{"num_attention_heads": json.Number("1"), "num_key_value_heads": json.Number("1")}},
	} {
		name := c.arch + ", " + c.what
		data, err := os.ReadFile(testdata("arch", c.arch, "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		config := map[string]any{}
		dec := json.NewDecoder(strings.NewReader(string(data)))
		dec.UseNumber()
		if err := dec.Decode(&config); err != nil {
			t.Fatal(err)
		}
		maps.Copy(config, c.change)
		g, err := model.Build(model.NewConfig(name, config))
		if err != nil {
			t.Fatal(err)
		}
		m := &model.Model{Graph: g, Values: randomValues{g}}
		if strings.HasPrefix(c.arch, "gemma") {
			m.Values = silentFFN{&model.Model{Graph: g, Values: randomValues{g}}}
		}
		if c.refused != "" {
			_, err := pipeline.Export(t.Context(), &pipeline.Opened{Path: "test", Checkpoint: &convert.Checkpoint{Model: m}}, filepath.Join(t.TempDir(), "x"), pipeline.ExportOptions{Type: "f32"}, quiet, nil)
			if !errors.Is(err, formats.ErrUnsupported) || !strings.Contains(err.Error(), c.refused) {
				t.Errorf("%s: %v, want %q", name, err, c.refused)
			}
			continue
		}
		t.Run(name, func(t *testing.T) {
			d := difference(t, o, m, ids, nil)
			t.Logf("%-32s logits differ by %.1e", name, d)
			if !(d <= 1e-5) {
				t.Errorf("%s: logits differ by %.2g of a row's largest", name, d)
			}
		})
	}
}

// greedyCase is an export whose greedy tokens are compared on 8 prompts.
type greedyCase struct {
	name, path string
	opts       pipeline.ExportOptions
	prompts    []string
	special    bool // prompts name special tokens
	equal      bool // all tokens must be equal
}

var storyPrompts = []string{"Once upon a time", "Lily and Tom", "The big dog", "One day, a little girl named Sue", "There was a", "\"Hello,\" said the cat", "It was raining", "Tim had a red ball."}

func requestPrompts() (out []string) {
	for _, q := range []string{"what is the weather in paris tomorrow", "turn your volume up to seven", "add this song to my road trip playlist", "is flight 812 from madrid still on time",
		"play some jazz", "set a timer for ten minutes", "book a table for two", "how do i say thanks in french"} {
		out = append(out, "<|user|>"+q+"<|end|><|assistant|>")
	}
	return out
}

// Real models: what llama.cpp makes of our exports, greedily, 32 tokens from 8
// prompts.
func TestPeerGreedy(t *testing.T) {
	o := llamaCpp(t)
	cases := []greedyCase{
		{"assistant-tiny F32", testdata("assistant-tiny"), pipeline.ExportOptions{Type: "f32"}, requestPrompts(), true, true},
		{"assistant-tiny F16", testdata("assistant-tiny"), pipeline.ExportOptions{Type: "f16"}, requestPrompts(), true, false},
	}
	for _, c := range cases {
		comparePeer(t, o, c)
	}
}

// The same for models that lie beside the repository.
func TestPeerGreedyShared(t *testing.T) {
	o := llamaCpp(t)
	stories, small := shared(t, "models", "stories260K"), shared(t, "models", "assistant-small")
	for _, c := range []greedyCase{
		{"stories260K F32", stories, pipeline.ExportOptions{Type: "f32"}, storyPrompts, false, true},
		{"stories260K F16", stories, pipeline.ExportOptions{Type: "f16"}, storyPrompts, false, false},
		{"stories260K Q8_0", stories, pipeline.ExportOptions{Type: "q8_0", Fallback: "f16"}, storyPrompts, false, false},
		{"assistant-small F32", small, pipeline.ExportOptions{Type: "f32"}, requestPrompts(), true, true},
		{"assistant-small Q8_0", small, pipeline.ExportOptions{Type: "q8_0"}, requestPrompts(), true, false},
		{"assistant-small Q4_0", small, pipeline.ExportOptions{Type: "q4_0"}, requestPrompts(), true, false},
	} {
		comparePeer(t, o, c)
	}
}

func comparePeer(t *testing.T, o *peer.Oracle, c greedyCase) {
	t.Helper()
	const n = 32
	source := open(t, c.path)
	path, r := exported(t, source, c.opts)
	theirIDs, err := o.Tokenize(t.Context(), path, c.prompts, true, c.special)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := source.Tokenizer()
	if err != nil {
		t.Fatal(err)
	}
	equal, total, worst := 0, 0, 0.0
	for i, prompt := range c.prompts {
		short, err := tok.Encode(prompt, true)
		if err != nil {
			t.Fatal(err)
		}
		ids := make([]int, len(short))
		for k, id := range short {
			ids[k] = int(id)
		}
		if !slices.Equal(ids, theirIDs[i]) {
			t.Errorf("%s: %q is %v, llama.cpp has %v", c.name, prompt, ids, theirIDs[i])
			continue
		}
		theirs, err := o.Logits(t.Context(), path, ids)
		if err != nil {
			t.Fatal(err)
		}
		s := start(t, source.Model(), len(ids)+n, nil)
		ours := s.feed(t, ids, 0)
		worst = max(worst, apart(theirs, ours))
		next, err := o.Greedy(t.Context(), path, n, ids)
		if err != nil {
			t.Fatal(err)
		}
		same, first := s.greedy(t, ours[len(ours)-1], next)
		total += n
		equal += same
		if same < n {
			t.Logf("%s: %q: %s", c.name, prompt, first)
		}
	}
	t.Logf("%-22s %s bytes, %.2f bpw: logits differ by at most %.1e; %d of %d greedy tokens before the first difference of each prompt",
		c.name, fmt.Sprint(r.FileBytes), r.FileBPW, worst, equal, total)
	if c.equal && equal != total {
		t.Errorf("%s: %d of %d greedy tokens", c.name, equal, total)
	}
	if c.equal && !(worst <= 1e-4) {
		t.Errorf("%s: logits differ by %.2g", c.name, worst)
	}
}

// greedy counts how many of next follow as our own greedy tokens, and describes
// the first that does not.
func (f *floats) greedy(t *testing.T, logits []float32, next []int) (same int, first string) {
	t.Helper()
	for k, id := range next {
		mine := kernel.ArgMax(logits)
		if mine != id {
			return k, fmt.Sprintf("token %d is %d, llama.cpp has %d; our logits %g and %g", k, mine, id, logits[mine], logits[id])
		}
		if k+1 < len(next) {
			logits = f.feed(t, []int{id}, 0)[0]
		}
	}
	return len(next), ""
}

// A bundle's codes in a file: llama.cpp's Q8_0 rounds activations its own way,
// so tokens may differ; the file's values are the bundle's.
func TestPeerBundle(t *testing.T) {
	o := llamaCpp(t)
	b := quantized(t, testdata("assistant-tiny"), "w8")
	path, r := exported(t, b, pipeline.ExportOptions{Type: "q8_0", Fallback: "f32"})
	if !r.Exact {
		t.Errorf("off by %g", r.MaxError)
	}
	info, err := o.Info(t.Context(), path)
	if err != nil || info["parameters"] != "408384" {
		t.Errorf("%v, %v", info, err)
	}
	ids := []int{1, 3, 348, 367, 290, 607, 315, 281, 272, 340, 1376, 5, 4}
	theirs, err := o.Logits(t.Context(), path, ids)
	if err != nil {
		t.Fatal(err)
	}
	d := apart(theirs, start(t, b.Model(), len(ids), nil).feed(t, ids, 0))
	t.Logf("W8 bundle as Q8_0: logits differ by %.1e from the same weights in float32", d)
	if !(d < 0.05) {
		t.Errorf("logits differ by %.2g", d)
	}
}
