package pytorch

import (
	"archive/zip"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"strings"
	"testing"

	"slmc/formats"
	"slmc/tensor"
)

// counting counts reads.
type counting struct {
	r     *bytes.Reader
	reads int
}

func (c *counting) ReadAt(p []byte, off int64) (int, error) {
	c.reads++
	return c.r.ReadAt(p, off)
}

// A transposed matrix is read along the file, not along its rows: as many
// reads as the file has rows, not one an element.
func TestTransposedReads(t *testing.T) {
	const rows, cols = 300, 200 // of the view; the file has 200 rows of 300
	b := make([]byte, 4*rows*cols)
	for i := range rows * cols {
		binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(float32(i)))
	}
	c := &counting{r: bytes.NewReader(b)}
	r := &viewReader{file: formats.NewFile("x", c, int64(len(b))), name: "w", elem: tensor.F32}
	dst := make([]float32, rows*cols)
	if err := r.read(view([]int{rows, cols}, []int{1, rows}), 0, 0, dst); err != nil {
		t.Fatal(err)
	}
	for i := range rows {
		for k := range cols {
			if dst[i*cols+k] != float32(k*rows+i) {
				t.Fatalf("[%d %d] is %g, wanted %d", i, k, dst[i*cols+k], k*rows+i)
			}
		}
	}
	if c.reads != cols {
		t.Errorf("%d reads, wanted %d", c.reads, cols)
	}
}

// More than 65,535 entries need the zip64 end record.
func TestZip64(t *testing.T) {
	entries := make([]entry, 66_000)
	for i := range entries {
		entries[i] = entry{fmt.Sprintf("a/d/%d", i), nil, zip.Store}
	}
	b := torchZip(t, dict(str("w"), one), entries...)
	if !bytes.Contains(b, []byte("PK\x06\x06")) {
		t.Fatal("no zip64 end record in the test's archive")
	}
	f, err := open(b)
	if err != nil {
		t.Fatal(err)
	}
	if got := all(t, f, "w"); len(got) != 4 {
		t.Errorf("%v", got)
	}
}

// What torch 2 adds: entries of its own, and tensors over untyped storages.
func TestTorch2(t *testing.T) {
	untyped := tuple(str("storage"), "ctorch.storage\nUntypedStorage\n", str("0"), str("cpu"), num(16)) + "Q"
	v3 := func(dtype string, off int32, size, stride string) string {
		return "ctorch._utils\n_rebuild_tensor_v3\n" + tuple(untyped, num(off), size, stride, "\x89", "ccollections\nOrderedDict\n)R", "ctorch\n"+dtype+"\n") + "R"
	}
	more := []entry{{"a/.data/serialization_id", []byte("1"), zip.Store}, {"a/byteorder", []byte("little"), zip.Store},
		{"a/.format_version", []byte("1"), zip.Store}, {"a/.storage_alignment", []byte("64"), zip.Store}, {"a/version", []byte("3\n"), zip.Store}}
	f, err := open(torchZip(t, dict(str("b"), v3("bfloat16", 2, "K\x06\x85", "K\x01\x85"), str("u"), v3("uint16", 0, "K\x08\x85", "K\x01\x85")), more...))
	if err != nil {
		t.Fatal(err)
	}
	if got := all(t, f, "b"); len(got) != 6 || f.Tensors()[0].Bytes != 12 || f.Tensors()[1].Type != "U16" {
		t.Errorf("%v, %+v", got, f.Tensors())
	}
	_, err = open(torchZip(t, dict(str("b"), v3("bfloat16", 3, "K\x06\x85", "K\x01\x85")), more...))
	if !errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(), "leaves the storage of 8") {
		t.Errorf("beyond the untyped storage: %v", err)
	}
}

// torch.compile's prefix goes, and two names that only it tells apart clash.
func TestCompiledPrefix(t *testing.T) {
	f, err := open(torchZip(t, dict(str("model"), "}("+str("_orig_mod.a")+one+str("b")+one+"u")))
	if err != nil {
		t.Fatal(err)
	}
	s, err := f.Section("model")
	if err != nil || len(s.Tensors()) != 2 || s.Tensors()[0].Name != "a" || s.Tensors()[1].Name != "b" {
		t.Errorf("%+v, %v", s, err)
	}
	if err := s.ReadF32("a", 0, make([]float32, 4)); err != nil {
		t.Error(err)
	}
	if f, err = open(torchZip(t, dict(str("model"), "}("+str("_orig_mod.a")+one+str("a")+one+"u"))); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Section("model"); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("clash: %v", err)
	}
}
