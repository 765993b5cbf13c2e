package safetensors

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"

	"slmc/formats"
	"slmc/tensor"
)

// Tensor is one tensor to write.
type Tensor struct {
	Name string
	Type tensor.DType
	// Integer is the type of elements that are no floats, such as "I32", "U32"
	// or "I64"; "" for Type.
	Integer string
	Shape   []int
	// Data writes exactly the little-endian elements, row-major. It is called
	// once, after the header and all tensors before this one were written.
	Data func(w io.Writer) error
}

// Write writes a safetensors file: the header first, then each tensor as its
// Data produces it, so that memory is what Data needs. The same input gives
// the same bytes: as in the reference library tensors go by falling element
// size (I64, F64, F32, U32, I32, BF16, F16) and then by name, and the header is padded with
// spaces so that data begins at a multiple of 8. metadata may be nil; its keys
// are sorted.
func Write(w io.Writer, metadata map[string]string, tensors ...Tensor) error {
	tensors = slices.Clone(tensors)
	slices.SortFunc(tensors, func(a, b Tensor) int {
		if a.dtype() != b.dtype() {
			return slices.Index(ranks[:], b.dtype()) - slices.Index(ranks[:], a.dtype())
		}
		return strings.Compare(a.Name, b.Name)
	})
	header, sizes, err := header(metadata, tensors)
	if err != nil {
		return err
	}
	head := append(binary.LittleEndian.AppendUint64(nil, uint64(len(header))), header...)
	if _, err := w.Write(head); err != nil {
		return fmt.Errorf("safetensors: write header: %w", err)
	}
	for i, t := range tensors {
		c := &counter{w: w, left: sizes[i]}
		if err := t.Data(c); err != nil {
			return fmt.Errorf("safetensors: write tensor %q: %w", t.Name, err)
		}
		if c.left != 0 {
			return fmt.Errorf("safetensors: write tensor %q: %d bytes too few of %d", t.Name, c.left, sizes[i])
		}
	}
	return nil
}

// ranks are the types in the order of the reference library's enum.
var ranks = [...]string{"BOOL", "U8", "I8", "I16", "U16", "F16", "BF16", "I32", "U32", "F32", "F64", "I64", "U64"}

func (t *Tensor) dtype() string {
	if t.Integer != "" {
		return t.Integer
	}
	return t.Type.String()
}

// Bytes is the size of the tensor's data; that of a shape with no size is 0.
func (t *Tensor) Bytes() int64 {
	elems, err := tensor.Elems(t.Shape)
	if err != nil {
		return 0
	}
	return int64(elems) * int64(dtypeBits[t.dtype()]/8)
}

// header returns the padded JSON header and the byte size of each tensor.
func header(metadata map[string]string, tensors []Tensor) ([]byte, []int64, error) {
	b := []byte{'{'}
	if len(metadata) > 0 {
		b = append(b, `"__metadata__":{`...)
		keys := make([]string, 0, len(metadata))
		for k := range metadata {
			keys = append(keys, k)
		}
		slices.Sort(keys)
		for i, k := range keys {
			b = comma(b, i)
			b = append(append(quote(b, k), ':'), quote(nil, metadata[k])...)
		}
		b = append(b, "},"...)
	}
	sizes := make([]int64, len(tensors))
	seen := map[string]bool{"__metadata__": true}
	var off int64
	for i, t := range tensors {
		if _, err := tensor.Elems(t.Shape); err != nil {
			return nil, nil, fmt.Errorf("safetensors: write tensor %q: %w", t.Name, err)
		}
		if !slices.Contains(ranks[:], t.dtype()) {
			return nil, nil, fmt.Errorf("safetensors: write tensor %q: type %q", t.Name, t.dtype())
		}
		if seen[t.Name] {
			return nil, nil, fmt.Errorf("safetensors: write tensor %q: the name is taken", t.Name)
		}
		seen[t.Name] = true
		sizes[i] = t.Bytes()
		if sizes[i] > math.MaxInt64-off {
			return nil, nil, fmt.Errorf("safetensors: write tensor %q: the file would pass 2^63 bytes", t.Name)
		}
		b = comma(b, i)
		b = fmt.Appendf(quote(b, t.Name), `:{"dtype":"%s","shape":[`, t.dtype())
		for k, d := range t.Shape {
			b = fmt.Append(comma(b, k), d)
		}
		b = fmt.Appendf(b, `],"data_offsets":[%d,%d]}`, off, off+sizes[i])
		off += sizes[i]
	}
	if len(tensors) == 0 && len(metadata) > 0 {
		b = b[:len(b)-1] // the comma after the metadata
	}
	b = append(b, '}')
	for len(b)%8 != 0 {
		b = append(b, ' ')
	}
	if len(b) > maxHeader {
		return nil, nil, formats.Unsupported("safetensors", "", -1, "header of %d bytes, readers take at most %d", len(b), maxHeader)
	}
	return b, sizes, nil
}

func comma(b []byte, i int) []byte {
	if i > 0 {
		b = append(b, ',')
	}
	return b
}

// quote appends s as a JSON string, with < > & left as they are.
func quote(b []byte, s string) []byte {
	var out strings.Builder
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		panic("safetensors.quote: " + err.Error()) // a string always encodes
	}
	return append(b, strings.TrimSuffix(out.String(), "\n")...)
}

// counter refuses bytes beyond what the header announced.
type counter struct {
	w    io.Writer
	left int64
}

func (c *counter) Write(p []byte) (int, error) {
	if int64(len(p)) > c.left {
		return 0, fmt.Errorf("%d bytes more than the shape asks for", int64(len(p))-c.left)
	}
	n, err := c.w.Write(p)
	c.left -= int64(n)
	return n, err
}
