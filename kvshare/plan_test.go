package kvshare

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"

	"slmc/model"
)

// flat is a graph of L blocks of one attention type.
func flat(L int) *model.Graph {
	g := &model.Graph{Hidden: 4, Vocab: 8}
	for i := range L {
		g.Blocks = append(g.Blocks, model.Block{KVFrom: i, Heads: 2, KVHeads: 1, HeadDim: 2, KNorm: model.None, QNorm: model.None})
	}
	return g
}

// mixed alternates windows as Gemma 2 does: block 0 is windowed.
func mixed(L int) *model.Graph {
	g := flat(L)
	for i := range g.Blocks {
		if i%2 == 0 {
			g.Blocks[i].Window = 8
		}
	}
	return g
}

func TestPlans(t *testing.T) {
	for _, c := range []struct {
		spec string
		g    *model.Graph
		want string
	}{
		{"5:3", flat(8), "5-7:4"},
		{"5:3", flat(10), "6-9:5"}, // 3.75 takers: 4
		{"5:3", flat(32), "20-31:19"},
		{"5:3", flat(4), "2-3:1"}, // 1.5 takers: a half goes up
		{"5:3", flat(2), "1-1:0"},
		{"1:9", flat(3), "1-2:0"}, // 2.7, and one must give
		{"5:3", mixed(8), "5:3,6:4,7:3"},
		{"gemma3n:4", flat(10), "6-9:5"},
		{"gemma3n:4", mixed(8), "4:2,5:3,6:2,7:3"},
		{"cla2", flat(5), "1:0,3:2"},
		{"cla2", mixed(8), "2:0,3:1,6:4,7:5"},
		{"6-9:5,3:1", flat(10), "3:1,6-9:5"},
		{"3-3:1", flat(10), "3-3:1"},
	} {
		s, err := Parse(c.spec)
		if err != nil {
			t.Fatal(err)
		}
		p, err := s.Plan(c.g)
		if err != nil {
			t.Fatalf("%s of %d blocks: %v", c.spec, len(c.g.Blocks), err)
		}
		if p.String() != c.want {
			t.Errorf("%s of %d blocks is %s, want %s", c.spec, len(c.g.Blocks), p, c.want)
		}
	}
}

func TestRefusedPlans(t *testing.T) {
	change := func(i int, f func(b *model.Block)) *model.Graph {
		g := flat(10)
		f(&g.Blocks[i])
		return g
	}
	for _, c := range []struct {
		spec string
		g    *model.Graph
		want string
	}{
		{"3-3:5", flat(10), "must run before"},
		{"3-3:3", flat(10), "must run before"},
		{"10-10:5", flat(10), "no block 10"},
		{"9-9:12", flat(10), "no block 12"},
		{"6-8:5,9:6", flat(10), "block 6 takes from block 5 itself"},
		{"gemma3n:10", flat(10), "none is left to give"},
		{"5:3", flat(1), "at least 2"},
		{"4-4:3", mixed(6), "window of all positions, wanted 8 positions"},
		{"gemma3n:2", change(9, func(b *model.Block) { b.Rope = 1 }), "no giver of its attention type"},
		{"9-9:8", change(9, func(b *model.Block) { b.Rope = 1 }), "rotated by table 0, wanted 1"},
		{"9-9:8", change(9, func(b *model.Block) { b.KVHeads = 2 }), "1 KV heads of 2, wanted 2 of 2"},
		{"9-9:8", change(9, func(b *model.Block) { b.HeadDim = 8 }), "1 KV heads of 2, wanted 1 of 8"},
		{"9-9:8", change(9, func(b *model.Block) { b.KNorm = 3 }), "norms its keys"},
		{"9-9:8", change(8, func(b *model.Block) { b.KVFrom = 2 }), "block 8 reads block 2 already"},
		{"8-8:5", change(8, func(b *model.Block) { b.KVFrom = 2 }), "block 8 reads block 2 already"},
		{"2-2:1", change(8, func(b *model.Block) { b.KVFrom = 2 }), "block 8 reads block 2 already, a taker"},
		{"search:0.4", flat(10), "no plan before it is run"},
	} {
		s, err := Parse(c.spec)
		if err != nil {
			t.Fatal(err)
		}
		_, err = s.Plan(c.g)
		if !errors.Is(err, ErrPlan) || !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s: error is %v, want %q", c.spec, err, c.want)
		}
	}
	if err := (Plan{}).Check(flat(3)); !errors.Is(err, ErrPlan) {
		t.Errorf("an empty plan gives %v", err)
	}
}

func TestRefusedForms(t *testing.T) {
	for _, text := range []string{"", "5", "5:", ":3", "0:3", "5:0", "5:3:1", "cla2:1", "cla2:", "gemma3n", "gemma3n:0", "gemma3n:-1", "search:", "search:0", "search:1", "search:NaN",
		"6-9", "9-6:5", "6-9:5,7:4", "6-9:5,", "-9:5", "6-:5", "+6-9:5", "0-99999999:1", "best"} {
		if s, err := Parse(text); !errors.Is(err, ErrPlan) {
			t.Errorf("%q gives %v, %v", text, s, err)
		}
	}
}

// FuzzParse holds every form that is read to what it prints.
func FuzzParse(f *testing.F) {
	for _, s := range []string{"5:3", "cla2", "gemma3n:4", "search:0.35", "6-9:5,3:1", "3-3:1", "4095:1,2:3"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		s, err := Parse(text)
		if err != nil {
			return
		}
		again, err := Parse(s.String())
		if err != nil || again.Kind != s.Kind || again.String() != s.String() || !maps.Equal(again.Map, s.Map) || again.Ratio != s.Ratio || again.N != s.N {
			t.Fatalf("%q is %+v, printed %q, read again %+v, %v", text, s, s, again, err)
		}
		if _, err := s.Plan(mixed(9)); err != nil && !errors.Is(err, ErrPlan) {
			t.Fatal(err)
		}
	})
}
