package gguf

import (
	"math"
	"slices"
	"strings"
	"testing"
)

// tinyArch is a small model of an architecture, valid as it stands.
func tinyArch(arch string) ArchParams {
	p := ArchParams{
		Arch: arch, Type: F32, Vocab: 262, Context: 128, Embedding: 32, Blocks: 7, FFN: 48, Heads: 4, KVHeads: 2, HeadDim: 8,
		NormEps: 1e-6, RopeBase: 10000,
	}
	if strings.HasPrefix(arch, "gemma") {
		p.SlidingWindow, p.FinalSoftCap = 16, 30
	}
	if arch == "gemma2" {
		p.AttnSoftCap = 50
	}
	if arch == "gemma3" {
		p.RopeBase, p.RopeBaseLocal = 1e6, 10000
	}
	return p
}

func TestArchKVs(t *testing.T) {
	want := map[string][]string{
		"llama":  {"llama.rope.dimension_count", "llama.vocab_size"},
		"qwen2":  {},
		"qwen3":  {},
		"gemma2": {"gemma2.attn_logit_softcapping", "gemma2.final_logit_softcapping", "gemma2.attention.sliding_window"},
		"gemma3": {"gemma3.final_logit_softcapping", "gemma3.attention.sliding_window", "gemma3.rope.freq_base_swa"},
	}
	common := []string{"block_count", "context_length", "embedding_length", "feed_forward_length", "attention.head_count", "attention.head_count_kv",
		"rope.freq_base", "attention.layer_norm_rms_epsilon", "attention.key_length", "attention.value_length"}
	if got := Architectures(); len(got) != len(want) {
		t.Errorf("%v, tested are %d", got, len(want))
	}
	for arch, extra := range want {
		kvs, err := tinyArch(arch).KVs()
		if err != nil {
			t.Errorf("%s: %v", arch, err)
			continue
		}
		keys := append([]string{"general.architecture", "general.type", "general.file_type"}, extra...)
		for _, k := range common {
			keys = append(keys, arch+"."+k)
		}
		var got []string
		for _, kv := range kvs {
			got = append(got, kv.Key)
		}
		slices.Sort(keys)
		slices.Sort(got)
		if !slices.Equal(keys, got) {
			t.Errorf("%s has %v, wanted %v", arch, got, keys)
		}
		if _, known := Interleaved(arch); !known {
			t.Errorf("%s has no row order", arch)
		}
	}
}

func find(kvs []KV, key string) any {
	for _, kv := range kvs {
		if kv.Key == key {
			return kv.Value
		}
	}
	return nil
}

func TestArchOptionalKeys(t *testing.T) {
	p := tinyArch("gemma3")
	p.Sliding = []bool{true, true, true, true, true, false, true}
	p.Type, p.RopeLinear = Q8_0, 8
	kvs, err := p.KVs()
	if err != nil {
		t.Fatal(err)
	}
	if find(kvs, "gemma3.attention.sliding_window_pattern") != nil {
		t.Error("the architecture's own pattern was written")
	}
	for key, want := range map[string]any{
		"general.file_type": uint32(7), "general.quantization_version": uint32(2), "gemma3.rope.scaling.type": "linear", "gemma3.rope.scaling.factor": float32(8),
	} {
		if got := find(kvs, key); got != want {
			t.Errorf("%s is %v, wanted %v", key, got, want)
		}
	}
	p.Sliding[5] = true
	if kvs, err = p.KVs(); err != nil {
		t.Fatal(err)
	}
	if got, ok := find(kvs, "gemma3.attention.sliding_window_pattern").([]bool); !ok || !slices.Equal(got, p.Sliding) {
		t.Errorf("pattern %v", got)
	}
}

func TestArchRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		arch   string
		change func(p *ArchParams)
		want   string
	}{
		"architecture":          {"mamba", func(p *ArchParams) {}, "llama, qwen2, qwen3, gemma2, gemma3 can"},
		"no layers":             {"llama", func(p *ArchParams) { p.Blocks = 0 }, "Blocks is 0"},
		"eps":                   {"llama", func(p *ArchParams) { p.NormEps = math.NaN() }, "NormEps"},
		"base":                  {"llama", func(p *ArchParams) { p.RopeBase = 0 }, "RopeBase"},
		"uneven heads":          {"llama", func(p *ArchParams) { p.KVHeads = 3 }, "4 heads over 3"},
		"qwen2's head size":     {"qwen2", func(p *ArchParams) { p.HeadDim = 16 }, "4 heads of 16"},
		"llama soft-cap":        {"llama", func(p *ArchParams) { p.FinalSoftCap = 30 }, "soft-caps"},
		"qwen3 sliding":         {"qwen3", func(p *ArchParams) { p.SlidingWindow = 16 }, "sliding"},
		"gemma2 without caps":   {"gemma2", func(p *ArchParams) { p.AttnSoftCap = 0 }, "always caps"},
		"gemma2 without window": {"gemma2", func(p *ArchParams) { p.SlidingWindow = 0 }, "wants one that does"},
		"gemma3 cap":            {"gemma3", func(p *ArchParams) { p.AttnSoftCap = 50 }, "soft-cap"},
		"score scale":           {"gemma2", func(p *ArchParams) { p.QueryScale = 0.0625 }, "scaled by 0.0625"},
		"largest gemma":         {"gemma2", func(p *ArchParams) { p.Blocks = 46; p.Embedding = 64 }, "llama.cpp scales them by 0.25"},
		"pattern length":        {"gemma3", func(p *ArchParams) { p.Sliding = []bool{true} }, "1 entries for 7"},
	} {
		p := tinyArch(c.arch)
		c.change(&p)
		if _, err := p.KVs(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, wanted %q", name, err, c.want)
		}
	}
	p := tinyArch("gemma2")
	p.Blocks, p.Embedding, p.QueryScale = 46, 64, 0.25
	if _, err := p.KVs(); err != nil {
		t.Errorf("the largest gemma2 with its own scale: %v", err)
	}
}

func TestCheckTensor(t *testing.T) {
	for _, c := range []struct {
		arch, name string
		ok         bool
	}{
		{"llama", "blk.0.ffn_down.bias", true}, {"qwen2", "blk.3.attn_q.bias", true}, {"qwen2", "blk.3.attn_output.bias", false},
		{"qwen3", "blk.0.attn_k.bias", false}, {"gemma3", "output.weight", true}, {"gemma2", "output.weight", false},
		{"gemma2", "blk.0.attn_q.weight", true}, {"mamba", "output.weight", false},
	} {
		if err := CheckTensor(c.arch, c.name); (err == nil) != c.ok {
			t.Errorf("%s %s: %v", c.arch, c.name, err)
		}
	}
}

// Llama 3.2 1B: base 500000, head size 64, factor 32, low 1, high 4, context
// 8192. The first frequencies stay, the last are divided by 32.
func TestRopeFactors(t *testing.T) {
	f := RopeFactors(500000, 64, 32, 1, 4, 8192)
	if len(f) != 32 || f[0] != 1 || f[31] != 32 || f[20] != 32 {
		t.Errorf("factors %v", f)
	}
	if !slices.IsSorted(f) {
		t.Errorf("factors don't ascend: %v", f)
	}
	// i = 16: wavelength 2*pi*sqrt(500000) = 4442.88, context/wavelength
	// 1.84385, blend (1.84385-1)/3 = 0.281284, 1/((1-blend)/32 + blend).
	if math.Abs(float64(f[16])-3.292262) > 1e-5 {
		t.Errorf("factor 16 is %g", f[16])
	}
}

func TestScoresFromMerges(t *testing.T) {
	got := ScoresFromMerges([]string{"a", "b", "ab", "aba", "zz"}, []string{"a b", "ab a", "a ba"})
	if want := []float32{-3, -3, 0, -1, -3}; !slices.Equal(got, want) {
		t.Errorf("scores %v, wanted %v", got, want)
	}
}
