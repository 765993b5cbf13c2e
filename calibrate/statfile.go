package calibrate

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"math"
	"slices"
	"unicode/utf8"

	"slmc/formats"
	"slmc/model"
)

// Statistics are the inputs of a model's linears on a text, as Observe gives
// them, with the digests of both.
type Statistics struct {
	Model  Digest // ModelDigest
	Text   Digest // Sequences.Digest
	Inputs map[string]*Input
}

// ErrMismatch is returned for statistics of another model or text.
var ErrMismatch = errors.New("statistics of something else")

// Match reports statistics that are not of this model and, unless text is nil,
// this text.
func (s *Statistics) Match(model Digest, text *Digest) error {
	if s.Model != model {
		return fmt.Errorf("%w: observed on model %s, wanted %s", ErrMismatch, s.Model, model)
	}
	if text != nil && s.Text != *text {
		return fmt.Errorf("%w: observed on text %s, wanted %s", ErrMismatch, s.Text, *text)
	}
	return nil
}

// Fit reports statistics that lack an input of g or have it in another width:
// those of a model of another shape.
func (s *Statistics) Fit(g *model.Graph) error {
	for _, w := range g.Weights {
		if w.Input == "" {
			continue
		}
		if in := s.Inputs[w.Input]; in == nil {
			return fmt.Errorf("%w: nothing of %s, the input of %s", ErrMismatch, w.Input, w.Name)
		} else if in.K != w.Shape[1] {
			return fmt.Errorf("%w: %s has %d columns, %s has %d", ErrMismatch, w.Input, in.K, w.Name, w.Shape[1])
		}
	}
	return nil
}

// StatisticsMagic is what a file of statistics starts with.
const StatisticsMagic = "SLMCSTAT"

// The file, little-endian:
//
//	magic    8 bytes "SLMCSTAT"
//	version  uint32, 1
//	inputs   uint32
//	model    32 bytes
//	text     32 bytes
//	then for each input, by ascending label:
//	  label    uint16 length, UTF-8
//	  K        uint32
//	  tokens   uint64
//	  hessian  uint8, 0 or 1
//	  mean, square   K float64 each
//	  max      K float32
//	  H        with hessian: K(K+1)/2 float64, the lower triangle row by row
//	sha256   32 bytes, of all before
const (
	statMagic   = StatisticsMagic
	statVersion = 1
	maxLabel    = 256
	maxColumns  = 1 << 20
)

// Write writes the file form: the same statistics, the same bytes.
func (s *Statistics) Write(w io.Writer) error {
	h := sha256.New()
	b := bufio.NewWriter(io.MultiWriter(w, h))
	head := []byte(statMagic)
	head = binary.LittleEndian.AppendUint32(head, statVersion)
	head = binary.LittleEndian.AppendUint32(head, uint32(len(s.Inputs)))
	head = append(append(head, s.Model[:]...), s.Text[:]...)
	b.Write(head) // a bufio.Writer keeps its error for Flush
	for _, label := range slices.Sorted(maps.Keys(s.Inputs)) {
		s.Inputs[label].write(b, label)
	}
	if err := b.Flush(); err != nil {
		return fmt.Errorf("write statistics: %w", err)
	}
	if _, err := w.Write(h.Sum(nil)); err != nil {
		return fmt.Errorf("write statistics: %w", err)
	}
	return nil
}

func (in *Input) write(b *bufio.Writer, label string) {
	var buf [13]byte
	binary.LittleEndian.PutUint16(buf[:], uint16(len(label)))
	b.Write(buf[:2])
	b.WriteString(label)
	binary.LittleEndian.PutUint32(buf[:], uint32(in.K))
	binary.LittleEndian.PutUint64(buf[4:], uint64(in.Tokens))
	buf[12] = 0
	if in.H != nil {
		buf[12] = 1
	}
	b.Write(buf[:13])
	floats := func(x []float64) {
		for _, v := range x {
			binary.LittleEndian.PutUint64(buf[:], math.Float64bits(v))
			b.Write(buf[:8])
		}
	}
	floats(in.Mean)
	floats(in.Square)
	for _, v := range in.Max {
		binary.LittleEndian.PutUint32(buf[:], math.Float32bits(v))
		b.Write(buf[:4])
	}
	if in.H != nil {
		for i := range in.K {
			floats(in.H[i*in.K : i*in.K+i+1])
		}
	}
}

// ReadStatistics reads a file of size bytes; name is what errors call it.
// Anything that Write would not have written is formats.ErrCorrupt, another
// version formats.ErrVersion. Nothing is allocated beyond twice the size.
func ReadStatistics(name string, r io.Reader, size int64) (*Statistics, error) {
	d := &statReader{name: name, size: size, hash: sha256.New()}
	d.r = bufio.NewReader(io.LimitReader(r, size))
	s := d.statistics()
	if d.err != nil {
		return nil, d.err
	}
	return s, nil
}

// statReader reads values one after the other and keeps the first error.
type statReader struct {
	name     string
	r        *bufio.Reader
	hash     hash.Hash
	at, size int64
	err      error
}

func (d *statReader) corrupt(format string, args ...any) {
	if d.err == nil {
		d.err = formats.Corrupt(d.name, "", d.at, format, args...)
	}
}

// take returns the next n bytes; what is asked for must be there before it is
// allocated.
func (d *statReader) take(n int64, what string) []byte {
	if d.err != nil {
		return nil
	}
	if n > d.size-d.at {
		d.corrupt("%s needs %d bytes, %d are left", what, n, d.size-d.at)
		return nil
	}
	p := make([]byte, n)
	if _, err := io.ReadFull(d.r, p); err != nil {
		d.corrupt("%s: the file ends early: %v", what, err)
		return nil
	}
	d.hash.Write(p)
	d.at += n
	return p
}

func (d *statReader) statistics() *Statistics {
	head := d.take(8+4+4+64, "the header")
	if head == nil {
		return nil
	}
	if string(head[:8]) != statMagic {
		d.at = 0
		d.corrupt("starts with %q, wanted %q", head[:8], statMagic)
		return nil
	}
	if v := binary.LittleEndian.Uint32(head[8:]); v != statVersion {
		d.err = &formats.Error{File: d.name, Offset: 8, Kind: formats.ErrVersion, Msg: fmt.Sprintf("statistics of version %d, wanted %d", v, statVersion)}
		return nil
	}
	s := &Statistics{Inputs: map[string]*Input{}}
	copy(s.Model[:], head[16:])
	copy(s.Text[:], head[48:])
	last := ""
	for range binary.LittleEndian.Uint32(head[12:]) {
		in := d.input()
		if in == nil {
			return nil
		}
		if in.Label <= last {
			d.corrupt("input %q follows %q", in.Label, last)
			return nil
		}
		last = in.Label
		s.Inputs[in.Label] = in
	}
	want := d.hash.Sum(nil)
	if got := d.take(sha256.Size, "the digest"); got != nil && !bytes.Equal(got, want) {
		d.corrupt("the digest is %x, the bytes have %x", got, want)
	}
	if d.err == nil && d.at != d.size {
		d.corrupt("%d bytes follow the digest", d.size-d.at)
	}
	return s
}

func (d *statReader) input() *Input {
	n := d.take(2, "a label's length")
	if n == nil {
		return nil
	}
	if l := binary.LittleEndian.Uint16(n); l == 0 || l > maxLabel {
		d.corrupt("a label of %d bytes, wanted 1 to %d", l, maxLabel)
		return nil
	}
	label := d.take(int64(binary.LittleEndian.Uint16(n)), "a label")
	head := d.take(13, "an input")
	if head == nil {
		return nil
	}
	if !utf8.Valid(label) {
		d.corrupt("label %q is not UTF-8", label)
		return nil
	}
	K, tokens := int64(binary.LittleEndian.Uint32(head)), binary.LittleEndian.Uint64(head[4:])
	if K == 0 || K > maxColumns || tokens == 0 || tokens > math.MaxInt32 || head[12] > 1 {
		d.corrupt("input %s has %d columns, %d tokens, hessian %d", label, K, tokens, head[12])
		return nil
	}
	in := &Input{Label: string(label), K: int(K), Tokens: int(tokens)}
	in.Mean = d.floats(K, "means")
	in.Square = d.floats(K, "squares")
	for p := d.take(4*K, "maxima"); len(p) > 0; p = p[4:] {
		in.Max = append(in.Max, math.Float32frombits(binary.LittleEndian.Uint32(p)))
	}
	if head[12] == 1 && d.err == nil {
		in.H = d.triangle(K)
	}
	if d.err != nil {
		return nil
	}
	for k := range in.K {
		if !(in.Square[k] >= 0 && in.Square[k] < maxSquare && math.Abs(in.Mean[k]) < maxSquare && in.Max[k] >= 0 && in.Max[k] <= math.MaxFloat32) {
			d.corrupt("input %s, column %d: mean %g, square %g, maximum %g", label, k, in.Mean[k], in.Square[k], in.Max[k])
			return nil
		}
	}
	return in
}

func (d *statReader) floats(n int64, what string) []float64 {
	p := d.take(8*n, what)
	if p == nil {
		return nil
	}
	out := make([]float64, n)
	for i := range out {
		out[i] = math.Float64frombits(binary.LittleEndian.Uint64(p[8*i:]))
	}
	return out
}

// triangle reads a symmetric [K K] matrix.
func (d *statReader) triangle(K int64) []float64 {
	if need := 4 * K * (K + 1); need > d.size-d.at {
		d.corrupt("a Hessian needs %d bytes, %d are left", need, d.size-d.at)
		return nil
	}
	h := make([]float64, K*K)
	for i := range K {
		for j, v := range d.floats(i+1, "a row of a Hessian") {
			if math.IsNaN(v) || math.IsInf(v, 0) || int64(j) == i && v < 0 {
				d.corrupt("a Hessian has %g at [%d %d]", v, i, j)
				return nil
			}
			h[i*K+int64(j)], h[int64(j)*K+i] = v, v
		}
	}
	return h
}
