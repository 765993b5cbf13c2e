package bundle

import (
	"bufio"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash"
	"io"
	"math"
	"os"
	"slices"

	"slmc/formats"
	"slmc/quant"
)

// Spec is what Write makes a bundle of.
type Spec struct {
	// Manifest is what only the builder knows. Write itself fills Weights,
	// Parameters, BPW and Sections, and whatever they held is ignored.
	Manifest Manifest
	// Formats are those of Graph.Weights, by index; quant.F32 for vectors.
	Formats []quant.Format
	// Weight writes the stored form of weight i: quant.MatrixBytes of panels,
	// or the little-endian float32 of a vector. It is called once for each
	// weight, in order. Any other number of bytes is an error.
	Weight func(i int, dst io.Writer) error
	// Sections follow the weights and the rotary tables in this order; empty
	// ones are left out.
	Sections []Data
	// MinTool is the oldest version of slmc that reads the bundle, at most 24
	// printable ASCII characters. It is shown to a reader that is too old.
	MinTool string
	// Required and Optional are the feature bits; this version knows none.
	Required, Optional uint64
}

// Data is the content of one section.
type Data struct {
	Name     string
	Required bool
	Bytes    []byte
}

// Write makes a bundle at path: the same bytes for the same Spec. Weights are
// hashed and written as they come, never held. The file appears under its name
// when it is complete, synced, and accepted by the checks that Open makes; on
// an error nothing changes there.
func Write(path string, s Spec) (Digest, error) {
	var d Digest
	err := formats.ReplaceFile(path, 0o644, func(f *os.File) (err error) {
		d, err = s.write(f)
		return err
	})
	if err != nil {
		return Digest{}, fmt.Errorf("write %s: %w", path, err)
	}
	return d, nil
}

func (s *Spec) write(f *os.File) (Digest, error) {
	m := s.Manifest
	if err := checkMinTool(s.MinTool); err != nil {
		return Digest{}, err
	}
	if err := checkGraph(&m.Graph); err != nil {
		return Digest{}, fmt.Errorf("graph: %w", err)
	}
	if err := inRange("context", m.Context, 1, m.Graph.Context); err != nil {
		return Digest{}, err
	}
	if len(s.Formats) != len(m.Graph.Weights) {
		return Digest{}, fmt.Errorf("%d formats for %d weights", len(s.Formats), len(m.Graph.Weights))
	}
	var err error
	var length int64
	if m.Weights, length, err = layWeights(&m, s.Formats); err != nil {
		return Digest{}, err
	}
	m.Parameters = int64(m.Graph.Parameters())
	m.BPW = bpw(length, m.Parameters)
	w := &writer{f: f}
	if m.Sections, err = s.sections(&m, w, length); err != nil {
		return Digest{}, err
	}
	return s.finish(&m, w)
}

// sections writes the sections, the list of leaves last.
func (s *Spec) sections(m *Manifest, w *writer, weights int64) ([]Section, error) {
	err := w.section(SectionWeights, true, weights, func(dst io.Writer) error { return s.writeWeights(m, dst) })
	if err != nil {
		return nil, err
	}
	if _, length := ropeTables(&m.Graph, m.Context); length > 0 {
		err := w.section(SectionRope, true, length, func(dst io.Writer) error { return writeRopes(m, dst) })
		if err != nil {
			return nil, err
		}
	}
	for _, d := range s.Sections {
		if slices.Contains([]string{SectionWeights, SectionRope, SectionLeaves}, d.Name) {
			return nil, fmt.Errorf("section %q is written by Write itself", d.Name)
		}
		if len(d.Bytes) == 0 {
			continue
		}
		err := w.section(d.Name, d.Required, int64(len(d.Bytes)), func(dst io.Writer) error {
			_, err := dst.Write(d.Bytes)
			return err
		})
		if err != nil {
			return nil, err
		}
	}
	leaves := w.leaves
	err = w.section(SectionLeaves, true, int64(len(leaves)), func(dst io.Writer) error {
		_, err := dst.Write(leaves)
		return err
	})
	return w.done, err
}

func (s *Spec) writeWeights(m *Manifest, dst io.Writer) error {
	at := int64(0)
	for i, st := range m.Weights {
		if err := writeZeros(dst, st.Offset-at); err != nil {
			return err
		}
		exact := &exactWriter{dst: dst, left: st.Bytes}
		if err := s.Weight(i, exact); err != nil {
			return fmt.Errorf("weight %q: %w", st.Name, err)
		}
		if exact.left != 0 {
			return fmt.Errorf("weight %q: %d bytes written, wanted %d", st.Name, st.Bytes-exact.left, st.Bytes)
		}
		at = st.Offset + st.Bytes
	}
	return nil
}

func writeRopes(m *Manifest, dst io.Writer) error {
	out := bufio.NewWriterSize(dst, 64<<10)
	tables, _ := ropeTables(&m.Graph, m.Context)
	at := int64(0)
	for r, t := range tables {
		cos, sin := m.Graph.Ropes[r].Tables(m.Context)
		for _, part := range []struct {
			at   int64
			data []float32
		}{{t.cos, cos}, {t.sin, sin}} {
			if err := writeZeros(out, part.at-at); err != nil {
				return err
			}
			for _, v := range part.data {
				if _, err := out.Write(binary.LittleEndian.AppendUint32(out.AvailableBuffer(), math.Float32bits(v))); err != nil {
					return err
				}
			}
			at = part.at + t.bytes
		}
	}
	return out.Flush()
}

// finish writes the manifest and, last, the header.
func (s *Spec) finish(m *Manifest, w *writer) (Digest, error) {
	text, err := m.Encode()
	if err != nil {
		return Digest{}, err
	}
	if err := w.pad(); err != nil {
		return Digest{}, err
	}
	h := &header{
		major: Major, minor: Minor, required: s.Required, optional: s.Optional, minTool: s.MinTool,
		fileBytes: w.at + int64(len(text)), manifestAt: w.at,
		manifestBytes: int64(len(text)), manifestSum: sha256.Sum256(text),
	}
	// What Open would refuse must not be written.
	again, _, err := DecodeManifest(text, false)
	if err == nil {
		err = checkManifest(again, h.manifestAt)
	}
	if err != nil {
		return Digest{}, fmt.Errorf("manifest: %w", err)
	}
	if _, err := w.f.WriteAt(text, h.manifestAt); err != nil {
		return Digest{}, err
	}
	_, err = w.f.WriteAt(h.encode(), 0)
	return h.digest(text), err
}

// writer writes sections one after the other; at is the next free byte, or 0
// before the first section.
type writer struct {
	f      *os.File
	at     int64
	done   []Section
	leaves []byte
}

// pad moves to the next multiple of SectionAlign, past the header. What is
// skipped reads as zero.
func (w *writer) pad() error {
	w.at = align(max(w.at, 1), SectionAlign)
	_, err := w.f.Seek(w.at, io.SeekStart)
	return err
}

// section writes length bytes that fill gives.
func (w *writer) section(name string, required bool, length int64, fill func(dst io.Writer) error) error {
	if err := w.pad(); err != nil {
		return err
	}
	h := newLeafHash()
	out := &exactWriter{dst: io.MultiWriter(h, w.f), left: length}
	buf := bufio.NewWriterSize(out, LeafBytes)
	if err := fill(buf); err != nil {
		return err
	}
	if err := buf.Flush(); err != nil {
		return fmt.Errorf("section %q: %w", name, err)
	}
	if out.left != 0 {
		return fmt.Errorf("section %q: %d bytes are missing", name, out.left)
	}
	root, leaves := h.sums()
	w.done = append(w.done, Section{Name: name, Required: required, Offset: w.at, Length: length, Root: root})
	w.leaves = append(w.leaves, leaves...)
	w.at += length
	return nil
}

// exactWriter passes on at most left bytes.
type exactWriter struct {
	dst  io.Writer
	left int64
}

func (w *exactWriter) Write(p []byte) (int, error) {
	if int64(len(p)) > w.left {
		return 0, fmt.Errorf("%d bytes more than there is room for", int64(len(p))-w.left)
	}
	w.left -= int64(len(p))
	return w.dst.Write(p)
}

func writeZeros(dst io.Writer, n int64) error {
	_, err := dst.Write(make([]byte, n))
	return err
}

// leafHash collects the digests of the leaves of what is written to it.
type leafHash struct {
	leaf   hash.Hash
	n      int // bytes in leaf
	leaves []byte
}

func newLeafHash() *leafHash { return &leafHash{leaf: sha256.New()} }

func (h *leafHash) Write(p []byte) (int, error) {
	for rest := p; len(rest) > 0; {
		part := rest[:min(len(rest), LeafBytes-h.n)]
		h.leaf.Write(part)
		h.n += len(part)
		if rest = rest[len(part):]; h.n == LeafBytes {
			h.flush()
		}
	}
	return len(p), nil
}

func (h *leafHash) flush() {
	h.leaves = h.leaf.Sum(h.leaves)
	h.leaf.Reset()
	h.n = 0
}

// sums returns the section's root and the digests of its leaves.
func (h *leafHash) sums() (root Digest, leaves []byte) {
	if h.n > 0 {
		h.flush()
	}
	return sha256.Sum256(h.leaves), h.leaves
}
