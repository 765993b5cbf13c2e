// Parsing of the header, the metadata and the tensor table. Every count and
// length is checked against the bytes that remain before anything is
// allocated for it.

package gguf

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"slices"

	"slmc/formats"
	"slmc/tensor"
)

// Bounds that real files keep by a wide margin. They hold the memory of a
// hostile file to a small multiple of maxHeader: the metadata of a vocabulary
// of 262,144 tokens takes 8 MiB, the largest known model has 50,000 tensors.
const (
	maxHeader  = 48 << 20 // bytes before the data
	maxKVs     = 1 << 16
	maxTensors = 1 << 17
	maxName    = 1<<16 - 1 // bytes of a key or a name; the specification's bound for keys
	maxArrays  = 1 << 16   // arrays inside arrays, whole file
	maxDepth   = 4         // arrays inside each other
	maxAlign   = 1 << 20
)

const defaultAlignment = 32

// cursor reads forward through the header and keeps the first error; after
// it, everything read is zero.
type cursor struct {
	file   string
	r      *bufio.Reader
	off    int64 // of the next byte
	end    int64 // of the file, or of maxHeader
	size   int64 // of the file
	arrays int   // arrays inside arrays, so far
	err    error
	zero   []byte
}

// takeMax is the most bytes that one take can give.
const takeMax = 1 << 15

func newCursor(f *formats.File) *cursor {
	size := f.Size()
	return &cursor{
		file: f.Name(), size: size, end: min(size, maxHeader),
		r: bufio.NewReaderSize(f.Section(0, size), takeMax),
	}
}

// fail records a corruption at the current offset.
func (c *cursor) fail(format string, args ...any) {
	if c.err == nil {
		c.err = formats.Corrupt(c.file, "", c.off, format, args...)
	}
}

// need reports whether n items of at least each bytes remain; else it fails,
// naming what.
func (c *cursor) need(n uint64, each int, what string) bool {
	if c.err != nil {
		return false
	}
	if left := c.end - c.off; n > uint64(left)/uint64(each) {
		switch {
		case c.size > maxHeader && n <= uint64(c.size-c.off)/uint64(each):
			c.err = formats.Unsupported(c.file, "", c.off, "%s needs %d items of %d bytes or more, metadata and table are limited to %d MiB", what, n, each, maxHeader>>20)
		default:
			c.fail("%s needs %d items of %d bytes or more, %d bytes remain", what, n, each, left)
		}
		return false
	}
	return true
}

// take returns the next n bytes, n at most takeMax, valid until the next call.
func (c *cursor) take(n int) []byte {
	if c.need(uint64(n), 1, "a field") {
		raw, err := c.r.Peek(n)
		if err == nil {
			c.r.Discard(n)
			c.off += int64(n)
			return raw
		}
		c.readError(err)
	}
	if c.zero == nil {
		c.zero = make([]byte, takeMax)
	}
	return c.zero[:n]
}

func (c *cursor) readError(err error) {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		c.fail("the file ends here, it had %d bytes when it was opened", c.size)
		return
	}
	c.err = fmt.Errorf("%s at byte %d: %w", c.file, c.off, err)
}

func (c *cursor) uint32() uint32 { return le.Uint32(c.take(4)) }
func (c *cursor) uint64() uint64 { return le.Uint64(c.take(8)) }

func (c *cursor) text() string {
	n := c.uint64()
	if !c.need(n, 1, "a string") {
		return ""
	}
	if n <= takeMax {
		return string(c.take(int(n)))
	}
	raw := make([]byte, n)
	if _, err := io.ReadFull(c.r, raw); err != nil {
		c.readError(err)
		return ""
	}
	c.off += int64(n)
	return string(raw)
}

// name reads a key or a tensor name.
func (c *cursor) name(what string) string {
	at := c.off
	s := c.text()
	if c.err == nil && (s == "" || len(s) > maxName) {
		c.err = formats.Corrupt(c.file, "", at, "a %s has %d bytes, wanted 1 to %d", what, len(s), maxName)
	}
	return s
}

// value reads a value of type id; depth counts the arrays around it.
func (c *cursor) value(id uint32, depth int) any {
	if id == idArray {
		return c.array(depth)
	}
	if t := c.valueType(id); t != nil {
		return t.read(c)
	}
	return nil
}

func (c *cursor) valueType(id uint32) *valueType {
	for i := range valueTypes {
		if valueTypes[i].id == id {
			return &valueTypes[i]
		}
	}
	c.fail("value type %d, wanted 0 to 12", id)
	return nil
}

func (c *cursor) array(depth int) any {
	id, n := c.uint32(), c.uint64()
	if id != idArray {
		t := c.valueType(id)
		if t == nil || !c.need(n, t.bytes, "an array of "+t.name) {
			return nil
		}
		return t.readAll(c, int(n))
	}
	if depth+1 >= maxDepth {
		c.fail("arrays nested over %d deep", maxDepth)
		return nil
	}
	const leastArray = 4 + 8
	if !c.need(n, leastArray, "an array of arrays") {
		return nil
	}
	if n > uint64(maxArrays-c.arrays) {
		c.fail("over %d arrays inside arrays", maxArrays)
		return nil
	}
	c.arrays += int(n)
	out := make([]any, n)
	for i := range out {
		if c.err != nil {
			return nil
		}
		out[i] = c.array(depth + 1)
	}
	return out
}

// parse reads everything before the data.
func (f *File) parse() error {
	c := newCursor(f.data)
	tensors, kvs := f.header(c)
	f.readMetadata(c, kvs)
	if c.err != nil {
		return c.err
	}
	align, err := f.alignment()
	if err != nil {
		return err
	}
	f.readTable(c, tensors)
	if c.err != nil {
		return c.err
	}
	f.dataFrom = alignUp(c.off, align)
	if err := f.place(align); err != nil {
		return err
	}
	return f.checkOverlap()
}

// header reads magic, version and counts.
func (f *File) header(c *cursor) (tensors, kvs int) {
	if magic := string(c.take(4)); c.err == nil && magic != "GGUF" {
		c.err = formats.Unsupported(f.name, "", 0, "magic is %q, not GGUF", magic)
		return 0, 0
	}
	f.version = c.uint32()
	switch v := f.version; {
	case c.err != nil:
	case v == 2 || v == 3:
	case v == 1:
		c.err = formats.Unsupported(f.name, "", 4, "GGUF version 1, whose counts are 32 bits wide; versions 2 and 3 are read")
	case v != 0 && v&0xffff == 0:
		c.err = formats.Unsupported(f.name, "", 4, "big-endian GGUF; little-endian files are read")
	case v > 3:
		c.err = &formats.Error{File: f.name, Offset: 4, Kind: formats.ErrVersion, Msg: fmt.Sprintf("GGUF version %d, versions 2 and 3 are read", v)}
	default:
		c.fail("GGUF version 0")
	}
	const leastTensor, leastKV = 8 + 1 + 4 + 4 + 8, 8 + 1 + 4 + 1
	nt := c.uint64()
	c.need(nt, leastTensor, "the tensor table")
	nkv := c.uint64()
	c.need(nkv, leastKV, "the metadata")
	if c.err == nil && (nt > maxTensors || nkv > maxKVs) {
		c.err = formats.Unsupported(f.name, "", 8, "%d tensors and %d metadata entries, at most %d and %d are read", nt, nkv, maxTensors, maxKVs)
	}
	return int(nt), int(nkv)
}

func (f *File) readMetadata(c *cursor, n int) {
	f.Metadata = Metadata{file: f.name}
	if c.err != nil {
		return
	}
	f.kvs = make([]KV, 0, n)
	f.index = make(map[string]int, n)
	for range n {
		at := c.off
		key := c.name("metadata key")
		v := c.value(c.uint32(), 0)
		if c.err != nil {
			return
		}
		if _, dup := f.index[key]; dup {
			c.err = formats.Corrupt(f.name, "", at, "metadata key %q occurs twice", key)
			return
		}
		f.index[key] = len(f.kvs)
		f.kvs = append(f.kvs, KV{key, v})
	}
}

func (f *File) alignment() (int64, error) {
	const key = "general.alignment"
	n, err := get[uint32](&f.Metadata, key, "uint32")
	if errors.Is(err, ErrMissing) {
		return defaultAlignment, nil
	}
	if err != nil {
		return 0, err
	}
	if n == 0 || n > maxAlign || n&(n-1) != 0 {
		return 0, formats.Corrupt(f.name, "", -1, "%s is %d, wanted a power of two up to %d", key, n, maxAlign)
	}
	return int64(n), nil
}

func alignUp(n, align int64) int64 { return (n + align - 1) &^ (align - 1) }

// readTable reads the tensor table; Offset is still relative to the data.
func (f *File) readTable(c *cursor, n int) {
	f.tensors = make([]formats.TensorInfo, 0, n)
	f.byName = make(map[string]*entry, n)
	for range n {
		at := c.off
		name := c.name("tensor name")
		info, e := f.readTensor(c, name)
		if c.err != nil {
			return
		}
		if f.byName[name] != nil {
			c.err = formats.Corrupt(f.name, name, at, "the name occurs twice")
			return
		}
		f.tensors = append(f.tensors, info)
		e.info = &f.tensors[len(f.tensors)-1]
		f.byName[name] = e
	}
}

func (f *File) readTensor(c *cursor, name string) (formats.TensorInfo, *entry) {
	bad := func(format string, args ...any) (formats.TensorInfo, *entry) {
		if c.err == nil {
			c.err = formats.Corrupt(f.name, name, c.off, format, args...)
		}
		return formats.TensorInfo{}, nil
	}
	dims := c.uint32()
	if dims > 4 {
		return bad("%d dimensions, wanted at most 4", dims)
	}
	shape := make([]int, dims)
	for i := range shape {
		d := c.uint64()
		if d > 1<<48 {
			return bad("dimension %d is %d", i, d)
		}
		shape[len(shape)-1-i] = int(d)
	}
	elems, err := tensor.Elems(shape)
	if err != nil {
		return bad("%v", err)
	}
	id := c.uint32()
	off := c.uint64()
	if c.err != nil {
		return bad("")
	}
	t := typeByID(id)
	if t == nil {
		c.err = formats.Unsupported(f.name, name, c.off, "tensor type %d is unknown", id)
		return bad("")
	}
	if cols := rowLen(shape); cols%t.elems != 0 {
		return bad("rows of %d elements, %s has blocks of %d", cols, t.name, t.elems)
	}
	bytes := int64(elems/t.elems) * int64(t.bytes)
	if off > uint64(f.data.Size()) || bytes > f.data.Size()-int64(off) {
		return bad("%d bytes of data at offset %d, the file has %d", bytes, off, f.data.Size())
	}
	e := &entry{typ: t, elems: elems}
	if t.decode == nil {
		e.err = formats.Unsupported(f.name, name, -1, "type %s can't be read; %s can", t.name, readableTypes())
	}
	return formats.TensorInfo{Name: name, Shape: shape, Type: t.name, File: f.name, Offset: int64(off), Bytes: bytes}, e
}

// place turns offsets within the data into offsets within the file.
func (f *File) place(align int64) error {
	for i := range f.tensors {
		t := &f.tensors[i]
		if t.Offset%align != 0 {
			return formats.Corrupt(f.name, t.Name, f.dataFrom+t.Offset, "data is not aligned to %d bytes", align)
		}
		t.Offset += f.dataFrom
		if t.Offset > f.data.Size() || t.Bytes > f.data.Size()-t.Offset {
			return formats.Corrupt(f.name, t.Name, t.Offset, "shape %v of %s needs %d bytes, the file has %d left", t.Shape, t.Type, t.Bytes, max(0, f.data.Size()-t.Offset))
		}
	}
	return nil
}

func (f *File) checkOverlap() error {
	order := make([]*formats.TensorInfo, 0, len(f.tensors))
	for i := range f.tensors {
		if f.tensors[i].Bytes > 0 {
			order = append(order, &f.tensors[i])
		}
	}
	slices.SortFunc(order, func(a, b *formats.TensorInfo) int {
		switch {
		case a.Offset < b.Offset:
			return -1
		case a.Offset > b.Offset:
			return 1
		}
		return 0
	})
	for i := 1; i < len(order); i++ {
		a, b := order[i-1], order[i]
		if a.Offset+a.Bytes > b.Offset {
			return formats.Corrupt(f.name, b.Name, b.Offset, "data overlaps that of %q, which ends at byte %d", a.Name, a.Offset+a.Bytes)
		}
	}
	return nil
}
