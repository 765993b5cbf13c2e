package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"slmc/formats"
	"slmc/tensor"
)

const tiny = "../../testdata/assistant-tiny/model.safetensors"

// file returns the bytes of a safetensors file with the given header.
func file(header string, data int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, data)...)
}

func open(b []byte) (*File, error) {
	return New(formats.NewFile("x.safetensors", bytes.NewReader(b), int64(len(b))))
}

func TestRead(t *testing.T) {
	header := `{"__metadata__":{"format":"pt"},"b":{"shape":[2,2],"dtype":"F32","data_offsets":[16,32]},` +
		`"d":{"dtype":"F64","shape":[2],"data_offsets":[0,16]},"h":{"dtype":"F16","shape":[3],"data_offsets":[32,38]},` +
		`"bf":{"dtype":"BF16","shape":[],"data_offsets":[38,40]},"i":{"dtype":"I64","shape":[1],"data_offsets":[40,48]},` +
		`"none":{"dtype":"F32","shape":[0,7],"data_offsets":[48,48]}}  `
	b := file(header, 48)
	data := b[8+len(header):]
	binary.LittleEndian.PutUint64(data[0:], math.Float64bits(0.1))
	binary.LittleEndian.PutUint64(data[8:], math.Float64bits(-3))
	for i, v := range []float32{1, 2, 3, 4} {
		binary.LittleEndian.PutUint32(data[16+4*i:], math.Float32bits(v))
	}
	for i, v := range []uint16{0x3c00, 0x0001, 0xfbff, 0x3fc0} { // 1, 2^-24, -65504; bfloat16 1.5
		binary.LittleEndian.PutUint16(data[32+2*i:], v)
	}
	f, err := open(b)
	if err != nil {
		t.Fatal(err)
	}
	if f.Metadata()["format"] != "pt" {
		t.Errorf("metadata %v", f.Metadata())
	}
	var names []string
	for _, ti := range f.Tensors() {
		names = append(names, ti.Name)
	}
	if got := strings.Join(names, " "); got != "d b h bf i none" {
		t.Errorf("order %q, wanted that of the data", got)
	}
	for _, c := range []struct {
		name string
		off  int
		want []float32
	}{
		{"d", 0, []float32{0.1, -3}}, {"b", 0, []float32{1, 2, 3, 4}}, {"b", 1, []float32{2, 3}}, {"b", 4, nil},
		{"h", 0, []float32{1, 1.0 / (1 << 24), -65504}}, {"bf", 0, []float32{1.5}}, {"none", 0, nil},
	} {
		dst := make([]float32, len(c.want))
		if err := f.ReadF32(c.name, c.off, dst); err != nil || fmt.Sprint(dst) != fmt.Sprint(append([]float32{}, c.want...)) {
			t.Errorf("%s from %d: %v, %v; wanted %v", c.name, c.off, dst, err, c.want)
		}
	}
	if err := f.ReadF32("i", 0, make([]float32, 1)); !errors.Is(err, formats.ErrUnsupported) || !strings.Contains(err.Error(), `"i"`) || !strings.Contains(err.Error(), "I64") {
		t.Errorf("I64: %v", err)
	}
	if err := f.ReadF32("b", 3, make([]float32, 2)); err == nil || errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("range beyond the tensor: %v", err)
	}
	if err := f.ReadF32("zz", 0, nil); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("missing tensor: %v", err)
	}
}

func entry(name, dtype, shape string, begin, end uint64) string {
	return fmt.Sprintf(`%q:{"dtype":%q,"shape":[%s],"data_offsets":[%d,%d]}`, name, dtype, shape, begin, end)
}

func TestHostile(t *testing.T) {
	wrap := func(entries ...string) string { return "{" + strings.Join(entries, ",") + "}" }
	huge := binary.LittleEndian.AppendUint64(nil, 100_000_001)
	cases := []struct {
		name string
		b    []byte
		want string // part of the message
	}{
		{"empty file", nil, "ends at byte 0"},
		{"seven bytes", make([]byte, 7), "ends at byte 7"},
		{"header length 0", make([]byte, 8), "empty header"},
		{"header over 100 MB", huge, "100000001"},
		{"header length 2^63", binary.LittleEndian.AppendUint64(nil, 1<<63), "at most"},
		{"header beyond the file", append(binary.LittleEndian.AppendUint64(nil, 64), '{'), "1 bytes follow"},
		{"not an object", file(`[1]`, 0), "'{'"},
		{"cut JSON", file(`{"a":{"dtype":"F32","sha`, 0), "unexpected EOF"},
		{"text after the object", file(`{} x`, 0), "invalid"},
		{"second object", file(`{} {}`, 0), "after the end"},
		{"invalid UTF-8", file("{\"\xff\":{}}", 0), "UTF-8"},
		{"duplicate tensor", file(wrap(entry("a", "F32", "1", 0, 4), entry("a", "F32", "1", 0, 4)), 4), `"a" appears twice`},
		{"duplicate key", file(`{"a":{"dtype":"F32","dtype":"F16","shape":[1],"data_offsets":[0,4]}}`, 4), `"dtype" appears twice`},
		{"missing key", file(`{"a":{"dtype":"F32","shape":[1]}}`, 4), "all three"},
		{"unknown key", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4],"z":[]}}`, 4), `"z"`},
		{"nested deep", file(`{"a":`+strings.Repeat("[", 10000), 0), "wanted an object"},
		{"nested metadata", file(`{"__metadata__":{"a":{"b":{}}}}`, 0), "wanted a string"},
		{"overlap", file(wrap(entry("a", "F32", "2", 0, 8), entry("b", "F32", "2", 4, 12)), 12), "overlap"},
		{"hole", file(wrap(entry("a", "F32", "1", 0, 4), entry("b", "F32", "1", 8, 12)), 12), "hole"},
		{"hole at start", file(wrap(entry("a", "F32", "1", 4, 8)), 8), "hole"},
		{"data nobody owns", file(wrap(entry("a", "F32", "1", 0, 4)), 5), "1 bytes after"},
		{"beyond the file", file(wrap(entry("a", "F32", "2", 0, 8)), 7), "7 remain"},
		{"offsets reversed", file(wrap(entry("a", "F32", "1", 4, 0)), 4), "begin <= end"},
		{"offset over 2^63", file(wrap(entry("a", "F32", "1", 0, 1<<63)), 4), "64-bit"},
		{"offset near 2^63", file(wrap(entry("a", "U8", "1", math.MaxInt64-1, math.MaxInt64)), 4), "overlap or hole"},
		{"negative offset", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[-4,0]}}`, 0), "begin <= end"},
		{"three offsets", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4,8]}}`, 4), "longer than 2"},
		{"fraction", file(`{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}}`, 4), "64-bit integer"},
		{"shape product overflows", file(wrap(entry("a", "F32", "4294967296,4294967296", 0, 0)), 0), "2^48"},
		{"negative dimension", file(wrap(entry("a", "F32", "-1,-1", 0, 4)), 4), "negative"},
		{"size mismatch", file(wrap(entry("a", "F16", "3", 0, 8)), 8), "needs 48 bits"},
		{"rank 65", file(wrap(entry("a", "U8", strings.Repeat("1,", 64)+"1", 0, 1)), 1), "longer than 64"},
		{"name over 1 MiB", file(`{"`+strings.Repeat("a", 1<<21)+`":{}}`, 0), "longer than"},
		{"shape of a million", file(`{"a":{"shape":[`+strings.Repeat("1,", 1<<20)+`1]}}`, 0), "longer than 64"},
		{"spaces over 1 MiB", file(`{}`+strings.Repeat(" ", 1<<22), 0), "longer than"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			start, before := time.Now(), allocated()
			_, err := open(c.b)
			if !errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "x.safetensors") {
				t.Errorf("%v, wanted corrupt and %q", err, c.want)
			}
			if took, mem := time.Since(start), allocated()-before; took > time.Second || mem > 100<<20 {
				t.Errorf("took %v and %d bytes", took, mem)
			}
		})
	}
	if _, err := open(file(wrap(entry("a", "F7", "1", 0, 4)), 4)); !errors.Is(err, formats.ErrUnsupported) {
		t.Errorf("unknown dtype: %v", err)
	}
}

// allocated returns the bytes allocated so far, freed or not: an upper bound
// of what was ever in use.
func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.TotalAlloc
}

// Every prefix of a valid file is refused while opening, whatever is cut.
func TestTruncated(t *testing.T) {
	b, err := os.ReadFile(tiny)
	if err != nil {
		t.Fatal(err)
	}
	head := 8 + int(binary.LittleEndian.Uint64(b))
	check := func(n int) {
		if _, err := open(b[:n]); !errors.Is(err, formats.ErrCorrupt) {
			t.Errorf("first %d of %d bytes: %v, wanted corrupt", n, len(b), err)
		}
	}
	for n := 0; n < head; n += 3 {
		check(n)
	}
	f, err := open(b)
	if err != nil {
		t.Fatal(err)
	}
	for _, ti := range f.Tensors() {
		check(int(ti.Offset))
		check(int(ti.Offset + ti.Bytes - 1))
	}
}

// A file that shrinks while it is open gives an error that names file, tensor
// and offset.
func TestTruncatedWhileOpen(t *testing.T) {
	b, err := os.ReadFile(tiny)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "model.safetensors")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	last := f.Tensors()[len(f.Tensors())-1]
	dst := make([]float32, last.Bytes/2)
	if err := f.ReadF32(last.Name, 0, dst); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, last.Offset+10); err != nil {
		t.Fatal(err)
	}
	err = f.ReadF32(last.Name, 0, dst)
	var e *formats.Error
	if !errors.As(err, &e) || !errors.Is(err, formats.ErrCorrupt) || e.File != "model.safetensors" || e.Tensor != last.Name || e.Offset != last.Offset {
		t.Errorf("after truncation: %v", err)
	}
}

// Reading from a file far larger than memory allocates a fixed scratch only.
func TestMemory(t *testing.T) {
	const n = 2 << 30 // elements; 8 GiB, sparse
	path := filepath.Join(t.TempDir(), "big.safetensors")
	head := file("{"+entry("w", "F32", fmt.Sprint(n), 0, 4*n)+"}", 0)
	if err := os.WriteFile(path, head, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(len(head))+4*n); err != nil {
		t.Skipf("no sparse file of 8 GiB here: %v", err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	dst := make([]float32, 1<<20)
	before := allocated()
	for off := 0; off < n; off += n / 16 {
		if err := f.ReadF32("w", off, dst); err != nil {
			t.Fatal(err)
		}
	}
	if got := allocated() - before; got > 1<<20 {
		t.Errorf("16 reads of 4 MiB allocated %d bytes, wanted under 1 MiB", got)
	}
}

// The writer gives back, byte for byte, the file that the reference library
// wrote.
func TestWriteAsReference(t *testing.T) {
	want, err := os.ReadFile(tiny)
	if err != nil {
		t.Fatal(err)
	}
	f, err := open(want)
	if err != nil {
		t.Fatal(err)
	}
	var ts []Tensor
	for i := len(f.Tensors()) - 1; i >= 0; i-- { // the order given must not matter
		ti := f.Tensors()[i]
		d, _ := formats.FloatType(ti.Type)
		ts = append(ts, Tensor{Name: ti.Name, Type: d, Shape: ti.Shape, Data: func(w io.Writer) error {
			_, err := w.Write(want[ti.Offset : ti.Offset+ti.Bytes])
			return err
		}})
	}
	var got bytes.Buffer
	if err := Write(&got, f.Metadata(), ts...); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%d bytes written differ from the %d of %s", got.Len(), len(want), tiny)
	}
}

func TestWriteRules(t *testing.T) {
	zeros := func(n int) func(io.Writer) error {
		return func(w io.Writer) error { _, err := w.Write(make([]byte, n)); return err }
	}
	var b bytes.Buffer
	err := Write(&b, map[string]string{"b": "<1>", "a": "\"\n"},
		Tensor{Name: "h", Type: tensor.F16, Shape: []int{3}, Data: zeros(6)}, Tensor{Name: "z", Type: tensor.F32, Shape: nil, Data: zeros(4)},
		Tensor{Name: "d", Type: tensor.F64, Shape: []int{1, 2}, Data: zeros(16)}, Tensor{Name: "a", Type: tensor.F32, Shape: []int{0}, Data: zeros(0)})
	if err != nil {
		t.Fatal(err)
	}
	f, err := open(b.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if f.Metadata()["b"] != "<1>" || f.Metadata()["a"] != "\"\n" {
		t.Errorf("metadata %q", f.Metadata())
	}
	var order string
	for _, ti := range f.Tensors() {
		order += ti.Name
	}
	if order != "dazh" || f.Tensors()[0].Offset%8 != 0 {
		t.Errorf("order %q, first data at %d", order, f.Tensors()[0].Offset)
	}
	// Integers: the reference library's order, and bytes as they were written.
	b.Reset()
	err = Write(&b, nil, Tensor{Name: "i", Integer: "I32", Shape: []int{1, 2}, Data: func(w io.Writer) error { _, err := w.Write([]byte{1, 2, 3, 4, 5, 6, 7, 8}); return err }},
		Tensor{Name: "f", Type: tensor.F32, Shape: []int{1}, Data: zeros(4)}, Tensor{Name: "l", Integer: "I64", Shape: []int{2}, Data: zeros(16)},
		Tensor{Name: "u", Integer: "U32", Shape: []int{1}, Data: zeros(4)})
	if err != nil {
		t.Fatal(err)
	}
	if f, err = open(b.Bytes()); err != nil {
		t.Fatal(err)
	}
	order = ""
	for _, ti := range f.Tensors() {
		order += ti.Name
	}
	raw := make([]byte, 3)
	if err := f.ReadRaw("i", 5, raw); err != nil || order != "lfui" || !bytes.Equal(raw, []byte{6, 7, 8}) {
		t.Errorf("order %q, bytes %v, %v", order, raw, err)
	}
	for _, off := range []int64{-1, 6, 9} {
		if err := f.ReadRaw("i", off, raw); !errors.Is(err, formats.ErrCorrupt) {
			t.Errorf("3 of 8 bytes from %d on: %v", off, err)
		}
	}
	for name, ts := range map[string][]Tensor{
		"Q7":       {{Name: "a", Integer: "Q7", Shape: []int{1}, Data: zeros(4)}},
		"too few":  {{Name: "a", Type: tensor.F32, Shape: []int{2}, Data: zeros(4)}},
		"more":     {{Name: "a", Type: tensor.F32, Shape: []int{2}, Data: zeros(12)}},
		"is taken": {{Name: "a", Type: tensor.F32, Shape: []int{1}, Data: zeros(4)}, {Name: "a", Type: tensor.F16, Shape: []int{1}, Data: zeros(2)}},
		"2^48":     {{Name: "a", Type: tensor.F32, Shape: []int{1 << 40, 1 << 40}, Data: zeros(4)}},
	} {
		if err := Write(io.Discard, nil, ts...); err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), `"a"`) {
			t.Errorf("wanted %q: %v", name, err)
		}
	}
	if err := Write(&b, nil); err != nil {
		t.Errorf("no tensors: %v", err)
	}
}

func FuzzSafetensors(f *testing.F) {
	f.Add(file("{}", 0))
	f.Add(file("{"+entry("a", "F32", "2", 0, 8)+","+entry("b", "BF16", "1,2", 8, 12)+`,"__metadata__":{"a":"b"}}`, 12))
	f.Add(file("{"+entry("a", "F64", "1", 0, 8)+","+entry("b", "I64", "", 8, 16)+"}", 16))
	f.Add(file("{"+entry("a", "F4", "4", 0, 2)+","+entry("b", "F16", "0", 2, 2)+"}", 2))
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := open(b)
		if err != nil {
			return
		}
		for _, ti := range s.Tensors() {
			if ti.Offset < 8 || ti.Bytes < 0 || ti.Offset+ti.Bytes > int64(len(b)) {
				t.Fatalf("%+v lies outside %d bytes", ti, len(b))
			}
			d, ok := formats.FloatType(ti.Type)
			if !ok {
				continue
			}
			if err := s.ReadF32(ti.Name, 0, make([]float32, ti.Bytes/int64(d.Size()))); err != nil {
				t.Fatalf("%+v: %v", ti, err)
			}
		}
	})
}
