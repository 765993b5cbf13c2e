// Row order of the attention's query and key weights.
//
// Hugging Face checkpoints rotate element p of a head with element p + E/2
// (half split), llama.cpp's llama architecture rotates neighbours, 2p with
// 2p + 1. Its converter (conversion/llama.py, LlamaModel.permute, and
// ggml_rope's NORM mode) therefore stores row 2p + s of a head from row
// p + s*E/2 of the checkpoint, for weights and biases of q and k alike. For
// the architectures that it rotates by halves (NEOX mode) rows stay.

package gguf

import (
	"errors"
	"strings"

	"slmc/formats"
)

// ropeOrder says how GGUF orders q and k rows of an architecture; for one that
// is not listed ReadF32 refuses those tensors, since a wrong guess converts
// without an error and is wrong.
var ropeOrder = []struct {
	arch        string
	interleaved bool
}{
	{"llama", true},
	{"qwen2", false},
	{"qwen3", false},
	{"gemma", false},
	{"gemma2", false},
	{"gemma3", false},
}

// Interleaved reports whether GGUF interleaves the q and k rows of arch, and
// whether arch is known at all.
func Interleaved(arch string) (interleaved, known bool) {
	for _, r := range ropeOrder {
		if r.arch == arch {
			return r.interleaved, true
		}
	}
	return false, false
}

// interleaved returns where GGUF stores row r of the checkpoint, for heads of
// size rows.
func interleaved(r, size int) int {
	head, i := r/size, r%size
	return head*size + i%(size/2)*2 + i/(size/2)
}

// HalfSplit is the inverse: the row of the checkpoint that GGUF stores as row r
// of a llama q or k weight with heads of size rows.
func HalfSplit(r, size int) int {
	head, i := r/size, r%size
	return head*size + i/2 + i%2*(size/2)
}

// orderRows notes for each q and k tensor how its rows are to be read.
func (f *File) orderRows() error {
	inter, known := Interleaved(f.Arch())
	for i := range f.tensors {
		t := &f.tensors[i]
		e := f.byName[t.Name]
		if _, fused := isBlock(t.Name, "attn_qkv"); fused && (inter || !known) {
			e.err = formats.Unsupported(f.name, t.Name, t.Offset, "fused q, k and v of architecture %q", f.Arch())
			continue
		}
		block, ok := isBlock(t.Name, "attn_q", "attn_k")
		switch {
		case !ok:
		case !known:
			e.err = formats.Unsupported(f.name, t.Name, t.Offset, "the row order of q and k is not known for architecture %q", f.Arch())
		case inter:
			heads, err := f.heads(block, strings.Contains(t.Name, ".attn_k."))
			if err != nil {
				return err
			}
			if len(t.Shape) < 1 || heads <= 0 || t.Shape[0]%(2*heads) != 0 {
				return formats.Corrupt(f.name, t.Name, t.Offset, "shape %v does not split into %d heads of even size", t.Shape, heads)
			}
			if len(t.Shape) == 1 && e.typ.elems > 1 {
				return formats.Corrupt(f.name, t.Name, t.Offset, "a bias of type %s, whose rows can't be reordered", t.Type)
			}
			e.heads = heads
		}
	}
	return nil
}

// heads returns the number of query heads, or of key heads, of a block.
func (f *File) heads(block int, key bool) (int, error) {
	name := f.Arch() + ".attention.head_count"
	if key && f.Has(name+"_kv") {
		name += "_kv"
	}
	all, err := f.Ints(name)
	if errors.Is(err, ErrMissing) {
		return 0, formats.Corrupt(f.name, "", -1, "metadata key %q is missing, q and k rows can't be ordered without it", name)
	}
	if err != nil {
		return 0, err
	}
	if len(all) > 1 && block >= len(all) {
		return 0, formats.Corrupt(f.name, "", -1, "metadata key %q has %d values, block %d needs one", name, len(all), block)
	}
	if len(all) == 0 {
		return 0, formats.Corrupt(f.name, "", -1, "metadata key %q is an empty array", name)
	}
	n := all[0]
	if len(all) > 1 {
		n = all[block]
	}
	if n < 0 || n > 1<<20 {
		return 0, formats.Corrupt(f.name, "", -1, "metadata key %q is %d", name, n)
	}
	return int(n), nil
}
