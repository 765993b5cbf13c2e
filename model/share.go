package model

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"slmc/formats"
)

// ShareKV returns a copy of g in which the blocks that are keys of from read
// the keys and values of the blocks that are its values, as CheckKV allows.
// Keys, values and key norms that no block computes any more are dropped; all
// else, the takers' query norms and rotations among it, stays. Weight i of the
// result is weight kept[i] of g.
func (g *Graph) ShareKV(from map[int]int) (out *Graph, kept []int, err error) {
	if err := g.CheckKV(from); err != nil {
		return nil, nil, err
	}
	out = g.LinkKV(from)
	used := make([]bool, len(g.Weights))
	out.eachIndex(func(i *int) { used[*i] = true })
	to := make([]int, len(g.Weights))
	all := out.Weights
	out.Weights = nil
	for i, w := range all {
		if used[i] {
			to[i] = len(kept)
			kept = append(kept, i)
			out.Weights = append(out.Weights, w)
		}
	}
	out.eachIndex(func(i *int) { *i = to[*i] })
	return out, kept, nil
}

// LinkKV is ShareKV with the weights of g, those that nothing reads among them,
// and without checks: for trying a map on weights that are loaded.
func (g *Graph) LinkKV(from map[int]int) *Graph {
	none := Linear{W: None, B: None}
	out := g.Clone()
	for taker, giver := range from {
		b := &out.Blocks[taker]
		b.KVFrom, b.K, b.V, b.KNorm = giver, none, none, None
	}
	return out
}

// CheckKV reports the first reason why blocks can not share by from.
func (g *Graph) CheckKV(from map[int]int) error {
	if len(from) == 0 {
		return errors.New("no block would take")
	}
	for _, taker := range slices.Sorted(maps.Keys(from)) {
		if err := g.checkPair(from, taker); err != nil {
			return fmt.Errorf("block %d can not read block %d: %w", taker, from[taker], err)
		}
	}
	return nil
}

func (g *Graph) checkPair(from map[int]int, taker int) error {
	giver := from[taker]
	for _, i := range []int{taker, giver} {
		if i < 0 || i >= len(g.Blocks) {
			return fmt.Errorf("there is no block %d, the model has 0 to %d", i, len(g.Blocks)-1)
		}
	}
	if giver >= taker {
		return errors.New("a giver must run before its takers")
	}
	if next, ok := from[giver]; ok {
		return fmt.Errorf("block %d takes from block %d itself, a taker has nothing to give; let both read block %d", giver, next, next)
	}
	for _, i := range []int{taker, giver} {
		if next := g.Blocks[i].KVFrom; next != i {
			return fmt.Errorf("block %d reads block %d already", i, next)
		}
	}
	for i, b := range g.Blocks {
		if i != taker && b.KVFrom == taker {
			return fmt.Errorf("block %d reads block %d already, a taker has nothing to give", i, taker)
		}
	}
	return g.Blocks[taker].CanRead(&g.Blocks[giver])
}

// CanRead reports why the keys and values of giver are not what b reads.
func (b *Block) CanRead(giver *Block) error {
	switch {
	case b.KVHeads != giver.KVHeads || b.HeadDim != giver.HeadDim:
		return fmt.Errorf("it has %d KV heads of %d, wanted %d of %d", giver.KVHeads, giver.HeadDim, b.KVHeads, b.HeadDim)
	case b.Rope != giver.Rope:
		return fmt.Errorf("its keys are rotated by table %d, wanted %d", giver.Rope, b.Rope)
	case b.Window != giver.Window:
		return fmt.Errorf("it sees a window of %s, wanted %s", windowName(giver.Window), windowName(b.Window))
	case (b.KNorm == None) != (giver.KNorm == None):
		return errors.New("only one of them norms its keys")
	}
	return nil
}

func windowName(w int) string {
	if w == 0 {
		return "all positions"
	}
	return fmt.Sprintf("%d positions", w)
}

// KVMap is the map that ShareKV made g with, taker to giver; empty when every
// block has keys and values of its own.
func (g *Graph) KVMap() map[int]int {
	out := map[int]int{}
	for i, b := range g.Blocks {
		if b.KVFrom != i {
			out[i] = b.KVFrom
		}
	}
	return out
}

// eachIndex gives f every weight index of the graph that is not None, once for
// each place that holds it.
func (g *Graph) eachIndex(f func(i *int)) {
	each := func(all ...*int) {
		for _, i := range all {
			if *i != None {
				f(i)
			}
		}
	}
	each(&g.Embed, &g.Norm, &g.Head.W, &g.Head.B)
	for i := range g.Blocks {
		b := &g.Blocks[i]
		each(&b.AttnNorm, &b.QNorm, &b.KNorm, &b.PostAttnNorm, &b.FFNNorm, &b.PostFFNNorm)
		for _, l := range []*Linear{&b.Q, &b.K, &b.V, &b.O, &b.Gate, &b.Up, &b.Down} {
			each(&l.W, &l.B)
		}
	}
}

// KVFromKey is slmc's own key of a config.json: for every block that runs, in
// order, the block whose keys and values it reads, its own index in a giver.
// The checkpoint has no key and value weights that only takers would use.
const KVFromKey = "slmc_kv_from"

// sharedLayersKey is the published key of models that share from the start, as
// Gemma 3n does (transformers, models/gemma3n): that many last blocks read the
// last block before them that sees as far. Their checkpoints may hold the takers'
// own key and value weights; nothing reads them.
const sharedLayersKey = "num_kv_shared_layers"

// shareKV applies KVFromKey or sharedLayersKey to the graph that the other keys
// describe.
func (c *Config) shareKV(g *Graph) *Graph {
	key, from := KVFromKey, map[int]int{}
	list, last := c.IDs(KVFromKey), 0
	if n, ok := asInt(c.get(sharedLayersKey)); !ok || n != 0 {
		last = c.IntOr(sharedLayersKey, 0, maxLayers)
	}
	switch {
	case list != nil && last > 0:
		c.Fail(formats.ErrUnsupported, KVFromKey, "stands beside %s: one of them is wanted", sharedLayersKey)
		return g
	case list != nil && len(list) != len(g.Blocks):
		c.Fail(formats.ErrCorrupt, KVFromKey, "has %d entries, wanted %d", len(list), len(g.Blocks))
		return g
	case last >= len(g.Blocks):
		c.Fail(formats.ErrCorrupt, sharedLayersKey, "is %d of %d blocks: none is left to give", last, len(g.Blocks))
		return g
	}
	for i, j := range list {
		if i != j {
			from[i] = j
		}
	}
	for first, i := len(g.Blocks)-last, len(g.Blocks)-last; i < len(g.Blocks); i++ {
		key = sharedLayersKey
		giver := first - 1
		for giver >= 0 && g.Blocks[giver].Window != g.Blocks[i].Window {
			giver--
		}
		if giver < 0 {
			c.Fail(formats.ErrCorrupt, key, "can not be: block %d sees %s, no block before %d does", i, windowName(g.Blocks[i].Window), first)
			return g
		}
		from[i] = giver
	}
	if len(from) == 0 {
		return g
	}
	shared, kept, err := g.ShareKV(from)
	if err != nil {
		c.Fail(formats.ErrCorrupt, key, "can not be: %v", err)
		return g
	}
	if key == sharedLayersKey {
		for i, w := range g.Weights {
			if !slices.Contains(kept, i) {
				shared.Unread = append(shared.Unread, w)
			}
		}
	}
	return shared
}
