package gguf

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slmc/formats"
	"slmc/formats/safetensors"
	"slmc/tensor"
)

const tinyPath = "../../testdata/assistant-tiny.gguf"

func openTiny(t *testing.T) *File {
	t.Helper()
	f, err := Open(tinyPath)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// memFile opens bytes as a file.
func memFile(raw []byte) (*File, error) {
	return New(formats.NewFile("mem.gguf", bytes.NewReader(raw), int64(len(raw))))
}

func readAll(t *testing.T, s formats.Source, info formats.TensorInfo) []float32 {
	t.Helper()
	n, err := tensor.Elems(info.Shape)
	if err != nil {
		t.Fatal(err)
	}
	x := make([]float32, n)
	if err := s.ReadF32(info.Name, 0, x); err != nil {
		t.Fatal(err)
	}
	return x
}

// Every tensor of assistant-tiny reads as the same floats from GGUF and from
// safetensors, q and k rows in the checkpoint's order.
func TestTinyEqualsSafetensors(t *testing.T) {
	f := openTiny(t)
	st, err := safetensors.Open("../../testdata/assistant-tiny/model.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	want := map[string]formats.TensorInfo{}
	for _, info := range st.Tensors() {
		want[info.Name] = info
	}
	if len(f.Tensors()) != len(want) {
		t.Errorf("%d tensors, the checkpoint has %d", len(f.Tensors()), len(want))
	}
	parts := map[string]string{
		"token_embd": "model.embed_tokens", "output_norm": "model.norm",
		"attn_norm": "input_layernorm", "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
		"attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
	}
	for _, info := range f.Tensors() {
		p := strings.Split(info.Name, ".")
		name := parts[p[len(p)-2]] + ".weight"
		if p[0] == "blk" {
			name = "model.layers." + p[1] + "." + name
		}
		w := want[name]
		if diff := cmp.Diff(w.Shape, info.Shape); diff != "" {
			t.Errorf("%s: shape (-safetensors +gguf): %s", info.Name, diff)
			continue
		}
		if i := sameBits(readAll(t, f, info), readAll(t, st, w)); i >= 0 {
			t.Errorf("%s: element %d differs from the checkpoint's", info.Name, i)
		}
	}
}

func TestTinyMetadata(t *testing.T) {
	f := openTiny(t)
	if f.Version() != 3 || f.Arch() != "llama" {
		t.Errorf("version %d of %q", f.Version(), f.Arch())
	}
	for key, want := range map[string]int{
		"llama.block_count": 6, "llama.context_length": 256, "llama.embedding_length": 64, "llama.feed_forward_length": 176,
		"llama.attention.head_count": 2, "llama.attention.head_count_kv": 1, "llama.attention.key_length": 32, "llama.vocab_size": 2048,
		"llama.rope.dimension_count": 32, "general.file_type": 1,
	} {
		if n, err := f.Uint(key); err != nil || n != want {
			t.Errorf("%s is %d (%v), wanted %d", key, n, err, want)
		}
	}
	if eps, err := f.Float("llama.attention.layer_norm_rms_epsilon"); err != nil || float32(eps) != 1e-5 {
		t.Errorf("eps %g (%v)", eps, err)
	}
}

func TestTinyVocab(t *testing.T) {
	v, err := openTiny(t).Vocab()
	if err != nil {
		t.Fatal(err)
	}
	if v.Model != "llama" || v.Pre != "default" || v.BOS != 1 || v.EOS != 5 || v.Unknown != 0 || v.Padding != -1 || v.EOT != -1 {
		t.Errorf("model %q pre %q, ids %d %d %d %d %d", v.Model, v.Pre, v.BOS, v.EOS, v.Unknown, v.Padding, v.EOT)
	}
	if v.AddBOS == nil || !*v.AddBOS || v.AddEOS == nil || *v.AddEOS || v.AddSpacePrefix != nil {
		t.Error("flags", v.AddBOS, v.AddEOS, v.AddSpacePrefix)
	}
	if len(v.Tokens) != 2048 || len(v.Scores) != 2048 || len(v.Types) != 2048 || v.Merges != nil {
		t.Errorf("%d tokens, %d scores, %d types, %d merges", len(v.Tokens), len(v.Scores), len(v.Types), len(v.Merges))
	}
	for id, want := range map[int]struct {
		token string
		class TokenType
	}{0: {"<unk>", TokenUnknown}, 1: {"<s>", TokenControl}, 3: {"<|user|>", TokenControl}, 6: {"<0x00>", TokenByte}, 262: {"▁t", TokenNormal}} {
		if v.Tokens[id] != want.token || v.Types[id] != want.class {
			t.Errorf("token %d is %q of type %d, wanted %q of type %d", id, v.Tokens[id], v.Types[id], want.token, want.class)
		}
	}
	if !strings.Contains(v.ChatTemplate, "<|assistant|>") {
		t.Errorf("chat template %q", v.ChatTemplate)
	}
}

// Any range of elements is the same part of the whole, for plain, permuted and
// quantized tensors.
func TestReadAnyRange(t *testing.T) {
	f := openTiny(t)
	info := f.byName["blk.2.attn_k.weight"].info
	whole := readAll(t, f, *info)
	for _, r := range [][2]int{{0, 0}, {0, 1}, {63, 2}, {64, 64}, {100, 500}, {2047, 1}, {2048, 0}, {5, 2043}} {
		got := make([]float32, r[1])
		if err := f.ReadF32(info.Name, r[0], got); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, whole[r[0]:r[0]+r[1]]) {
			t.Errorf("elements %v differ", r)
		}
	}
	for _, r := range [][2]int{{-1, 1}, {2048, 1}, {0, 2049}, {math.MaxInt, 1}, {1, math.MaxInt32}} {
		if r[1] > 1<<20 {
			continue
		}
		if err := f.ReadF32(info.Name, r[0], make([]float32, r[1])); err == nil {
			t.Errorf("elements %v were read", r)
		}
	}
	if err := f.ReadF32("nope", 0, nil); !errors.Is(err, formats.ErrCorrupt) {
		t.Error(err)
	}
}

func TestReadConcurrently(t *testing.T) {
	f := openTiny(t)
	want := map[string][]float32{}
	for _, info := range f.Tensors() {
		want[info.Name] = readAll(t, f, info)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for _, info := range f.Tensors() {
				got := make([]float32, len(want[info.Name]))
				if err := f.ReadF32(info.Name, 0, got); err != nil || !slices.Equal(got, want[info.Name]) {
					t.Errorf("%s: %v", info.Name, err)
				}
			}
		})
	}
	wg.Wait()
}

// A file that shrinks while it is open gives an error at the place.
func TestShrunkFile(t *testing.T) {
	raw, err := os.ReadFile(tinyPath)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "short.gguf")
	if err := os.WriteFile(path, raw, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Truncate(path, int64(len(raw)/2)); err != nil {
		t.Fatal(err)
	}
	last := f.Tensors()[len(f.Tensors())-1]
	err = f.ReadF32(last.Name, 0, make([]float32, 8))
	var fe *formats.Error
	if !errors.As(err, &fe) || !errors.Is(err, formats.ErrCorrupt) || fe.Offset != last.Offset || fe.Tensor != last.Name {
		t.Errorf("got %v", err)
	}
}

func TestOpenRefusesFolders(t *testing.T) {
	if _, err := Open(t.TempDir()); !errors.Is(err, formats.ErrUnsupported) {
		t.Error(err)
	}
	if _, err := Open(filepath.Join(t.TempDir(), "absent.gguf")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// The rows of a head: 0 1 2 3 4 5 in the checkpoint are stored 0 3 1 4 2 5.
func TestRowOrder(t *testing.T) {
	var stored, back []int
	for r := range 12 {
		stored = append(stored, HalfSplit(r, 6))
		back = append(back, interleaved(HalfSplit(r, 6), 6))
	}
	if want := []int{0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11}; !slices.Equal(stored, want) {
		t.Errorf("stored %v, wanted %v", stored, want)
	}
	if want := []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}; !slices.Equal(back, want) {
		t.Errorf("read back %v", back)
	}
}

func TestBlockNames(t *testing.T) {
	for name, want := range map[string]int{"blk.0.attn_q.weight": 0, "blk.12.attn_k.bias": 12} {
		if n, ok := isBlock(name, "attn_q", "attn_k"); !ok || n != want {
			t.Errorf("%s: %d %v", name, n, ok)
		}
	}
	for _, name := range []string{"blk.attn_q.weight", "blk..attn_q.weight", "blk.-1.attn_q.weight", "blk.1.attn_q_norm.weight", "blk.9999999.attn_q.weight", "token_embd.weight"} {
		if _, ok := isBlock(name, "attn_q", "attn_k"); ok {
			t.Errorf("%s was taken for a block's", name)
		}
	}
}

// 256k tokens and as many merges.
func BenchmarkOpenLargeVocabulary(b *testing.B) {
	raw := largeVocabulary(b)
	b.SetBytes(int64(len(raw)))
	for b.Loop() {
		f, err := memFile(raw)
		if err != nil {
			b.Fatal(err)
		}
		if v, err := f.Vocab(); err != nil || len(v.Tokens) != 262144 {
			b.Fatal(err)
		}
	}
}
