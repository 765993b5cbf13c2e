package bundle

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"math"
	"strings"
	"testing"

	"slmc/formats"
	"slmc/model"
)

// forge changes the manifest and the header of a bundle and makes the digests
// fit again, so that the checks behind them are reached. The sections stay.
func forge(t testing.TB, content []byte, manifest func(m *Manifest), head func(h *header)) []byte {
	t.Helper()
	b, err := parse("x", bytes.NewReader(content), int64(len(content)))
	if err != nil {
		h, herr := parseHeader("x", content[:HeaderBytes], int64(len(content)))
		if herr != nil {
			t.Fatal(err)
		}
		m, _, merr := DecodeManifest(content[h.manifestAt:], false)
		if merr != nil {
			t.Fatal(err)
		}
		b = &Bundle{header: h, manifest: m}
	}
	if manifest != nil {
		manifest(b.manifest)
	}
	text, err := b.manifest.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return forgeText(content, b.header, text, head)
}

// forgeText replaces the manifest's text.
func forgeText(content []byte, h *header, text []byte, head func(h *header)) []byte {
	c := *h
	c.manifestBytes, c.manifestSum = int64(len(text)), sha256.Sum256(text)
	c.fileBytes = c.manifestAt + c.manifestBytes
	if head != nil {
		head(&c)
	}
	out := append(c.encode(), content[HeaderBytes:h.manifestAt]...)
	return append(out, text...)
}

func parseBytes(content []byte) (*Bundle, error) {
	return parse("x.slmb", bytes.NewReader(content), int64(len(content)))
}

// TestForgedManifest breaks one promise at a time.
func TestForgedManifest(t *testing.T) {
	d := tinyDims
	d.blocks = 4
	_, content := writeTiny(t, tinySpec(t, d))
	for _, c := range []struct {
		name   string
		change func(m *Manifest)
		want   string
		kind   error
	}{
		{"hole", func(m *Manifest) { m.Sections[1].Offset += SectionAlign }, "no holes", nil},
		{"overlap", func(m *Manifest) { m.Sections[1].Offset -= SectionAlign }, "no overlaps", nil},
		{"unaligned", func(m *Manifest) { m.Sections[0].Offset++ }, "wanted 16384", nil},
		{"empty section", func(m *Manifest) { m.Sections[2].Length = 0 }, "has 0 bytes", nil},
		{"negative section", func(m *Manifest) { m.Sections[2].Length = -5 }, "has -5 bytes", nil},
		{"huge section", func(m *Manifest) { m.Sections[2].Length = 1 << 53 }, "the manifest starts at", nil},
		{"sections missing", func(m *Manifest) { m.Sections = m.Sections[:2] }, "sections end at", nil},
		{"no sections", func(m *Manifest) { m.Sections = nil }, "sections end at", nil},
		{"section twice", func(m *Manifest) { m.Sections[3].Name = m.Sections[2].Name }, "twice", nil},
		{"leaves not last", func(m *Manifest) { s := &m.Sections[len(m.Sections)-1]; s.Name, s.Required = "x", false }, "not \"leaves\"", nil},
		{"leaves short", func(m *Manifest) { m.Sections[len(m.Sections)-1].Length -= 32 }, `section "leaves" has`, nil},
		{"required section", func(m *Manifest) { m.Sections[2].Name, m.Sections[2].Required = "future", true }, "0.1.0 reads it", formats.ErrVersion},
		{"weight offset", func(m *Manifest) { m.Weights[1].Offset += 64 }, "wanted {Name:output_norm.weight", nil},
		{"weight bytes", func(m *Manifest) { m.Weights[0].Bytes *= 2 }, "wanted {Name:token_embd.weight", nil},
		{"weight format", func(m *Manifest) { m.Weights[0].Format = "w4g32" }, "wanted", nil},
		{"unknown format", func(m *Manifest) { m.Weights[0].Format = "w3g32" }, "unknown", formats.ErrUnsupported},
		{"format spelled otherwise", func(m *Manifest) { m.Weights[0].Format = "w8" }, "wanted", nil},
		{"vector format", func(m *Manifest) { m.Weights[1].Format = "f16" }, "vector", nil},
		{"weights missing", func(m *Manifest) { m.Weights = m.Weights[1:] }, "the graph has", nil},
		{"parameters", func(m *Manifest) { m.Parameters++ }, "parameters", nil},
		{"bpw", func(m *Manifest) { m.BPW = 2 }, "bpw", nil},
		{"context", func(m *Manifest) { m.Context-- }, `section "rope"`, nil},
		{"context 0", func(m *Manifest) { m.Context = 0 }, "context is 0", nil},
		{"kv format", func(m *Manifest) { m.KVFormat = "kv4" }, "kv_format", formats.ErrUnsupported},
		{"kernels", func(m *Manifest) { m.Kernels[1] = m.Kernels[0] }, "sort", nil},
		{"memory", func(m *Manifest) { m.Memory.PerToken = -1 }, "memory", nil},
		{"bos", func(m *Manifest) { m.Tokenizer.BOS = 16 }, "bos", nil},
		{"eos", func(m *Manifest) { m.Tokenizer.EOS[0] = -1 }, "end id", nil},
		{"stop", func(m *Manifest) { m.Tokenizer.Stop = []int{99} }, "end id", nil},
		{"kind", func(m *Manifest) { m.Tokenizer.Kind = "" }, "tokenizer.kind", nil},
		{"source path", func(m *Manifest) { m.Provenance.Sources[0].Name = "../x" }, "plain file name", nil},
		{"tool", func(m *Manifest) { m.ToolVersion = "\x1b[2J" }, "tool_version", nil},

		{"hidden", func(m *Manifest) { m.Graph.Hidden = 9 }, "shape", nil},
		{"hidden 0", func(m *Manifest) { m.Graph.Hidden = 0 }, "hidden is 0", nil},
		{"vocab", func(m *Manifest) { m.Graph.Vocab = 1 << 40 }, "vocab is", nil},
		{"eps", func(m *Manifest) { m.Graph.NormEps = -1 }, "norm_eps", nil},
		{"scale", func(m *Manifest) { m.Graph.EmbedScale = 0 }, "embed_scale", nil},
		{"embed index", func(m *Manifest) { m.Graph.Embed = 99 }, "weight 99", nil},
		{"embed none", func(m *Manifest) { m.Graph.Embed = model.None }, "weight -1", nil},
		{"norm is a matrix", func(m *Manifest) { m.Graph.Norm = 0 }, "role", nil},
		{"head", func(m *Manifest) { m.Graph.Head.W = 3 }, "head.w", nil},
		{"no blocks", func(m *Manifest) { m.Graph.Blocks = nil }, "number of blocks", nil},
		{"weight twice", func(m *Manifest) { m.Graph.Weights[2].Name = m.Graph.Weights[3].Name }, "twice", nil},
		{"role", func(m *Manifest) { m.Graph.Weights[2].Role = "x" }, "role", nil},
		{"shape", func(m *Manifest) { m.Graph.Weights[3].Shape = []int{8} }, "shape", nil},
		{"shape overflow", func(m *Manifest) { m.Graph.Weights[3].Shape = []int{1 << 52, 1 << 52} }, "shape", nil},
		{"heads", func(m *Manifest) { m.Graph.Blocks[0].Heads = 3 }, "shape", nil},
		{"heads 0", func(m *Manifest) { m.Graph.Blocks[0].Heads = 0 }, "heads is 0", nil},
		{"kv heads", func(m *Manifest) { m.Graph.Blocks[0].KVHeads = 3 }, "evenly", nil},
		{"act", func(m *Manifest) { m.Graph.Blocks[0].Act = "relu" }, "act", nil},
		{"attn scale", func(m *Manifest) { m.Graph.Blocks[0].AttnScale = 0 }, "attn_scale", nil},
		{"window", func(m *Manifest) { m.Graph.Blocks[0].Window = -1 }, "window", nil},
		{"rope index", func(m *Manifest) { m.Graph.Blocks[0].Rope = 1 }, "rope is 1", nil},
		{"rope size", func(m *Manifest) { m.Graph.Ropes[0].HeadDim = 8 }, "frequencies", nil},
		{"rope above 1", func(m *Manifest) { m.Graph.Ropes[0].InvFreq[0] = 2 }, "inv_freq", nil},
		{"bias is a norm", func(m *Manifest) { m.Graph.Blocks[0].V.B = m.Graph.Norm }, "role", nil},
		{"surplus weight", func(m *Manifest) { m.Graph.Blocks[0].V.B = model.None }, "not read", nil},
		{"taker with keys", func(m *Manifest) { m.Graph.Blocks[1].K = m.Graph.Blocks[0].K }, "reads those of block 0", nil},
		{"taker of itself", func(m *Manifest) { m.Graph.Blocks[1].KVFrom = 1 }, "k.w is weight -1", nil},
		{"taker of a later block", func(m *Manifest) {
			b := &m.Graph.Blocks[0]
			b.KVFrom, b.K, b.V = 1, m.Graph.Blocks[1].K, m.Graph.Blocks[1].V
		}, "kv_from", nil},
		{"taker of a taker", func(m *Manifest) { m.Graph.Blocks[3].KVFrom = 1 }, "computes no keys", nil},
		{"taker of nothing", func(m *Manifest) { m.Graph.Blocks[1].KVFrom = -1 }, "kv_from", nil},
		{"taker's rope", func(m *Manifest) { m.Graph.Blocks[1].Rope = model.None }, "rope", nil},
		{"taker's window", func(m *Manifest) { m.Graph.Blocks[0].Window = 4 }, "window", nil},
		{"taker's heads", func(m *Manifest) { m.Graph.Blocks[1].KVHeads = 2 }, "kv_heads", nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parseBytes(forge(t, content, c.change, nil))
			kind := c.kind
			if kind == nil {
				kind = formats.ErrCorrupt
			}
			if !errors.Is(err, kind) || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "x.slmb") {
				t.Errorf("error %v, wanted %v that says %q", err, kind, c.want)
			}
		})
	}
	if _, err := parseBytes(forge(t, content, nil, nil)); err != nil {
		t.Errorf("unchanged: %v", err)
	}
}

func TestForgedHeader(t *testing.T) {
	_, content := writeTiny(t, tinySpec(t, tinyDims))
	for _, c := range []struct {
		name   string
		change func(h *header)
		want   string
		kind   error
	}{
		{"major", func(h *header) { h.major = 2; h.minTool = "9.1.0" }, "version 2.0, this reader knows 1.0; slmc 9.1.0 reads it", formats.ErrVersion},
		{"major 0", func(h *header) { h.major, h.minTool = 0, "" }, "a newer version reads it", formats.ErrVersion},
		{"feature", func(h *header) { h.required, h.minTool = 1<<63, "3.0.0" }, "features 0x8000000000000000; slmc 3.0.0 reads it", formats.ErrVersion},
		{"file length", func(h *header) { h.fileBytes++ }, "file length", formats.ErrCorrupt},
		{"manifest length", func(h *header) { h.manifestBytes-- }, "manifest of", formats.ErrCorrupt},
		{"manifest too long", func(h *header) { h.manifestBytes = MaxManifest + 1 }, "wanted 1 to", formats.ErrCorrupt},
		{"manifest negative", func(h *header) { h.manifestBytes = math.MinInt64 }, "wanted 1 to", formats.ErrCorrupt},
		{"manifest offset", func(h *header) { h.manifestAt += SectionAlign }, "manifest of", formats.ErrCorrupt},
		{"manifest offset negative", func(h *header) { h.manifestAt = -SectionAlign }, "manifest of", formats.ErrCorrupt},
		{"manifest digest", func(h *header) { h.manifestSum[3] ^= 1 }, "manifest: SHA-256", formats.ErrCorrupt},
		{"tool version", func(h *header) { h.minTool = "a\x00b" }, "after its end", formats.ErrCorrupt},
		{"tool version text", func(h *header) { h.minTool = "\x7f" }, "printable", formats.ErrCorrupt},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, err := parseBytes(forge(t, content, nil, c.change))
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, wanted %v that says %q", err, c.kind, c.want)
			}
		})
	}
	for name, change := range map[string]func(h *header){
		"optional feature": func(h *header) { h.optional = 1 << 40 },
		"minor":            func(h *header) { h.minor = 7 },
	} {
		if _, err := parseBytes(forge(t, content, nil, change)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestManifestFields: this minor version has exactly these fields; a newer one
// may have more, and nothing else.
func TestManifestFields(t *testing.T) {
	_, content := writeTiny(t, tinySpec(t, tinyDims))
	b, err := parseBytes(content)
	if err != nil {
		t.Fatal(err)
	}
	text := string(content[b.header.manifestAt:])
	for _, c := range []struct {
		name, from, to string
		ok             bool // in a newer minor version
	}{
		{"new field", `"bpw":`, `"aaa":[{"b":1}],"bpw":`, true},
		{"new field of a block", `"act":"silu"`, `"aaa":1,"act":"silu"`, true},
		{"other case", `"bpw":`, `"Bpw":`, false},
		{"missing", `"kv_format":"kv8",`, ``, false},
		{"null", `"kernels":["kv8","mat_w8g32"]`, `"kernels":null`, false},
		{"white space", `"bpw":`, `"bpw": `, false},
		{"number as text", `"hidden":8`, `"hidden":"8"`, false},
		{"fraction", `"hidden":8`, `"hidden":8.5`, false},
		{"too many digits", `"norm_eps":0.00001`, `"norm_eps":0.0000100000001`, false},
		{"upper-case digest", `"sha256":"0102`, `"sha256":"0A02`, false},
		{"short digest", `"sha256":"0102`, `"sha256":"01`, false},
		{"negative seed", `"seed":"18446744073709551615"`, `"seed":"-1"`, false},
		{"seed 07", `"seed":"18446744073709551615"`, `"seed":"07"`, false},
	} {
		changed := strings.Replace(text, c.from, c.to, 1)
		if changed == text {
			t.Fatalf("%s: %q does not occur in %s", c.name, c.from, text)
		}
		for _, minor := range []uint16{Minor, Minor + 1} {
			_, err := parseBytes(forgeText(content, b.header, []byte(changed), func(h *header) { h.minor = minor }))
			if want := c.ok && minor > Minor; want != (err == nil) || !want && !errors.Is(err, formats.ErrCorrupt) {
				t.Errorf("%s in version 1.%d: %v", c.name, minor, err)
			}
		}
	}
	// Go's decoder folds case; a field spelled twice must not slip through.
	twice := strings.Replace(text, `"bpw":`, `"Bpw":1,"bpw":`, 1)
	twice = `{` + `"Bpw":1,` + strings.Replace(strings.TrimPrefix(twice, "{"), `"Bpw":1,`, "", 1)
	if _, err := parseBytes(forgeText(content, b.header, []byte(twice), nil)); !errors.Is(err, formats.ErrCorrupt) {
		t.Errorf("a field in two spellings: %v", err)
	}
}

// TestUnknownSections: an optional section that nobody knows is kept.
func TestUnknownSections(t *testing.T) {
	s := tinySpec(t, tinyDims)
	s.Sections = append(s.Sections, Data{"future", false, []byte("some bytes")})
	path, _ := writeTiny(t, s)
	if got := mustOpen(t, path).Section("future"); string(got) != "some bytes" {
		t.Errorf("got %q", got)
	}
}

// TestManifestBombs: small texts that decode into large structures.
func TestManifestBombs(t *testing.T) {
	for name, text := range map[string]string{
		"blocks":  `{"graph":{"blocks":[` + strings.Repeat("{},", 300000) + `{}]}}`,
		"nesting": strings.Repeat(`{"a":`, 200000) + "1" + strings.Repeat("}", 200000),
	} {
		used := testing.AllocsPerRun(1, func() {
			if _, _, err := DecodeManifest([]byte(text), true); err == nil {
				t.Errorf("%s: no error", name)
			}
		})
		if used > 1000 {
			t.Errorf("%s: %g allocations", name, used)
		}
	}
}

func TestEncodeFillsNil(t *testing.T) {
	text, err := (&Manifest{}).Encode()
	if err != nil || bytes.Contains(text, []byte("null")) {
		t.Errorf("%s, %v", text, err)
	}
	if !json.Valid(text) {
		t.Errorf("%s is no JSON", text)
	}
}
