// Package pytorch reads checkpoints that torch.save wrote: the zip form, the
// legacy pickle before it, single files and shards with an index.
//
// A checkpoint is a pickle, which is a program. Here it is one that can do
// nothing: its opcodes are scanned against bounds (scan.go), its classes are
// an allow-list (classes.go), and what comes out is a list of tensors, each a
// strided view of bytes in the file, and plain data. Tensor data is read with
// ReadAt in pieces and never as a whole.
//
// Nested checkpoints are flattened: the tensor "wq" in the dict "model" is
// "model/wq". Section gives one such dict as a Source of its own. Names and
// rows are the file's: the q and k rows of checkpoints in Meta's layout are in
// interleaved RoPE order, which convert permutes.
package pytorch

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"slmc/formats"
)

// compiled is what torch.compile puts before every name of a state dict.
const compiled = "_orig_mod."

// File is one opened checkpoint. It implements formats.Source.
type File struct {
	file    *formats.File
	tensors []formats.TensorInfo
	refs    []*tensorRef
	index   map[string]int
	meta    map[string]any
}

// Open reads the structure of the checkpoint at path; the form is told by its
// first bytes. One of several model-parallel files of Meta
// (consolidated.01.pth) is ErrUnsupported: each holds a slice of every tensor.
func Open(path string) (*File, error) {
	if err := checkParallel(path); err != nil {
		return nil, err
	}
	f, err := formats.OpenFile(path)
	if err != nil {
		return nil, err
	}
	t, err := New(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return t, nil
}

// OpenIndex opens every shard of a pytorch_model.bin.index.json. Index and
// shards must name the same tensors.
func OpenIndex(path string) (*formats.Sharded, error) {
	return formats.OpenIndex(path, func(path string) (formats.Source, error) { return Open(path) })
}

func checkParallel(path string) error {
	base := filepath.Base(path)
	m := regexp.MustCompile(`^consolidated\.(\d+)\.pth$`).FindStringSubmatch(base)
	if m == nil {
		return nil
	}
	_, err := os.Stat(filepath.Join(filepath.Dir(path), "consolidated.01.pth"))
	if strings.Trim(m[1], "0") != "" || err == nil {
		return formats.Unsupported(base, "", -1, "one of several model-parallel files, each with a slice of every tensor; merge them first (for example with the Hugging Face conversion script)")
	}
	return nil
}

// New reads the structure of f, which the File then owns.
func New(f *formats.File) (*File, error) {
	v, err := load(f)
	if err != nil {
		return nil, err
	}
	flat, meta, err := flatten(f.Name(), v)
	if err != nil {
		return nil, err
	}
	t := &File{file: f, refs: flat.refs, index: make(map[string]int, len(flat.refs)), meta: meta}
	for i, r := range flat.refs {
		info, err := r.info(f, flat.names[i])
		if err != nil {
			return nil, err
		}
		t.index[info.Name] = i
		t.tensors = append(t.tensors, info)
	}
	return t, nil
}

// load unpickles a checkpoint of any form.
func load(f *formats.File) (any, error) {
	head := make([]byte, min(f.Size(), 512))
	if err := f.ReadFull("", 0, head); err != nil {
		return nil, err
	}
	begins := func(s string) bool { return strings.HasPrefix(string(head), s) }
	switch {
	case begins("PK\x03\x04") || begins("PK\x05\x06"):
		a, err := openArchive(f)
		if err != nil {
			return nil, err
		}
		return a.load()
	case len(head) >= 262 && string(head[257:262]) == "ustar":
		return nil, formats.Unsupported(f.Name(), "", 257, "the tar form of torch before 0.1.10; load and save it with a newer torch")
	case begins("\x80") || begins("L"):
		return loadLegacy(f)
	}
	return nil, formats.Corrupt(f.Name(), "", 0, "begins with %q: neither a torch zip nor a torch pickle", head[:min(len(head), 8)])
}

// info locates a tensor in the file.
func (t *tensorRef) info(f *formats.File, name string) (formats.TensorInfo, error) {
	base := t.storage.place()
	if base < 0 {
		return formats.TensorInfo{}, formats.Corrupt(f.Name(), name, -1, "storage %.40q is not in the file", t.storage.key)
	}
	size := int64(t.elem.size)
	span := int64(1)
	for i, d := range t.shape {
		if d == 0 {
			span = 0
			break
		}
		span += int64(d-1) * int64(t.stride[i])
	}
	info := formats.TensorInfo{Name: name, Shape: t.shape, Type: t.elem.name, File: f.Name(), Offset: base + t.offset*size, Bytes: span * size}
	if span > 0 && (info.Offset < 0 || info.Bytes > f.Size()-info.Offset) {
		return info, formats.Corrupt(f.Name(), name, info.Offset, "spans %d bytes, the file has %d", info.Bytes, f.Size())
	}
	return info, nil
}

// Tensors lists the tensors in the order of the pickle. Offset and Bytes give
// the stretch of the file that a tensor's elements lie in: more than the
// elements if it is a view with gaps.
func (t *File) Tensors() []formats.TensorInfo { return t.tensors }

// Meta returns what the checkpoint holds beside tensors: nil, bool, int,
// float64, string, []byte, []any for lists and tuples, map[string]any for
// dicts and argparse.Namespace; a number over 64 bits and a torch.dtype are
// strings. Tensors, and dicts and lists of nothing but tensors, are left out.
// It must not be changed.
func (t *File) Meta() map[string]any { return t.meta }

// Close closes the file.
func (t *File) Close() error { return t.file.Close() }

// Sections lists the keys of the top dict that hold tensors, in the order of
// the pickle; "" comes first if the top dict holds tensors itself.
func (t *File) Sections() []string {
	var out []string
	for _, info := range t.tensors {
		key, _, nested := strings.Cut(info.Name, separator)
		if !nested {
			key = ""
		}
		if !slices.Contains(out, key) {
			out = append(out, key)
		}
	}
	slices.SortStableFunc(out, func(a, b string) int { return min(len(a), 1) - min(len(b), 1) })
	return out
}

// Section is the part of a checkpoint under one key, for example "model" of
// llama2.c's ckpt.pt. It implements formats.Source; closing it closes the File.
type Section struct {
	file    *File
	tensors []formats.TensorInfo
	names   map[string]string // name here to name in the file
}

// Section returns the tensors under a key of the top dict, or with key "" the
// tensors of the top dict itself, under names relative to it and without the
// "_orig_mod." of torch.compile. A key without tensors is ErrCorrupt.
func (t *File) Section(key string) (*Section, error) {
	s := &Section{file: t, names: map[string]string{}}
	for _, info := range t.tensors {
		full := info.Name
		if key != "" {
			var ok bool
			if info.Name, ok = strings.CutPrefix(full, key+separator); !ok {
				continue
			}
		} else if strings.Contains(full, separator) {
			continue
		}
		info.Name = strings.TrimPrefix(info.Name, compiled)
		if other, twice := s.names[info.Name]; twice {
			return nil, formats.Corrupt(t.file.Name(), full, -1, "the same name as %q without %q", other, compiled)
		}
		s.names[info.Name] = full
		s.tensors = append(s.tensors, info)
	}
	if len(s.tensors) == 0 {
		return nil, formats.Corrupt(t.file.Name(), "", -1, "no tensors under key %q; the checkpoint has tensors under %q", key, t.Sections())
	}
	return s, nil
}

// Tensors lists the tensors of the section in the order of the pickle.
func (s *Section) Tensors() []formats.TensorInfo { return s.tensors }

// ReadF32 implements formats.Source.
func (s *Section) ReadF32(name string, off int, dst []float32) error {
	full, ok := s.names[name]
	if !ok {
		return formats.Corrupt(s.file.file.Name(), name, -1, "no such tensor")
	}
	return s.file.ReadF32(full, off, dst)
}

// Close closes the file.
func (s *Section) Close() error { return s.file.Close() }

// ReadF32 implements formats.Source. A contiguous tensor is one read after the
// other; of a view each run of equally spaced elements is read at once. A
// transposed matrix is therefore fast in pieces of many rows and slow row by
// row.
func (t *File) ReadF32(name string, off int, dst []float32) error {
	i, ok := t.index[name]
	if !ok {
		return formats.Corrupt(t.file.Name(), name, -1, "no such tensor")
	}
	info, ref := &t.tensors[i], t.refs[i]
	d, ok := ref.elem.float()
	if !ok {
		return formats.Unsupported(t.file.Name(), name, info.Offset, "elements of type %s cannot be read as floats", info.Type)
	}
	elems := 1
	for _, d := range info.Shape {
		elems *= d
	}
	if err := formats.CheckRange(t.file.Name(), name, off, len(dst), elems); err != nil || len(dst) == 0 {
		return err
	}
	r := &viewReader{file: t.file, name: name, base: info.Offset, elem: d}
	return r.read(view(ref.shape, ref.stride), 0, off, dst)
}
