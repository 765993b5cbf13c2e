package bundle

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"slmc/model"
	"slmc/quant"
)

func TestRoundTrip(t *testing.T) {
	s := tinySpec(t, dims{D: 64, H: 4, K: 2, E: 16, F: 176, V: 300, context: 33, blocks: 4})
	path, content := writeTiny(t, s)
	b := mustOpen(t, path)
	if err := b.Check(context.Background(), nil); err != nil {
		t.Fatal(err)
	}
	m := b.Manifest()
	if diff := cmp.Diff(s.Manifest.Graph, m.Graph); diff != "" {
		t.Errorf("graph changed (-wrote +read):\n%s", diff)
	}
	for i, w := range m.Graph.Weights {
		var want bytes.Buffer
		if err := s.Weight(i, &want); err != nil {
			t.Fatal(err)
		}
		got := b.Weight(i)
		if !bytes.Equal(got, want.Bytes()) {
			t.Errorf("weight %s changed", w.Name)
		}
		if at := uintptr(unsafe.Pointer(&got[0])); at%WeightAlign != 0 {
			t.Errorf("weight %s is mapped at %#x, wanted a multiple of %d", w.Name, at, WeightAlign)
		}
		if b.Format(i) != s.Formats[i] {
			t.Errorf("weight %s has format %v, wrote %v", w.Name, b.Format(i), s.Formats[i])
		}
		if !w.Role.Matrix() {
			var raw []byte
			for _, v := range b.Vector(i) {
				raw = binary.LittleEndian.AppendUint32(raw, float32Bits(v))
			}
			if !bytes.Equal(raw, want.Bytes()) {
				t.Errorf("vector %s changed", w.Name)
			}
		}
	}
	cos, sin := m.Graph.Ropes[0].Tables(m.Context)
	gotCos, gotSin := b.Rope(0)
	if !cmp.Equal(cos, gotCos) || !cmp.Equal(sin, gotSin) {
		t.Error("rotary tables changed")
	}
	for _, d := range s.Sections {
		if !bytes.Equal(b.Section(d.Name), d.Bytes) {
			t.Errorf("section %s changed", d.Name)
		}
	}
	if b.Section("nothing") != nil {
		t.Error("an absent section has bytes")
	}
	if b.Size() != int64(len(content)) || b.Name() != "tiny.slmb" {
		t.Errorf("size %d name %q", b.Size(), b.Name())
	}
	g, err := b.Golden()
	if err != nil || len(g.Prompts) != 2 {
		t.Fatalf("golden: %v, %v", g, err)
	}
}

func float32Bits(v float32) uint32 { return *(*uint32)(unsafe.Pointer(&v)) }

func TestWriteTwiceSameBytes(t *testing.T) {
	_, a := writeTiny(t, tinySpec(t, tinyDims))
	_, b := writeTiny(t, tinySpec(t, tinyDims))
	if !bytes.Equal(a, b) {
		t.Error("two writes of one Spec differ")
	}
}

// TestWriteFails holds failed writes to leaving nothing new and the old file
// untouched.
func TestWriteFails(t *testing.T) {
	boom := errors.New("boom")
	for name, breakIt := range map[string]func(s *Spec){
		"weight error": func(s *Spec) { s.Weight = func(int, io.Writer) error { return boom } },
		"short weight": func(s *Spec) { s.Weight = func(int, io.Writer) error { return nil } },
		"long weight": func(s *Spec) {
			s.Weight = func(_ int, dst io.Writer) error { _, err := dst.Write(make([]byte, 1<<20)); return err }
		},
		"own section":    func(s *Spec) { s.Sections[0].Name = SectionLeaves },
		"twice":          func(s *Spec) { s.Sections[1].Name = SectionTokenizer },
		"surplus weight": func(s *Spec) { s.Manifest.Graph.Weights = append(s.Manifest.Graph.Weights, model.Weight{}) },
		"formats":        func(s *Spec) { s.Formats = s.Formats[1:] },
		"vector format":  func(s *Spec) { s.Formats[1] = quant.F16 },
		"kernels":        func(s *Spec) { s.Manifest.Kernels = []string{"b", "a"} },
		"kv":             func(s *Spec) { s.Manifest.KVFormat = "kv9" },
		"source path":    func(s *Spec) { s.Manifest.Provenance.Sources[0].Name = "/home/me/model.bin" },
		"recipe":         func(s *Spec) { s.Manifest.Provenance.Recipe = []byte(`[]`) },
		"context":        func(s *Spec) { s.Manifest.Context = s.Manifest.Graph.Context + 1 },
		"min tool":       func(s *Spec) { s.MinTool = "0.1.0 with far too many characters" },
		"big manifest": func(s *Spec) {
			s.Manifest.Provenance.Recipe = []byte(`{"a":"` + string(bytes.Repeat([]byte("x"), MaxManifest)) + `"}`)
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := tinySpec(t, tinyDims)
			breakIt(&s)
			path := filepath.Join(t.TempDir(), "x.slmb")
			if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
				t.Fatal(err)
			}
			_, err := Write(path, s)
			if err == nil {
				t.Fatal("no error")
			}
			t.Log(err)
			left, err := os.ReadDir(filepath.Dir(path))
			if err != nil || len(left) != 1 {
				t.Errorf("left in the folder: %v, %v", left, err)
			}
			if content, err := os.ReadFile(path); err != nil || string(content) != "old" {
				t.Errorf("the old file is %q, %v", content, err)
			}
		})
	}
}

func TestUseAfterClose(t *testing.T) {
	path, _ := writeTiny(t, tinySpec(t, tinyDims))
	b, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(b.Close(), b.Close()); err != nil {
		t.Fatal(err)
	}
	for name, use := range map[string]func(){
		"Section": func() { b.Section(SectionWeights) },
		"Weight":  func() { b.Weight(0) },
		"Guard":   func() { _ = b.Guard(func() error { return nil }) },
		"Check":   func() { _ = b.Check(context.Background(), nil) },
	} {
		t.Run(name, func(t *testing.T) {
			defer func() {
				if p := recover(); p != "bundle: tiny.slmb is used after Close" {
					t.Errorf("panic %v", p)
				}
			}()
			use()
		})
	}
}

func TestCheckCancelled(t *testing.T) {
	path, _ := writeTiny(t, tinySpec(t, tinyDims))
	b := mustOpen(t, path)
	ctx, cancel := context.WithCancel(context.Background())
	err := b.Check(ctx, func(done, total int64) { cancel() })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}
