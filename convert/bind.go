package convert

import (
	"context"
	"path/filepath"
	"slices"
	"strings"

	"slmc/formats"
	"slmc/model"
)

// naming is how a form of checkpoint stores what a graph describes.
type naming struct {
	name func(w model.Weight) string // the tensor that holds a weight
	// interleaved: rows of q and k are in Meta's rotary order.
	interleaved bool
	// normsWhole: norms that Hugging Face stores minus one are stored whole.
	normsWhole bool
}

var hfNames = naming{name: func(w model.Weight) string { return w.Source }}

// buffers lists ends of tensor names that are not weights: tables and masks
// that older programs saved with the model.
var buffers = []string{
	"rotary_emb.inv_freq", "rotary_emb.cos_cached", "rotary_emb.sin_cached", "self_attn.masked_bias", "self_attn.bias",
	"rope.freqs", "freqs_cos", "freqs_sin", "mask",
}

func isBuffer(name string) bool {
	return slices.ContainsFunc(buffers, func(s string) bool {
		return name == s || strings.HasSuffix(name, "."+s)
	}) || name == ropeFactors
}

// find returns the tensor of that name.
func find(src formats.Source, name string) (formats.TensorInfo, bool) {
	all := src.Tensors()
	i := slices.IndexFunc(all, func(t formats.TensorInfo) bool { return t.Name == name })
	if i < 0 {
		return formats.TensorInfo{}, false
	}
	return all[i], true
}

// bind builds the graph and matches its weights with the tensors: each weight
// has one of the right shape, and no tensor is left over.
func bind(ctx context.Context, op *opened, o Options) (*Checkpoint, error) {
	g, err := model.Build(op.config, o.IgnoreKeys...)
	if err != nil {
		return nil, err
	}
	if o.Context > 0 {
		g.Context = o.Context
	}
	tok := op.tok
	if err := tok.ids(op.config); err != nil {
		return nil, err
	}
	stored := map[string]formats.TensorInfo{}
	for _, t := range op.src.Tensors() {
		if other, twice := stored[t.Name]; twice {
			return nil, formats.Corrupt(t.File, t.Name, t.Offset, "the name appears twice, first in %s", other.File)
		}
		stored[t.Name] = t
	}
	v := &values{src: op.src, interleaved: op.names.interleaved}
	var used []formats.TensorInfo
	for i := range g.Weights {
		w := &g.Weights[i]
		if op.names.normsWhole {
			w.AddOne = false
		}
		name := op.names.name(*w)
		t, ok := stored[name]
		if !ok {
			return nil, formats.Corrupt(op.file, name, -1, "missing: the config asks for it, with shape %v", w.Shape)
		}
		if !slices.Equal(t.Shape, w.Shape) {
			return nil, formats.Corrupt(t.File, name, t.Offset, "shape %v, the config asks for %v", t.Shape, w.Shape)
		}
		// A type that can't be read as floats shows now, not at the end.
		var probe [1]float32
		if err := op.src.ReadF32(name, 0, probe[:min(1, w.Elems())]); err != nil {
			return nil, err
		}
		v.weights = append(v.weights, stored1{*w, t})
		used = append(used, t)
		delete(stored, name)
	}
	c := &Checkpoint{Model: &model.Model{Graph: g, Values: v}, Tokenizer: tok, Types: countTypes(used), src: op.src}
	if err := c.surplus(ctx, op, stored); err != nil {
		return nil, err
	}
	c.Files = op.allFiles(tok)
	return c, nil
}

// surplus checks the tensors that no weight took: a stored copy of a tied head,
// known buffers and what the graph does not read may stay, others are refused.
func (c *Checkpoint) surplus(ctx context.Context, op *opened, left map[string]formats.TensorInfo) error {
	g := c.Model.Graph
	var unknown []formats.TensorInfo
	for _, t := range op.src.Tensors() {
		if _, ok := left[t.Name]; !ok {
			continue
		}
		switch {
		case isBuffer(t.Name), slices.ContainsFunc(g.Unread, func(w model.Weight) bool { return op.names.name(w) == t.Name }):
		case g.Tied() && t.Name == op.names.name(model.Weight{Name: "output.weight", Source: "lm_head.weight"}):
			embed := op.names.name(g.Weights[g.Embed])
			same, err := equal(ctx, op.src, t.Name, embed)
			if err != nil {
				return err
			}
			if !same {
				return formats.Corrupt(t.File, t.Name, t.Offset, "differs from %s, but the config says that head and embedding are one", embed)
			}
		default:
			unknown = append(unknown, t)
			continue
		}
		c.Ignored = append(c.Ignored, t.Name)
	}
	if len(unknown) > 0 {
		t := unknown[0]
		return formats.Corrupt(t.File, t.Name, t.Offset, "surplus: no part of a %s model of this config (%d such tensors)", g.Arch, len(unknown))
	}
	return nil
}

// equal reports whether two tensors have the same shape and values.
func equal(ctx context.Context, src formats.Source, a, b string) (bool, error) {
	ta, okA := find(src, a)
	tb, okB := find(src, b)
	if !okA || !okB || !slices.Equal(ta.Shape, tb.Shape) {
		return false, nil
	}
	elems := 1
	for _, d := range ta.Shape {
		elems *= d
	}
	x, y := make([]float32, min(elems, 1<<16)), make([]float32, min(elems, 1<<16))
	for off := 0; off < elems; off += len(x) {
		if err := ctx.Err(); err != nil {
			return false, err
		}
		n := min(len(x), elems-off)
		if err := src.ReadF32(a, off, x[:n]); err != nil {
			return false, err
		}
		if err := src.ReadF32(b, off, y[:n]); err != nil {
			return false, err
		}
		if !slices.Equal(x[:n], y[:n]) {
			return false, nil
		}
	}
	return true, nil
}

// allFiles lists the paths of everything that the checkpoint was read from.
func (op *opened) allFiles(tok Tokenizer) []string {
	out := slices.Clone(op.files)
	for _, t := range op.src.Tensors() {
		if p := filepath.Join(op.dir, t.File); !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	for _, p := range tok.files {
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out
}
