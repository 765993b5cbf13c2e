package deferral

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"

	"slmc/formats"
	"slmc/tensor"
)

// The router section of a bundle, numbers little-endian; docs/bundle.md has it
// to the byte:
//
//	  0   8  magic "SLMR" 0d 0a 1a 0a
//	  8   4  version, 1
//	 12   4  length J of the description
//	 16  32  root digest of the weights section that the router was trained on
//	 48   J  description, JSON as Encode writes it, a spec
//	48+J     zeros to a multiple of 4, then the arrays in the order in which
//	         Encode writes them, each padded to a multiple of 4
const (
	magic      = "SLMR\r\n\x1a\n"
	version    = 1
	headerSize = 48
	// MaxSection bounds what is decoded.
	MaxSection = 4 << 20
)

// spec is the description.
type spec struct {
	Shape      Shape        `json:"shape"`
	Opinion    *opinionSpec `json:"opinion"`
	Strange    Strange      `json:"strange"`
	Heads      []headSpec   `json:"heads"`
	Table      Table        `json:"table"`
	References []Reference  `json:"references"`
}

type opinionSpec struct {
	Unigrams int       `json:"unigrams"`
	Bigrams  int       `json:"bigrams"`
	Dim      int       `json:"dim"`
	Classes  [][]int32 `json:"classes"`
}

type headSpec struct {
	Checkpoint Checkpoint `json:"checkpoint"`
	// Inputs lists runs of features: first, count, first, count.
	Inputs []int32 `json:"inputs"`
	Hidden int     `json:"hidden"`
	Wrong  Curve   `json:"wrong"`
	Gain   Curve   `json:"gain"`
}

// Encode returns the section's bytes. Matrices are stored as float16: New and
// the trainer round them before they are used, so nothing is lost.
func (r *Router) Encode() ([]byte, error) {
	s := spec{Shape: r.shape, Strange: r.strange, Heads: []headSpec{}, Table: r.table, References: r.refs}
	if o := r.opinion; o != nil {
		s.Opinion = &opinionSpec{o.Unigrams, o.Bigrams, o.Dim, o.Classes}
	}
	for _, h := range r.heads {
		s.Heads = append(s.Heads, headSpec{h.Checkpoint, runs(h.Inputs), h.Hidden, h.Wrong, h.Gain})
	}
	text, err := json.Marshal(s)
	if err != nil {
		return nil, fmt.Errorf("router: %w", err)
	}
	out := append([]byte(magic), 0, 0, 0, 0, 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(out[8:], version)
	binary.LittleEndian.PutUint32(out[12:], uint32(len(text)))
	out = append(append(out, r.weights[:]...), text...)
	out = pad4(out)
	for _, a := range r.arrays() {
		if a.half {
			for _, x := range *a.x {
				out = binary.LittleEndian.AppendUint16(out, uint16(tensor.HalfFrom(x)))
			}
		} else {
			for _, x := range *a.x {
				out = binary.LittleEndian.AppendUint32(out, math.Float32bits(x))
			}
		}
		out = pad4(out)
	}
	if len(out) > MaxSection {
		return nil, fmt.Errorf("router: section of %d bytes, at most %d are allowed", len(out), MaxSection)
	}
	return out, nil
}

func pad4(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

// array is one of a section's arrays: float16 or float32.
type array struct {
	x    *[]float32
	n    int
	half bool
	name string
}

// arrays lists the arrays in their order, with the lengths that they must have.
func (r *Router) arrays() (out []array) {
	if o := r.opinion; o != nil {
		out = append(out,
			array{&o.Table, (o.Unigrams + o.Bigrams) * o.Dim, true, "opinion table"},
			array{&o.Out, len(o.Classes) * o.Dim, true, "opinion output"},
			array{&o.Bias, len(o.Classes), false, "opinion bias"})
	}
	for i := range r.heads {
		h := &r.heads[i]
		n, width := len(h.Inputs), h.Hidden
		if h.Hidden == 0 {
			width = n
		}
		name := func(part string) string { return fmt.Sprintf("head %q %s", h.Checkpoint, part) }
		out = append(out,
			array{&h.Mean, n, false, name("mean")}, array{&h.Inv, n, false, name("deviation")},
			array{&h.W1, h.Hidden * n, true, name("hidden layer")}, array{&h.B1, h.Hidden, false, name("hidden bias")},
			array{&h.W2, Outputs * width, true, name("output")}, array{&h.B2, Outputs, false, name("output bias")})
	}
	return out
}

// Round rounds the stored matrices of parts to what a section holds.
func (p *Parts) Round() {
	r := Router{opinion: p.Opinion, heads: p.Heads}
	for _, a := range r.arrays() {
		if a.half {
			for i, x := range *a.x {
				(*a.x)[i] = tensor.HalfFrom(x).Float32()
			}
		}
	}
}

// Decode reads a section. Errors are of kind formats.ErrCorrupt, or
// formats.ErrVersion for a section of a newer slmc; they carry no file name,
// and the offset within the section.
func Decode(b []byte) (*Router, error) {
	if len(b) > MaxSection {
		return nil, corrupt(0, "section of %d bytes, at most %d are read", len(b), MaxSection)
	}
	if len(b) < headerSize || string(b[:len(magic)]) != magic {
		return nil, corrupt(0, "magic is %x, wanted %x", b[:min(len(b), len(magic))], magic)
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != version {
		return nil, &formats.Error{Offset: 8, Kind: formats.ErrVersion, Msg: fmt.Sprintf("router section of version %d, this reader knows %d", v, version)}
	}
	n := int64(binary.LittleEndian.Uint32(b[12:]))
	if n > int64(len(b)-headerSize) {
		return nil, corrupt(12, "description of %d bytes, %d remain", n, len(b)-headerSize)
	}
	text := b[headerSize : headerSize+n]
	r, err := decodeSpec(text)
	if err != nil {
		return nil, corrupt(headerSize, "description: %v", err)
	}
	r.weights = [32]byte(b[16:headerSize])
	if err := r.fill(b, headerSize+int(n)); err != nil {
		return nil, err
	}
	p := r.Parts()
	r, err = New(p)
	if err != nil {
		return nil, corrupt(-1, "%v", err)
	}
	if again, err := r.Encode(); err != nil || !bytes.Equal(again, b) {
		return nil, corrupt(-1, "the section is not as this version writes it")
	}
	return r, nil
}

func corrupt(at int64, format string, args ...any) error {
	return formats.Corrupt("", "", at, "router: "+format, args...)
}

// decodeSpec reads the description and checks the sizes that allocate.
func decodeSpec(text []byte) (*Router, error) {
	var s spec
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&s); err != nil {
		return nil, err
	}
	r := &Router{shape: s.Shape, strange: s.Strange, table: s.Table, refs: s.References}
	if err := s.Shape.check(); err != nil {
		return nil, err
	}
	dim := 0
	if o := s.Opinion; o != nil {
		if o.Unigrams < 1 || o.Bigrams < 0 || o.Dim < 1 || max(o.Unigrams, o.Bigrams, o.Dim, len(o.Classes)) > MaxParameters {
			return nil, fmt.Errorf("opinion of %d and %d rows of %d, %d classes: out of range", o.Unigrams, o.Bigrams, o.Dim, len(o.Classes))
		}
		r.opinion, dim = &Opinion{Unigrams: o.Unigrams, Bigrams: o.Bigrams, Dim: o.Dim, Classes: o.Classes}, o.Dim
	}
	for i, h := range s.Heads {
		if _, err := ParseCheckpoint(string(h.Checkpoint)); err != nil {
			return nil, fmt.Errorf("heads[%d]: %w", i, err)
		}
		inputs, err := unrun(h.Inputs, s.Shape.Layout(h.Checkpoint, dim).Size())
		if err != nil {
			return nil, fmt.Errorf("heads[%d]: %w", i, err)
		}
		if h.Hidden < 0 || h.Hidden > MaxParameters {
			return nil, fmt.Errorf("heads[%d]: %d hidden units", i, h.Hidden)
		}
		r.heads = append(r.heads, Head{Checkpoint: h.Checkpoint, Inputs: inputs, Hidden: h.Hidden, Wrong: h.Wrong, Gain: h.Gain})
	}
	return r, nil
}

// fill reads the arrays from byte at on.
func (r *Router) fill(b []byte, at int) error {
	at = (at + 3) &^ 3
	for _, a := range r.arrays() {
		size := 4
		if a.half {
			size = 2
		}
		if at > len(b) || a.n > (len(b)-at)/size {
			return corrupt(int64(min(at, len(b))), "%s: %d numbers of %d bytes, %d bytes remain", a.name, a.n, size, max(0, len(b)-at))
		}
		x := make([]float32, a.n)
		for i := range x {
			if a.half {
				x[i] = tensor.Half(binary.LittleEndian.Uint16(b[at+2*i:])).Float32()
			} else {
				x[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[at+4*i:]))
			}
		}
		*a.x = x
		at = (at + size*a.n + 3) &^ 3
	}
	if at != len(b) {
		return corrupt(int64(min(at, len(b))), "the arrays end at byte %d, the section at %d", at, len(b))
	}
	return nil
}

// runs writes ascending indices as first, count pairs.
func runs(idx []int32) []int32 {
	out := []int32{}
	for i, x := range idx {
		if i > 0 && x == idx[i-1]+1 {
			out[len(out)-1]++
		} else {
			out = append(out, x, 1)
		}
	}
	return out
}

func unrun(r []int32, size int) ([]int32, error) {
	if len(r)%2 != 0 {
		return nil, errors.New("inputs are no pairs")
	}
	out, next := []int32{}, int32(0)
	for i := 0; i < len(r); i += 2 {
		first, n := r[i], r[i+1]
		if first < next || n < 1 || int64(first)+int64(n) > int64(size) {
			return nil, fmt.Errorf("inputs %d to %d of %d features", first, int64(first)+int64(n)-1, size)
		}
		for k := range n {
			out = append(out, first+k)
		}
		next = first + n
	}
	return out, nil
}
