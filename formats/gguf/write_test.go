package gguf

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func write(kvs []KV, tensors []Tensor) ([]byte, error) {
	var buf bytes.Buffer
	err := Write(context.Background(), &buf, kvs, tensors)
	return buf.Bytes(), err
}

func floats(x []float32) func(int, []float32) error {
	return func(off int, dst []float32) error { copy(dst, x[off:]); return nil }
}

func largeVocabulary(tb testing.TB) []byte {
	tb.Helper()
	v := NoIDs()
	v.Model = "gpt2"
	for i := range 262144 {
		v.Tokens = append(v.Tokens, fmt.Sprintf("Ġtoken%d", i))
		v.Types = append(v.Types, TokenNormal)
		v.Merges = append(v.Merges, fmt.Sprintf("Ġtok %d", i))
	}
	raw, err := write(v.KVs(), nil)
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}

// What Write writes, the reader reads: all value types and tensor types that
// can be written, any shape, any alignment, any order of rows.
func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		kvs := drawKVs(t)
		heads := rapid.IntRange(1, 3).Draw(t, "heads")
		kvs = append(kvs, KV{"general.architecture", "llama"}, KV{"llama.attention.head_count", uint32(heads)})
		if rapid.Bool().Draw(t, "aligned") {
			kvs = append(kvs, KV{"general.alignment", uint32(1) << rapid.IntRange(0, 10).Draw(t, "alignment")})
		}
		tensors, want := drawTensors(t, heads)
		raw, err := write(kvs, tensors)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := Size(kvs, tensors); err != nil || n != int64(len(raw)) {
			t.Fatalf("Size is %d (%v), the file has %d bytes", n, err, len(raw))
		}
		f, err := memFile(raw)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(kvs, f.KVs()); diff != "" {
			t.Fatalf("metadata (-written +read): %s", diff)
		}
		for i, info := range f.Tensors() {
			w := tensors[i]
			if info.Name != w.Name || !slices.Equal(info.Shape, w.Shape) || info.Type != w.Type.String() {
				t.Fatalf("tensor %+v, wrote %s %v %s", info, w.Name, w.Shape, w.Type)
			}
			got := make([]float32, len(want[i]))
			if err := f.ReadF32(info.Name, 0, got); err != nil {
				t.Fatal(err)
			}
			if !near(got, want[i], w.Type) {
				t.Fatalf("%s of type %s: read %v, wrote %v", info.Name, info.Type, got, want[i])
			}
			lo := rapid.IntRange(0, len(got)).Draw(t, "lo")
			part := make([]float32, rapid.IntRange(0, len(got)-lo).Draw(t, "n"))
			if err := f.ReadF32(info.Name, lo, part); err != nil || !slices.Equal(part, got[lo:lo+len(part)]) {
				t.Fatalf("%s: elements %d to %d differ (%v)", info.Name, lo, lo+len(part), err)
			}
		}
	})
}

// near allows each type half a step, and the rounding of its scale.
func near(got, want []float32, typ Type) bool {
	elems, _ := typ.Block()
	step := map[Type]float64{F32: 0, F16: 1.0 / 2048, BF16: 1.0 / 256, Q8_0: 0.5/127 + 1.0/2048, Q4_0: 1.0/8 + 1.0/2048}[typ]
	for at := 0; at < len(want); at += elems {
		block := want[at : at+elems]
		most := float64(block[peak(block)])
		for i, w := range block {
			if !(math.Abs(float64(got[at+i])-float64(w)) <= step*math.Abs(most)) {
				return false
			}
		}
	}
	return true
}

func drawKVs(t *rapid.T) []KV {
	text := rapid.String()
	value := rapid.OneOf(
		rapid.Uint8().AsAny(), rapid.Int8().AsAny(), rapid.Uint16().AsAny(), rapid.Int16().AsAny(), rapid.Uint32().AsAny(), rapid.Int32().AsAny(),
		rapid.Uint64().AsAny(), rapid.Int64().AsAny(), rapid.Float32().AsAny(), rapid.Float64().AsAny(), rapid.Bool().AsAny(), text.AsAny(),
		rapid.SliceOf(rapid.Uint8()).AsAny(), rapid.SliceOf(rapid.Int16()).AsAny(), rapid.SliceOf(rapid.Uint32()).AsAny(), rapid.SliceOf(rapid.Int64()).AsAny(),
		rapid.SliceOf(rapid.Float32()).AsAny(), rapid.SliceOf(rapid.Float64()).AsAny(), rapid.SliceOf(rapid.Bool()).AsAny(), rapid.SliceOf(text).AsAny(),
		rapid.Custom(func(t *rapid.T) any {
			return []any{rapid.SliceOf(rapid.Int32()).Draw(t, "inner"), []any{[]string{"deep"}}, []string{}}
		}),
	)
	keys := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]{1,8}(\.[a-z_]{1,9})?`), 0, 6, rapid.ID).Draw(t, "keys")
	var kvs []KV
	for _, k := range keys {
		kvs = append(kvs, KV{k, value.Draw(t, "value")})
	}
	return kvs
}

func drawTensors(t *rapid.T, heads int) (tensors []Tensor, data [][]float32) {
	for i := range rapid.IntRange(0, 4).Draw(t, "tensors") {
		typ := rapid.SampledFrom([]Type{F32, F16, BF16, Q8_0, Q4_0}).Draw(t, "type")
		elems, _ := typ.Block()
		w := Tensor{Name: fmt.Sprintf("t%d.weight", i), Type: typ}
		for range rapid.IntRange(0, 3).Draw(t, "dims") {
			w.Shape = append(w.Shape, rapid.IntRange(0, 3).Draw(t, "dim"))
		}
		w.Shape = append(w.Shape, elems*rapid.IntRange(0, 40).Draw(t, "blocks"))
		if rapid.Bool().Draw(t, "permuted") {
			w.Name, w.Heads = fmt.Sprintf("blk.%d.attn_q.weight", i), heads
			w.Shape = []int{2 * heads * rapid.IntRange(0, 4).Draw(t, "half"), w.Shape[len(w.Shape)-1]}
		}
		n := 1
		for _, d := range w.Shape {
			n *= d
		}
		x := make([]float32, n)
		for k := range x {
			x[k] = float32(math.Sin(float64(k*k+i)) * 3)
		}
		w.Read = floats(x)
		if w.Shape == nil {
			w.Shape = []int{}
		}
		tensors, data = append(tensors, w), append(data, x)
	}
	return tensors, data
}

func TestWriteIsDeterministic(t *testing.T) {
	f := openTiny(t)
	v, err := f.Vocab()
	if err != nil {
		t.Fatal(err)
	}
	on := true
	v.ChatTemplates = map[string]string{"b": "2", "a": "1", "c": "3"}
	v.Merges, v.CharsMap, v.EOT, v.Mask = []string{"a b"}, []byte{1, 2}, 4, 7
	v.Lowercase, v.AddSeparator, v.RemoveExtraSpaces = &on, &on, &on
	var first []byte
	for range 3 {
		raw, err := write(v.KVs(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if first != nil && !bytes.Equal(raw, first) {
			t.Fatal("two runs differ")
		}
		first = raw
	}
	g, err := memFile(first)
	if err != nil {
		t.Fatal(err)
	}
	back, err := g.Vocab()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(v, back); diff != "" {
		t.Errorf("vocabulary (-written +read): %s", diff)
	}
}

// A file read and written again is the same file.
func TestRewriteTiny(t *testing.T) {
	f := openTiny(t)
	var tensors []Tensor
	for _, info := range f.Tensors() {
		typ, err := TypeByName(info.Type)
		if err != nil {
			t.Fatal(err)
		}
		tensors = append(tensors, Tensor{
			Name: info.Name, Shape: info.Shape, Type: typ, Heads: f.byName[info.Name].heads,
			Read: func(off int, dst []float32) error { return f.ReadF32(info.Name, off, dst) },
		})
	}
	raw, err := write(f.KVs(), tensors)
	if err != nil {
		t.Fatal(err)
	}
	want, err := io.ReadAll(f.data.Section(0, f.Size()))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(raw, want) {
		t.Error("the file differs")
	}
}

// Raw data passes through as it is.
func TestWriteRaw(t *testing.T) {
	block := make([]byte, 3*tq2Bytes)
	for i := range block {
		block[i] = byte(i * 7)
	}
	raw, err := write(nil, []Tensor{{Name: "w", Shape: []int{3, 256}, Type: TQ2_0, Raw: func(off int64, dst []byte) error { copy(dst, block[off:]); return nil }}})
	if err != nil {
		t.Fatal(err)
	}
	f, err := memFile(raw)
	if err != nil {
		t.Fatal(err)
	}
	got, want := make([]float32, 768), make([]float32, 768)
	if err := f.ReadF32("w", 0, got); err != nil {
		t.Fatal(err)
	}
	decodeTQ2(want, block)
	if !slices.Equal(got, want) {
		t.Error("blocks differ")
	}
}

func TestWriteRefuses(t *testing.T) {
	read := floats(make([]float32, 1<<10))
	raw := func(int64, []byte) error { return nil }
	for name, c := range map[string]struct {
		kvs     []KV
		tensors []Tensor
		want    string
	}{
		"key twice":       {kvs: []KV{{"a", "1"}, {"a", "2"}}, want: "occurs twice"},
		"empty key":       {kvs: []KV{{"", "1"}}, want: "empty"},
		"plain int":       {kvs: []KV{{"a", 1}}, want: "Go int"},
		"bad alignment":   {kvs: []KV{{"general.alignment", uint32(24)}}, want: "power of two"},
		"mixed arrays":    {kvs: []KV{{"a", []any{[]string{"x"}, "y"}}}, want: "holds a string"},
		"deep arrays":     {kvs: []KV{{"a", []any{[]any{[]any{[]any{[]any{}}}}}}}, want: "deep"},
		"name twice":      {tensors: []Tensor{{Name: "a", Shape: []int{1}, Read: read}, {Name: "a", Shape: []int{1}, Read: read}}, want: "twice"},
		"long name":       {tensors: []Tensor{{Name: strings.Repeat("a", 64), Shape: []int{1}, Read: read}}, want: "64 bytes"},
		"short rows":      {tensors: []Tensor{{Name: "a", Shape: []int{4, 16}, Type: Q8_0, Read: read}}, want: "blocks of 32"},
		"no source":       {tensors: []Tensor{{Name: "a", Shape: []int{1}}}, want: "one of Read and Raw"},
		"two sources":     {tensors: []Tensor{{Name: "a", Shape: []int{1}, Read: read, Raw: raw}}, want: "one of Read and Raw"},
		"no encoder":      {tensors: []Tensor{{Name: "a", Shape: []int{256}, Type: 11, Read: read}}, want: "can't be written"},
		"five dimensions": {tensors: []Tensor{{Name: "a", Shape: []int{1, 1, 1, 1, 1}, Read: read}}, want: "4 dimensions"},
		"odd heads":       {tensors: []Tensor{{Name: "a", Shape: []int{6, 4}, Heads: 2, Read: read}}, want: "2 heads"},
		"unknown type":    {tensors: []Tensor{{Name: "a", Shape: []int{1}, Type: 99, Read: read}}, want: "unknown type 99"},
		"not a number": {tensors: []Tensor{{Name: "a", Shape: []int{4}, Type: F16, Read: floats([]float32{0, 1, float32(math.NaN()), 2})}},
			want: `tensor "a": element 2 is NaN`},
	} {
		if _, err := write(c.kvs, c.tensors); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, wanted %q", name, err, c.want)
		}
	}
}

type failingWriter struct{ left int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		return 0, errors.New("disk full")
	}
	w.left -= len(p)
	return len(p), nil
}

func TestWriteStops(t *testing.T) {
	big := []Tensor{{Name: "a", Shape: []int{1 << 10, 1 << 10}, Read: func(int, []float32) error { return nil }}}
	if err := Write(context.Background(), &failingWriter{1 << 20}, nil, big); err == nil || err.Error() != `tensor "a": disk full` {
		t.Errorf("a full disk gives %v", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := Write(ctx, io.Discard, nil, big); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled write gives %v", err)
	}
	bad := errors.New("bad sector")
	big[0].Read = func(int, []float32) error { return bad }
	if err := Write(context.Background(), io.Discard, nil, big); !errors.Is(err, bad) {
		t.Errorf("a failed read gives %v", err)
	}
}
