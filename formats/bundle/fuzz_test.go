package bundle

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"slmc/formats"
)

// FuzzManifest decodes any text and, if it is one, checks it against a file.
func FuzzManifest(f *testing.F) {
	_, content := writeTiny(f, tinySpec(f, tinyDims))
	b, err := parseBytes(content)
	if err != nil {
		f.Fatal(err)
	}
	text := content[b.header.manifestAt:]
	f.Add(text, false)
	f.Add(text, true)
	f.Add([]byte(`{}`), true)
	f.Fuzz(func(t *testing.T, text []byte, newer bool) {
		m, at, err := DecodeManifest(text, newer)
		if err != nil {
			if at < 0 || at > len(text) {
				t.Errorf("byte %d of %d: %v", at, len(text), err)
			}
			return
		}
		again, err := m.Encode()
		if err != nil || !newer && !bytes.Equal(text, again) {
			t.Errorf("%q is read, %q written, %v", text, again, err)
		}
		_ = checkManifest(m, b.header.manifestAt)
	})
}

// FuzzOpen changes fields of the header and a span of the manifest, makes the
// digests fit so that the checks behind them are reached, and uses what is
// accepted as a runtime would.
func FuzzOpen(f *testing.F) {
	d := tinyDims
	d.blocks = 2
	_, content := writeTiny(f, tinySpec(f, d))
	b, err := parseBytes(content)
	if err != nil {
		f.Fatal(err)
	}
	text := content[b.header.manifestAt:]
	at := func(s string) uint16 { return uint16(bytes.Index(text, []byte(s))) }
	f.Add(at(`"hidden"`)+9, uint8(1), []byte("9"), int64(0), int64(0), uint16(0), uint64(0), uint32(0))
	f.Add(at(`"kv_from"`)+10, uint8(1), []byte("1"), int64(0), int64(0), uint16(0), uint64(0), uint32(0))
	f.Add(at(`"offset"`)+9, uint8(1), []byte("64"), int64(0), int64(0), uint16(1), uint64(0), uint32(0))
	f.Add(at(`"heads"`)+8, uint8(1), []byte("0"), int64(0), int64(0), uint16(0), uint64(0), uint32(0))
	f.Add(at(`"shape"`)+8, uint8(1), []byte("[9007199254740992,9007199254740992"), int64(0), int64(0), uint16(0), uint64(0), uint32(0))
	f.Add(uint16(0), uint8(0), []byte(nil), int64(16384), int64(-1), uint16(0), uint64(1), uint32(100))
	f.Fuzz(func(t *testing.T, from uint16, n uint8, insert []byte, moveManifest, addBytes int64, minor uint16, required uint64, cut uint32) {
		start := min(int(from), len(text))
		changed := bytes.Join([][]byte{text[:start], insert, text[min(start+int(n), len(text)):]}, nil)
		file := forgeText(content, b.header, changed, func(h *header) {
			h.manifestAt += moveManifest
			h.fileBytes += addBytes
			h.minor, h.required = minor, required
		})
		file = file[:len(file)-min(int(cut), len(file))]
		use(t, file)
	})
}

// use does what a runtime does with a bundle.
func use(t *testing.T, file []byte) {
	b, err := parseBytes(file)
	if err != nil {
		if !errors.Is(err, formats.ErrCorrupt) && !errors.Is(err, formats.ErrVersion) && !errors.Is(err, formats.ErrUnsupported) {
			t.Errorf("error of no kind: %v", err)
		}
		return
	}
	b.data = file // stands for the mapping
	m := b.Manifest()
	for i, w := range m.Graph.Weights {
		if w.Role.Matrix() {
			_ = b.Weight(i)
		} else if len(b.Vector(i)) != w.Shape[0] {
			t.Errorf("%s has %d values, shape %v", w.Name, len(b.Vector(i)), w.Shape)
		}
	}
	for r := range m.Graph.Ropes {
		cos, sin := b.Rope(r)
		if want := m.Context * m.Graph.Ropes[r].HeadDim / 2; len(cos) != want || len(sin) != want {
			t.Errorf("tables of %d and %d, wanted %d", len(cos), len(sin), want)
		}
	}
	_ = m.Memory.Peak(m.Context, m.Context)
	if g := b.Section(SectionGolden); g != nil {
		_, _ = DecodeGolden(g, m.Graph.Vocab, true)
	}
	if err := b.check(context.Background(), nil); err != nil && !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("check: %v", err)
	}
}
