package bundle

import (
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"unsafe"

	"slmc/formats"
	"slmc/quant"
)

// Options say what Open demands beyond a sound header and manifest.
type Options struct {
	// PublicKey, when not nil, is the key that must have signed the bundle.
	PublicKey ed25519.PublicKey
}

// Bundle is an open .slmb file, mapped read-only. It is safe for concurrent
// use, Close excepted. What Section, Weight, Vector and Rope return lies in the
// mapping: it must not be written, nor be used after Close, and a goroutine
// that reads it should do so under Guard.
type Bundle struct {
	name     string
	file     *os.File
	r        io.ReaderAt // file, or what a delivery file gave
	size     int64
	header   *header
	manifest *Manifest
	digest   Digest
	formats  []quant.Format
	tables   []table
	data     mapping // nil after Close
}

// Open maps a bundle and checks the header and the manifest, and that each
// offset, length, shape and format in it is the one that the file and the
// graph allow. The contents of sections and the padding between them are left
// to Check.
func Open(path string, o Options) (*Bundle, error) {
	f, err := openRegular(path)
	if err != nil {
		return nil, err
	}
	b, err := openFile(f, o)
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return b, nil
}

// openRegular refuses folders, and pipes, whose opening may wait for ever.
func openRegular(path string) (*os.File, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, formats.Unsupported(path, "", -1, "not a regular file (%s)", st.Mode().Type())
	}
	return os.Open(path)
}

func openFile(f *os.File, o Options) (*Bundle, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	b, err := parse(filepath.Base(f.Name()), f, st.Size())
	if err != nil {
		return nil, err
	}
	if o.PublicKey != nil {
		if err := b.VerifySignature(o.PublicKey); err != nil {
			return nil, err
		}
	}
	if b.size != int64(int(b.size)) {
		return nil, formats.Unsupported(b.name, "", -1, "%d bytes do not fit this machine's address space", b.size)
	}
	b.file = f
	if b.data, err = mapFile(f, int(b.size)); err != nil {
		return nil, &formats.Error{File: b.name, Offset: -1, Msg: "cannot map the file", Err: err}
	}
	return b, nil
}

// parse checks the header and the manifest of size bytes of r. It maps nothing.
func parse(name string, r io.ReaderAt, size int64) (*Bundle, error) {
	head := make([]byte, min(HeaderBytes, size))
	if err := readFull(name, r, 0, head); err != nil {
		return nil, err
	}
	h, err := parseHeader(name, head, size)
	if err != nil {
		return nil, err
	}
	text := make([]byte, h.manifestBytes)
	if err := readFull(name, r, h.manifestAt, text); err != nil {
		return nil, err
	}
	if sum := Digest(sha256.Sum256(text)); sum != h.manifestSum {
		return nil, formats.Corrupt(name, "", h.manifestAt, "manifest: SHA-256 is %s, the header says %s", sum, h.manifestSum)
	}
	b := &Bundle{name: name, r: r, size: size, header: h, digest: h.digest(text)}
	if h.key != nil && !ed25519.Verify(h.key, signed(b.digest), h.signature) {
		return nil, formats.Corrupt(name, "", atSigned, "header: the signature by key %x does not verify", []byte(h.key))
	}
	m, at, err := DecodeManifest(text, h.minor > Minor)
	if err != nil {
		return nil, &formats.Error{File: name, Offset: h.manifestAt + int64(at), Kind: formats.ErrCorrupt, Msg: "manifest", Err: err}
	}
	if err := b.adopt(m); err != nil {
		return nil, err
	}
	return b, nil
}

// adopt checks a decoded manifest and prepares the accessors.
func (b *Bundle) adopt(m *Manifest) error {
	for _, s := range m.Sections {
		if s.Required && !slices.Contains(knownSections(), s.Name) {
			return b.header.version(b.name, b.header.manifestAt, "unknown required section %.*q", maxName, s.Name)
		}
	}
	if err := checkManifest(m, b.header.manifestAt); err != nil {
		kind := formats.ErrCorrupt
		if errors.Is(err, formats.ErrUnsupported) {
			kind = formats.ErrUnsupported
		}
		return &formats.Error{File: b.name, Offset: b.header.manifestAt, Kind: kind, Msg: "manifest: " + err.Error()}
	}
	var err error
	if b.formats, err = storedFormats(m); err != nil {
		return err
	}
	b.manifest = m
	b.tables, _ = ropeTables(&m.Graph, m.Context)
	return nil
}

func knownSections() []string {
	return []string{SectionWeights, SectionRope, SectionTokenizer, SectionTemplate, SectionGolden, SectionRouter, SectionLeaves}
}

// readFull fills p from byte off; a file that ends before is ErrCorrupt.
func readFull(name string, r io.ReaderAt, off int64, p []byte) error {
	n, err := r.ReadAt(p, off)
	switch {
	case n == len(p):
		return nil
	case errors.Is(err, io.EOF):
		return formats.Corrupt(name, "", off+int64(n), "the file ends here, wanted %d bytes from byte %d on: it was cut while it was read", len(p), off)
	}
	return &formats.Error{File: name, Offset: off, Msg: "cannot read", Err: err}
}

// Close unmaps the file. Every slice that the bundle gave out is invalid then.
func (b *Bundle) Close() error {
	if b.data == nil {
		return nil
	}
	data := b.data
	b.data = nil
	return errors.Join(data.Unmap(), b.file.Close())
}

// Name is the base name of the file.
func (b *Bundle) Name() string { return b.name }

// Size is the length of the file.
func (b *Bundle) Size() int64 { return b.size }

// Version is the format's version of the file.
func (b *Bundle) Version() (major, minor int) { return int(b.header.major), int(b.header.minor) }

// Digest is the bundle's identity: the SHA-256 of the header without its
// signature, and the manifest. It covers every byte of the file, through the
// digests that the manifest holds.
func (b *Bundle) Digest() Digest { return b.digest }

// Manifest returns the manifest, which must not be changed.
func (b *Bundle) Manifest() *Manifest { return b.manifest }

// FileBPW is 8 * Size / Parameters: what a parameter costs on disk.
func (b *Bundle) FileBPW() float64 { return bpw(b.size, b.manifest.Parameters) }

// Section returns the bytes of a section in the mapping, nil when the bundle
// has none of that name.
func (b *Bundle) Section(name string) []byte {
	s := b.manifest.Section(name)
	if s == nil {
		return nil
	}
	return b.bytes(s.Offset, s.Length)
}

// bytes returns a part of the mapping that the manifest has vouched for.
func (b *Bundle) bytes(offset, n int64) []byte {
	if b.data == nil {
		panic("bundle: " + b.name + " is used after Close")
	}
	return b.data[offset : offset+n : offset+n]
}

// Weight returns the stored bytes of weight i of the graph: the panels of a
// matrix, aligned to 64 bytes.
func (b *Bundle) Weight(i int) []byte {
	w := &b.manifest.Weights[i]
	return b.bytes(b.manifest.Section(SectionWeights).Offset+w.Offset, w.Bytes)
}

// Format returns the number format of weight i of the graph.
func (b *Bundle) Format(i int) quant.Format { return b.formats[i] }

// Vector returns weight i of the graph, a vector, in place.
func (b *Bundle) Vector(i int) []float32 {
	if b.manifest.Graph.Weights[i].Role.Matrix() {
		panic("bundle.Vector: " + b.manifest.Weights[i].Name + " is a matrix")
	}
	return float32s(b.Weight(i))
}

// Rope returns the tables of Graph.Ropes[r], each [Context E/2], in place.
func (b *Bundle) Rope(r int) (cos, sin []float32) {
	t, s := b.tables[r], b.manifest.Section(SectionRope)
	return float32s(b.bytes(s.Offset+t.cos, t.bytes)), float32s(b.bytes(s.Offset+t.sin, t.bytes))
}

// float32s views bytes that start at a multiple of 64 as float32. slmc builds
// for little-endian machines only.
func float32s(p []byte) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(unsafe.SliceData(p))), len(p)/4)
}
