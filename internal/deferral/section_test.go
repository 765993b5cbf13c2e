package deferral

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slmc/formats"
)

// drawn returns parts with every kind of content, drawn from a seed.
func drawn(seed uint64) Parts {
	r := rand.New(rand.NewPCG(seed, 0))
	draw := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(r.NormFloat64())
		}
		return x
	}
	p := Parts{Shape: Shape{Blocks: 3, Hidden: 5, Giver: 2}}
	p.Weights[3] = 9
	p.Opinion = &Opinion{Unigrams: 7, Bigrams: 3, Dim: 2, Classes: [][]int32{{1}, {1, 2, 3}, {4, 0}}, Table: draw(20), Out: draw(6), Bias: draw(3)}
	p.Strange = Strange{Mean: [4]float32{1, 2, 3, 4}, Inv: [4]float32{1, 0, 1, 1}, CDF: Curve{[]float32{-1, 2}, []float32{0, 1}}}
	size := p.Shape.Layout(Post, 2).Size()
	all := make([]int32, size)
	for i := range all {
		all[i] = int32(i)
	}
	p.Heads = []Head{
		{Checkpoint: Pre, Inputs: []int32{0, 1, 2, 5, 9}, Mean: draw(5), Inv: draw(5), W2: draw(10), B2: draw(2), Wrong: Curve{[]float32{.1, .9}, []float32{.2, .7}}},
		{Checkpoint: Post, Inputs: all, Hidden: 3, Mean: draw(size), Inv: draw(size), W1: draw(3 * size), B1: draw(3), W2: draw(6), B2: draw(2)},
	}
	p.Table = Table{Bound: 0.02, Checkpoint: Post, Split: "seed 1", Rows: []Row{
		{Checkpoint: Post, Pre: Never, Mid: Never, Post: 0.25, OOD: 0.9, DeferralRate: 0.5, Quality: 0.75, LargeQuality: 0.8, Loss: 0.01, Bound: 0.015, Delta: 0.05, N: 1000},
	}}
	p.References = []Reference{{Post, []float32{0.5}, []float32{0.25, 0.75}}}
	p.Round()
	return p
}

func section(t testing.TB, p Parts) []byte {
	t.Helper()
	r, err := New(p)
	if err != nil {
		t.Fatal(err)
	}
	text, err := r.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestSectionHoldsEverything(t *testing.T) {
	want := drawn(1)
	text := section(t, want)
	r, err := Decode(text)
	if err != nil {
		t.Fatal(err)
	}
	opt := cmp.FilterPath(func(p cmp.Path) bool { return p.Last().String() == ".find" }, cmp.Ignore())
	if d := cmp.Diff(want, r.Parts(), cmp.AllowUnexported(Opinion{}), opt, cmp.Transformer("nil", func(x []float32) []float32 {
		if len(x) == 0 {
			return nil
		}
		return x
	})); d != "" {
		t.Errorf("decoded parts differ: %s", d)
	}
	if again := section(t, r.Parts()); !bytes.Equal(text, again) {
		t.Error("the same parts give other bytes")
	}
}

func TestDamagedSectionsAreRefused(t *testing.T) {
	good := section(t, drawn(1))
	for name, spoil := range map[string]func([]byte) []byte{
		"empty":       func([]byte) []byte { return nil },
		"magic":       func(b []byte) []byte { b[0] = 'X'; return b },
		"cut":         func(b []byte) []byte { return b[:len(b)-4] },
		"longer":      func(b []byte) []byte { return append(b, 0, 0, 0, 0) },
		"json length": func(b []byte) []byte { binary.LittleEndian.PutUint32(b[12:], 1<<31); return b },
		"json":        func(b []byte) []byte { b[headerSize] = '['; return b },
		"spaces": func(b []byte) []byte {
			return bytes.Replace(b, []byte(`{"shape":{"blocks"`), []byte(`{"shape":{"block"`), 1)
		},
		"huge hidden":  func(b []byte) []byte { return bytes.Replace(b, []byte(`"hidden":3,`), []byte(`"hidden":9,`), 1) },
		"class order":  func(b []byte) []byte { return bytes.Replace(b, []byte(`[4,0]`), []byte(`[0,0]`), 1) },
		"NaN":          func(b []byte) []byte { copy(b[len(b)-4:], []byte{0, 0, 0xc0, 0x7f}); return b },
		"no threshold": func(b []byte) []byte { return bytes.Replace(b, []byte(`"post":0.25`), []byte(`"post":7.25`), 1) },
		"no share":     func(b []byte) []byte { return bytes.Replace(b, []byte(`"quality":0.75`), []byte(`"quality":1.75`), 1) },
	} {
		b := spoil(bytes.Clone(good))
		if bytes.Equal(b, good) {
			t.Errorf("%s: nothing was spoiled", name)
		}
		if _, err := Decode(b); !errors.Is(err, formats.ErrCorrupt) {
			t.Errorf("%s: %v, want an error of kind ErrCorrupt", name, err)
		}
	}
	b := bytes.Clone(good)
	b[8] = 2
	if _, err := Decode(b); !errors.Is(err, formats.ErrVersion) {
		t.Errorf("version 2: %v", err)
	}
}

func TestPartsThatDoNotFitAreRefused(t *testing.T) {
	for want, spoil := range map[string]func(*Parts){
		"two heads":        func(p *Parts) { p.Heads[1].Checkpoint = Pre; p.Heads[1].Inputs = p.Heads[0].Inputs },
		"arrays do not":    func(p *Parts) { p.Heads[0].Mean = p.Heads[0].Mean[1:] },
		"input":            func(p *Parts) { p.Heads[0].Inputs[4] = 9999 },
		"curve falls":      func(p *Parts) { p.Heads[0].Wrong.Y[1] = 0 },
		"no head for":      func(p *Parts) { p.Table.Rows[0].Checkpoint = Mid },
		"parameters":       func(p *Parts) { p.Opinion.Unigrams = 60000; p.Opinion.Table = make([]float32, 2*60003) },
		"edges and 1":      func(p *Parts) { p.References[0].Share = p.References[0].Share[1:] },
		"class 1 is":       func(p *Parts) { p.Opinion.Classes[1] = []int32{-1} },
		"shape of 0":       func(p *Parts) { p.Shape.Blocks = 0 },
		"from 0 queries":   func(p *Parts) { p.Table.Rows[0].N = 0 },
		"leaves 0..1":      func(p *Parts) { p.Strange.CDF.Y = []float32{0, 2} },
		"weights are not":  func(p *Parts) { p.Heads[0].B2[0] = float32(inf()) },
		"score: not finit": func(p *Parts) { p.Strange.Mean[0] = float32(inf()) },
	} {
		p := drawn(1)
		spoil(&p)
		if _, err := New(p); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v", want, err)
		}
	}
}

func inf() float64 { x := 0.0; return 1 / x }

func FuzzDecode(f *testing.F) {
	good := section(f, drawn(1))
	f.Add(good)
	f.Add(good[:headerSize])
	f.Add(bytes.Replace(good, []byte(`"hidden":3`), []byte(`"hidden":9`), 1))
	small := Parts{Shape: Shape{Blocks: 1, Hidden: 1}}
	f.Add(section(f, small))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Decode(b)
		if err != nil {
			return
		}
		again, err := r.Encode()
		if err != nil || !bytes.Equal(again, b) {
			t.Errorf("decoded, and encoded to other bytes (%v)", err)
		}
		for _, at := range Checkpoints() {
			if r.Reads(at) {
				var w Work
				dim := 0
				if r.opinion != nil {
					dim = r.opinion.Dim
				}
				if x := r.Reading(at, make([]float32, r.shape.Layout(at, dim).Size()), 0, 1, &w); !(x.Wrong >= 0 && x.Wrong <= 1) {
					t.Errorf("reading %+v", x)
				}
			}
		}
	})
}
