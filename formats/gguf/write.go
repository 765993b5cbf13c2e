// Writing: metadata and tensor table first, then the data of each tensor as it
// is asked for, so that no tensor is ever held whole. The same input gives the
// same bytes.

package gguf

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"slmc/tensor"
)

// Tensor is one tensor to be written. Its data comes from Read, as floats that
// are encoded to Type, or from Raw, as bytes that are already encoded.
type Tensor struct {
	Name  string
	Shape []int // row-major, outermost first; rows are whole blocks of Type
	Type  Type
	// Heads > 0 interleaves the rows that Read gives in half-split order, in
	// that many heads: the q and k weights and biases of the llama
	// architecture (see Interleaved).
	Heads int
	// Read fills dst with the elements [off, off+len(dst)) in row-major order.
	Read func(off int, dst []float32) error
	// Raw fills dst with the encoded bytes [off, off+len(dst)), rows in the
	// order of the file.
	Raw func(off int64, dst []byte) error
}

// maxTensorName is what llama.cpp can hold of a name, with its final zero.
const maxTensorName = 64

// layout is a tensor's place in the data section.
type layout struct {
	typ    *blockType
	elems  int
	offset int64
	bytes  int64
}

// Write writes a GGUF file of version 3. Tensors follow each other in the
// given order, each aligned to general.alignment (32 where kvs does not have
// it), as llama.cpp requires. Values that a tensor's type can't represent are
// an error that names the tensor and element.
func Write(ctx context.Context, w io.Writer, kvs []KV, tensors []Tensor) error {
	head, places, align, err := plan(kvs, tensors)
	if err != nil {
		return err
	}
	out := bufio.NewWriterSize(w, pieceBytes)
	if _, err := out.Write(head); err != nil {
		return err
	}
	pad := make([]byte, align)
	if _, err := out.Write(pad[:alignUp(int64(len(head)), align)-int64(len(head))]); err != nil {
		return err
	}
	for i := range tensors {
		p := places[i]
		if err := writeTensor(ctx, out, &tensors[i], p); err != nil {
			return fmt.Errorf("tensor %q: %w", tensors[i].Name, err)
		}
		if _, err := out.Write(pad[:alignUp(p.bytes, align)-p.bytes]); err != nil {
			return err
		}
	}
	return out.Flush()
}

// Size returns the length of the file that Write would write.
func Size(kvs []KV, tensors []Tensor) (int64, error) {
	head, places, align, err := plan(kvs, tensors)
	if err != nil {
		return 0, err
	}
	n := alignUp(int64(len(head)), align)
	if len(places) > 0 {
		last := places[len(places)-1]
		n += last.offset + alignUp(last.bytes, align)
	}
	return n, nil
}

// plan checks everything and returns the bytes before the data, the place of
// each tensor and the alignment.
func plan(kvs []KV, tensors []Tensor) (head []byte, places []layout, align int64, err error) {
	align = defaultAlignment
	keys := make(map[string]bool, len(kvs))
	head = append(head, "GGUF"...)
	head = le.AppendUint32(head, 3)
	head = le.AppendUint64(head, uint64(len(tensors)))
	head = le.AppendUint64(head, uint64(len(kvs)))
	for _, kv := range kvs {
		if kv.Key == "" || len(kv.Key) > maxName || keys[kv.Key] {
			return nil, nil, 0, fmt.Errorf("gguf: metadata key %q is empty, too long or occurs twice", kv.Key)
		}
		keys[kv.Key] = true
		if kv.Key == "general.alignment" {
			n, ok := kv.Value.(uint32)
			if !ok || n == 0 || n > maxAlign || n&(n-1) != 0 {
				return nil, nil, 0, fmt.Errorf("gguf: general.alignment is %v, wanted a uint32 that is a power of two", kv.Value)
			}
			align = int64(n)
		}
		if head, err = appendValue(appendText(head, kv.Key), kv.Value, 0); err != nil {
			return nil, nil, 0, fmt.Errorf("gguf: metadata key %q: %w", kv.Key, err)
		}
	}
	names := make(map[string]bool, len(tensors))
	places = make([]layout, len(tensors))
	var next int64
	for i := range tensors {
		t := &tensors[i]
		p, err := place(t)
		if err != nil {
			return nil, nil, 0, fmt.Errorf("gguf: tensor %q: %w", t.Name, err)
		}
		if names[t.Name] {
			return nil, nil, 0, fmt.Errorf("gguf: tensor %q occurs twice", t.Name)
		}
		names[t.Name] = true
		p.offset = next
		next += alignUp(p.bytes, align)
		places[i] = p
		head = appendText(head, t.Name)
		head = le.AppendUint32(head, uint32(len(t.Shape)))
		for k := len(t.Shape) - 1; k >= 0; k-- {
			head = le.AppendUint64(head, uint64(t.Shape[k]))
		}
		head = le.AppendUint64(le.AppendUint32(head, uint32(t.Type)), uint64(p.offset))
	}
	return head, places, align, nil
}

func place(t *Tensor) (layout, error) {
	typ := typeByID(uint32(t.Type))
	switch {
	case t.Name == "" || len(t.Name) >= maxTensorName:
		return layout{}, fmt.Errorf("the name has %d bytes, wanted 1 to %d", len(t.Name), maxTensorName-1)
	case typ == nil:
		return layout{}, fmt.Errorf("unknown type %d", t.Type)
	case len(t.Shape) > 4:
		return layout{}, fmt.Errorf("shape %v has over 4 dimensions", t.Shape)
	case (t.Read == nil) == (t.Raw == nil):
		return layout{}, errors.New("wanted one of Read and Raw")
	case t.Read != nil && typ.encode == nil:
		return layout{}, fmt.Errorf("type %s can't be written from floats", typ.name)
	}
	elems, err := tensor.Elems(t.Shape)
	if err != nil {
		return layout{}, err
	}
	if cols := rowLen(t.Shape); cols%typ.elems != 0 {
		return layout{}, fmt.Errorf("rows of %d elements, %s has blocks of %d", cols, typ.name, typ.elems)
	}
	if t.Heads != 0 {
		if len(t.Shape) == 0 || t.Heads < 0 || t.Raw != nil || t.Shape[0]%(2*t.Heads) != 0 {
			return layout{}, fmt.Errorf("shape %v does not split into %d heads of even size", t.Shape, t.Heads)
		}
		if len(t.Shape) == 1 && typ.elems > 1 {
			return layout{}, fmt.Errorf("the rows of a bias can't be interleaved in type %s", typ.name)
		}
	}
	return layout{typ: typ, elems: elems, bytes: int64(elems/typ.elems) * int64(typ.bytes)}, nil
}

func writeTensor(ctx context.Context, w io.Writer, t *Tensor, p layout) error {
	if t.Raw != nil {
		return writeRaw(ctx, w, t, p)
	}
	if t.Heads == 0 || p.elems == 0 {
		return writeRun(ctx, w, t, p.typ, 0, p.elems)
	}
	rows := t.Shape[0]
	cols := p.elems / rows
	for r := range rows {
		if err := writeRun(ctx, w, t, p.typ, HalfSplit(r, rows/t.Heads)*cols, cols); err != nil {
			return err
		}
	}
	return nil
}

// writeRun encodes n elements from off on.
func writeRun(ctx context.Context, w io.Writer, t *Tensor, typ *blockType, off, n int) error {
	most := min(n, pieceBytes/typ.bytes*typ.elems)
	floats := make([]float32, most)
	raw := make([]byte, most/typ.elems*typ.bytes)
	for n > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		k := min(n, most)
		if err := t.Read(off, floats[:k]); err != nil {
			return err
		}
		piece := raw[:k/typ.elems*typ.bytes]
		if i := typ.encode(piece, floats[:k]); i >= 0 {
			return &RangeError{Type: typ.id, Index: off + i, Value: floats[i]}
		}
		if _, err := w.Write(piece); err != nil {
			return err
		}
		off += k
		n -= k
	}
	return nil
}

func writeRaw(ctx context.Context, w io.Writer, t *Tensor, p layout) error {
	buf := make([]byte, min(p.bytes, pieceBytes))
	for off := int64(0); off < p.bytes; {
		if err := ctx.Err(); err != nil {
			return err
		}
		piece := buf[:min(int64(len(buf)), p.bytes-off)]
		if err := t.Raw(off, piece); err != nil {
			return err
		}
		if _, err := w.Write(piece); err != nil {
			return err
		}
		off += int64(len(piece))
	}
	return nil
}
