package bundle

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"os"
	"strings"
	"testing"

	"slmc/internal/golden"
	"slmc/model"
)

const docPath = "../../docs/bundle.md"

// TestFormat regenerates the dump of a tiny signed bundle in docs/bundle.md: a
// change of any byte of the format shows there.
func TestFormat(t *testing.T) {
	path, _ := writeTiny(t, tinySpec(t, tinyDims))
	if err := Sign(path, testKey(t, 1)); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := os.ReadFile(docPath)
	if err != nil {
		t.Fatal(err)
	}
	const start, end = "<!-- dump: written by go test ./formats/bundle -run TestFormat -update -->\n```text\n", "```\n<!-- end of dump -->"
	before, rest, ok := bytes.Cut(doc, []byte(start))
	_, after, ok2 := bytes.Cut(rest, []byte(end))
	if !ok || !ok2 {
		t.Fatalf("%s: no lines %q and %q", docPath, start, end)
	}
	golden.Check(t, "../"+docPath, bytes.Join([][]byte{before, []byte(start), annotate(t, content), []byte(end), after}, nil))
}

// TestDocNames holds docs/bundle.md to naming every section, role and field.
func TestDocNames(t *testing.T) {
	doc, err := os.ReadFile(docPath)
	if err != nil {
		t.Fatal(err)
	}
	names := knownSections()
	for _, r := range model.Roles {
		names = append(names, string(r))
	}
	m := tinySpec(t, tinyDims).Manifest
	m.Provenance.Recipe, m.Provenance.Reports = nil, make([]StageReport, 1)
	m.Weights, m.Sections, m.Graph.Weights[0].Input = make([]Stored, 1), make([]Section, 1), "x"
	m.Graph.Ropes[0].Scaling = model.RopeScaling{Type: "llama3", Factor: 8, LowFreq: 1, HighFreq: 4, Context: 8192, Factors: []float64{1}}
	text, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	tree, err := decodeTree(text)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range append(names, keys(tree)...) {
		if !strings.Contains(string(doc), "`"+name+"`") {
			t.Errorf("%s says nothing about `%s`", docPath, name)
		}
	}
}

// keys lists the keys of all objects in a tree.
func keys(tree any) (out []string) {
	switch v := tree.(type) {
	case []any:
		for _, e := range v {
			out = append(out, keys(e)...)
		}
	case map[string]any:
		for k, e := range v {
			out = append(append(out, k), keys(e)...)
		}
	}
	return out
}

// dumper writes lines of offset, bytes and meaning.
type dumper struct {
	out     bytes.Buffer
	content []byte
}

// annotate dumps a bundle: the header field by field, the manifest as text, of
// each section the beginning and of the weights that of each tensor.
func annotate(t *testing.T, content []byte) []byte {
	b, err := parseBytes(content)
	if err != nil {
		t.Fatal(err)
	}
	d := &dumper{content: content}
	d.header(b.header)
	at := int64(HeaderBytes)
	for _, s := range b.manifest.Sections {
		d.zeros(at, s.Offset)
		at = s.Offset + s.Length
		fmt.Fprintf(&d.out, "\nsection %q, %d bytes, required %v\n", s.Name, s.Length, s.Required)
		d.section(b, &s)
	}
	d.zeros(at, b.header.manifestAt)
	fmt.Fprintf(&d.out, "\nmanifest, %d bytes, shown as text\n", b.header.manifestBytes)
	for at := b.header.manifestAt; at < b.size; at += 80 {
		fmt.Fprintf(&d.out, "%08x  %s\n", at, content[at:min(at+80, b.size)])
	}
	fmt.Fprintf(&d.out, "\ndigest of the bundle    %s\nSHA-256 of the file     %x\n", b.digest, sha256.Sum256(content))
	return d.out.Bytes()
}

// field dumps n bytes with what they mean.
func (d *dumper) field(at, n int64, format string, args ...any) {
	note := fmt.Sprintf(format, args...)
	for i := int64(0); i < n; i += 16 {
		row := d.content[at+i : at+min(i+16, n)]
		fmt.Fprintf(&d.out, "%08x  %-47s  %s\n", at+i, fmt.Sprintf("% x", row), note)
		note = "..."
	}
}

func (d *dumper) header(h *header) {
	d.field(0, 8, "magic")
	d.field(8, 2, "major version %d", h.major)
	d.field(10, 2, "minor version %d", h.minor)
	d.field(12, 4, "length of the header")
	d.field(atFileBytes, 8, "length of the file, %d", h.fileBytes)
	d.field(24, 8, "offset of the manifest, %d", h.manifestAt)
	d.field(32, 8, "length of the manifest, %d", h.manifestBytes)
	d.field(40, 32, "SHA-256 of the manifest")
	d.field(72, 8, "required-feature bits")
	d.field(80, 8, "optional-feature bits")
	d.field(atMinTool, minToolLen, "oldest tool version, %q", h.minTool)
	d.field(atDigest, 32, "SHA-256 of bytes 0 to 111")
	d.field(atSignature, 8, "signature algorithm, Ed25519")
	d.field(atKey, 32, "public key")
	d.field(atSigned, 64, "signature")
	d.field(atBlockSum, 8, "start of the SHA-256 of bytes 144 to 247")
}

// zeros notes padding; that it is zero is Check's to find out.
func (d *dumper) zeros(from, to int64) {
	if from < to {
		fmt.Fprintf(&d.out, "%08x  %d bytes of padding\n", from, to-from)
	}
}

func (d *dumper) section(b *Bundle, s *Section) {
	switch s.Name {
	case SectionWeights:
		at := s.Offset
		for i, w := range b.manifest.Weights {
			d.zeros(at, s.Offset+w.Offset)
			at = s.Offset + w.Offset + w.Bytes
			d.part(s.Offset+w.Offset, w.Bytes, fmt.Sprintf("%s %v %s", w.Name, b.manifest.Graph.Weights[i].Shape, w.Format))
		}
	case SectionRope:
		for r, t := range b.tables {
			d.part(s.Offset+t.cos, t.bytes, fmt.Sprintf("cosines of rope %d", r))
			d.zeros(s.Offset+t.cos+t.bytes, s.Offset+t.sin)
			d.part(s.Offset+t.sin, t.bytes, fmt.Sprintf("sines of rope %d", r))
		}
	case SectionLeaves:
		d.field(s.Offset, s.Length, "SHA-256 of each leaf of the sections before, in order")
	default:
		d.part(s.Offset, s.Length, fmt.Sprintf("%.16q...", d.content[s.Offset:s.Offset+min(s.Length, 16)]))
	}
}

// part dumps the beginning of n bytes.
func (d *dumper) part(at, n int64, note string) {
	d.field(at, min(n, 16), "%s", note)
	if n > 16 {
		fmt.Fprintf(&d.out, "          ... %d more bytes\n", n-16)
	}
}
