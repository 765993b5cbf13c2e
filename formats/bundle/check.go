package bundle

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"slmc/formats"
	"slmc/quant"
)

// checkManifest reports the first promise of m that does not hold in a file
// whose sections end where the manifest starts, at byte end.
func checkManifest(m *Manifest, end int64) error {
	// The graph first: the checks after it compute with its dimensions.
	if err := checkGraph(&m.Graph); err != nil {
		return fmt.Errorf("graph: %w", err)
	}
	if err := inRange("context", m.Context, 1, m.Graph.Context); err != nil {
		return err
	}
	return first(
		checkName("tool_version", m.ToolVersion),
		checkSections(m.Sections, end),
		checkStored(m),
		checkRopeSection(m),
		checkTokenizer(m),
		checkProvenance(&m.Provenance),
		checkNeeds(m),
	)
}

// checkNeeds checks what the bundle asks of a runtime.
func checkNeeds(m *Manifest) error {
	if m.KVFormat != KVF16 && m.KVFormat != KV8 {
		return fmt.Errorf("kv_format %q, wanted %q or %q: %w", m.KVFormat, KVF16, KV8, formats.ErrUnsupported)
	}
	for i, k := range m.Kernels {
		if err := checkName(fmt.Sprintf("kernels[%d]", i), k); err != nil {
			return err
		}
		if i > 0 && m.Kernels[i-1] >= k {
			return fmt.Errorf("kernels: %q does not sort after %q", k, m.Kernels[i-1])
		}
	}
	// 2^36 bytes a position times 2^20 positions stay within 64 bits.
	const most = 1 << 36
	for _, v := range []int64{m.Memory.Fixed, m.Memory.PerPosition, m.Memory.PerToken} {
		if v < 0 || v > most {
			return fmt.Errorf("memory: %d bytes, wanted 0 to %d", v, int64(most))
		}
	}
	return nil
}

// checkSections holds the sections to their order: the first starts at
// SectionAlign, each next one at the next multiple of it, the manifest too.
func checkSections(all []Section, end int64) error {
	at := int64(SectionAlign)
	seen := map[string]bool{}
	for i, s := range all {
		if err := checkName(fmt.Sprintf("sections[%d].name", i), s.Name); err != nil {
			return err
		}
		switch {
		case seen[s.Name]:
			return fmt.Errorf("section %q appears twice", s.Name)
		case s.Offset != at:
			return fmt.Errorf("section %q starts at byte %d, wanted %d: no holes, no overlaps", s.Name, s.Offset, at)
		case s.Length < 1 || s.Length > end-at:
			return fmt.Errorf("section %q has %d bytes at %d, the manifest starts at %d", s.Name, s.Length, at, end)
		}
		seen[s.Name] = true
		at = align(at+s.Length, SectionAlign)
	}
	if at != end {
		return fmt.Errorf("sections end at byte %d, the manifest starts at %d", at, end)
	}
	if n := len(all); n == 0 || all[n-1].Name != SectionLeaves {
		return fmt.Errorf("the last section is not %q", SectionLeaves)
	}
	if want := leafCount(all) * int64(len(Digest{})); all[len(all)-1].Length != want {
		return fmt.Errorf("section %q has %d bytes, wanted %d", SectionLeaves, all[len(all)-1].Length, want)
	}
	return nil
}

// storedFormats parses the formats of m.Weights.
func storedFormats(m *Manifest) ([]quant.Format, error) {
	if len(m.Weights) != len(m.Graph.Weights) {
		return nil, fmt.Errorf("%d weights, the graph has %d", len(m.Weights), len(m.Graph.Weights))
	}
	out := make([]quant.Format, len(m.Weights))
	for i, s := range m.Weights {
		f, err := quant.Parse(s.Format)
		if err != nil {
			return nil, fmt.Errorf("weights[%d]: %v: %w", i, err, formats.ErrUnsupported)
		}
		out[i] = f
	}
	return out, nil
}

// checkStored holds the weights to the one place that their graph and formats
// give them, and the numbers derived from that.
func checkStored(m *Manifest) error {
	fs, err := storedFormats(m)
	if err != nil {
		return err
	}
	want, length, err := layWeights(m, fs)
	if err != nil {
		return err
	}
	for i, s := range m.Weights {
		if s != want[i] {
			return fmt.Errorf("weights[%d] is %+v, wanted %+v", i, s, want[i])
		}
	}
	if s := m.Section(SectionWeights); s == nil || s.Length != length {
		return fmt.Errorf("section %q: %s, wanted %d bytes", SectionWeights, lengthOf(s), length)
	}
	if n := int64(m.Graph.Parameters()); m.Parameters != n {
		return fmt.Errorf("parameters is %d, the graph has %d", m.Parameters, n)
	}
	if want := bpw(length, m.Parameters); m.BPW != want {
		return fmt.Errorf("bpw is %g, wanted %g", m.BPW, want)
	}
	return nil
}

func lengthOf(s *Section) string {
	if s == nil {
		return "absent"
	}
	return fmt.Sprintf("%d bytes", s.Length)
}

func checkRopeSection(m *Manifest) error {
	_, length := ropeTables(&m.Graph, m.Context)
	s := m.Section(SectionRope)
	if length == 0 && s == nil {
		return nil
	}
	if s == nil || s.Length != length {
		return fmt.Errorf("section %q: %s, wanted %d bytes", SectionRope, lengthOf(s), length)
	}
	return nil
}

func checkTokenizer(m *Manifest) error {
	t := &m.Tokenizer
	if m.Section(SectionTokenizer) != nil || t.Kind != "" {
		if err := checkName("tokenizer.kind", t.Kind); err != nil {
			return err
		}
	}
	if err := inRange("tokenizer.bos", t.BOS, -1, m.Graph.Vocab-1); err != nil {
		return err
	}
	for _, id := range slices.Concat(t.EOS, t.Stop) {
		if err := inRange("tokenizer: end id", id, 0, m.Graph.Vocab-1); err != nil {
			return err
		}
	}
	return nil
}

func checkProvenance(p *Provenance) error {
	for i, s := range p.Sources {
		if err := formats.PlainName(s.Name); err != nil {
			return fmt.Errorf("provenance.sources[%d]: %w", i, err)
		}
		if s.Bytes < 0 {
			return fmt.Errorf("provenance.sources[%d]: %d bytes", i, s.Bytes)
		}
	}
	for i, s := range p.Seeds {
		if err := checkName(fmt.Sprintf("provenance.seeds[%d].stage", i), s.Stage); err != nil {
			return err
		}
	}
	for i, r := range p.Reports {
		err := first(
			checkName(fmt.Sprintf("provenance.reports[%d].stage", i), r.Stage),
			checkName(fmt.Sprintf("provenance.reports[%d].version", i), r.Version),
			checkObject(fmt.Sprintf("provenance.reports[%d].report", i), r.Report),
		)
		if err != nil {
			return err
		}
	}
	return checkObject("provenance.recipe", p.Recipe)
}

func checkObject(field string, raw json.RawMessage) error {
	if !bytes.HasPrefix(raw, []byte("{")) {
		return fmt.Errorf("%s is no object", field)
	}
	return nil
}
