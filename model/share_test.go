package model

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"slmc/formats"
)

// A config with slmc_kv_from describes the graph that ShareKV makes of the one
// without.
func TestKVFromKey(t *testing.T) {
	for _, kind := range kinds {
		whole := mustBuild(t, text(t, base(kind)))
		from := make([]int, len(whole.Blocks))
		for i := range from {
			from[i] = i
		}
		if g := mustBuild(t, change(t, kind, KVFromKey, from)); len(g.KVMap()) != 0 || len(g.Weights) != len(whole.Weights) {
			t.Errorf("%s: blocks that all give share %v", kind, g.KVMap())
		}
		from[3] = 2
		if whole.Blocks[3].CanRead(&whole.Blocks[2]) != nil {
			from[3] = 1
		}
		want, kept, err := whole.ShareKV(map[int]int{3: from[3]})
		if err != nil {
			t.Fatal(err)
		}
		got := mustBuild(t, change(t, kind, KVFromKey, from))
		if !slices.Equal(got.Blocks, want.Blocks) || !maps.Equal(got.KVMap(), map[int]int{3: from[3]}) || len(got.Weights) != len(want.Weights) {
			t.Errorf("%s: blocks %+v, want %+v", kind, got.Blocks, want.Blocks)
		}
		for i, w := range got.Weights {
			if w.Name != want.Weights[i].Name || w.Name != whole.Weights[kept[i]].Name {
				t.Errorf("%s: weight %d is %s, want %s", kind, i, w.Name, want.Weights[i].Name)
			}
		}
	}
}

func TestKVFromRefusals(t *testing.T) {
	for want, value := range map[string]any{
		"6 entries, wanted":        nil,
		"wanted a token id":        []any{"a"},
		"there is no block 9":      []int{0, 1, 2, 3, 4, 9},
		"must run before":          []int{1, 1, 2, 3, 4, 5},
		"takes from block 2":       []int{0, 1, 2, 2, 3, 5},
		"has 2 entries, wanted 6":  []int{0, 1},
		"wanted a token id or an ": "0",
	} {
		kind := "llama"
		if value == nil {
			kind, value = "mobilellm", []int{0, 1, 2, 3, 4, 5} // 12 blocks run
		}
		_, err := buildText(change(t, kind, KVFromKey, value))
		if !errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), KVFromKey) {
			t.Errorf("%v: error is %v, want %q", value, err, want)
		}
	}
}

// num_kv_shared_layers lets the last blocks read the last one before them of their
// window, as the plan gemma3n:N does, and knows which weights it leaves unread.
func TestSharedLayersKey(t *testing.T) {
	for _, kind := range []string{"llama", "gemma2"} { // gemma2: every other block is windowed
		whole := mustBuild(t, text(t, base(kind)))
		n := len(whole.Blocks)
		want := map[int]int{}
		for i := n - 2; i < n; i++ {
			for want[i] = n - 3; whole.Blocks[want[i]].Window != whole.Blocks[i].Window; {
				want[i]--
			}
		}
		got := mustBuild(t, change(t, kind, sharedLayersKey, 2))
		if !maps.Equal(got.KVMap(), want) || len(got.Weights)+len(got.Unread) != len(whole.Weights) {
			t.Errorf("%s: %v with %d and %d weights of %d, want %v", kind, got.KVMap(), len(got.Weights), len(got.Unread), len(whole.Weights), want)
		}
		for _, w := range got.Unread {
			if w.Role != RoleAttnK && w.Role != RoleAttnV && !strings.Contains(w.Name, "k_norm") {
				t.Errorf("%s: %s is not read", kind, w.Name)
			}
		}
		if g := mustBuild(t, change(t, kind, sharedLayersKey, 0)); len(g.KVMap()) != 0 || len(g.Unread) != 0 {
			t.Errorf("%s: 0 shares %v", kind, g.KVMap())
		}
	}
	if _, err := buildText(change(t, "llama", sharedLayersKey, 6)); !errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(), "none is left to give") {
		t.Errorf("error is %v", err)
	}
	// Only the last of six is a full block.
	if _, err := buildText(change(t, "gemma3_text", sharedLayersKey, 2)); !errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(), "block 5 sees all positions, no block before 4 does") {
		t.Errorf("error is %v", err)
	}
}
