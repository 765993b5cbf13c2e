package pytorch

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slmc/formats"
)

// A prefix of a checkpoint is refused while opening, whatever byte it ends at.
func TestTruncated(t *testing.T) {
	for _, file := range []string{"odd/odd.pt", "odd/odd-legacy.pt", "odd/odd-protocol4.pt", "odd/namespace.pt"} {
		b, err := os.ReadFile(testdata + file)
		if err != nil {
			t.Fatal(err)
		}
		for n := range b {
			if _, err := open(b[:n]); !errors.Is(err, formats.ErrCorrupt) && !errors.Is(err, formats.ErrUnsupported) {
				t.Errorf("%s: first %d of %d bytes: %v", file, n, len(b), err)
			}
		}
	}
}

// Any one byte changed gives an error or tensors within the file, no panic.
func TestFlippedBytes(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, file := range []string{"odd/odd.pt", "odd/odd-legacy.pt"} {
		b, err := os.ReadFile(testdata + file)
		if err != nil {
			t.Fatal(err)
		}
		for i := range b {
			c := bytes.Clone(b)
			c[i] ^= byte(1 + rng.IntN(255))
			readEverything(t, c)
		}
	}
}

// readEverything opens b and, if that works, reads all its float tensors,
// which are then no larger than the file.
func readEverything(t *testing.T, b []byte) {
	t.Helper()
	f, err := open(b)
	if err != nil {
		var e *formats.Error
		if !errors.As(err, &e) || e.Kind == nil {
			t.Fatalf("error of no kind: %v", err)
		}
		return
	}
	for _, info := range f.Tensors() {
		n := 1
		for _, d := range info.Shape {
			n *= d
		}
		if n > len(b) {
			t.Fatalf("%+v in %d bytes", info, len(b))
		}
		if err := f.ReadF32(info.Name, 0, make([]float32, n)); err != nil && !errors.Is(err, formats.ErrUnsupported) {
			t.Fatalf("%+v: %v", info, err)
		}
	}
	f.Meta()
	for _, key := range f.Sections() {
		if _, err := f.Section(key); err != nil && !errors.Is(err, formats.ErrCorrupt) {
			t.Fatal(err)
		}
	}
}

// A file that shrinks while it is open gives an error that names file, tensor
// and offset.
func TestTruncatedWhileOpen(t *testing.T) {
	for _, from := range []string{"assistant-tiny-pt", "assistant-tiny-legacy"} {
		b, err := os.ReadFile(testdata + from + "/pytorch_model.bin")
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "pytorch_model.bin")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		info := f.Tensors()[len(f.Tensors())-2]
		dst := make([]float32, info.Bytes/2)
		if err := f.ReadF32(info.Name, 0, dst); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(path, info.Offset+2); err != nil {
			t.Fatal(err)
		}
		err = f.ReadF32(info.Name, 0, dst)
		var e *formats.Error
		if !errors.As(err, &e) || !errors.Is(err, formats.ErrCorrupt) || e.File != "pytorch_model.bin" || e.Tensor != info.Name || e.Offset != info.Offset {
			t.Errorf("%s: after truncation: %v", from, err)
		}
	}
}

// legacyOf is a legacy file of one storage "0" with n elements of data.
func legacyOf(object string, n uint64, data []byte) []byte {
	b := []byte("\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.\x80\x02}(" + str("little_endian") + "\x88u.")
	b = append(b, object...)
	b = append(b, "\x80\x02]"+str("0")+"a."...)
	return append(binary.LittleEndian.AppendUint64(b, n), data...)
}

func legacyPersistent(class string, n int32, view string) string {
	return tuple(str("storage"), "ctorch\n"+class+"\n", str("0"), str("cpu"), num(n), view) + "Q"
}

func TestLegacy(t *testing.T) {
	data := make([]byte, 16)
	for i := range 4 {
		data[4*i+2], data[4*i+3] = 0x80, 0x3f+byte(i) // 1, 4, 16, 64
	}
	object := func(storage string) string {
		return dict(str("w"), stored(storage, 0, "K\x02\x85", "K\x01\x85"))
	}
	whole := object(legacyPersistent("FloatStorage", 4, "N"))
	view := object(legacyPersistent("FloatStorage", 4, tuple(str("1"), "K\x02", "K\x02")))
	for name, want := range map[string]float32{whole: 1, view: 16} {
		f, err := open(legacyOf(name, 4, data))
		if err != nil {
			t.Fatal(err)
		}
		if got := all(t, f, "w"); got[0] != want || got[1] != 4*want {
			t.Errorf("%v, wanted %g and its fourfold", got, want)
		}
	}
	good := legacyOf(whole, 4, data)
	patch := func(old, new string) []byte { return bytes.Replace(good, []byte(old), []byte(new), 1) }
	for name, c := range map[string]struct {
		b    []byte
		kind error
		want string
	}{
		"count differs":       {legacyOf(whole, 5, data), formats.ErrCorrupt, "has 5 elements"},
		"count of 2^63":       {legacyOf(whole, 1<<63, data), formats.ErrCorrupt, "elements"},
		"bytes missing":       {legacyOf(whole, 4, data[:15]), formats.ErrCorrupt, "15 remain"},
		"bytes left":          {legacyOf(whole, 4, append(data, 0)), formats.ErrCorrupt, "1 bytes after"},
		"view too long":       {legacyOf(object(legacyPersistent("FloatStorage", 4, tuple(str("1"), "K\x02", "K\x03"))), 4, data), formats.ErrCorrupt, "view of"},
		"big-endian":          {patch("\x88u.", "\x89u."), formats.ErrUnsupported, "big-endian"},
		"protocol version":    {patch("M\xe9\x03", "M\xea\x03"), formats.ErrUnsupported, "1002"},
		"key not listed":      {patch("]"+str("0")+"a.", "]."), formats.ErrCorrupt, "not in the list"},
		"key unknown":         {patch("]"+str("0"), "]"+str("9")), formats.ErrCorrupt, "no tensor uses"},
		"key twice":           {patch("]"+str("0")+"a.", "]("+str("0")+str("0")+"e."), formats.ErrCorrupt, "listed twice"},
		"keys are no list":    {patch("]"+str("0")+"a.", "N."), formats.ErrCorrupt, "wanted a list"},
		"persistent id early": {patch("M\xe9\x03.", "K\x01Q."), formats.ErrCorrupt, "persistent"},
		"code":                {patch("M\xe9\x03.", "cos\nsystem\n)R."), formats.ErrUnsupported, "os.system"},
	} {
		if _, err := open(c.b); !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "x.pt") {
			t.Errorf("%s: %v; wanted %v and %q", name, err, c.kind, c.want)
		}
	}
}

// Opening and reading a legacy file far larger than memory allocates its
// pickle streams and a fixed scratch.
func TestMemory(t *testing.T) {
	const n = 2<<30 - 8 // elements; 8 GiB, sparse
	path := filepath.Join(t.TempDir(), "big.pt")
	object := dict(str("w"), stored(legacyPersistent("FloatStorage", n, "N"), 0, num(n/8)+"K\x08\x86", "K\x08K\x01\x86"),
		str("t"), stored(legacyPersistent("FloatStorage", n, "N"), 0, "K\x08"+num(n/8)+"\x86", "K\x01K\x08\x86"))
	head := legacyOf(object, n, nil)
	if err := os.WriteFile(path, head, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(path, int64(len(head))+4*n); err != nil {
		t.Skipf("no sparse file of 8 GiB here: %v", err)
	}
	var f *File
	var err error
	if _, mem := cost(func() { f, err = Open(path) }); err != nil || mem > maxPickle+1<<20 {
		t.Fatalf("opening: %v, %d bytes", err, mem)
	}
	defer f.Close()
	dst := make([]float32, 1<<20)
	for _, name := range []string{"w", "t"} {
		_, mem := cost(func() {
			for off := 0; off < n && err == nil; off += n / 8 {
				err = f.ReadF32(name, off, dst)
			}
		})
		if err != nil || mem > 1<<20 {
			t.Errorf("%s: %v; 8 reads of 4 MiB allocated %d bytes, wanted under 1 MiB", name, err, mem)
		}
	}
}

func FuzzPickle(f *testing.F) {
	for _, c := range hostilePickles {
		if len(c.pickle) < 1<<12 {
			f.Add([]byte(c.pickle))
		}
	}
	f.Add([]byte(dict(str("w"), one, str("meta"), "](N\x88K\x01G?\xf0\x00\x00\x00\x00\x00\x00\x8a\x09\x01\x02\x03\x04\x05\x06\x07\x08\x09e")))
	f.Add([]byte("\x80\x04\x95\x08\x00\x00\x00\x00\x00\x00\x00}\x94\x8c\x01a\x94Ns."))
	f.Fuzz(func(t *testing.T, b []byte) {
		var v any
		var n int
		var err error
		_, mem := cost(func() {
			r := newResolver("x.pt", 1<<20, false)
			v, n, err = unpickle("x.pt", b, 0, r.resolve)
		})
		if mem > 2*maxBudget {
			t.Fatalf("%d bytes of pickle took %d bytes", len(b), mem)
		}
		if err != nil {
			var e *formats.Error
			if !errors.As(err, &e) || e.Kind == nil {
				t.Fatalf("error of no kind: %v", err)
			}
			return
		}
		if n < 1 || n > len(b) {
			t.Fatalf("a stream of %d bytes in %d", n, len(b))
		}
		if flat, _, err := flatten("x.pt", v); err == nil && len(flat.names) != len(flat.refs) {
			t.Fatalf("%d names for %d tensors", len(flat.names), len(flat.refs))
		}
	})
}

func FuzzTorchZip(f *testing.F) {
	f.Add(torchZip(f, dict(str("w"), one)))
	f.Add(torchZip(f, dict(str("w"), one), entry{"a/byteorder", []byte("little"), 0}, entry{"a/version", []byte("3\n"), 0}))
	f.Add(torchZip(f, floats("K\x02K\x02\x86", "K\x01K\x02\x86", 0)))
	if b, err := os.ReadFile(testdata + "odd/namespace.pt"); err == nil {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { readEverything(t, b) })
}

func FuzzLegacy(f *testing.F) {
	for _, view := range []string{"N", tuple(str("1"), "K\x02", "K\x02")} {
		f.Add(legacyOf(dict(str("w"), stored(legacyPersistent("FloatStorage", 4, view), 0, "K\x02\x85", "K\x01\x85")), 4, make([]byte, 16)))
	}
	if b, err := os.ReadFile(testdata + "odd/odd-legacy.pt"); err == nil {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) { readEverything(t, b) })
}

// BenchmarkOpen opens a checkpoint with 56 tensors.
func BenchmarkOpen(b *testing.B) {
	for b.Loop() {
		f, err := Open(testdata + "assistant-tiny-pt/pytorch_model.bin")
		if err != nil {
			b.Fatal(err)
		}
		if len(f.Tensors()) != 56 {
			b.Fatal(fmt.Sprint(len(f.Tensors())))
		}
		f.Close()
	}
}
