package slmrt

import (
	"crypto/ed25519"
	"fmt"
	"slices"
	"strings"

	"slmc/formats"
	"slmc/formats/bundle"
	"slmc/internal/exec"
	"slmc/quant"
	"slmc/tokenizer"
	"slmc/tokenizer/jinja"
)

// TokenizerKind names the form of a bundle's tokenizer section that this
// runtime reads: what tokenizer.Marshal writes.
const TokenizerKind = "slmc"

// LoadOptions say what a bundle must fulfil before it is run.
type LoadOptions struct {
	PublicKey ed25519.PublicKey // not nil: the bundle must be signed by it
}

// Load maps a bundle and makes a Model of it: weights are used where they lie.
// Header, manifest and router are checked against their digests; Check on the
// bundle, or Verify, reads the rest, which may be large.
func Load(path string, o LoadOptions) (*Model, *bundle.Bundle, error) {
	b, err := bundle.Open(path, bundle.Options{PublicKey: o.PublicKey})
	if err != nil {
		return nil, nil, err
	}
	readAhead(path, b.Manifest())
	m, err := FromBundle(b)
	if err != nil {
		b.Close()
		return nil, nil, err
	}
	return m, b, nil
}

// FromBundle makes a Model of an open bundle, which Model.Close closes.
func FromBundle(b *bundle.Bundle) (*Model, error) {
	man := b.Manifest()
	m := &Model{
		Graph: &man.Graph, Context: man.Context, KV: exec.KVFormat(man.KVFormat),
		BOS: int32(man.Tokenizer.BOS), Mapped: b.Size(), guard: b.Guard, close: b.Close,
	}
	for _, id := range slices.Concat(man.Tokenizer.EOS, man.Tokenizer.Stop) {
		m.Stops = append(m.Stops, int32(id))
	}
	if err := requireKernels(b); err != nil {
		return nil, err
	}
	m.Params = paramsOf(b)
	// Under the guard: the text sections lie in the mapping too.
	err := b.Guard(func() error {
		if man.Tokenizer.Kind != "" {
			if man.Tokenizer.Kind != TokenizerKind {
				return formats.Unsupported(b.Name(), "", -1, "tokenizer of kind %q, this runtime reads %q", man.Tokenizer.Kind, TokenizerKind)
			}
			tok, err := tokenizer.Unmarshal(b.Section(bundle.SectionTokenizer))
			if err != nil {
				return sectionError(b, bundle.SectionTokenizer, err)
			}
			m.Tokenizer = tok
		}
		if text := b.Section(bundle.SectionTemplate); text != nil {
			t, err := jinja.Parse(string(text))
			if err != nil {
				return sectionError(b, bundle.SectionTemplate, err)
			}
			m.Template = t
		}
		return loadRouter(b, m)
	})
	if err != nil {
		return nil, err
	}
	m.Special = SpecialTokens(m.Tokenizer, m.BOS, firstOf(man.Tokenizer.EOS))
	return m, nil
}

func sectionError(b *bundle.Bundle, section string, err error) error {
	return &formats.Error{File: b.Name(), Offset: b.Manifest().Section(section).Offset, Kind: formats.ErrCorrupt,
		Msg: fmt.Sprintf("section %q", section), Err: err}
}

func firstOf(ids []int) int32 {
	if len(ids) == 0 {
		return -1
	}
	return int32(ids[0])
}

// paramsOf points at the bundle's weights and tables, in place.
func paramsOf(b *bundle.Bundle) *exec.Params {
	g := &b.Manifest().Graph
	p := &exec.Params{Mats: make([]exec.Matrix, len(g.Weights)), Vecs: make([][]float32, len(g.Weights))}
	for i, w := range g.Weights {
		if w.Role.Matrix() {
			p.Mats[i] = exec.Matrix{Format: b.Format(i), Rows: w.Shape[0], Cols: w.Shape[1], Panels: b.Weight(i)}
		} else {
			p.Vecs[i] = b.Vector(i)
		}
	}
	for r := range g.Ropes {
		cos, sin := b.Rope(r)
		p.Cos, p.Sin = append(p.Cos, cos), append(p.Sin, sin)
	}
	return p
}

// RequiredKernels lists the operations that a bundle of these formats and
// cache needs, as its manifest names them: sorted, each once.
func RequiredKernels(fs []quant.Format, kv exec.KVFormat) []string {
	out := []string{string(kv)}
	for _, f := range fs {
		out = append(out, "mat_"+f.Name())
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// requireKernels refuses a bundle that needs an operation that this runtime
// does not have.
func requireKernels(b *bundle.Bundle) error {
	for _, k := range b.Manifest().Kernels {
		var err error
		if f, ok := strings.CutPrefix(k, "mat_"); ok {
			_, err = quant.Parse(f)
		} else {
			_, err = exec.ParseKV(k)
		}
		if err != nil {
			return &formats.Error{File: b.Name(), Offset: -1, Kind: formats.ErrVersion, Err: err,
				Msg: fmt.Sprintf("the bundle needs the operation %q, which this runtime does not have; use a newer slmrt", k)}
		}
	}
	return nil
}

// SpecialTokens are the strings that a chat template may write, from the ids
// that begin and end a text. A token that the model lacks is absent.
func SpecialTokens(tok *tokenizer.Tokenizer, bos, eos int32) map[string]string {
	out := map[string]string{}
	if tok == nil {
		return out
	}
	if t := tok.EOS(); t >= 0 {
		eos = t
	}
	for name, id := range map[string]int32{"bos_token": bos, "eos_token": eos, "unk_token": tok.Unk(), "pad_token": tok.Pad()} {
		if s, ok := tok.Token(id); ok && id >= 0 {
			out[name] = s
		}
	}
	return out
}
