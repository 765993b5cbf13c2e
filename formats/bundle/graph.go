package bundle

import (
	"fmt"
	"math"
	"slices"

	"slmc/model"
)

// Bounds on a graph, far above any model that fits a phone: products of two
// of them, and of one with 2^20 positions, stay within 64 bits.
const (
	maxWidth   = 1 << 20
	maxVocab   = 1 << 24
	maxHeads   = 1 << 12
	maxBlocks  = 1 << 12
	maxContext = 1 << 20
	maxName    = 128
)

// graphChecker collects which weights are used while it walks the graph.
type graphChecker struct {
	g    *model.Graph
	used []bool
}

// checkGraph reports what in g a runtime could not trust: an index out of
// range, a shape that does not follow from the dimensions, a weight that
// nothing reads, a number that is not finite.
func checkGraph(g *model.Graph) error {
	c := graphChecker{g, make([]bool, len(g.Weights))}
	if err := c.dims(); err != nil {
		return err
	}
	if err := c.weights(); err != nil {
		return err
	}
	for i := range g.Ropes {
		if err := checkRope(&g.Ropes[i]); err != nil {
			return fmt.Errorf("ropes[%d]: %w", i, err)
		}
	}
	err := first(
		c.matrix("embed", g.Embed, model.RoleEmbed, g.Vocab, g.Hidden),
		c.vector("norm", g.Norm, model.RoleNorm, g.Hidden, true),
		c.head(),
	)
	if err != nil {
		return err
	}
	for i := range g.Blocks {
		if err := c.block(i); err != nil {
			return fmt.Errorf("blocks[%d]: %w", i, err)
		}
	}
	if i := slices.Index(c.used, false); i >= 0 {
		return fmt.Errorf("weight %q is not read by any block", g.Weights[i].Name)
	}
	return nil
}

// first returns the first error.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// inRange checks an integer field.
func inRange(name string, v, lo, hi int) error {
	if v < lo || v > hi {
		return fmt.Errorf("%s is %d, wanted %d to %d", name, v, lo, hi)
	}
	return nil
}

// finite checks a float field that must be at least lo, or above it.
func finite(name string, v float32, lo float32, above bool) error {
	if x := float64(v); math.IsNaN(x) || math.IsInf(x, 0) || v < lo || above && v == lo {
		return fmt.Errorf("%s is %g", name, v)
	}
	return nil
}

func (c *graphChecker) dims() error {
	g := c.g
	return first(
		checkName("arch", g.Arch),
		inRange("hidden", g.Hidden, 1, maxWidth),
		inRange("vocab", g.Vocab, 1, maxVocab),
		inRange("context", g.Context, 1, maxContext),
		inRange("number of blocks", len(g.Blocks), 1, maxBlocks),
		finite("norm_eps", g.NormEps, 0, false),
		finite("embed_scale", g.EmbedScale, 0, true),
		finite("logit_cap", g.LogitCap, 0, false),
	)
}

func (c *graphChecker) weights() error {
	seen := map[string]bool{}
	for i, w := range c.g.Weights {
		if err := checkName(fmt.Sprintf("weights[%d].name", i), w.Name); err != nil {
			return err
		}
		if seen[w.Name] {
			return fmt.Errorf("weights[%d]: name %q appears twice", i, w.Name)
		}
		seen[w.Name] = true
		if !slices.Contains(model.Roles, w.Role) {
			return fmt.Errorf("weight %q: role %q is unknown", w.Name, w.Role)
		}
		if len(w.Input) > maxName {
			return fmt.Errorf("weight %q: input label of %d bytes", w.Name, len(w.Input))
		}
	}
	return nil
}

// checkName checks a name that appears in messages: printable ASCII, no space.
func checkName(field, s string) error {
	if s == "" || len(s) > maxName {
		return fmt.Errorf("%s has %d bytes, wanted 1 to %d", field, len(s), maxName)
	}
	for _, c := range []byte(s) {
		if c <= ' ' || c > '~' {
			return fmt.Errorf("%s is %q, wanted printable ASCII", field, s)
		}
	}
	return nil
}

func checkRope(r *model.Rope) error {
	if err := inRange("head_dim", r.HeadDim, 2, maxHeads); err != nil {
		return err
	}
	if 2*len(r.InvFreq) != r.HeadDim {
		return fmt.Errorf("%d frequencies for head_dim %d", len(r.InvFreq), r.HeadDim)
	}
	if err := checkScaling(r); err != nil {
		return err
	}
	for i, f := range r.InvFreq {
		// Angles stay within the range that sinCos is exact for.
		if err := finite(fmt.Sprintf("inv_freq[%d]", i), f, 0, false); err != nil {
			return err
		}
		if f > 1 {
			return fmt.Errorf("inv_freq[%d] is %g, wanted at most 1", i, f)
		}
	}
	return nil
}

// checkScaling checks what an export takes from r, which no runtime computes
// with.
func checkScaling(r *model.Rope) error {
	s := &r.Scaling
	for _, f := range []struct {
		name  string
		value float64
	}{{"base", r.Base}, {"scaling.factor", s.Factor}, {"scaling.low_freq_factor", s.LowFreq}, {"scaling.high_freq_factor", s.HighFreq}} {
		if err := finite(f.name, float32(f.value), 0, false); err != nil {
			return err
		}
	}
	for i, f := range s.Factors {
		if err := finite(fmt.Sprintf("scaling.factors[%d]", i), float32(f), 0, true); err != nil {
			return err
		}
	}
	if s.Type != "" {
		if err := checkName("scaling.type", s.Type); err != nil {
			return err
		}
	}
	if n := len(s.Factors); n != 0 && n != len(r.InvFreq) {
		return fmt.Errorf("scaling.factors has %d numbers for %d frequencies", n, len(r.InvFreq))
	}
	return inRange("scaling.original_max_position_embeddings", s.Context, 0, maxContext)
}

// weight checks that index i is a weight of that role and shape.
func (c *graphChecker) weight(field string, i int, role model.Role, shape ...int) error {
	if i < 0 || i >= len(c.g.Weights) {
		return fmt.Errorf("%s is weight %d of %d", field, i, len(c.g.Weights))
	}
	w := &c.g.Weights[i]
	if w.Role != role {
		return fmt.Errorf("%s is %q of role %q, wanted %q", field, w.Name, w.Role, role)
	}
	if !slices.Equal(w.Shape, shape) {
		return fmt.Errorf("%s is %q of shape %v, wanted %v", field, w.Name, w.Shape, shape)
	}
	c.used[i] = true
	return nil
}

func (c *graphChecker) matrix(field string, i int, role model.Role, out, in int) error {
	return c.weight(field, i, role, out, in)
}

func (c *graphChecker) vector(field string, i int, role model.Role, n int, required bool) error {
	if i == model.None && !required {
		return nil
	}
	return c.weight(field, i, role, n)
}

func (c *graphChecker) linear(field string, l model.Linear, role model.Role, out, in int) error {
	return first(
		c.matrix(field+".w", l.W, role, out, in),
		c.vector(field+".b", l.B, model.RoleBias, out, false),
	)
}

func (c *graphChecker) head() error {
	g := c.g
	role := model.RoleHead
	if g.Tied() {
		role = model.RoleEmbed
	}
	return c.linear("head", g.Head, role, g.Vocab, g.Hidden)
}

func (c *graphChecker) block(i int) error {
	g, b := c.g, &c.g.Blocks[i]
	err := first(
		inRange("heads", b.Heads, 1, maxHeads),
		inRange("kv_heads", b.KVHeads, 1, maxHeads),
		inRange("head_dim", b.HeadDim, 1, maxHeads),
		inRange("ffn", b.FFN, 1, maxWidth),
		inRange("window", b.Window, 0, maxContext),
		inRange("rope", b.Rope, model.None, len(g.Ropes)-1),
		finite("attn_scale", b.AttnScale, 0, true),
		finite("attn_cap", b.AttnCap, 0, false),
	)
	switch {
	case err != nil:
		return err
	case b.Heads%b.KVHeads != 0:
		return fmt.Errorf("%d heads do not share %d kv_heads evenly", b.Heads, b.KVHeads)
	case b.Act != model.SiLU && b.Act != model.GELUTanh:
		return fmt.Errorf("act %q is unknown", b.Act)
	case b.Rope != model.None && g.Ropes[b.Rope].HeadDim != b.HeadDim:
		return fmt.Errorf("rope %d is for head_dim %d, the heads have %d", b.Rope, g.Ropes[b.Rope].HeadDim, b.HeadDim)
	}
	D, q := g.Hidden, b.Heads*b.HeadDim
	return first(
		c.vector("attn_norm", b.AttnNorm, model.RoleNorm, D, true),
		c.linear("q", b.Q, model.RoleAttnQ, q, D),
		c.keysValues(i),
		c.linear("o", b.O, model.RoleAttnO, D, q),
		c.vector("q_norm", b.QNorm, model.RoleNorm, b.HeadDim, false),
		c.vector("post_attn_norm", b.PostAttnNorm, model.RoleNorm, D, false),
		c.vector("ffn_norm", b.FFNNorm, model.RoleNorm, D, true),
		c.linear("gate", b.Gate, model.RoleGate, b.FFN, D),
		c.linear("up", b.Up, model.RoleUp, b.FFN, D),
		c.linear("down", b.Down, model.RoleDown, D, b.FFN),
		c.vector("post_ffn_norm", b.PostFFNNorm, model.RoleNorm, D, false),
	)
}

// keysValues checks K and V: a giver has both, a taker has none and reads an
// earlier giver that cached what it needs.
func (c *graphChecker) keysValues(i int) error {
	g, b := c.g, &c.g.Blocks[i]
	if b.KVFrom == i {
		kv := b.KVHeads * b.HeadDim
		return first(
			c.linear("k", b.K, model.RoleAttnK, kv, g.Hidden),
			c.linear("v", b.V, model.RoleAttnV, kv, g.Hidden),
			c.vector("k_norm", b.KNorm, model.RoleNorm, b.HeadDim, false),
		)
	}
	none := model.Linear{W: model.None, B: model.None}
	if b.K != none || b.V != none || b.KNorm != model.None {
		return fmt.Errorf("k, v and k_norm of a block that reads those of block %d", b.KVFrom)
	}
	if err := inRange("kv_from", b.KVFrom, 0, i-1); err != nil {
		return err
	}
	from := &g.Blocks[b.KVFrom]
	switch {
	case from.KVFrom != b.KVFrom:
		return fmt.Errorf("kv_from is block %d, which computes no keys", b.KVFrom)
	case from.KVHeads != b.KVHeads || from.HeadDim != b.HeadDim:
		return fmt.Errorf("kv_from is block %d of %d kv_heads of %d, wanted %d of %d", b.KVFrom, from.KVHeads, from.HeadDim, b.KVHeads, b.HeadDim)
	case from.Rope != b.Rope:
		return fmt.Errorf("kv_from is block %d of rope %d, wanted %d", b.KVFrom, from.Rope, b.Rope)
	case from.Window != 0 && (b.Window == 0 || b.Window > from.Window):
		return fmt.Errorf("kv_from is block %d of window %d, which keeps too little for window %d", b.KVFrom, from.Window, b.Window)
	}
	return nil
}
