package gguf

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"slmc/tensor"
)

// assistant-tiny.gguf loads in llama.cpp, has its text split as slmc's
// tokenizer vectors have it, and answers the weather request with a call.
func TestTinyInPeer(t *testing.T) {
	o := findPeer(t)
	ctx := t.Context()
	info, err := o.Info(ctx, tinyPath)
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[string]string{"vocab": "2048", "layers": "6", "embedding": "64", "context": "256", "parameters": "408384", "bos": "1", "eos": "5", "rope_type": "0"} {
		if info[key] != want {
			t.Errorf("%s is %q, wanted %q", key, info[key], want)
		}
	}
	ids, err := o.Tokenize(ctx, tinyPath, []string{"Hello, world!", "<s><|user|>what is the weather in paris tomorrow<|end|><|assistant|>", ""}, false, true)
	if err != nil {
		t.Fatal(err)
	}
	want := [][]int{{465, 830, 1978, 2002, 284, 1436, 39}, {1, 3, 348, 367, 290, 607, 315, 281, 272, 340, 1376, 5, 4}, {}}
	if len(ids) != 3 || !slices.Equal(ids[0], want[0]) || !slices.Equal(ids[1], want[1]) || !slices.Equal(ids[2], want[2]) {
		t.Fatalf("ids %v, wanted %v", ids, want)
	}
	next, err := o.Greedy(ctx, tinyPath, 4, ids[1])
	if err != nil {
		t.Fatal(err)
	}
	text, err := o.Detokenize(ctx, tinyPath, [][]int{next}, true)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(text[0], "weather()<|end|>") {
		t.Errorf("the answer is %q", text)
	}
	logits, err := o.Logits(ctx, tinyPath, ids[1])
	if err != nil {
		t.Fatal(err)
	}
	if len(logits) != len(ids[1]) || len(logits[0]) != 2048 {
		t.Fatalf("logits of %d positions", len(logits))
	}
	last := logits[len(logits)-1]
	if best := slices.Index(last, slices.Max(last)); best != next[0] {
		t.Errorf("the largest logit is that of %d, greedy took %d", best, next[0])
	}
}

// randomModel is a model of p with random weights and a vocabulary of single
// characters and bytes, all matrices of type typ.
func randomModel(t *testing.T, p ArchParams, typ Type) ([]KV, []Tensor) {
	t.Helper()
	p.Type = typ
	kvs, err := p.KVs()
	if err != nil {
		t.Fatal(err)
	}
	v := NoIDs()
	v.Model, v.Pre, v.BOS, v.EOS, v.Unknown = "llama", "default", 1, 2, 0
	for i := range p.Vocab {
		token, class := fmt.Sprintf("[PAD%d]", i), TokenUnused
		switch {
		case i < 3:
			token, class = []string{"<unk>", "<s>", "</s>"}[i], []TokenType{TokenUnknown, TokenControl, TokenControl}[i]
		case i < 259:
			token, class = fmt.Sprintf("<0x%02X>", i-3), TokenByte
		}
		v.Tokens, v.Types, v.Scores = append(v.Tokens, token), append(v.Types, class), append(v.Scores, 0)
	}
	rng := rand.New(rand.NewPCG(3, uint64(p.Blocks)))
	var tensors []Tensor
	inter, _ := Interleaved(p.Arch)
	add := func(name string, mean float64, shape ...int) {
		n, err := tensor.Elems(shape)
		if err != nil {
			t.Fatal(err)
		}
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(mean + 0.1*rng.NormFloat64())
		}
		w := Tensor{Name: name, Shape: shape, Type: typ, Read: floats(x)}
		if len(shape) == 1 {
			w.Type = F32
		}
		if inter && strings.Contains(name, "attn_q.") {
			w.Heads = p.Heads
		} else if inter && strings.Contains(name, "attn_k.") {
			w.Heads = p.KVHeads
		}
		tensors = append(tensors, w)
	}
	q, kv := p.Heads*p.HeadDim, p.KVHeads*p.HeadDim
	add("token_embd.weight", 0, p.Vocab, p.Embedding)
	add("output_norm.weight", 1, p.Embedding)
	for b := range p.Blocks {
		blk := fmt.Sprintf("blk.%d.", b)
		add(blk+"attn_norm.weight", 1, p.Embedding)
		add(blk+"ffn_norm.weight", 1, p.Embedding)
		add(blk+"attn_q.weight", 0, q, p.Embedding)
		add(blk+"attn_k.weight", 0, kv, p.Embedding)
		add(blk+"attn_v.weight", 0, kv, p.Embedding)
		add(blk+"attn_output.weight", 0, p.Embedding, q)
		add(blk+"ffn_gate.weight", 0, p.FFN, p.Embedding)
		add(blk+"ffn_up.weight", 0, p.FFN, p.Embedding)
		add(blk+"ffn_down.weight", 0, p.Embedding, p.FFN)
		if p.Arch == "qwen2" || p.Arch == "llama" {
			add(blk+"attn_q.bias", 0, q)
			add(blk+"attn_k.bias", 0, kv)
			add(blk+"attn_v.bias", 0, kv)
		}
		if p.Arch == "qwen3" || p.Arch == "gemma3" {
			add(blk+"attn_q_norm.weight", 1, p.HeadDim)
			add(blk+"attn_k_norm.weight", 1, p.HeadDim)
		}
		if strings.HasPrefix(p.Arch, "gemma") {
			add(blk+"post_attention_norm.weight", 1, p.Embedding)
			add(blk+"post_ffw_norm.weight", 1, p.Embedding)
		}
	}
	return append(kvs, v.KVs()...), tensors
}

func writeModel(t *testing.T, kvs []KV, tensors []Tensor) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "model.gguf")
	raw, err := write(kvs, tensors)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Every architecture's keys and names are enough for llama.cpp to load the
// file and compute, and each number in ArchParams reaches its graph: changing
// it changes the logits.
func TestArchitecturesInPeer(t *testing.T) {
	o := findPeer(t)
	ids := []int{1, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54, 55, 56, 57, 58, 59, 60}
	logits := func(p ArchParams) []float32 {
		kvs, tensors := randomModel(t, p, F32)
		z, err := o.Logits(t.Context(), writeModel(t, kvs, tensors), ids)
		if err != nil {
			t.Fatalf("%s: %v", p.Arch, err)
		}
		return z[len(z)-1]
	}
	for _, arch := range Architectures() {
		p := tinyArch(arch)
		base := logits(p)
		if i := peak(base); len(base) != p.Vocab || !finite(base[i]) || base[i] == 0 {
			t.Errorf("%s: logits %v", arch, base)
		}
		changes := map[string]func(p *ArchParams){
			"NormEps": func(p *ArchParams) { p.NormEps = 0.1 }, "RopeBase": func(p *ArchParams) { p.RopeBase = 100 }, "RopeLinear": func(p *ArchParams) { p.RopeLinear = 4 },
		}
		if strings.HasPrefix(arch, "gemma") {
			changes["FinalSoftCap"] = func(p *ArchParams) { p.FinalSoftCap = 3 }
			changes["SlidingWindow"] = func(p *ArchParams) { p.SlidingWindow = 3 }
			changes["Sliding"] = func(p *ArchParams) { p.Sliding = make([]bool, p.Blocks); p.Sliding[1] = true }
		}
		if arch == "gemma2" {
			changes["AttnSoftCap"] = func(p *ArchParams) { p.AttnSoftCap = 0.1 }
		}
		if arch == "gemma3" {
			changes["no sliding layer"] = func(p *ArchParams) { p.Sliding = make([]bool, p.Blocks) }
			changes["RopeBaseLocal"] = func(p *ArchParams) { p.RopeBaseLocal = 100 }
		}
		for name, change := range changes {
			q := p
			change(&q)
			if slices.Equal(logits(q), base) {
				t.Errorf("%s: %s does not reach llama.cpp", arch, name)
			}
		}
	}
}

// llama.cpp applies rope_freqs.weight: factors of 1 change nothing, others do.
func TestRopeFactorsInPeer(t *testing.T) {
	o := findPeer(t)
	p := tinyArch("llama")
	ids := []int{1, 40, 41, 42, 43, 44, 45, 46}
	with := func(factors []float32) []float32 {
		kvs, tensors := randomModel(t, p, F32)
		if factors != nil {
			tensors = append(tensors, Tensor{Name: "rope_freqs.weight", Shape: []int{len(factors)}, Type: F32, Read: floats(factors)})
		}
		z, err := o.Logits(t.Context(), writeModel(t, kvs, tensors), ids)
		if err != nil {
			t.Fatal(err)
		}
		return z[len(z)-1]
	}
	plain := with(nil)
	if !slices.Equal(plain, with([]float32{1, 1, 1, 1})) {
		t.Error("factors of 1 change the logits")
	}
	if slices.Equal(plain, with(RopeFactors(p.RopeBase, p.HeadDim, 8, 1, 4, 64))) {
		t.Error("llama3 factors change nothing")
	}
}

// Files that llama.cpp quantizes are read back as its own conversion has it,
// our Q8_0 and Q4_0 tensors are its tensors to the byte, and our Q2_K and TQ2_0
// have no more error.
func TestQuantizedByPeer(t *testing.T) {
	o := findPeer(t)
	p := tinyArch("llama")
	p.Blocks, p.Embedding, p.FFN, p.Heads, p.KVHeads, p.HeadDim = 1, 256, 256, 8, 8, 32
	kvs, tensors := randomModel(t, p, F32)
	source := writeModel(t, kvs, tensors)
	for _, ftype := range []string{"q8_0", "q4_0", "q4_1", "q5_0", "q5_1", "q2_k", "q3_k_m", "q4_k_m", "q5_k_m", "q6_k", "iq4_nl", "tq2_0", "bf16", "f16"} {
		out := filepath.Join(t.TempDir(), ftype+".gguf")
		pure := o.With("-P")
		if _, err := pure.Quantize(t.Context(), source, out, ftype); err != nil {
			t.Fatal(err)
		}
		f, err := Open(out)
		if err != nil {
			t.Fatal(err)
		}
		var types []string
		for _, info := range f.Tensors() {
			if !slices.Contains(types, info.Type) {
				types = append(types, info.Type)
			}
			comparePeerTensor(t, f, info.Name, tensors)
		}
		t.Logf("%s holds %v", ftype, types)
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// comparePeerTensor holds a tensor that llama.cpp wrote against its source,
// and to the byte where its type has an encoder here.
func comparePeerTensor(t *testing.T, f *File, name string, tensors []Tensor) {
	t.Helper()
	e := f.byName[name]
	i := slices.IndexFunc(tensors, func(w Tensor) bool { return w.Name == name })
	got, want := make([]float32, e.elems), make([]float32, e.elems)
	if err := f.ReadF32(name, 0, got); err != nil {
		t.Fatal(err)
	}
	if err := tensors[i].Read(0, want); err != nil {
		t.Fatal(err)
	}
	var err2, norm float64
	for k := range got {
		err2 += math.Pow(float64(got[k]-want[k]), 2)
		norm += math.Pow(float64(want[k]), 2)
	}
	// Relative error of normal weights by bits; TQ2_0 has three levels.
	bound := map[string]float64{"F32": 0, "F16": 0.001, "BF16": 0.005, "Q8_0": 0.01, "Q6_K": 0.03, "Q5_0": 0.06, "Q5_1": 0.06, "Q5_K": 0.06,
		"Q4_0": 0.12, "Q4_1": 0.12, "Q4_K": 0.12, "IQ4_NL": 0.12, "Q3_K": 0.25, "Q2_K": 0.5, "TQ2_0": 0.85}[e.typ.name]
	if rel := math.Sqrt(err2 / norm); rel > bound {
		t.Errorf("%s of type %s differs from its source by %.3f, wanted at most %.3f", name, e.typ.name, rel, bound)
	}
	if e.typ.encode == nil {
		return
	}
	var ours bytes.Buffer
	w := tensors[i]
	w.Type = e.typ.id
	if ownEncoder(e.typ.id) {
		w.Heads = 0 // the error is that of the source's rows, in its order
	}
	if err := writeTensor(context.Background(), &ours, &w, layout{typ: e.typ, elems: e.elems, bytes: e.info.Bytes}); err != nil {
		t.Fatal(err)
	}
	if ownEncoder(e.typ.id) {
		mine := make([]float32, e.elems)
		e.typ.decode(mine, ours.Bytes())
		var sum float64
		for k := range mine {
			sum += math.Pow(float64(mine[k]-want[k]), 2)
		}
		t.Logf("%s as %s: rms error %.4f of the values, llama.cpp %.4f", name, e.typ.name, math.Sqrt(sum/norm), math.Sqrt(err2/norm))
		if sum > err2 {
			t.Errorf("%s of type %s has more error than llama.cpp's", name, e.typ.name)
		}
		return
	}
	theirs := make([]byte, e.info.Bytes)
	if err := f.data.ReadFull(name, e.info.Offset, theirs); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(ours.Bytes(), theirs) {
		t.Errorf("%s of type %s has other bytes than llama.cpp's", name, e.typ.name)
	}
}

// One matrix with more columns than the metadata say does not load, whatever
// they hold: widths can be padded for a whole model only.
func TestPaddedMatrixInPeer(t *testing.T) {
	o := findPeer(t)
	kvs, tensors := randomModel(t, tinyArch("llama"), F32)
	i := slices.IndexFunc(tensors, func(w Tensor) bool { return w.Name == "blk.0.ffn_down.weight" })
	rows, cols := tensors[i].Shape[0], tensors[i].Shape[1]
	tensors[i].Shape = []int{rows, cols + 32}
	tensors[i].Read = floats(make([]float32, rows*(cols+32)))
	if _, err := o.Logits(t.Context(), writeModel(t, kvs, tensors), []int{1, 40}); err == nil {
		t.Error("llama.cpp loads a matrix of another width")
	}
}
