package pytorch

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slmc/formats"
	"slmc/formats/safetensors"
)

const testdata = "../../testdata/"

// all reads a whole tensor.
func all(t *testing.T, s formats.Source, name string) []float32 {
	t.Helper()
	for _, info := range s.Tensors() {
		if info.Name != name {
			continue
		}
		n := 1
		for _, d := range info.Shape {
			n *= d
		}
		dst := make([]float32, n)
		if err := s.ReadF32(name, 0, dst); err != nil {
			t.Fatal(err)
		}
		return dst
	}
	t.Fatalf("no tensor %q", name)
	return nil
}

func sameBits(a, b []float32) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if math.Float32bits(a[i]) != math.Float32bits(b[i]) {
			return false
		}
	}
	return true
}

// metaName returns Meta's name of a Hugging Face tensor.
func metaName(name string) string {
	return strings.NewReplacer("model.embed_tokens", "tok_embeddings", "model.layers", "layers", "model.norm", "norm",
		"self_attn.q_proj", "attention.wq", "self_attn.k_proj", "attention.wk", "self_attn.v_proj", "attention.wv",
		"self_attn.o_proj", "attention.wo", "mlp.gate_proj", "feed_forward.w1", "mlp.down_proj", "feed_forward.w2",
		"mlp.up_proj", "feed_forward.w3", "input_layernorm", "attention_norm", "post_attention_layernorm", "ffn_norm").Replace(name)
}

// halfSplit moves interleaved RoPE rows to Hugging Face's order: of the rows of
// a head, 2i and 2i+1 become i and i+head/2.
func halfSplit(w []float32, head, cols int) []float32 {
	out := make([]float32, len(w))
	for r := range len(w) / cols {
		i := r % head
		to := r - i + i/2 + i%2*(head/2)
		copy(out[to*cols:(to+1)*cols], w[r*cols:(r+1)*cols])
	}
	return out
}

// Every form of assistant-tiny holds the bits of the original.
func TestTinyInEveryForm(t *testing.T) {
	ref, err := safetensors.Open(testdata + "assistant-tiny/model.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer ref.Close()
	single := func(path string) (formats.Source, error) { return Open(path) }
	sharded := func(path string) (formats.Source, error) { return OpenIndex(path) }
	model := func(path string) (formats.Source, error) {
		f, err := Open(path)
		if err != nil {
			return nil, err
		}
		return f.Section("model")
	}
	for _, c := range []struct {
		path  string
		open  func(string) (formats.Source, error)
		meta  bool
		extra string // names beyond the original's
	}{
		{"assistant-tiny-pt/pytorch_model.bin", single, false, ""},
		{"assistant-tiny-sharded/pytorch_model.bin.index.json", sharded, false, ""},
		{"assistant-tiny-legacy/pytorch_model.bin", single, false, "lm_head.weight"},
		{"assistant-tiny-meta/consolidated.00.pth", single, true, "output.weight rope.freqs"},
		{"assistant-tiny-llama2c/ckpt.pt", model, true, "output.weight"},
	} {
		t.Run(c.path, func(t *testing.T) {
			s, err := c.open(testdata + c.path)
			if err != nil {
				t.Fatal(err)
			}
			defer s.Close()
			if got, want := len(s.Tensors()), len(ref.Tensors())+len(strings.Fields(c.extra)); got != want {
				t.Errorf("%d tensors, wanted %d", got, want)
			}
			for _, info := range ref.Tensors() {
				name, want := info.Name, all(t, ref, info.Name)
				if c.meta {
					name = metaName(name)
				}
				got := all(t, s, name)
				if c.meta && (strings.HasSuffix(name, "wq.weight") || strings.HasSuffix(name, "wk.weight")) {
					got = halfSplit(got, 32, 64)
				}
				if !sameBits(got, want) {
					t.Errorf("%s differs from %s of the original", name, info.Name)
				}
			}
			for _, name := range strings.Fields(c.extra) {
				if name != "rope.freqs" && !sameBits(all(t, s, name), all(t, ref, "model.embed_tokens.weight")) {
					t.Errorf("%s differs from the embedding", name)
				}
			}
		})
	}
}

// Views, shared storages and every element type, against the values that
// torch gave for them.
func TestViews(t *testing.T) {
	b, err := os.ReadFile(testdata + "odd/odd.json")
	if err != nil {
		t.Fatal(err)
	}
	var want map[string]struct {
		Shape  []int
		Values []float64
	}
	if err := json.Unmarshal(b, &want); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"odd.pt", "odd-legacy.pt", "odd-protocol4.pt"} {
		f, err := Open(testdata + "odd/" + file)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if len(f.Tensors()) != len(want)+7 {
			t.Errorf("%s: %d tensors, wanted %d", file, len(f.Tensors()), len(want)+7)
		}
		for _, info := range f.Tensors() {
			w, ok := want[info.Name]
			if !ok {
				err := f.ReadF32(info.Name, 0, make([]float32, 2))
				if !errors.Is(err, formats.ErrUnsupported) || !strings.Contains(err.Error(), info.Name) || !strings.Contains(err.Error(), info.Type) {
					t.Errorf("%s: %s of %s: %v", file, info.Name, info.Type, err)
				}
				continue
			}
			if fmt.Sprint(info.Shape) != fmt.Sprint(w.Shape) {
				t.Errorf("%s: %s has shape %v, wanted %v", file, info.Name, info.Shape, w.Shape)
			}
			full := make([]float32, len(w.Values))
			for i, v := range w.Values {
				full[i] = float32(v)
			}
			for off := 0; off <= len(full); off++ { // every piece of every tensor
				for end := off; end <= len(full); end++ {
					dst := make([]float32, end-off)
					if err := f.ReadF32(info.Name, off, dst); err != nil || !sameBits(dst, full[off:end]) {
						t.Fatalf("%s: %s [%d:%d]: %v, %v; wanted %v", file, info.Name, off, end, dst, err, full[off:end])
					}
				}
			}
			if err := f.ReadF32(info.Name, 1, make([]float32, len(full))); err == nil {
				t.Errorf("%s: %s: a range beyond the tensor is read", file, info.Name)
			}
		}
	}
}

func TestMeta(t *testing.T) {
	f, err := Open(testdata + "assistant-tiny-llama2c/ckpt.pt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := json.Marshal(f.Meta())
	if err != nil {
		t.Fatal(err)
	}
	want := `{"config":{"big":1099511627776,"compile":true,"learning_rate":0.0005,"out_dir":"out","vocab_source":"custom"},"iter_num":3,` +
		`"model_args":{"dim":64,"dropout":0,"max_seq_len":256,"multiple_of":16,"n_heads":2,"n_kv_heads":1,"n_layers":6,"vocab_size":2048},` +
		`"optimizer":{"param_groups":[{"betas":[0.9,0.95],"foreach":null,"lr":0.0005,"params":[0]}]}}`
	if string(got) != want {
		t.Errorf("%s\nwanted %s", got, want)
	}
	if s := fmt.Sprint(f.Sections()); s != "[ model optimizer]" {
		t.Errorf("sections %s", s)
	}
	if _, err := f.Section("state_dict"); !errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(), "optimizer") {
		t.Errorf("absent section: %v", err)
	}
	top, err := f.Section("")
	if err != nil || len(top.Tensors()) != 1 || top.Tensors()[0].Name != "best_val_loss" || all(t, top, "best_val_loss")[0] != 1.5 {
		t.Errorf("tensors of the top dict: %+v, %v", top, err)
	}
	if got := all(t, f, "optimizer/state/0/exp_avg"); len(got) != 6 || got[5] != 0.5 {
		t.Errorf("optimizer tensor %v", got)
	}
}

func TestNamespace(t *testing.T) {
	f, err := Open(testdata + "odd/namespace.pt")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := json.Marshal(f.Meta())
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"args":{"dim":64,"flag":true,"name":"tiny","nested":[1,[2,3]],"nothing":null,"rate":0.5},"device":"cpu","dtype":"torch.float16","shape":[5,12]}`; string(got) != want {
		t.Errorf("%s\nwanted %s", got, want)
	}
	_, err = Open(testdata + "odd/numpy-scalar.pt")
	if !errors.Is(err, formats.ErrUnsupported) || !strings.Contains(err.Error(), "numpy.core.multiarray.scalar") {
		t.Errorf("numpy scalar: %v", err)
	}
}

func TestModelParallelRefused(t *testing.T) {
	b, err := os.ReadFile(testdata + "odd/odd.pt")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write := func(name string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	first := write("consolidated.00.pth")
	if f, err := Open(first); err != nil {
		t.Error(err)
	} else {
		f.Close()
	}
	for _, path := range []string{write("consolidated.01.pth"), first} {
		if _, err := Open(path); !errors.Is(err, formats.ErrUnsupported) || !strings.Contains(err.Error(), "model-parallel") {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// Real checkpoints of other programs.
func TestShared(t *testing.T) {
	const root = "../../../shared/models/"
	for _, name := range []string{"assistant-small/pytorch_model.bin", "llama2xs/ckpt.pt"} {
		if _, err := os.Stat(root + name); err != nil {
			t.Skipf("lacks %s, which is not part of the repository", root+name)
		}
	}
	f, err := Open(root + "assistant-small/pytorch_model.bin")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	params := 0
	for _, info := range f.Tensors() {
		params += len(all(t, f, info.Name))
	}
	if params != 2_108_032 { // ../shared/models/README.md
		t.Errorf("assistant-small: %d parameters, wanted 2108032", params)
	}
	c, err := Open(root + "llama2xs/ckpt.pt")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	m, err := c.Section("model")
	if err != nil {
		t.Fatal(err)
	}
	if args, _ := c.Meta()["model_args"].(map[string]any); args["n_heads"] != 8 || len(m.Tensors()) != 48 {
		t.Errorf("llama2xs: model_args %v, %d tensors", args, len(m.Tensors()))
	}
}
