// Package gguf reads and writes GGUF files, the container of llama.cpp
// (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): typed metadata,
// a table of tensors, their data in plain floats or in blocks of quantized
// weights.
//
// # What a reader sees
//
// Tensor names are GGUF's ("blk.3.attn_q.weight"), which are also the names
// that slmc uses. Two habits of the format end here. Dimensions, which GGUF
// lists innermost first, come out row-major ([out in]). And the rows of
// attn_q and attn_k of the llama architecture, which llama.cpp's converter
// interleaves for its rotary embedding of neighbouring pairs, come out in the
// order of the Hugging Face checkpoint (see ropeOrder); Write puts them back.
//
// Everything else is as the file has it. In particular the norms of gemma2
// and gemma3 hold 1 + weight, because the converter adds the 1.
//
// Versions 2 and 3 are read, little-endian; version 1 and big-endian files
// are refused by name. Where llama.cpp wants tensors back to back in the order
// of the table, any order and gaps are accepted here, but no overlap.
package gguf

import (
	"errors"
	"strings"
	"sync"

	"slmc/formats"
)

// File is an opened GGUF file. It is safe for concurrent use.
type File struct {
	Metadata

	name     string // what errors call it
	version  uint32
	data     *formats.File
	tensors  []formats.TensorInfo
	byName   map[string]*entry
	pieces   sync.Pool // *[]byte of pieceBytes
	dataFrom int64     // file offset of the data section
}

// entry is what reading a tensor needs beyond its TensorInfo.
type entry struct {
	info  *formats.TensorInfo
	typ   *blockType
	elems int
	heads int   // rows are interleaved in this many heads; 0: in order
	err   error // why the tensor is listed but can't be read
}

// pieceBytes bounds what ReadF32 holds of a file at once.
const pieceBytes = 1 << 16

var _ formats.Source = (*File)(nil)

// Open reads the metadata and the tensor table of a GGUF file; tensor data is
// read later, in pieces, by ReadF32.
func Open(path string) (*File, error) {
	f, err := formats.OpenFile(path)
	if err != nil {
		return nil, err
	}
	g, err := New(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return g, nil
}

// New reads the metadata and the tensor table of f, which the File then owns.
func New(f *formats.File) (*File, error) {
	g := &File{name: f.Name(), data: f}
	g.pieces.New = func() any {
		b := make([]byte, pieceBytes)
		return &b
	}
	if err := g.parse(); err != nil {
		return nil, err
	}
	if err := g.refuseSplit(); err != nil {
		return nil, err
	}
	if err := g.orderRows(); err != nil {
		return nil, err
	}
	return g, nil
}

// refuseSplit refuses one part of a model that was split over several files.
func (f *File) refuseSplit() error {
	n, err := f.Uint("split.count")
	if errors.Is(err, ErrMissing) || err == nil && n <= 1 {
		return nil
	}
	if err != nil {
		return err
	}
	return formats.Unsupported(f.name, "", -1, "one of %d parts of a split model; join them with llama.cpp's llama-gguf-split --merge", n)
}

// Version returns the format version, 2 or 3.
func (f *File) Version() int { return int(f.version) }

// Arch returns general.architecture, or "" where the file has none.
func (f *File) Arch() string {
	s, _ := f.String("general.architecture")
	return s
}

// Tensors lists the tensors in the order of the file's table, those whose
// type can't be read included.
func (f *File) Tensors() []formats.TensorInfo { return f.tensors }

// Close closes the file.
func (f *File) Close() error { return f.data.Close() }

// ReadF32 fills dst with the elements [off, off+len(dst)) of a tensor in
// row-major order. Quantized blocks are dequantized exactly as llama.cpp's
// reference does; scales that are NaN or Inf are passed on.
func (f *File) ReadF32(name string, off int, dst []float32) error {
	e, ok := f.byName[name]
	if !ok {
		return formats.Corrupt(f.name, name, -1, "no such tensor")
	}
	if err := formats.CheckRange(f.name, name, off, len(dst), e.elems); err != nil {
		return err
	}
	if e.err != nil {
		return e.err
	}
	if len(dst) == 0 {
		return nil
	}
	if e.heads == 0 {
		return f.readRun(e, off, dst)
	}
	rows := e.info.Shape[0]
	cols := e.elems / rows // 1 for a bias
	for len(dst) > 0 {
		row, col := off/cols, off%cols
		n := min(cols-col, len(dst))
		if err := f.readRun(e, interleaved(row, rows/e.heads)*cols+col, dst[:n]); err != nil {
			return err
		}
		off += n
		dst = dst[n:]
	}
	return nil
}

// readRun reads elements as they follow each other in the file.
func (f *File) readRun(e *entry, off int, dst []float32) error {
	buf := f.pieces.Get().(*[]byte)
	defer f.pieces.Put(buf)
	t := e.typ
	perPiece := pieceBytes / t.bytes
	var scratch [maxBlockElems]float32
	for len(dst) > 0 {
		block, within := off/t.elems, off%t.elems
		blocks := min(perPiece, (within+len(dst)+t.elems-1)/t.elems)
		if within != 0 || len(dst) < t.elems {
			blocks = 1
		} else if blocks*t.elems > len(dst) {
			blocks = len(dst) / t.elems // the last, partial one comes next
		}
		raw := (*buf)[:blocks*t.bytes]
		at := e.info.Offset + int64(block)*int64(t.bytes)
		if err := f.data.ReadFull(e.info.Name, at, raw); err != nil {
			return err
		}
		n := min(blocks*t.elems-within, len(dst))
		if n == blocks*t.elems {
			t.decode(dst[:n], raw)
		} else {
			t.decode(scratch[:t.elems], raw)
			copy(dst[:n], scratch[within:])
		}
		off += n
		dst = dst[n:]
	}
	return nil
}

// rowLen returns the innermost dimension of a shape, 1 for a scalar.
func rowLen(shape []int) int {
	if len(shape) == 0 {
		return 1
	}
	return shape[len(shape)-1]
}

// DataOffset returns where the data begins, after header, metadata and table.
func (f *File) DataOffset() int64 { return f.dataFrom }

// Size returns the length of the file.
func (f *File) Size() int64 { return f.data.Size() }

// isBlock reports whether name is blk.N.part.weight or .bias, and N.
func isBlock(name string, parts ...string) (block int, ok bool) {
	rest, ok := strings.CutPrefix(name, "blk.")
	if !ok {
		return 0, false
	}
	num, rest, ok := strings.Cut(rest, ".")
	if !ok || num == "" || len(num) > 6 {
		return 0, false
	}
	for _, c := range []byte(num) {
		if c < '0' || c > '9' {
			return 0, false
		}
		block = block*10 + int(c-'0')
	}
	for _, p := range parts {
		if rest == p+".weight" || rest == p+".bias" {
			return block, true
		}
	}
	return 0, false
}
