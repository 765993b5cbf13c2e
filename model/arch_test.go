package model

import (
	"encoding/json"
	"errors"
	"maps"
	"math"
	"strings"
	"testing"

	"slmc/formats"
)

func buildText(text string, ignore ...string) (*Graph, error) {
	c, err := ParseConfig("config.json", strings.NewReader(text), int64(len(text)))
	if err != nil {
		return nil, err
	}
	return Build(c, ignore...)
}

func mustBuild(t *testing.T, text string) *Graph {
	t.Helper()
	g, err := buildText(text)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// base returns a small config of each model_type with the keys that published
// ones have.
func base(kind string) map[string]any {
	c := map[string]any{
		"model_type": kind, "hidden_size": 48, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 16,
		"intermediate_size": 80, "vocab_size": 66, "num_hidden_layers": 6, "max_position_embeddings": 256,
		"rms_norm_eps": 1e-5, "rope_theta": 10000.0, "bos_token_id": 1, "eos_token_id": []int{2, 3},
		"torch_dtype": "bfloat16", "transformers_version": "4.50.0", "use_cache": true, "initializer_range": 0.02,
		"attention_dropout": 0.0, "quantization_config": nil,
	}
	more := map[string]map[string]any{
		"llama":       {"architectures": []string{"LlamaForCausalLM"}, "hidden_act": "silu", "rope_scaling": nil, "pretraining_tp": 1, "rope_interleaved": false},
		"mistral":     {"architectures": []string{"MistralForCausalLM"}, "hidden_act": "silu", "sliding_window": nil},
		"mobilellm":   {"architectures": []string{"MobileLLMForCausalLM"}, "hidden_act": "silu", "share_embedding": true, "tie_word_embeddings": false, "layer_sharing": true},
		"qwen2":       {"architectures": []string{"Qwen2ForCausalLM"}, "hidden_act": "silu", "use_sliding_window": false, "sliding_window": 32768, "max_window_layers": 21, "use_mrope": false},
		"qwen3":       {"architectures": []string{"Qwen3ForCausalLM"}, "hidden_act": "silu", "use_sliding_window": false, "sliding_window": nil, "max_window_layers": 6, "attention_bias": false},
		"gemma2":      {"architectures": []string{"Gemma2ForCausalLM"}, "hidden_act": "gelu_pytorch_tanh", "hidden_activation": "gelu_pytorch_tanh", "sliding_window": 8, "query_pre_attn_scalar": 24, "final_logit_softcapping": 30.0, "attn_logit_softcapping": 50.0, "cache_implementation": "hybrid"},
		"gemma3_text": {"architectures": []string{"Gemma3ForCausalLM"}, "hidden_activation": "gelu_pytorch_tanh", "sliding_window": 8, "query_pre_attn_scalar": 24, "final_logit_softcapping": nil, "attn_logit_softcapping": nil, "rope_local_base_freq": 10000.0, "rope_scaling": map[string]any{"rope_type": "linear", "factor": 8.0}, "sliding_window_pattern": 6, "use_bidirectional_attention": false},
	}
	maps.Copy(c, more[kind])
	return c
}

func text(t *testing.T, c map[string]any) string {
	t.Helper()
	b, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var kinds = []string{"llama", "mistral", "mobilellm", "qwen2", "qwen3", "gemma2", "gemma3_text"}

// Every architecture of the table is built from a config like the published
// ones, and the graph holds together.
func TestBuild(t *testing.T) {
	seen := map[string]bool{}
	for _, kind := range kinds {
		g := mustBuild(t, text(t, base(kind)))
		seen[g.Arch] = true
		checkGraph(t, kind, g)
	}
	for _, a := range Archs() {
		if !seen[a.Name] {
			t.Errorf("%s: no config in this test", a.Name)
		}
	}
}

// checkGraph holds every index in range and every matrix' shape to its place.
func checkGraph(t *testing.T, kind string, g *Graph) {
	t.Helper()
	shape := func(i int, want ...int) {
		t.Helper()
		if i == None {
			return
		}
		got := g.Weights[i].Shape
		if len(got) != len(want) {
			t.Fatalf("%s: %s is %v, want %v", kind, g.Weights[i].Name, got, want)
		}
		for k := range want {
			if got[k] != want[k] {
				t.Fatalf("%s: %s is %v, want %v", kind, g.Weights[i].Name, got, want)
			}
		}
	}
	names, sources := map[string]bool{}, map[string]bool{}
	for _, w := range g.Weights {
		if names[w.Name] || sources[w.Source] || w.Name == "" || w.Source == "" {
			t.Errorf("%s: %q from %q is there twice or nameless", kind, w.Name, w.Source)
		}
		names[w.Name], sources[w.Source] = true, true
		if w.Role.Matrix() != (len(w.Shape) == 2) {
			t.Errorf("%s: %s of role %s has shape %v", kind, w.Name, w.Role, w.Shape)
		}
		if w.Role.Matrix() && w.Input == "" && w.Role != RoleEmbed {
			t.Errorf("%s: %s has no input label", kind, w.Name)
		}
	}
	shape(g.Embed, g.Vocab, g.Hidden)
	shape(g.Head.W, g.Vocab, g.Hidden)
	for i, b := range g.Blocks {
		if b.KVFrom != i {
			t.Errorf("%s: block %d reads block %d", kind, i, b.KVFrom)
		}
		for _, n := range []int{b.AttnNorm, b.FFNNorm, b.PostAttnNorm, b.PostFFNNorm, b.O.B, b.Down.B} {
			shape(n, g.Hidden)
		}
		shape(b.Q.W, b.Heads*b.HeadDim, g.Hidden)
		shape(b.Q.B, b.Heads*b.HeadDim)
		shape(b.K.W, b.KVHeads*b.HeadDim, g.Hidden)
		shape(b.K.B, b.KVHeads*b.HeadDim)
		shape(b.V.W, b.KVHeads*b.HeadDim, g.Hidden)
		shape(b.O.W, g.Hidden, b.Heads*b.HeadDim)
		shape(b.QNorm, b.HeadDim)
		shape(b.KNorm, b.HeadDim)
		shape(b.Gate.W, b.FFN, g.Hidden)
		shape(b.Up.W, b.FFN, g.Hidden)
		shape(b.Down.W, g.Hidden, b.FFN)
		if len(g.Ropes[b.Rope].InvFreq) != b.HeadDim/2 {
			t.Errorf("%s: block %d: %d frequencies for head size %d", kind, i, len(g.Ropes[b.Rope].InvFreq), b.HeadDim)
		}
		if b.AttnScale <= 0 || g.NormEps <= 0 {
			t.Errorf("%s: block %d: scale %g, eps %g", kind, i, b.AttnScale, g.NormEps)
		}
	}
}

func TestArchDetails(t *testing.T) {
	mobile := mustBuild(t, text(t, base("mobilellm")))
	if !mobile.Tied() || len(mobile.Blocks) != 12 || len(mobile.Givers()) != 12 || mobile.Blocks[0].Q.W != mobile.Blocks[1].Q.W || mobile.Blocks[1].Q.W == mobile.Blocks[2].Q.W {
		t.Errorf("mobilellm: tied %v, %d blocks, %d cache slots", mobile.Tied(), len(mobile.Blocks), len(mobile.Givers()))
	}
	llama := mustBuild(t, text(t, base("llama")))
	if llama.Tied() || llama.Blocks[0].Q.B != None {
		t.Error("llama: tied or with biases by default")
	}
	if qwen := mustBuild(t, text(t, base("qwen2"))); qwen.Blocks[0].Q.B == None || qwen.Blocks[0].O.B != None || qwen.Blocks[5].Window != 0 {
		t.Errorf("qwen2: %+v", qwen.Blocks[0])
	}
	if qwen := mustBuild(t, text(t, base("qwen3"))); qwen.Blocks[0].QNorm == None || qwen.Blocks[0].Q.B != None {
		t.Errorf("qwen3: %+v", qwen.Blocks[0])
	}
	g2 := mustBuild(t, text(t, base("gemma2")))
	if g2.Blocks[0].Window != 8 || g2.Blocks[1].Window != 0 || g2.LogitCap != 30 || g2.Blocks[0].AttnCap != 50 || !g2.Weights[g2.Norm].AddOne || !g2.Tied() {
		t.Errorf("gemma2: %+v", g2.Blocks[0])
	}
	if want := float32(1 / math.Sqrt(24)); g2.Blocks[0].AttnScale != want {
		t.Errorf("gemma2: scale %g, want %g", g2.Blocks[0].AttnScale, want)
	}
	g3 := mustBuild(t, text(t, base("gemma3_text")))
	if g3.Blocks[4].Window != 8 || g3.Blocks[5].Window != 0 || g3.LogitCap != 0 || g3.Blocks[0].AttnCap != 0 || g3.Blocks[0].QNorm == None {
		t.Errorf("gemma3: %+v", g3.Blocks[4])
	}
	full, local := g3.Ropes[g3.Blocks[5].Rope], g3.Ropes[g3.Blocks[4].Rope]
	if full.InvFreq[0] != 0.125 || local.InvFreq[0] != 1 {
		t.Errorf("gemma3: full %g, local %g", full.InvFreq[0], local.InvFreq[0])
	}
	// sqrt(48) is 6.9282; bfloat16 has 6.9375 there.
	if g3.EmbedScale != 6.9375 {
		t.Errorf("gemma3: embedding scale %g in bfloat16", g3.EmbedScale)
	}
}

// change returns the base config of a kind with one key set, or removed when
// the value is absent.
type absent struct{}

func change(t *testing.T, kind string, kv ...any) string {
	t.Helper()
	c := base(kind)
	for i := 0; i < len(kv); i += 2 {
		if _, gone := kv[i+1].(absent); gone {
			delete(c, kv[i].(string))
		} else {
			c[kv[i].(string)] = kv[i+1]
		}
	}
	return text(t, c)
}

func TestAccepts(t *testing.T) {
	type m = map[string]any
	windows := func(g *Graph) (out []int) {
		for _, b := range g.Blocks {
			out = append(out, b.Window)
		}
		return out
	}
	for _, c := range []struct {
		name, text string
		ok         func(g *Graph) bool
	}{
		{"biases", change(t, "llama", "attention_bias", true, "mlp_bias", true), func(g *Graph) bool {
			b := g.Blocks[0]
			return b.Q.B >= 0 && b.O.B >= 0 && b.Gate.B >= 0 && b.Down.B >= 0
		}},
		{"tied", change(t, "llama", "tie_word_embeddings", true), (*Graph).Tied},
		{"kv heads default", change(t, "llama", "num_key_value_heads", absent{}), func(g *Graph) bool { return g.Blocks[0].KVHeads == 3 }},
		{"head size default", change(t, "llama", "head_dim", nil), func(g *Graph) bool { return g.Blocks[0].HeadDim == 16 }},
		{"no model_type", change(t, "llama", "model_type", absent{}), func(g *Graph) bool { return g.Arch == "llama" }},
		{"mobilellm, own head", change(t, "mobilellm", "share_embedding", false, "layer_sharing", false), func(g *Graph) bool { return !g.Tied() && len(g.Blocks) == 6 }},
		{"qwen2 windows", change(t, "qwen2", "use_sliding_window", true, "max_window_layers", 4, "sliding_window", 8), func(g *Graph) bool { w := windows(g); return w[3] == 0 && w[4] == 8 && w[5] == 8 }},
		{"qwen3 layer types", change(t, "qwen3", "use_sliding_window", true, "sliding_window", 8, "layer_types", []string{"sliding_attention", "full_attention", "full_attention", "full_attention", "full_attention", "sliding_attention"}), func(g *Graph) bool { w := windows(g); return w[0] == 8 && w[1] == 0 && w[5] == 8 }},
		{"gemma2 without caps", change(t, "gemma2", "attn_logit_softcapping", nil, "final_logit_softcapping", nil), func(g *Graph) bool { return g.LogitCap == 0 && g.Blocks[0].AttnCap == 0 }},
		{"gemma2 default caps", change(t, "gemma2", "attn_logit_softcapping", absent{}, "final_logit_softcapping", absent{}), func(g *Graph) bool { return g.LogitCap == 30 && g.Blocks[0].AttnCap == 50 }},
		{"gemma3 rope_parameters", change(t, "gemma3_text", "rope_theta", absent{}, "rope_scaling", absent{}, "rope_local_base_freq", absent{},
			"rope_parameters", m{"full_attention": m{"rope_type": "linear", "factor": 8.0, "rope_theta": 10000.0}, "sliding_attention": m{"rope_type": "default", "rope_theta": 10000.0}}), func(g *Graph) bool { return g.Ropes[0].InvFreq[0] == 0.125 && g.Ropes[1].InvFreq[0] == 1 }},
		{"gemma3 pattern 2", change(t, "gemma3_text", "sliding_window_pattern", 2), func(g *Graph) bool { w := windows(g); return w[0] == 8 && w[1] == 0 && w[2] == 8 }},
		{"gemma3 without windows", change(t, "gemma3_text", "num_hidden_layers", 2, "sliding_window", nil, "layer_types", []string{"full_attention", "full_attention"}), func(g *Graph) bool { return g.Blocks[0].Window == 0 && g.Blocks[1].Window == 0 }},
		{"gemma2 window twice", change(t, "gemma2", "sliding_window_size", 8), func(g *Graph) bool { return g.Blocks[0].Window == 8 }},
		{"gemma float32 scale", change(t, "gemma2", "torch_dtype", "float32"), func(g *Graph) bool { return g.EmbedScale == float32(math.Sqrt(48)) }},
	} {
		g, err := buildText(c.text)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		checkGraph(t, c.name, g)
		if !c.ok(g) {
			t.Errorf("%s: %+v", c.name, g.Blocks[0])
		}
	}
}

// Every key that changes the numbers in a way that is not implemented is
// refused by its name and value.
func TestRefusals(t *testing.T) {
	type m = map[string]any
	for _, c := range []struct {
		text string
		kind error
		want []string // parts of the message
	}{
		{change(t, "llama", "model_type", "mamba"), formats.ErrUnsupported, []string{"model_type", `"mamba"`, "llama"}},
		{change(t, "gemma3_text", "model_type", "gemma3"), formats.ErrUnsupported, []string{"model_type", `"gemma3"`}},
		{change(t, "llama", "model_type", absent{}, "architectures", absent{}), formats.ErrUnsupported, []string{"model_type"}},
		{change(t, "llama", "architectures", []string{"LlamaForSequenceClassification"}), formats.ErrUnsupported, []string{"architectures", "LlamaForSequenceClassification"}},
		{change(t, "llama", "hidden_act", "gelu"), formats.ErrUnsupported, []string{"hidden_act", `"gelu"`, "silu"}},
		{change(t, "gemma2", "hidden_activation", "gelu"), formats.ErrUnsupported, []string{"hidden_activation", `"gelu"`}},
		{change(t, "gemma2", "hidden_act", "relu"), formats.ErrUnsupported, []string{"hidden_act", `"relu"`}},
		{change(t, "llama", "rope_scaling", m{"rope_type": "yarn", "factor": 4.0, "beta_fast": 32}), formats.ErrUnsupported, []string{"rope_scaling.rope_type", `"yarn"`, "llama3"}},
		{change(t, "llama", "rope_scaling", m{"type": "dynamic", "factor": 2.0}), formats.ErrUnsupported, []string{`"dynamic"`}},
		{change(t, "llama", "rope_scaling", m{"rope_type": "longrope", "short_factor": []int{1}}), formats.ErrUnsupported, []string{`"longrope"`}},
		{change(t, "llama", "rope_scaling", m{"rope_type": "linear"}), formats.ErrCorrupt, []string{"rope_scaling.factor", "missing"}},
		{change(t, "llama", "rope_scaling", m{"rope_type": "linear", "factor": 0.5}), formats.ErrUnsupported, []string{"factor", "0.5"}},
		{change(t, "llama", "rope_scaling", m{"rope_type": "linear", "factor": 2.0, "alpha": 3}), formats.ErrUnsupported, []string{"rope_scaling.alpha", "3"}},
		{change(t, "llama", "rope_scaling", m{"rope_type": "linear", "type": "default", "factor": 2.0}), formats.ErrCorrupt, []string{"type"}},
		{change(t, "llama", "rope_scaling", m{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 4.0, "high_freq_factor": 1.0, "original_max_position_embeddings": 64}), formats.ErrUnsupported, []string{"high_freq_factor"}},
		{change(t, "llama", "rope_scaling", "linear"), formats.ErrCorrupt, []string{"rope_scaling", "object"}},
		{change(t, "llama", "rope_parameters", m{"rope_type": "default", "rope_theta": 5000.0}), formats.ErrCorrupt, []string{"rope_theta", "5000"}},
		{change(t, "llama", "rope_scaling", m{"rope_type": "default"}, "rope_parameters", m{"rope_type": "default"}), formats.ErrUnsupported, []string{"rope_scaling"}},
		{change(t, "llama", "rope_theta", 0.5), formats.ErrCorrupt, []string{"rope_theta"}},
		{change(t, "llama", "rope_interleaved", true), formats.ErrUnsupported, []string{"rope_interleaved", "true"}},
		{change(t, "llama", "partial_rotary_factor", 0.5), formats.ErrUnsupported, []string{"partial_rotary_factor", "0.5"}},
		{change(t, "llama", "sliding_window", 4096), formats.ErrUnsupported, []string{"sliding_window", "4096"}},
		{change(t, "mistral", "sliding_window", 4096), formats.ErrUnsupported, []string{"sliding_window", "4096"}},
		{change(t, "mistral", "sliding_window", absent{}), formats.ErrUnsupported, []string{"sliding_window", "absent"}},
		{change(t, "llama", "quantization_config", m{"quant_method": "gptq", "bits": 4}), formats.ErrUnsupported, []string{"quantization_config", "gptq"}},
		{change(t, "llama", "is_encoder_decoder", true), formats.ErrUnsupported, []string{"is_encoder_decoder"}},
		{change(t, "llama", "pruned_heads", m{"0": []int{1}}), formats.ErrUnsupported, []string{"pruned_heads"}},
		{change(t, "llama", "attention_multiplier", 0.5), formats.ErrUnsupported, []string{"attention_multiplier", "0.5", "unknown"}},
		{change(t, "qwen2", "use_mrope", true), formats.ErrUnsupported, []string{"use_mrope"}},
		{change(t, "qwen2", "layer_types", []string{"sliding_attention", "full_attention", "full_attention", "full_attention", "full_attention", "full_attention"}), formats.ErrUnsupported, []string{"layer_types"}},
		{change(t, "qwen3", "layer_types", []string{"full_attention"}), formats.ErrCorrupt, []string{"layer_types", "1 entries"}},
		{change(t, "qwen3", "use_sliding_window", true, "layer_types", []string{"chunked_attention", "a", "a", "a", "a", "a"}), formats.ErrUnsupported, []string{"layer_types", "chunked_attention"}},
		{change(t, "gemma3_text", "use_bidirectional_attention", true), formats.ErrUnsupported, []string{"use_bidirectional_attention"}},
		{change(t, "gemma3_text", "sliding_window", nil), formats.ErrUnsupported, []string{"sliding_window"}},
		{change(t, "gemma2", "sliding_window_size", 4096), formats.ErrUnsupported, []string{"sliding_window_size", "4096"}},
		{change(t, "gemma2", "torch_dtype", "float8_e4m3fn"), formats.ErrUnsupported, []string{"torch_dtype", "float8_e4m3fn"}},
		{change(t, "llama", "hidden_size", absent{}), formats.ErrCorrupt, []string{"hidden_size", "missing"}},
		{change(t, "llama", "hidden_size", "48"), formats.ErrCorrupt, []string{"hidden_size", "integer"}},
		{change(t, "llama", "hidden_size", 48.5), formats.ErrCorrupt, []string{"hidden_size", "48.5"}},
		{change(t, "llama", "hidden_size", -1), formats.ErrCorrupt, []string{"hidden_size", "-1"}},
		{change(t, "llama", "hidden_size", 50, "head_dim", nil), formats.ErrCorrupt, []string{"hidden_size", "50"}},
		{change(t, "llama", "head_dim", 15), formats.ErrUnsupported, []string{"head_dim", "15"}},
		{change(t, "llama", "num_key_value_heads", 2), formats.ErrCorrupt, []string{"num_key_value_heads"}},
		{change(t, "llama", "num_hidden_layers", 1<<40), formats.ErrCorrupt, []string{"num_hidden_layers"}},
		{change(t, "llama", "max_position_embeddings", 1<<30), formats.ErrCorrupt, []string{"max_position_embeddings"}},
		{change(t, "llama", "rms_norm_eps", 0), formats.ErrCorrupt, []string{"rms_norm_eps"}},
		{change(t, "llama", "attention_bias", "yes"), formats.ErrCorrupt, []string{"attention_bias"}},
		{change(t, "llama", "architectures", "LlamaForCausalLM"), formats.ErrCorrupt, []string{"architectures"}},
	} {
		_, err := buildText(c.text)
		if !errors.Is(err, c.kind) {
			t.Errorf("%.300s: %v, want %v", c.text, err, c.kind)
			continue
		}
		for _, part := range append(c.want, "config.json") {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%v: does not say %q", err, part)
			}
		}
	}
}

// A key that is unknown may be vouched for; one that is known to change the
// numbers may not.
func TestIgnore(t *testing.T) {
	if _, err := buildText(change(t, "llama", "my_note", "x"), "my_note"); err != nil {
		t.Error(err)
	}
	if _, err := buildText(change(t, "llama", "hidden_act", "gelu"), "hidden_act"); err == nil {
		t.Error("hidden_act ignored")
	}
}

func TestParseConfigBounds(t *testing.T) {
	for name, text := range map[string]string{
		"nested 10,000 deep": strings.Repeat(`{"a":`, 10000) + "1" + strings.Repeat("}", 10000),
		"arrays":             `{"a":` + strings.Repeat("[", 10000) + strings.Repeat("]", 10000) + "}",
		"twice":              `{"hidden_size": 1, "hidden_size": 2}`,
		"twice below":        `{"a": {"b": 1, "b": 2}}`,
		"no object":          `[1]`,
		"cut":                `{"a": 1`,
		"more":               `{} {}`,
		"empty":              "",
	} {
		if _, err := ParseConfig("config.json", strings.NewReader(text), int64(len(text))); !errors.Is(err, formats.ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ParseConfig("config.json", strings.NewReader(""), maxConfigBytes+1); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("17 MiB: %v", err)
	}
}

func FuzzConfig(f *testing.F) {
	for _, kind := range kinds {
		b, err := json.Marshal(base(kind))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	f.Add(`{"model_type": "llama", "rope_scaling": {"rope_type": "freq_factors", "factors": [1, 2]}}`)
	f.Fuzz(func(t *testing.T, text string) {
		g, err := buildText(text)
		if err != nil {
			if !errors.Is(err, formats.ErrCorrupt) && !errors.Is(err, formats.ErrUnsupported) {
				t.Errorf("%v is of no kind", err)
			}
			return
		}
		checkGraph(t, "fuzz", g)
	})
}
