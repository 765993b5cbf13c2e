package llama2c

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"slmc/formats"
	"slmc/formats/pytorch"
	"slmc/formats/safetensors"
)

const tiny = "../../testdata/assistant-tiny-llama2c/"

func open(b []byte) (*File, error) {
	return New(formats.NewFile("model.bin", bytes.NewReader(b), int64(len(b))))
}

func all(t *testing.T, s formats.Source, name string) []float32 {
	t.Helper()
	for _, info := range s.Tensors() {
		if info.Name == name {
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
	}
	t.Fatalf("no tensor %q", name)
	return nil
}

func compare(t *testing.T, got, want formats.Source) {
	t.Helper()
	for _, info := range got.Tensors() {
		a, b := all(t, got, info.Name), all(t, want, info.Name)
		if len(a) != len(b) {
			t.Fatalf("%s: %d elements, wanted %d", info.Name, len(a), len(b))
		}
		for i := range a {
			if math.Float32bits(a[i]) != math.Float32bits(b[i]) {
				t.Errorf("%s: element %d is %g, wanted %g", info.Name, i, a[i], b[i])
				break
			}
		}
	}
}

// section opens the model of a llama2.c checkpoint.
func section(t *testing.T, path string) formats.Source {
	t.Helper()
	f, err := pytorch.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	s, err := f.Section("model")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestLegacyAgainstCheckpoint(t *testing.T) {
	f, err := Open(tiny + "model.bin")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if want := (Config{Dim: 64, HiddenDim: 176, Layers: 6, Heads: 2, KVHeads: 1, Vocab: 2048, SeqLen: 256, Tied: true}); f.Config() != want {
		t.Errorf("config %+v, wanted %+v", f.Config(), want)
	}
	if n := len(f.Tensors()); n != 6*9+2 {
		t.Errorf("%d tensors, wanted 56", n)
	}
	compare(t, f, section(t, tiny+"ckpt.pt"))
}

// The same weights as version 1 and with a head of their own.
func TestOtherForms(t *testing.T) {
	b, err := os.ReadFile(tiny + "model.bin")
	if err != nil {
		t.Fatal(err)
	}
	ref, err := open(b)
	if err != nil {
		t.Fatal(err)
	}
	data := func(names ...string) (out []byte) {
		for _, n := range names {
			i := ref.index[n]
			out = append(out, b[ref.tensors[i].Offset:ref.tensors[i].Offset+ref.tensors[i].Bytes]...)
		}
		return out
	}
	layers := func(part string) (out []string) {
		for _, l := range "012345" {
			out = append(out, "layers."+string(l)+"."+part+".weight")
		}
		return out
	}
	v1 := append(binary.LittleEndian.AppendUint32(nil, magic), 1, 0, 0, 0)
	v1 = append(v1, b[:28]...)
	v1 = append(v1, 1)
	v1 = append(v1, make([]byte, 256-len(v1))...)
	v1 = append(v1, data(layers("attention_norm")...)...)
	v1 = append(v1, data(layers("ffn_norm")...)...)
	v1 = append(v1, data("norm.weight", "tok_embeddings.weight")...)
	for _, part := range []string{"attention.wq", "attention.wk", "attention.wv", "attention.wo", "feed_forward.w1", "feed_forward.w2", "feed_forward.w3"} {
		v1 = append(v1, data(layers(part)...)...)
	}
	f, err := open(v1)
	if err != nil {
		t.Fatal(err)
	}
	if f.Config().Version != 1 || !f.Config().Tied {
		t.Errorf("config %+v", f.Config())
	}
	compare(t, f, ref)

	untied := append(bytes.Clone(b), data("tok_embeddings.weight")...)
	vocab := int32(-2048)
	binary.LittleEndian.PutUint32(untied[20:], uint32(vocab))
	if f, err = open(untied); err != nil {
		t.Fatal(err)
	}
	if f.Config().Tied || f.Config().Vocab != 2048 || all(t, f, "output.weight")[77] != all(t, ref, "tok_embeddings.weight")[77] {
		t.Errorf("untied: %+v", f.Config())
	}
	v1[36] = 0
	v1 = append(v1, data("tok_embeddings.weight")...)
	if f, err = open(v1); err != nil || f.Config().Tied || all(t, f, "output.weight")[77] != all(t, ref, "tok_embeddings.weight")[77] {
		t.Errorf("untied version 1: %v", err)
	}
}

func header(dims ...int32) []byte {
	var b []byte
	for _, d := range dims {
		b = binary.LittleEndian.AppendUint32(b, uint32(d))
	}
	return b
}

func TestHostile(t *testing.T) {
	good := header(4, 4, 1, 1, 1, 2, 2)
	size := 28 + 4*(2*4+4+4*16+4+3*16+4+2*2*2)
	good = append(good, make([]byte, size-len(good))...)
	if _, err := open(good); err != nil {
		t.Fatal(err)
	}
	for n := range good {
		if _, err := open(good[:n]); !errors.Is(err, formats.ErrCorrupt) {
			t.Errorf("first %d of %d bytes: %v, wanted corrupt", n, len(good), err)
		}
	}
	v1 := func(version int32, flag, pad byte) []byte {
		b := append(header(magic, version, 4, 4, 1, 1, 1, 2, 2), flag, pad)
		return append(b, make([]byte, 4096)...)
	}
	start := time.Now()
	for name, c := range map[string]struct {
		b    []byte
		kind error
		want string
	}{
		"one byte more":      {append(bytes.Clone(good), 0), formats.ErrCorrupt, "1 bytes after"},
		"all of 2^31-1":      {append(header(math.MaxInt32, math.MaxInt32, math.MaxInt32, 1, 1, math.MaxInt32, math.MaxInt32), 0), formats.ErrCorrupt, "n_layers"},
		"product overflows":  {header(math.MaxInt32-1, math.MaxInt32, 1, 1, 1, math.MaxInt32, 1), formats.ErrCorrupt, "2^48"},
		"negative dim":       {header(-4, 4, 1, 1, 1, 2, 2), formats.ErrCorrupt, "dim is -4"},
		"zero vocabulary":    {header(4, 4, 1, 1, 1, 0, 2), formats.ErrCorrupt, "vocab_size is 0"},
		"vocabulary -2^31":   {header(4, 4, 1, 1, 1, math.MinInt32, 2), formats.ErrCorrupt, "needs 34359738368 bytes"},
		"uneven heads":       {header(6, 4, 1, 4, 1, 2, 2), formats.ErrCorrupt, "does not split"},
		"odd head":           {header(6, 4, 1, 2, 1, 2, 2), formats.ErrCorrupt, "does not split"},
		"uneven KV heads":    {header(12, 4, 1, 3, 2, 2, 2), formats.ErrCorrupt, "does not split"},
		"int8 version":       {v1(2, 1, 0), formats.ErrUnsupported, "int8"},
		"version 3":          {v1(3, 1, 0), formats.ErrUnsupported, "version 3"},
		"flag 2":             {v1(1, 2, 0), formats.ErrCorrupt, "shared_classifier"},
		"padding":            {v1(1, 1, 9), formats.ErrCorrupt, "padding"},
		"some other file":    {[]byte("PK\x03\x04 this is not such a file at all"), formats.ErrCorrupt, "n_layers"},
		"millions of layers": {append(header(2, 1, 1<<30, 1, 1, 1, 1), make([]byte, 1<<16)...), formats.ErrCorrupt, "n_layers"},
	} {
		if _, err := open(c.b); !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "model.bin") {
			t.Errorf("%s: %v, wanted %v and %q", name, err, c.kind, c.want)
		}
	}
	if took := time.Since(start); took > time.Second {
		t.Errorf("took %v", took)
	}
}

func TestTruncatedWhileOpen(t *testing.T) {
	b, err := os.ReadFile(tiny + "model.bin")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "model.bin")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Truncate(path, 1000); err != nil {
		t.Fatal(err)
	}
	err = f.ReadF32("norm.weight", 0, make([]float32, 64))
	if !errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(), `model.bin: tensor "norm.weight" at byte`) {
		t.Errorf("after truncation: %v", err)
	}
}

// Real files of llama2.c against the same weights in other forms.
func TestShared(t *testing.T) {
	const root = "../../../shared/models/"
	for _, name := range []string{"llama2xs/model.bin", "llama2xs/ckpt.pt", "stories260K/stories260K.bin", "stories260K/model.safetensors"} {
		if _, err := os.Stat(root + name); err != nil {
			t.Skipf("lacks %s, which is not part of the repository", root+name)
		}
	}
	xs, err := Open(root + "llama2xs/model.bin")
	if err != nil {
		t.Fatal(err)
	}
	defer xs.Close()
	compare(t, xs, section(t, root+"llama2xs/ckpt.pt"))

	f, err := Open(root + "stories260K/stories260K.bin")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	hf, err := safetensors.Open(root + "stories260K/model.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer hf.Close()
	names := strings.NewReplacer("tok_embeddings", "model.embed_tokens", "layers.", "model.layers.", "attention_norm", "input_layernorm",
		"ffn_norm", "post_attention_layernorm", "attention.wq", "self_attn.q_proj", "attention.wk", "self_attn.k_proj", "attention.wv", "self_attn.v_proj",
		"attention.wo", "self_attn.o_proj", "feed_forward.w1", "mlp.gate_proj", "feed_forward.w2", "mlp.down_proj", "feed_forward.w3", "mlp.up_proj")
	for _, info := range f.Tensors() {
		name := names.Replace(info.Name)
		if info.Name == "norm.weight" {
			name = "model.norm.weight"
		}
		got, want := all(t, f, info.Name), all(t, hf, name)
		if strings.HasSuffix(info.Name, "wq.weight") || strings.HasSuffix(info.Name, "wk.weight") {
			got = halfSplit(got, f.Config().Dim/f.Config().Heads, f.Config().Dim)
		}
		for i := range want {
			if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
				t.Errorf("%s: element %d is %g, %s has %g", info.Name, i, got[i], name, want[i])
				break
			}
		}
	}
}

// halfSplit moves interleaved RoPE rows to Hugging Face's order.
func halfSplit(w []float32, head, cols int) []float32 {
	out := make([]float32, len(w))
	for r := range len(w) / cols {
		i := r % head
		to := r - i + i/2 + i%2*(head/2)
		copy(out[to*cols:(to+1)*cols], w[r*cols:(r+1)*cols])
	}
	return out
}

func FuzzLlama2c(f *testing.F) {
	good := header(4, 4, 1, 1, 1, 2, 2)
	f.Add(append(good, make([]byte, 4*(2*4+4+4*16+4+3*16+4+2*2*2))...))
	f.Add(append(append(header(magic, 1, 2, 1, 1, 1, 1, 1, 1), 0), make([]byte, 512)...))
	f.Add(header(2, 1, 4096, 1, 1, -1, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := open(b)
		if err != nil {
			return
		}
		for _, info := range l.Tensors() {
			if err := l.ReadF32(info.Name, 0, make([]float32, info.Bytes/4)); err != nil {
				t.Fatalf("%+v: %v", info, err)
			}
		}
	})
}
