// Package safetensors reads and writes the safetensors format: eight bytes of
// header length, a JSON header that gives type, shape and byte range of every
// tensor, and the bytes.
//
// The rules are those of the reference library (huggingface/safetensors,
// safetensors/src/tensor.rs): the header has at most 100,000,000 bytes, the
// byte ranges in order cover the whole buffer without hole or overlap, and a
// range has exactly the bytes that type and shape ask for. Beyond them we
// refuse duplicate keys, unknown keys in an entry, and nesting, and we read
// with ReadAt instead of mapping (docs/decisions/0004-read-not-map.md).
package safetensors

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sort"

	"slmc/formats"
	"slmc/tensor"
)

const (
	// maxHeader is MAX_HEADER_SIZE of the reference library.
	maxHeader = 100_000_000
	// maxDims bounds the rank of a tensor; torch stops at 64.
	maxDims = 64
	// headerDepth is what a header needs: object, entry, array.
	headerDepth = 3
)

// dtypeBits lists the element types of the format and their size in bits.
var dtypeBits = map[string]int{
	"BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
	"F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
	"I16": 16, "U16": 16, "F16": 16, "BF16": 16,
	"I32": 32, "U32": 32, "F32": 32,
	"I64": 64, "U64": 64, "F64": 64, "C64": 64,
}

// File is one opened safetensors file. It implements formats.Source.
type File struct {
	file    *formats.File
	tensors []formats.TensorInfo
	index   map[string]int
	meta    map[string]string
}

// Open reads and checks the header of the file at path. Tensor data is read
// only by ReadF32.
func Open(path string) (*File, error) {
	f, err := formats.OpenFile(path)
	if err != nil {
		return nil, err
	}
	s, err := New(f)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return s, nil
}

// OpenIndex opens every shard of a model.safetensors.index.json. Index and
// shards must name the same tensors.
func OpenIndex(path string) (*formats.Sharded, error) {
	return formats.OpenIndex(path, func(path string) (formats.Source, error) { return Open(path) })
}

// New reads and checks the header of f, which the File then owns.
func New(f *formats.File) (*File, error) {
	var head [8]byte
	if err := f.ReadFull("", 0, head[:]); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint64(head[:])
	if n > maxHeader {
		return nil, formats.Corrupt(f.Name(), "", 0, "header of %d bytes, at most %d are allowed", n, maxHeader)
	}
	if int64(n) > f.Size()-8 {
		return nil, formats.Corrupt(f.Name(), "", 0, "header of %d bytes, %d bytes follow its length", n, f.Size()-8)
	}
	s := &File{file: f, index: map[string]int{}}
	if err := s.readHeader(int64(n)); err != nil {
		return nil, err
	}
	if err := s.checkLayout(8 + int64(n)); err != nil {
		return nil, err
	}
	return s, nil
}

func (s *File) readHeader(n int64) error {
	var first [1]byte
	if n == 0 {
		return formats.Corrupt(s.file.Name(), "", 8, "empty header")
	}
	if err := s.file.ReadFull("", 8, first[:]); err != nil {
		return err
	}
	if first[0] != '{' {
		return formats.Corrupt(s.file.Name(), "", 8, "header starts with byte %#02x, wanted '{'", first[0])
	}
	j := formats.NewJSON(s.file.Section(8, n), headerDepth)
	var at string
	err := j.Object(func(key string) error {
		if at = key; key == "__metadata__" {
			at = ""
			return s.readMetadata(j)
		}
		t, err := readEntry(j)
		t.Name, t.File = key, s.file.Name()
		s.tensors = append(s.tensors, t)
		return err
	})
	if err == nil {
		at = ""
		err = j.End()
	}
	if err != nil {
		return &formats.Error{File: s.file.Name(), Tensor: at, Offset: 8 + j.Offset(), Kind: formats.ErrCorrupt, Msg: "header", Err: err}
	}
	return nil
}

func (s *File) readMetadata(j *formats.JSON) error {
	s.meta = map[string]string{}
	return j.Object(func(key string) error {
		v, err := j.Text()
		s.meta[key] = v
		return err
	})
}

// readEntry reads {"dtype":..., "shape":[...], "data_offsets":[begin,end]};
// the offsets are relative to the end of the header.
func readEntry(j *formats.JSON) (t formats.TensorInfo, err error) {
	var fields int
	err = j.Object(func(key string) error {
		fields++
		switch key {
		case "dtype":
			t.Type, err = j.Text()
			return err
		case "shape":
			dims, err := j.Ints(maxDims)
			t.Shape = make([]int, len(dims))
			for i, d := range dims {
				t.Shape[i] = int(d)
			}
			return err
		case "data_offsets":
			o, err := j.Ints(2)
			if err == nil && (len(o) != 2 || o[0] < 0 || o[1] < o[0]) {
				err = fmt.Errorf("data_offsets %v, wanted [begin, end] with 0 <= begin <= end", o)
			}
			if err == nil {
				t.Offset, t.Bytes = o[0], o[1]-o[0]
			}
			return err
		}
		return fmt.Errorf("unknown key %q", key)
	})
	if err == nil && fields != 3 {
		err = fmt.Errorf("%d of the keys dtype, shape and data_offsets, wanted all three", fields)
	}
	return t, err
}

// checkLayout turns offsets into absolute ones and checks types, sizes, holes,
// overlaps and the end of the buffer, which begins at byte data of the file.
func (s *File) checkLayout(data int64) error {
	name := s.file.Name()
	sort.Slice(s.tensors, func(i, k int) bool {
		a, b := &s.tensors[i], &s.tensors[k]
		if a.Offset != b.Offset {
			return a.Offset < b.Offset
		}
		if a.Bytes != b.Bytes {
			return a.Bytes < b.Bytes
		}
		return a.Name < b.Name
	})
	var end int64
	for i := range s.tensors {
		t := &s.tensors[i]
		bits, ok := dtypeBits[t.Type]
		if !ok {
			return formats.Unsupported(name, t.Name, -1, "unknown dtype %.40q", t.Type)
		}
		elems, err := tensor.Elems(t.Shape)
		if err != nil {
			return formats.Corrupt(name, t.Name, data+t.Offset, "%v", err)
		}
		if elems*bits%8 != 0 || int64(elems*bits/8) != t.Bytes {
			return formats.Corrupt(name, t.Name, data+t.Offset, "shape %v of %s needs %d bits, data_offsets span %d bytes", t.Shape, t.Type, elems*bits, t.Bytes)
		}
		if t.Offset != end {
			return formats.Corrupt(name, t.Name, data+t.Offset, "data begins at offset %d, the tensor before it ends at %d: overlap or hole", t.Offset, end)
		}
		if t.Bytes > s.file.Size()-data-end {
			return formats.Corrupt(name, t.Name, data+t.Offset, "needs %d bytes, %d remain in the file", t.Bytes, s.file.Size()-data-end)
		}
		end += t.Bytes
		t.Offset += data
		s.index[t.Name] = i
	}
	if rest := s.file.Size() - data - end; rest != 0 {
		return formats.Corrupt(name, "", data+end, "%d bytes after the last tensor belong to none", rest)
	}
	return nil
}

// Metadata returns the __metadata__ of the header, nil if there is none. It
// must not be changed.
func (s *File) Metadata() map[string]string { return s.meta }

// Tensors lists the tensors in the order of their data.
func (s *File) Tensors() []formats.TensorInfo { return s.tensors }

// ReadF32 implements formats.Source. Tensors of a type that is no plain float
// are listed but not read: ErrUnsupported.
func (s *File) ReadF32(name string, off int, dst []float32) error {
	i, ok := s.index[name]
	if !ok {
		return formats.Corrupt(s.file.Name(), name, -1, "no such tensor")
	}
	t := &s.tensors[i]
	d, ok := formats.FloatType(t.Type)
	if !ok {
		return formats.Unsupported(s.file.Name(), name, t.Offset, "elements of type %s cannot be read as floats", t.Type)
	}
	if err := formats.CheckRange(s.file.Name(), name, off, len(dst), int(t.Bytes)/d.Size()); err != nil {
		return err
	}
	return s.file.ReadFloats(name, t.Offset+int64(off)*int64(d.Size()), d, dst)
}

// ReadRaw fills dst with the bytes of a tensor from byte off of its data on,
// whatever its type.
func (s *File) ReadRaw(name string, off int64, dst []byte) error {
	i, ok := s.index[name]
	if !ok {
		return formats.Corrupt(s.file.Name(), name, -1, "no such tensor")
	}
	t := &s.tensors[i]
	if off < 0 || off > t.Bytes || int64(len(dst)) > t.Bytes-off {
		return formats.Corrupt(s.file.Name(), name, t.Offset, "%d bytes from byte %d on asked for, the tensor has %d", len(dst), off, t.Bytes)
	}
	return s.file.ReadFull(name, t.Offset+off, dst)
}

// Close closes the file.
func (s *File) Close() error { return s.file.Close() }
