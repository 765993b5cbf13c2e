package gguf

import (
	"bytes"
	"errors"
	"math"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"slmc/formats"
)

// builder writes raw GGUF, right or wrong.
type builder struct{ raw []byte }

func header(version uint32, tensors, kvs uint64) *builder {
	b := &builder{raw: []byte("GGUF")}
	return b.u32(version).u64(tensors).u64(kvs)
}

func (b *builder) u32(v uint32) *builder   { b.raw = le.AppendUint32(b.raw, v); return b }
func (b *builder) u64(v uint64) *builder   { b.raw = le.AppendUint64(b.raw, v); return b }
func (b *builder) str(s string) *builder   { b.raw = appendText(b.raw, s); return b }
func (b *builder) byte(v ...byte) *builder { b.raw = append(b.raw, v...); return b }
func (b *builder) zeros(n int) *builder    { b.raw = append(b.raw, make([]byte, n)...); return b }

// tensor appends an entry of the table, dimensions as in the file.
func (b *builder) tensor(name string, typ uint32, offset uint64, dims ...uint64) *builder {
	b.str(name).u32(uint32(len(dims)))
	for _, d := range dims {
		b.u64(d)
	}
	return b.u32(typ).u64(offset)
}

func (b *builder) text(key, value string) *builder { return b.str(key).u32(idString).str(value) }
func (b *builder) count(key string, v uint32) *builder {
	return b.str(key).u32(4).u32(v)
}

// hostile lists files that must be refused: how, and what the error must say.
var hostile = []struct {
	name string
	file *builder
	kind error
	want string
}{
	{"empty", &builder{}, formats.ErrCorrupt, "at byte 0"},
	{"other magic", (&builder{}).byte([]byte("GGML")...).zeros(64), formats.ErrUnsupported, `"GGML", not GGUF`},
	{"version 0", header(0, 0, 0), formats.ErrCorrupt, "version 0"},
	{"version 1", header(1, 0, 0), formats.ErrUnsupported, "version 1"},
	{"version 4", header(4, 0, 0), formats.ErrVersion, "version 4"},
	{"big-endian", header(0x03000000, 0, 0), formats.ErrUnsupported, "big-endian"},
	{"no counts", (&builder{raw: []byte("GGUF")}).u32(3).u32(1), formats.ErrCorrupt, "at byte 8"},
	{"2^60 tensors", header(3, 1<<60, 0).zeros(64), formats.ErrCorrupt, "the tensor table needs 1152921504606846976"},
	{"2^60 entries", header(3, 0, 1<<60).zeros(64), formats.ErrCorrupt, "the metadata needs 1152921504606846976"},
	{"2^64-1 tensors", header(2, math.MaxUint64, 0).zeros(64), formats.ErrCorrupt, "the tensor table"},
	{"2^60 strings", header(3, 0, 1).str("a").u32(idArray).u32(idString).u64(1 << 60).zeros(64), formats.ErrCorrupt, "array of string"},
	{"2^61 floats", header(3, 0, 1).str("a").u32(idArray).u32(12).u64(1 << 61).zeros(64), formats.ErrCorrupt, "array of float64"},
	{"2^60 arrays", header(3, 0, 1).str("a").u32(idArray).u32(idArray).u64(1 << 60).zeros(64), formats.ErrCorrupt, "array of arrays"},
	{"long string", header(3, 0, 1).str("a").u32(idString).u64(1 << 60), formats.ErrCorrupt, "a string needs"},
	{"long key", header(3, 0, 1).u64(1 << 60).zeros(64), formats.ErrCorrupt, "a string needs"},
	{"key of 64 KiB", header(3, 0, 1).str(strings.Repeat("k", 1<<16)).u32(0).byte(1), formats.ErrCorrupt, "a metadata key has 65536 bytes"},
	{"empty key", header(3, 0, 1).str("").u32(0).zeros(8), formats.ErrCorrupt, "a metadata key has 0 bytes"},
	{"key twice", header(3, 0, 2).count("a", 1).count("a", 2), formats.ErrCorrupt, `"a" occurs twice`},
	{"unknown value type", header(3, 0, 1).str("a").u32(13).zeros(8), formats.ErrCorrupt, "value type 13"},
	{"unknown array type", header(3, 0, 1).str("a").u32(idArray).u32(99).u64(0).zeros(8), formats.ErrCorrupt, "value type 99"},
	{"bool of 2", header(3, 0, 1).str("a").u32(7).byte(2).zeros(8), formats.ErrCorrupt, "a bool is 2"},
	{"bool of 2 in an array", header(3, 0, 1).str("a").u32(idArray).u32(7).u64(2).byte(1, 2), formats.ErrCorrupt, "a bool is 2"},
	{"nested arrays", header(3, 0, 1).str("a").u32(idArray).u32(idArray).u64(1).u32(idArray).u64(1).u32(idArray).u64(1).u32(idArray).u64(1).u32(0).u64(0), formats.ErrCorrupt, "nested over 4 deep"},
	{"alignment 0", header(3, 0, 1).count("general.alignment", 0).zeros(64), formats.ErrCorrupt, "general.alignment is 0"},
	{"alignment 48", header(3, 0, 1).count("general.alignment", 48).zeros(64), formats.ErrCorrupt, "power of two"},
	{"alignment as text", header(3, 0, 1).text("general.alignment", "32").zeros(64), formats.ErrCorrupt, "is of type string, wanted uint32"},
	{"split model", header(3, 0, 1).str("split.count").u32(2).byte(3, 0), formats.ErrUnsupported, "one of 3 parts"},
	{"five dimensions", header(3, 1, 0).tensor("a", 0, 0, 1, 1, 1, 1, 1).zeros(64), formats.ErrCorrupt, "5 dimensions"},
	{"dimension of 2^60", header(3, 1, 0).tensor("a", 0, 0, 1<<60).zeros(64), formats.ErrCorrupt, "dimension 0"},
	{"product of 2^64", header(3, 1, 0).tensor("a", 0, 0, 1<<32, 1<<32).zeros(64), formats.ErrCorrupt, "2^48 elements"},
	{"product of 0 and 2^48", header(3, 1, 0).tensor("a", 0, 0, 0, 1<<48, 1<<48).zeros(64), formats.ErrCorrupt, "2^48 elements"},
	{"empty name", header(3, 1, 0).tensor("", 0, 0, 1).zeros(64), formats.ErrCorrupt, "a tensor name has 0 bytes"},
	{"name twice", header(3, 2, 0).tensor("a", 0, 0, 1).tensor("a", 0, 32, 1).zeros(128), formats.ErrCorrupt, "occurs twice"},
	{"unknown type", header(3, 1, 0).tensor("a", 4, 0, 32).zeros(64), formats.ErrUnsupported, "tensor type 4"},
	{"rows off the block", header(3, 1, 0).tensor("a", 8, 0, 48).zeros(128), formats.ErrCorrupt, "Q8_0 has blocks of 32"},
	{"beyond the file", header(3, 1, 0).tensor("a", 0, 0, 1<<20).zeros(64), formats.ErrCorrupt, "4194304 bytes of data"},
	{"a byte beyond the file", header(3, 1, 0).tensor("a", 0, 0, 16).zeros(70), formats.ErrCorrupt, "needs 64 bytes, the file has 63"},
	{"offset beyond the file", header(3, 1, 0).tensor("a", 0, 1<<63, 1).zeros(64), formats.ErrCorrupt, "at offset 9223372036854775808"},
	{"offset that wraps", header(3, 1, 0).tensor("a", 0, math.MaxUint64-31, 8).zeros(64), formats.ErrCorrupt, "of data at offset"},
	{"offset off the alignment", header(3, 1, 0).tensor("a", 0, 4, 1).zeros(64), formats.ErrCorrupt, "not aligned to 32"},
	{"overlap", header(3, 2, 0).tensor("a", 0, 0, 16).tensor("b", 0, 32, 16).zeros(256), formats.ErrCorrupt, `overlaps that of "a"`},
	{"heads missing", header(3, 1, 1).text("general.architecture", "llama").tensor("blk.0.attn_q.weight", 0, 0, 4, 4).zeros(256), formats.ErrCorrupt, "llama.attention.head_count"},
	{"heads that don't divide", header(3, 1, 2).text("general.architecture", "llama").count("llama.attention.head_count", 3).tensor("blk.0.attn_q.weight", 0, 0, 4, 4).zeros(256), formats.ErrCorrupt, "3 heads"},
	{"heads of 2^32-1", header(3, 1, 2).text("general.architecture", "llama").count("llama.attention.head_count", math.MaxUint32).tensor("blk.0.attn_q.weight", 0, 0, 4, 4).zeros(256), formats.ErrCorrupt, "4294967295"},
	{"heads of 0", header(3, 1, 2).text("general.architecture", "llama").count("llama.attention.head_count", 0).tensor("blk.0.attn_k.weight", 0, 0, 4, 4).zeros(256), formats.ErrCorrupt, "0 heads"},
	{"a short list of heads", header(3, 1, 2).text("general.architecture", "llama").str("llama.attention.head_count").u32(idArray).u32(4).u64(2).u32(1).u32(1).tensor("blk.2.attn_q.weight", 0, 0, 4, 4).zeros(256), formats.ErrCorrupt, "block 2 needs one"},
}

func TestHostileFiles(t *testing.T) {
	for _, h := range hostile {
		t.Run(h.name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			start := time.Now()
			_, err := memFile(h.file.raw)
			took := time.Since(start)
			runtime.ReadMemStats(&after)
			if !errors.Is(err, h.kind) || err == nil || !strings.Contains(err.Error(), h.want) || !strings.HasPrefix(err.Error(), "mem.gguf") {
				t.Errorf("got %v, wanted kind %v and %q", err, h.kind, h.want)
			}
			if took > time.Second || after.TotalAlloc-before.TotalAlloc > 4<<20 {
				t.Errorf("took %v and %d bytes", took, after.TotalAlloc-before.TotalAlloc)
			}
		})
	}
}

// A file cut anywhere gives an error and never a panic: at every byte of
// header, metadata and table, and at every KiB of the data.
func TestTruncatedAnywhere(t *testing.T) {
	raw, err := os.ReadFile(tinyPath)
	if err != nil {
		t.Fatal(err)
	}
	f, err := memFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	step := 1
	if testing.Short() {
		step = 97
	}
	for n := 0; n < len(raw); n += step {
		if n > 4096 && n < int(f.DataOffset())-4096 {
			step = max(step, 61) // the middle is one long array of tokens
		} else if n >= int(f.DataOffset()) {
			step = 1024
		} else if !testing.Short() {
			step = 1
		}
		if _, err := memFile(raw[:n]); !errors.Is(err, formats.ErrCorrupt) {
			t.Fatalf("cut to %d bytes: %v", n, err)
		}
	}
}

// A file as large as it claims to be still can't make the reader hold much
// more than maxHeader.
func TestLargeHeaders(t *testing.T) {
	if testing.Short() {
		t.Skip("allocates 100 MB")
	}
	const n = 60 << 20
	for name, b := range map[string]*builder{
		"a string of 60 MiB":  header(3, 0, 1).str("a").u32(idString).u64(n).zeros(n),
		"7 million strings":   header(3, 0, 1).str("a").u32(idArray).u32(idString).u64(n / 8).zeros(n),
		"5 million arrays":    header(3, 0, 1).str("a").u32(idArray).u32(idArray).u64(n / 12).zeros(n),
		"4 million entries":   header(3, 0, n/14).zeros(n),
		"2 million tensors":   header(3, n/25, 0).zeros(n),
		"70,000 inner arrays": header(3, 0, 1).str("a").u32(idArray).u32(idArray).u64(70000).zeros(70000 * 12),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := memFile(b.raw)
		runtime.ReadMemStats(&after)
		if err == nil {
			t.Errorf("%s: accepted", name)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 1<<20 {
			t.Errorf("%s: %d bytes allocated for the error %v", name, got, err)
		}
	}
}

// What is listed but can't be read says so when it is read.
func TestListedButUnreadable(t *testing.T) {
	raw := header(3, 3, 1).text("general.architecture", "mamba").
		tensor("a", 39, 0, 32).tensor("blk.0.attn_q.weight", 0, 32, 2, 2).tensor("b", 0, 64, 1).zeros(256).raw
	f, err := memFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"a": "type MXFP4 can't be read; F32, F16, Q4_0", "blk.0.attn_q.weight": `architecture "mamba"`} {
		if err := f.ReadF32(name, 0, make([]float32, 1)); !errors.Is(err, formats.ErrUnsupported) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := f.ReadF32("b", 0, make([]float32, 1)); err != nil {
		t.Error(err)
	}
	fused := header(3, 1, 1).text("general.architecture", "llama").tensor("blk.0.attn_qkv.weight", 0, 0, 2, 2).zeros(256).raw
	if f, err = memFile(fused); err != nil {
		t.Fatal(err)
	}
	if err := f.ReadF32("blk.0.attn_qkv.weight", 0, make([]float32, 1)); !errors.Is(err, formats.ErrUnsupported) {
		t.Error(err)
	}
}

func TestMetadataAccessors(t *testing.T) {
	raw, err := write([]KV{
		{"s", "x"}, {"u8", uint8(7)}, {"i64", int64(-3)}, {"u64", uint64(math.MaxUint64)}, {"f64", 0.5}, {"b", true},
		{"bools", []bool{true, false}}, {"u32s", []uint32{1, 2}}, {"i8s", []int8{-1}}, {"strs", []string{"a"}}, {"f32s", []float32{1}},
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err := memFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	if n, err := f.Int("i64"); n != -3 || err != nil {
		t.Error(n, err)
	}
	if n, err := f.Uint("u8"); n != 7 || err != nil {
		t.Error(n, err)
	}
	if v, err := f.Ints("bools"); len(v) != 2 || v[0] != 1 || v[1] != 0 || err != nil {
		t.Error(v, err)
	}
	if v, err := f.Ints("u8"); len(v) != 1 || v[0] != 7 || err != nil {
		t.Error(v, err)
	}
	if x, err := f.Float("f64"); x != 0.5 || err != nil {
		t.Error(x, err)
	}
	_, negative := f.Uint("i64")
	_, huge := f.Int("u64")
	_, notInt := f.Int("s")
	_, notText := f.String("b")
	_, notFloats := f.Float32s("u32s")
	_, notInts := f.Ints("f32s")
	_, notFloat := f.Float("u8")
	for name, c := range map[string]struct {
		err  error
		want string
	}{
		"negative": {negative, `"i64" is -3`}, "huge": {huge, "type uint64, wanted integer"}, "not an integer": {notInt, "type string, wanted integer"},
		"not text": {notText, "type bool, wanted string"}, "not floats": {notFloats, "type array of uint32, wanted array of float32"},
		"not integers": {notInts, "array of float32"}, "not a float": {notFloat, "type uint8, wanted float"},
	} {
		if !errors.Is(c.err, formats.ErrCorrupt) || errors.Is(c.err, ErrMissing) || !strings.Contains(c.err.Error(), c.want) {
			t.Errorf("%s: %v", name, c.err)
		}
	}
	if _, err := f.String("absent"); !errors.Is(err, ErrMissing) || !errors.Is(err, formats.ErrCorrupt) {
		t.Error(err)
	}
	if f.Has("absent") || f.Value("absent") != nil || !f.Has("s") {
		t.Error("Has and Value disagree with the file")
	}
}

func TestVocabChecks(t *testing.T) {
	base := func() Vocab {
		v := NoIDs()
		v.Model, v.Tokens = "gpt2", []string{"a", "b"}
		return v
	}
	for name, c := range map[string]struct {
		change func(v *Vocab, kvs *[]KV)
		want   string
	}{
		"no model": {func(v *Vocab, kvs *[]KV) { *kvs = (*kvs)[1:] }, "missing"},
		"scores":   {func(v *Vocab, kvs *[]KV) { *kvs = append(*kvs, KV{"tokenizer.ggml.scores", []float32{1}}) }, "1 values for 2 tokens"},
		"types":    {func(v *Vocab, kvs *[]KV) { *kvs = append(*kvs, KV{"tokenizer.ggml.token_type", []int32{1, 1, 1}}) }, "3 values"},
		"bos":      {func(v *Vocab, kvs *[]KV) { *kvs = append(*kvs, KV{"tokenizer.ggml.bos_token_id", uint32(2)}) }, "bos_token_id is 2"},
		"flag":     {func(v *Vocab, kvs *[]KV) { *kvs = append(*kvs, KV{"tokenizer.ggml.add_bos_token", uint32(1)}) }, "wanted bool"},
	} {
		v := base()
		kvs := v.KVs()
		c.change(&v, &kvs)
		raw, err := write(kvs, nil)
		if err != nil {
			t.Fatal(err)
		}
		f, err := memFile(raw)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Vocab(); !errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	v := base()
	raw, err := write(append(v.KVs(), KV{"tokenizer.ggml.padding_token_id", uint32(math.MaxUint32)}), nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err := memFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := f.Vocab(); err != nil || got.Padding != -1 {
		t.Errorf("llama.cpp's none gives %+v, %v", got, err)
	}
}

func FuzzGGUF(f *testing.F) {
	for _, h := range hostile {
		f.Add(h.file.raw)
	}
	small, err := write([]KV{{"general.architecture", "llama"}, {"llama.attention.head_count", uint32(1)}, {"tokenizer.ggml.model", "llama"},
		{"tokenizer.ggml.tokens", []string{"a", "b"}}, {"n", []any{[]int8{1}, []float64{}}}},
		[]Tensor{{Name: "blk.0.attn_q.weight", Shape: []int{2, 32}, Type: Q8_0, Heads: 1, Read: func(int, []float32) error { return nil }},
			{Name: "x", Shape: []int{2, 3}, Read: func(int, []float32) error { return nil }}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(small)
	for i := range len(small) {
		if i%7 == 0 {
			f.Add(small[:i])
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte) {
		g, err := memFile(raw)
		if err != nil {
			if !errors.Is(err, formats.ErrCorrupt) && !errors.Is(err, formats.ErrUnsupported) && !errors.Is(err, formats.ErrVersion) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		for _, info := range g.Tensors() {
			if info.Offset < g.DataOffset() || info.Offset+info.Bytes > int64(len(raw)) {
				t.Fatalf("%+v lies outside the file", info)
			}
			var x [300]float32
			n := 1
			for _, d := range info.Shape {
				n *= d
			}
			if err := g.ReadF32(info.Name, 0, x[:min(n, len(x))]); err != nil && !errors.Is(err, formats.ErrUnsupported) {
				t.Fatal(err)
			}
		}
		if v, err := g.Vocab(); err == nil && v.BOS >= len(v.Tokens) {
			t.Fatalf("bos is %d of %d", v.BOS, len(v.Tokens))
		}
		again, err := write(g.KVs(), nil)
		if err != nil {
			t.Fatalf("metadata that was read can't be written: %v", err)
		}
		h, err := memFile(again)
		if err != nil {
			t.Fatal(err)
		}
		// Not cmp.Diff: NaN is not itself, its bytes are.
		back, err := write(h.KVs(), nil)
		if err != nil || !bytes.Equal(back, again) {
			t.Fatalf("metadata changed when read again (%v)", err)
		}
	})
}
