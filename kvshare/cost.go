package kvshare

import (
	"slmc/internal/exec"
	"slmc/model"
)

// Cost is what a plan changes, before and after.
type Cost struct {
	Takers int `json:"takers"`
	Layers int `json:"layers"`
	// Parameters are elements of all weights.
	Parameters Change `json:"parameters"`
	// Cache is bytes per token by cache format.
	CacheF16 Change `json:"cache_f16_bytes_per_token"`
	CacheKV8 Change `json:"cache_kv8_bytes_per_token"`
	// Prefill is multiply-adds per token of a prompt of Prompt tokens whose
	// last logits are wanted: matrices, and scores and mixes of attention.
	Prompt  int    `json:"prompt_tokens"`
	Prefill Change `json:"prefill_multiply_adds_per_token"`
}

// Change is a figure of the model as it was, and of the shared one.
type Change struct {
	Before int `json:"before"`
	After  int `json:"after"`
}

// Saved is the share that is saved, 0 to 1.
func (c Change) Saved() float64 { return 1 - float64(c.After)/float64(max(1, c.Before)) }

// CostOf compares g with its rewriting, for prompts of T tokens.
func CostOf(g, shared *model.Graph, T int) Cost {
	both := func(f func(g *model.Graph) int) Change { return Change{f(g), f(shared)} }
	cache := func(kv exec.KVFormat) Change {
		return both(func(g *model.Graph) int { return exec.KVBytesPerToken(g, kv) })
	}
	return Cost{
		Takers: len(shared.Blocks) - len(shared.Givers()), Layers: len(shared.Blocks),
		Parameters: both((*model.Graph).Parameters),
		CacheF16:   cache(exec.KVF16), CacheKV8: cache(exec.KV8),
		Prompt:  T,
		Prefill: both(func(g *model.Graph) int { return int(PrefillOps(g, T) / int64(max(1, T))) }),
	}
}

// PrefillOps counts the multiply-adds of exec.Forward on a prompt of T tokens
// in one batch, whose last logits are wanted. Norms, rotations and activations,
// which are no products of matrices, are left out.
func PrefillOps(g *model.Graph, T int) int64 {
	last := exec.LastGiver(g)
	rows, sum := T, int64(0)
	for i := range g.Blocks {
		b := &g.Blocks[i]
		if b.KVFrom == i {
			sum += int64(rows) * (elems(g, b.K) + elems(g, b.V))
		}
		if i == last {
			rows = min(rows, 1)
		}
		for _, l := range []model.Linear{b.Q, b.O, b.Gate, b.Up, b.Down} {
			sum += int64(rows) * elems(g, l)
		}
		sum += 2 * int64(b.Heads*b.HeadDim) * seen(b.Window, T, rows)
	}
	return sum + int64(rows)*elems(g, g.Head)
}

func elems(g *model.Graph, l model.Linear) int64 { return int64(g.Weights[l.W].Elems()) }

// seen sums the positions that the last rows of T queries see.
func seen(window, T, rows int) int64 {
	n := int64(0)
	for pos := T - rows; pos < T; pos++ {
		see := pos + 1
		if window > 0 {
			see = min(see, window)
		}
		n += int64(see)
	}
	return n
}
