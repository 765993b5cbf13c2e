package pipeline

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strconv"

	"slmc/formats"
	"slmc/formats/gguf"
	"slmc/model"
)

// configOf describes a graph in the words of Hugging Face's config.json; dtype
// is its torch_dtype. What the words mean is known to package model alone:
// plain builds a graph of them and compares, so a word that is missing here is
// an error and not another model.
func configOf(g *model.Graph, dtype string) (map[string]any, error) {
	i := slices.IndexFunc(model.Archs(), func(a model.Arch) bool { return a.Name == g.Arch })
	if i < 0 || len(g.Blocks) == 0 || len(g.Ropes) == 0 {
		return nil, formats.Unsupported("", "", -1, "architecture %q with %d blocks", g.Arch, len(g.Blocks))
	}
	arch, b := model.Archs()[i], &g.Blocks[0]
	layers := distinctBlocks(g)
	c := map[string]any{
		"model_type": arch.Types[0], "architectures": []any{arch.Classes[0]}, "torch_dtype": dtype,
		"hidden_size": integer(g.Hidden), "num_hidden_layers": integer(layers), "intermediate_size": integer(b.FFN),
		"num_attention_heads": integer(b.Heads), "num_key_value_heads": integer(b.KVHeads), "head_dim": integer(b.HeadDim),
		"vocab_size": integer(g.Vocab), "max_position_embeddings": integer(g.Context), "rms_norm_eps": decimal(g.NormEps),
		"tie_word_embeddings": g.Tied(), "attention_bias": b.O.B != model.None,
	}
	full := g.Ropes[0]
	if full.Base == 0 {
		return nil, formats.Unsupported("", "", -1, "the base of the rotary frequencies is not known")
	}
	c["rope_theta"] = real(full.Base)
	scaling, err := ropeScaling(full)
	if err != nil {
		return nil, err
	}
	c["rope_scaling"] = scaling
	if len(g.KVMap()) > 0 {
		var from []any
		for _, b := range g.Blocks {
			from = append(from, integer(b.KVFrom))
		}
		c[model.KVFromKey] = from
	}
	configWords[g.Arch](g, c)
	return c, nil
}

// configWords adds what an architecture says beyond the common words.
var configWords = map[string]func(g *model.Graph, c map[string]any){
	"llama": func(g *model.Graph, c map[string]any) {
		c["hidden_act"], c["mlp_bias"] = "silu", g.Blocks[0].Gate.B != model.None
	},
	"mobilellm": func(g *model.Graph, c map[string]any) {
		c["hidden_act"], c["mlp_bias"] = "silu", g.Blocks[0].Gate.B != model.None
		c["share_embedding"], c["layer_sharing"] = g.Tied(), distinctBlocks(g) < len(g.Blocks)
	},
	"qwen2": func(g *model.Graph, c map[string]any) {
		delete(c, "attention_bias")
		windowWords(g, c)
		c["hidden_act"], c["use_sliding_window"] = "silu", c["sliding_window"] != nil
	},
	"qwen3": func(g *model.Graph, c map[string]any) {
		windowWords(g, c)
		c["hidden_act"], c["use_sliding_window"] = "silu", c["sliding_window"] != nil
	},
	"gemma2": gemmaWords,
	"gemma3": func(g *model.Graph, c map[string]any) {
		gemmaWords(g, c)
		c["rope_local_base_freq"] = real(g.Ropes[len(g.Ropes)-1].Base)
	},
}

func gemmaWords(g *model.Graph, c map[string]any) {
	windowWords(g, c)
	if c["sliding_window"] == nil {
		delete(c, "sliding_window") // null would not be a window
	}
	c["hidden_activation"] = "gelu_pytorch_tanh"
	c["query_pre_attn_scalar"] = scalar(g.Blocks[0].AttnScale)
	c["attn_logit_softcapping"], c["final_logit_softcapping"] = capOrNull(g.Blocks[0].AttnCap), capOrNull(g.LogitCap)
}

// windowWords says which layers are windowed.
func windowWords(g *model.Graph, c map[string]any) {
	var types []any
	for i := range g.Blocks {
		types = append(types, "full_attention")
		if w := g.Blocks[i].Window; w > 0 {
			types[i], c["sliding_window"] = "sliding_attention", integer(w)
		}
	}
	c["layer_types"] = types
}

func integer(n int) json.Number { return json.Number(strconv.Itoa(n)) }

// decimal is the shortest number that rounds to x: 1e-05.
func decimal(x float32) json.Number {
	return json.Number(strconv.FormatFloat(float64(x), 'g', -1, 32))
}

// real is x as Python writes a float: with a point or an exponent.
func real(x float64) json.Number {
	if x == math.Trunc(x) && math.Abs(x) < 1e15 {
		return json.Number(strconv.FormatFloat(x, 'f', 1, 64))
	}
	return json.Number(strconv.FormatFloat(x, 'g', -1, 64))
}

func capOrNull(x float32) any {
	if x == 0 {
		return nil
	}
	return decimal(x)
}

// scalar is the number whose inverse root is the scale of scores: an integer
// where there is one.
func scalar(scale float32) json.Number {
	s := 1 / (float64(scale) * float64(scale))
	if n := math.Round(s); float32(1/math.Sqrt(n)) == scale {
		return integer(int(n))
	}
	return json.Number(strconv.FormatFloat(s, 'g', -1, 64))
}

// ropeScaling is the value of rope_scaling.
func ropeScaling(r model.Rope) (any, error) {
	s := r.Scaling
	if s.Type == model.FreqFactors {
		if s = llama3Of(r); s.Type == "" {
			return nil, formats.Unsupported("", "", -1, "rotary frequencies are divided by factors for which config.json has no words")
		}
	}
	switch s.Type {
	case "":
		return nil, nil
	case "linear":
		return map[string]any{"rope_type": s.Type, "factor": real(s.Factor)}, nil
	case "llama3":
		return map[string]any{"rope_type": s.Type, "factor": real(s.Factor), "low_freq_factor": real(s.LowFreq), "high_freq_factor": real(s.HighFreq),
			"original_max_position_embeddings": integer(s.Context)}, nil
	}
	return nil, formats.Unsupported("", "", -1, "scaling of rotary frequencies %q", s.Type)
}

// llama3Of finds the scaling of Llama 3.1 and 3.2 behind the factors that a GGUF
// file keeps of it: the zero value where they are others.
func llama3Of(r model.Rope) model.RopeScaling {
	most := slices.Max(r.Scaling.Factors)
	want := gguf.RopeFactors(r.Base, r.HeadDim, most, 1, 4, 8192)
	for i, f := range r.Scaling.Factors {
		if !nearlySame(want[i], float32(f)) {
			return model.RopeScaling{}
		}
	}
	return model.RopeScaling{Type: "llama3", Factor: most, LowFreq: 1, HighFreq: 4, Context: 8192}
}

// plain returns the graph that config.json's words give for g, which names the
// tensors of a Hugging Face checkpoint, and those words. A graph that a stage
// has rewritten, or that a hostile bundle makes up, has none: ErrUnsupported.
// Of torch types dtype is taken unless the embedding's scale asks for another.
func plain(g *model.Graph, dtype string) (*model.Graph, map[string]any, error) {
	var first error
	for _, d := range []string{dtype, "float32", "bfloat16", "float16"} {
		c, err := configOf(g, d)
		if err != nil {
			return nil, nil, err
		}
		built, err := model.Build(model.NewConfig("config.json", c))
		if err == nil {
			err = sameGraph(g, built)
		}
		if err == nil {
			return built, c, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, nil, fmt.Errorf("%w: the graph is no plain %s: %w", formats.ErrUnsupported, g.Arch, first)
}

// sameGraph reports the first difference between two graphs; frequencies may
// differ in their last bits.
func sameGraph(want, got *model.Graph) error {
	differ := func(what string, w, g any) error { return fmt.Errorf("%s is %v, not %v", what, w, g) }
	head := func(g *model.Graph) []any {
		return []any{g.Arch, g.Hidden, g.Vocab, g.Context, g.NormEps, g.EmbedScale, g.LogitCap, g.Embed, g.Norm, g.Head, len(g.Blocks), len(g.Weights), len(g.Ropes)}
	}
	if a, b := head(want), head(got); !slices.Equal(a, b) {
		return differ("the outline", a, b)
	}
	for i := range want.Blocks {
		if want.Blocks[i] != got.Blocks[i] {
			return differ(fmt.Sprintf("block %d", i), want.Blocks[i], got.Blocks[i])
		}
	}
	for i := range want.Ropes {
		a, b := want.Ropes[i], got.Ropes[i]
		if a.HeadDim != b.HeadDim || !slices.EqualFunc(a.InvFreq, b.InvFreq, nearlySame) {
			return differ(fmt.Sprintf("rotary frequencies %d", i), a.InvFreq, b.InvFreq)
		}
	}
	for i := range want.Weights {
		a, b := want.Weights[i], got.Weights[i]
		if a.Name != b.Name || a.Role != b.Role || !slices.Equal(a.Shape, b.Shape) {
			return differ(fmt.Sprintf("weight %d", i), a.Name, b.Name)
		}
	}
	return nil
}
