// Package llama2c reads the float .bin files of llama2.c (karpathy/llama2.c,
// export.py): the legacy export, a header of seven int32, and version 1, which
// begins with the magic "ak42" and a header of 256 bytes. Version 2 (int8) is
// refused by name.
//
// Tensors carry Meta's names (layers.0.attention.wq.weight). Rows are
// delivered as the file has them: the rows of wq and wk are in Meta's
// interleaved RoPE order (a head's rows 2i and 2i+1 rotate together), not in
// the half-split order of Hugging Face checkpoints; convert permutes them.
//
// The format does not store the norm's epsilon, 1e-5, nor RoPE's base, 10000:
// llama2.c has them as constants. The tables freq_cis_real and freq_cis_imag
// of the legacy form follow from the base and are skipped, as run.c skips them.
package llama2c

import (
	"encoding/binary"
	"errors"
	"fmt"

	"slmc/formats"
	"slmc/tensor"
)

const (
	magic       = 0x616b3432 // "ak42"
	legacyBytes = 7 * 4
	v1Bytes     = 256
	// maxLayers bounds the list of tensors before it is made.
	maxLayers = 4096
)

// Config is the header of a file. The numbers are those of Meta's params.json.
type Config struct {
	Dim, HiddenDim, Layers, Heads, KVHeads, Vocab, SeqLen int

	Tied    bool // the output head is the embedding
	Version int  // 0 is the legacy export
}

// File is one opened .bin file. It implements formats.Source.
type File struct {
	file    *formats.File
	config  Config
	tensors []formats.TensorInfo
	index   map[string]int
}

// Open reads the header of the file at path and checks that the file has
// exactly the bytes that it asks for.
func Open(path string) (*File, error) {
	f, err := formats.OpenFile(path)
	if err != nil {
		return nil, err
	}
	l, err := New(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return l, nil
}

// New reads the header of f, which the File then owns.
func New(f *formats.File) (*File, error) {
	l := &File{file: f, index: map[string]int{}}
	pos, err := l.readHeader()
	if err != nil {
		return nil, err
	}
	if err := l.config.check(f.Name()); err != nil {
		return nil, err
	}
	list := legacyOrder
	if l.config.Version == 1 {
		list = v1Order
	}
	for _, p := range list(l.config) {
		elems, err := tensor.Elems(p.shape)
		if err != nil {
			return nil, formats.Corrupt(f.Name(), p.name, pos, "%v", err)
		}
		bytes := 4 * int64(elems)
		if bytes > f.Size()-pos {
			return nil, formats.Corrupt(f.Name(), p.name, pos, "shape %v needs %d bytes, %d remain in the file", p.shape, bytes, f.Size()-pos)
		}
		if !p.skip {
			l.index[p.name] = len(l.tensors)
			l.tensors = append(l.tensors, formats.TensorInfo{Name: p.name, Shape: p.shape, Type: "F32", File: f.Name(), Offset: pos, Bytes: bytes})
		}
		pos += bytes
	}
	if pos != f.Size() {
		return nil, formats.Corrupt(f.Name(), "", pos, "%d bytes after the last tensor: the header's dimensions do not fit the file", f.Size()-pos)
	}
	return l, nil
}

// readHeader fills the config and returns where the tensors begin.
func (l *File) readHeader() (int64, error) {
	var b [v1Bytes]byte
	head := b[:legacyBytes]
	if err := l.file.ReadFull("", 0, head); err != nil {
		return 0, err
	}
	at := int64(0)
	if binary.LittleEndian.Uint32(head) == magic {
		version := int32(binary.LittleEndian.Uint32(head[4:]))
		if version == 2 {
			return 0, formats.Unsupported(l.file.Name(), "", 4, "llama2.c version 2 holds int8 weights; export version 0 or 1 (float32) instead")
		}
		if version != 1 {
			return 0, formats.Unsupported(l.file.Name(), "", 4, "llama2.c version %d, versions 0 (legacy) and 1 are known", version)
		}
		if err := l.file.ReadFull("", 0, b[:]); err != nil {
			return 0, err
		}
		l.config.Version, at, head = 1, 8, b[8:8+legacyBytes]
	}
	c := &l.config
	for i, p := range []*int{&c.Dim, &c.HiddenDim, &c.Layers, &c.Heads, &c.KVHeads, &c.Vocab, &c.SeqLen} {
		*p = int(int32(binary.LittleEndian.Uint32(head[4*i:])))
	}
	if c.Version == 0 {
		if c.Tied = c.Vocab > 0; !c.Tied {
			c.Vocab = -c.Vocab
		}
		return legacyBytes, nil
	}
	if c.Tied = b[36] == 1; b[36] > 1 {
		return 0, formats.Corrupt(l.file.Name(), "", 36, "shared_classifier is %d, wanted 0 or 1", b[36])
	}
	for i, v := range b[at+legacyBytes+1:] {
		if v != 0 {
			return 0, formats.Corrupt(l.file.Name(), "", at+legacyBytes+1+int64(i), "header padding is %#02x, wanted zero", v)
		}
	}
	return v1Bytes, nil
}

// check refuses dimensions that no model has.
func (c Config) check(file string) error {
	for _, d := range []struct {
		name  string
		value int
	}{{"dim", c.Dim}, {"hidden_dim", c.HiddenDim}, {"n_layers", c.Layers}, {"n_heads", c.Heads}, {"n_kv_heads", c.KVHeads}, {"vocab_size", c.Vocab}, {"seq_len", c.SeqLen}} {
		if d.value <= 0 {
			return formats.Corrupt(file, "", 0, "%s is %d, wanted a positive number: is this a llama2.c file?", d.name, d.value)
		}
	}
	if c.Layers > maxLayers {
		return formats.Corrupt(file, "", 0, "n_layers is %d, at most %d are read", c.Layers, maxLayers)
	}
	if c.Dim%c.Heads != 0 || c.Dim/c.Heads%2 != 0 || c.Heads%c.KVHeads != 0 {
		return formats.Corrupt(file, "", 0, "dim %d does not split into %d heads of even size, or these into %d KV heads", c.Dim, c.Heads, c.KVHeads)
	}
	return nil
}

// place is one tensor in the order of the file.
type place struct {
	name  string
	shape []int
	skip  bool
}

// perLayer returns the tensor layers.N.<name>.weight of every layer.
func perLayer(c Config, name string, shape ...int) []place {
	out := make([]place, c.Layers)
	for i := range out {
		out[i] = place{name: fmt.Sprintf("layers.%d.%s.weight", i, name), shape: shape}
	}
	return out
}

// matrices returns the places of the attention projections and of the FFN, in
// the order that both versions share.
func (c Config) matrices() (attention, ffn []place) {
	kv := c.Dim / c.Heads * c.KVHeads
	attention = append(attention, perLayer(c, "attention.wq", c.Dim, c.Dim)...)
	attention = append(attention, perLayer(c, "attention.wk", kv, c.Dim)...)
	attention = append(attention, perLayer(c, "attention.wv", kv, c.Dim)...)
	attention = append(attention, perLayer(c, "attention.wo", c.Dim, c.Dim)...)
	ffn = append(ffn, perLayer(c, "feed_forward.w1", c.HiddenDim, c.Dim)...)
	ffn = append(ffn, perLayer(c, "feed_forward.w2", c.Dim, c.HiddenDim)...)
	ffn = append(ffn, perLayer(c, "feed_forward.w3", c.HiddenDim, c.Dim)...)
	return attention, ffn
}

// legacyOrder is the order of legacy_export.
func legacyOrder(c Config) []place {
	attention, ffn := c.matrices()
	out := []place{{name: "tok_embeddings.weight", shape: []int{c.Vocab, c.Dim}}}
	out = append(out, perLayer(c, "attention_norm", c.Dim)...)
	out = append(out, attention...)
	out = append(out, perLayer(c, "ffn_norm", c.Dim)...)
	out = append(out, ffn...)
	table := []int{c.SeqLen, c.Dim / c.Heads / 2}
	out = append(out, place{name: "norm.weight", shape: []int{c.Dim}},
		place{name: "freq_cis_real", shape: table, skip: true}, place{name: "freq_cis_imag", shape: table, skip: true})
	return c.head(out)
}

// v1Order is the order of version1_export.
func v1Order(c Config) []place {
	attention, ffn := c.matrices()
	out := append(perLayer(c, "attention_norm", c.Dim), perLayer(c, "ffn_norm", c.Dim)...)
	out = append(out, place{name: "norm.weight", shape: []int{c.Dim}}, place{name: "tok_embeddings.weight", shape: []int{c.Vocab, c.Dim}})
	return c.head(append(append(out, attention...), ffn...))
}

// head appends the output head where the file has one of its own.
func (c Config) head(out []place) []place {
	if c.Tied {
		return out
	}
	return append(out, place{name: "output.weight", shape: []int{c.Vocab, c.Dim}})
}

// Config returns the header.
func (l *File) Config() Config { return l.config }

// Tensors lists the tensors in the order of the file.
func (l *File) Tensors() []formats.TensorInfo { return l.tensors }

// ReadF32 implements formats.Source.
func (l *File) ReadF32(name string, off int, dst []float32) error {
	i, ok := l.index[name]
	if !ok {
		return formats.Corrupt(l.file.Name(), name, -1, "no such tensor")
	}
	t := &l.tensors[i]
	if err := formats.CheckRange(l.file.Name(), name, off, len(dst), int(t.Bytes/4)); err != nil {
		return err
	}
	return l.file.ReadFloats(name, t.Offset+4*int64(off), tensor.F32, dst)
}

// Close closes the file.
func (l *File) Close() error { return l.file.Close() }
