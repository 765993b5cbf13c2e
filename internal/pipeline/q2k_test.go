package pipeline_test

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slmc/convert"
	"slmc/formats"
	"slmc/internal/kernel"
	"slmc/internal/pipeline"
	"slmc/model"
	"slmc/qat"
	slmrt "slmc/runtime"
)

// wide writes a model of two layers with random weights and whole blocks of 256
// but in its FFNs.
func wide(t testing.TB, hidden, ffn int) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "wide")
	convertWide(t, dir, hidden, ffn, 96)
	return dir
}

func convertWide(t testing.TB, dir string, hidden, ffn, vocab int) {
	t.Helper()
	num := func(n int) json.Number { b, _ := json.Marshal(n); return json.Number(b) }
	g, err := model.Build(model.NewConfig("config.json", map[string]any{
		"model_type": "llama", "architectures": []any{"LlamaForCausalLM"}, "torch_dtype": "float32", "hidden_size": num(hidden),
		"num_hidden_layers": num(2), "intermediate_size": num(ffn), "num_attention_heads": num(4), "num_key_value_heads": num(4),
		"head_dim": num(hidden / 4), "vocab_size": num(vocab), "max_position_embeddings": num(64), "rms_norm_eps": json.Number("1e-05"),
		"rope_theta": json.Number("10000.0"), "hidden_act": "silu", "tie_word_embeddings": true,
	}))
	if err != nil {
		t.Fatal(err)
	}
	m := &model.Model{Graph: g, Values: randomValues{g}}
	if _, err := pipeline.ConvertHF(t.Context(), &pipeline.Opened{Path: "test", Checkpoint: &convert.Checkpoint{Model: m}}, dir, pipeline.HFOptions{}, quiet, nil); err != nil {
		t.Fatal(err)
	}
}

// built makes a bundle for a target.
func built(t testing.TB, source, weights, target string) (*pipeline.Opened, error) {
	t.Helper()
	recipe, err := pipeline.DefaultRecipe(weights, "")
	if err != nil {
		t.Fatal(err)
	}
	recipe.Target = target
	out := filepath.Join(t.TempDir(), "model.slmb")
	if _, err := pipeline.Build(t.Context(), pipeline.Config{Source: source, Output: out, Recipe: recipe, Bare: true}, quiet); err != nil {
		return nil, err
	}
	return open(t, out), nil
}

// typesOf counts the matrices of each type.
func typesOf(r pipeline.ExportReport) map[string]int {
	n := map[string]int{}
	for _, x := range r.Tensors {
		if len(x.Shape) == 2 {
			n[x.Type]++
		}
	}
	return n
}

// A bundle that was built for it is held by Q2_K to the last bit, with FFNs
// widened by zeros; another is refused, or rounded when that is asked for.
func TestExportQ2K(t *testing.T) {
	source := wide(t, 256, 704)
	for _, weights := range []string{"w2g32", "w2g128", "w2"} {
		o, err := built(t, source, weights, "gguf-q2k")
		if err != nil {
			t.Fatal(err)
		}
		refused(t, o, pipeline.ExportOptions{Type: "q2_k"}, "blk.0.ffn_down.weight", "--pad widens the FFNs to 768")
		path, r := exported(t, o, pipeline.ExportOptions{Type: "q2_k", Pad: true})
		if n := typesOf(r); !r.Exact || r.LogitError != 0 || r.LogitTokens != 8 || r.PaddedFFN != 768 || n["Q2_K"] != 14 || n["Q4_0"] != 1 {
			t.Errorf("%s: %+v", weights, r)
		}
		if r.Parameters != int64(o.Model().Parameters()) {
			t.Errorf("%d parameters", r.Parameters)
		}
		if got := open(t, path).Model().Blocks[1].FFN; got != 768 {
			t.Errorf("FFNs of %d", got)
		}
		if weights != "w2" {
			continue
		}
		_, r = exported(t, o, pipeline.ExportOptions{Type: "auto"})
		if n := typesOf(r); !r.Exact || n["Q2_K"] != 12 || n["Q4_0"] != 3 {
			t.Errorf("%s auto: %v", weights, n)
		}
		_, r = exported(t, o, pipeline.ExportOptions{Type: "auto", Pad: true})
		if n := typesOf(r); !r.Exact || n["Q2_K"] != 14 || n["Q4_0"] != 1 || r.PaddedFFN != 768 {
			t.Errorf("%s auto, padded: %v", weights, n)
		}
	}
}

func refused(t *testing.T, o *pipeline.Opened, opts pipeline.ExportOptions, parts ...string) {
	t.Helper()
	_, err := pipeline.Export(t.Context(), o, filepath.Join(t.TempDir(), "x.gguf"), opts, quiet, nil)
	if !errors.Is(err, formats.ErrUnsupported) {
		t.Errorf("%+v: %v", opts, err)
		return
	}
	for _, part := range parts {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("%+v: %v, want %q", opts, err, part)
		}
	}
}

// What a type does not hold is refused with the reason, and rounded on demand.
func TestExportGridRefusals(t *testing.T) {
	free := quantized(t, wide(t, 256, 256), "w2")
	refused(t, free, pipeline.ExportOptions{Type: "q2_k"}, "blk.0.attn_q.weight", "the scales of row 0, weights from 0 on", "--target gguf-q2k", "--requantize")
	_, r := exported(t, free, pipeline.ExportOptions{Type: "q2_k", Requantize: true})
	if e := r.Types[1]; r.Exact || e.Type != "Q2_K" && e.Type != "F32" || r.MaxError == 0 || r.LogitError == 0 || r.LogitError > 0.2 {
		t.Errorf("requantized: %+v", r)
	}
	for _, x := range r.Types {
		if x.Type == "Q2_K" && !(x.RMSError > 0 && x.RMSError < 0.02) {
			t.Errorf("rounded scales: rms error %g", x.RMSError)
		}
	}
	_, r = exported(t, free, pipeline.ExportOptions{Type: "auto"})
	if n := typesOf(r); !r.Exact || n["Q4_0"] != 15 {
		t.Errorf("auto: %v", n)
	}
	refused(t, free, pipeline.ExportOptions{Type: "tq2_0"}, "levels -1, 0 and 1", "-1.5 to 1.5")
	_, r = exported(t, free, pipeline.ExportOptions{Type: "tq2_0", Requantize: true})
	if n := typesOf(r); r.Exact || n["TQ2_0"] != 14 {
		t.Errorf("ternary: %v", n)
	}
	w4 := quantized(t, wide(t, 256, 256), "w4")
	refused(t, w4, pipeline.ExportOptions{Type: "q2_k"}, "levels from -8 to 7 are too many")

	// A checkpoint is rounded as asked, but not where blocks do not fit.
	source := open(t, wide(t, 320, 256))
	refused(t, source, pipeline.ExportOptions{Type: "q2_k"}, "rows of 320 elements", "--fallback")
	refused(t, source, pipeline.ExportOptions{Type: "q2_k", Pad: true}, "RMS norms take their mean")
	source = open(t, wide(t, 256, 320))
	_, r = exported(t, source, pipeline.ExportOptions{Type: "q2_k", Pad: true})
	if n := typesOf(r); n["Q2_K"] != 14 || n["Q8_0"] != 1 || r.PaddedFFN != 512 {
		t.Errorf("checkpoint: %v, %+v", n, r)
	}
	_, r = exported(t, source, pipeline.ExportOptions{Type: "tq2_0", Fallback: "f16"})
	if n := typesOf(r); n["TQ2_0"] != 12 || n["F16"] != 2 || len(r.Fallback) != 2 {
		t.Errorf("checkpoint: %v, %+v", n, r.Fallback)
	}
}

func TestTargetRefuses(t *testing.T) {
	for _, c := range []struct {
		hidden, ffn           int
		weights, target, want string
	}{
		{320, 256, "w2", "gguf-q2k", "rows of 320"},
		{256, 260, "w2", "gguf-q2k", "end within a group of 16"},
		{256, 256, "w4", "gguf-q2k", "no matrix is w2"},
		{256, 256, "w2", "tpu", "want one of gguf-q2k"},
	} {
		if _, err := built(t, wide(t, c.hidden, c.ffn), c.weights, c.target); !errors.Is(err, pipeline.ErrUsage) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c, err)
		}
	}
}

// nlls are the mean losses of a bundle, through the packed kernels, and of
// llama.cpp on its export, on the same windows.
func nlls(t *testing.T, o *pipeline.Opened, path string, windows [][]int32) (ours, theirs float64, tokens int) {
	t.Helper()
	peer := llamaCpp(t)
	k, err := kernel.Select("")
	if err != nil {
		t.Fatal(err)
	}
	m, err := slmrt.FromBundle(o.Bundle)
	if err != nil {
		t.Fatal(err)
	}
	s, err := m.NewSession(slmrt.Options{Threads: 1})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	var scratch []float32
	for _, w := range windows {
		ids := make([]int, len(w))
		for i, id := range w {
			ids[i] = int(id)
		}
		z, err := peer.Logits(t.Context(), path, ids)
		if err != nil {
			t.Fatal(err)
		}
		s.Truncate(0)
		err = s.Logits(t.Context(), w, func(i int, mine []float32) error {
			if i+1 < len(w) {
				scratch = append(scratch[:0], mine...)
				ours += float64(k.LogSumExp(mine, scratch) - mine[w[i+1]])
				scratch = append(scratch[:0], z[i]...)
				theirs += float64(k.LogSumExp(z[i], scratch) - z[i][w[i+1]])
				tokens++
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return ours / float64(tokens), theirs / float64(tokens), tokens
}

// assistant-large in 2 bits, in llama.cpp: Q2_K with its FFNs widened, and auto.
func TestPeerQ2K(t *testing.T) {
	llamaCpp(t)
	source := shared(t, "models", "assistant-large")
	rows, err := pipeline.ReadRows(shared(t, "data", "assistant", "lm_train.jsonl"), pipeline.Fields{})
	if err != nil {
		t.Fatal(err)
	}
	o, err := built(t, source, "w2", "gguf-q2k")
	if err != nil {
		t.Fatal(err)
	}
	m, err := slmrt.FromBundle(o.Bundle)
	if err != nil {
		t.Fatal(err)
	}
	windows, _, err := pipeline.Sequences(m, rows[:24], 128)
	if err != nil {
		t.Fatal(err)
	}
	for _, opts := range []pipeline.ExportOptions{{Type: "q2_k", Pad: true}, {Type: "auto"}} {
		path, r := exported(t, o, opts)
		ours, theirs, n := nlls(t, o, path, windows)
		t.Logf("%s%s: %d bytes, %.2f bpw, exact %v: NLL of %d tokens %.4f, llama.cpp's %.4f (%+.2f %%)",
			opts.Type, map[bool]string{true: " padded"}[opts.Pad], r.FileBytes, r.FileBPW, r.Exact, n, ours, theirs, 100*(theirs/ours-1))
		if !r.Exact || !(math.Abs(theirs/ours-1) <= 0.005) {
			t.Errorf("%+v: NLL %.4f, llama.cpp's %.4f", opts, ours, theirs)
		}
	}
	theirOwnQ2K(t, o, source, windows)
}

// theirOwnQ2K logs what llama.cpp's quantizer makes of the same checkpoint: its
// 2-bit mixture, with whatever it falls back to.
func theirOwnQ2K(t *testing.T, o *pipeline.Opened, source string, windows [][]int32) {
	t.Helper()
	float, _ := exported(t, open(t, source), pipeline.ExportOptions{Type: "bf16"})
	out := filepath.Join(t.TempDir(), "q2_k.gguf")
	if _, err := llamaCpp(t).Quantize(t.Context(), float, out, "q2_k"); err != nil {
		t.Fatal(err)
	}
	counts := map[string]int{}
	for _, x := range openGGUF(t, out).Tensors() {
		counts[x.Type]++
	}
	st, err := os.Stat(out)
	if err != nil {
		t.Fatal(err)
	}
	_, reference, _ := nlls(t, o, float, windows)
	_, theirs, n := nlls(t, o, out, windows)
	t.Logf("llama.cpp's own q2_k of the checkpoint: %d bytes, %.2f bpw, %v: NLL of %d tokens %.4f; in bf16 %.4f",
		st.Size(), 8*float64(st.Size())/float64(o.Model().Parameters()), counts, n, theirs, reference)
}

// Calibration and training keep to the target: what comes out of them is held by
// Q2_K too.
func TestMadeForQ2K(t *testing.T) {
	dir := wideVocab(t)
	examples := filepath.Join(t.TempDir(), "text.txt")
	if err := os.WriteFile(examples, []byte(strings.Repeat("what is the weather in paris tomorrow? set a timer for nine minutes. ", 8)), 0o600); err != nil {
		t.Fatal(err)
	}
	training := &pipeline.Training{Config: qat.DefaultConfig()}
	training.Epochs, training.BatchTokens, training.Warmup, training.ScaleLR = 1, 64, 1, 0.02
	gentle := *training // calibrated codes are near: large steps count as divergence
	gentle.LR, gentle.ScaleLR = 1e-4, 1e-3
	calibration := func(name string) *pipeline.Calibration {
		return &pipeline.Calibration{Algorithm: name, Compensate: true, MaxTokens: 256}
	}
	for name, change := range map[string]func(*pipeline.Recipe){
		"trained":      func(r *pipeline.Recipe) { r.QAT = training },
		"imatrix":      func(r *pipeline.Recipe) { r.Calibrate = calibration("imatrix") },
		"gptq":         func(r *pipeline.Recipe) { r.Calibrate = calibration("gptq") },
		"gptq-refined": func(r *pipeline.Recipe) { r.Calibrate = calibration("gptq-refined") },
		"both":         func(r *pipeline.Recipe) { r.Calibrate, r.QAT = calibration("gptq-refined"), &gentle },
	} {
		t.Run(name, func(t *testing.T) {
			recipe, err := pipeline.DefaultRecipe("w2", "")
			if err != nil {
				t.Fatal(err)
			}
			recipe.Target, recipe.Context, recipe.Golden = "gguf-q2k", 32, pipeline.Golden{Prompts: 1, PromptTokens: 4, Greedy: 2}
			change(&recipe)
			out := filepath.Join(t.TempDir(), "model.slmb")
			cfg := pipeline.Config{Source: dir, Output: out, Recipe: recipe, CalibrateFile: examples, Env: pipeline.Env{CacheDir: t.TempDir()}}
			if _, err := pipeline.Build(t.Context(), cfg, quiet); err != nil {
				t.Fatal(err)
			}
			_, r := exported(t, open(t, out), pipeline.ExportOptions{Type: "q2_k"})
			if n := typesOf(r); !r.Exact || n["Q2_K"] != 14 {
				t.Errorf("%v, off by %g", n, r.MaxError)
			}
		})
	}
}

// wideVocab is wide with the vocabulary and tokenizer of assistant-tiny.
func wideVocab(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "wide")
	convertWide(t, dir, 256, 256, 2048)
	data, err := os.ReadFile(testdata("assistant-tiny", "tokenizer.json"))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "tokenizer.json"), data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}
