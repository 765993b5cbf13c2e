package tokenizer

import (
	"fmt"
	"math"

	"google.golang.org/protobuf/encoding/protowire"
)

// The SentencePiece model file: a ModelProto (sentencepiece_model.proto) of
// pieces, trainer specification and normalizer specification.

// maxModel bounds a tokenizer.model; Gemma's has 4.7 MB.
const maxModel = 64 << 20

// spModel is what encoding needs of a ModelProto, with the format's defaults.
type spModel struct {
	pieces       []spPiece
	modelType    uint64
	bosID        int64
	eosID        int64
	padID        int64
	byteFallback bool
	suffixSpaces bool
	unkSurface   string
	charsmap     []byte
	dummyPrefix  bool
	trim         bool
	escape       bool
	denormalizer []byte
}

type spPiece struct {
	text  string
	score float32
	kind  uint64
}

// FromSentencePiece reads a tokenizer.model. Encode gives the ids of the
// SentencePiece library's encode, which recognises user-defined but not control
// pieces in text; EncodeTemplate recognises both, and puts the dummy space after
// each, as Hugging Face's conversions do. With
// addSpecial they start with BOS, as every Llama model does, where the model
// has one and config does not say otherwise. config is the
// tokenizer_config.json beside it, or nil.
func FromSentencePiece(data, config []byte) (*Tokenizer, error) {
	s, err := specFromSP(data)
	if err == nil && config != nil {
		err = s.applyConfig(config)
	}
	if err != nil {
		return nil, fmt.Errorf("tokenizer.model: %w", err)
	}
	t, err := build(s)
	if err != nil {
		return nil, fmt.Errorf("tokenizer.model: %w", err)
	}
	return t, nil
}

func specFromSP(data []byte) (*spec, error) {
	if len(data) > maxModel {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are supported", ErrUnsupported, len(data), maxModel)
	}
	m := &spModel{modelType: 1, bosID: 1, eosID: 2, padID: -1, unkSurface: " \u2047 ",
		dummyPrefix: true, trim: true, escape: true}
	if err := m.parse(data); err != nil {
		return nil, err
	}
	return m.spec()
}

// fields calls f for each field of a message: with v for varints, b for bytes
// and the bits of fixed32 in v. Groups and other wire types are corrupt.
func fields(b []byte, f func(num protowire.Number, typ protowire.Type, v uint64, data []byte) error) error {
	for at := 0; at < len(b); {
		num, typ, n := protowire.ConsumeTag(b[at:])
		if n < 0 {
			return fmt.Errorf("%w: protobuf tag at byte %d: %v", ErrCorrupt, at, protowire.ParseError(n))
		}
		at += n
		var v uint64
		var data []byte
		switch typ {
		case protowire.VarintType:
			v, n = protowire.ConsumeVarint(b[at:])
		case protowire.Fixed32Type:
			var x uint32
			x, n = protowire.ConsumeFixed32(b[at:])
			v = uint64(x)
		case protowire.Fixed64Type:
			v, n = protowire.ConsumeFixed64(b[at:])
		case protowire.BytesType:
			data, n = protowire.ConsumeBytes(b[at:])
		default:
			return fmt.Errorf("%w: protobuf wire type %d at byte %d", ErrCorrupt, typ, at)
		}
		if n < 0 {
			return fmt.Errorf("%w: protobuf field %d at byte %d: %v", ErrCorrupt, num, at, protowire.ParseError(n))
		}
		at += n
		if err := f(num, typ, v, data); err != nil {
			return err
		}
	}
	return nil
}

func (m *spModel) parse(data []byte) error {
	return fields(data, func(num protowire.Number, typ protowire.Type, _ uint64, b []byte) error {
		if typ != protowire.BytesType {
			return nil
		}
		switch num {
		case 1:
			if len(m.pieces) >= maxVocab {
				return fmt.Errorf("%w: more than %d pieces", ErrUnsupported, maxVocab)
			}
			p := spPiece{kind: 1}
			err := fields(b, func(num protowire.Number, _ protowire.Type, v uint64, b []byte) error {
				switch num {
				case 1:
					p.text = string(b)
				case 2:
					p.score = math.Float32frombits(uint32(v))
				case 3:
					p.kind = v
				}
				return nil
			})
			m.pieces = append(m.pieces, p)
			return err
		case 2:
			return m.parseTrainer(b)
		case 3:
			return m.parseNormalizer(b)
		case 5:
			m.denormalizer = b
		}
		return nil
	})
}

func (m *spModel) parseTrainer(b []byte) error {
	return fields(b, func(num protowire.Number, _ protowire.Type, v uint64, b []byte) error {
		switch num {
		case 3:
			m.modelType = v
		case 24:
			m.suffixSpaces = v != 0
		case 35:
			m.byteFallback = v != 0
		case 41:
			m.bosID = int64(int32(v))
		case 42:
			m.eosID = int64(int32(v))
		case 43:
			m.padID = int64(int32(v))
		case 44:
			m.unkSurface = string(b)
		}
		return nil
	})
}

func (m *spModel) parseNormalizer(b []byte) error {
	return fields(b, func(num protowire.Number, _ protowire.Type, v uint64, b []byte) error {
		switch num {
		case 2:
			m.charsmap = b
		case 3:
			m.dummyPrefix = v != 0
		case 4:
			m.trim = v != 0
		case 5:
			m.escape = v != 0
		}
		return nil
	})
}

func (m *spModel) spec() (*spec, error) {
	s := &spec{family: familySPM, unk: -1, bos: -1, eos: -1, pad: -1, byteFallback: m.byteFallback,
		charsmap: append([]byte(nil), m.charsmap...), unkText: m.unkSurface}
	switch m.modelType {
	case 1:
		s.model = modelUnigram
	case 2:
		s.model = modelScoreBPE
	default:
		return nil, fmt.Errorf("%w: model type %d; known are 1 (unigram) and 2 (BPE)", ErrUnsupported, m.modelType)
	}
	var denorm []byte
	if err := fields(m.denormalizer, func(num protowire.Number, _ protowire.Type, _ uint64, b []byte) error {
		if num == 2 {
			denorm = b
		}
		return nil
	}); err != nil {
		return nil, err
	}
	if len(denorm) > 0 {
		return nil, fmt.Errorf("%w: denormalizer with a charsmap", ErrUnsupported)
	}
	tokens, kinds, err := m.layout(s)
	if err != nil {
		return nil, err
	}
	if s.vocab, err = newVocab(tokens, kinds, false); err != nil {
		return nil, err
	}
	if err := s.vocab.index(); err != nil {
		return nil, err
	}
	for _, f := range []struct {
		id  int64
		dst *int32
	}{{m.bosID, &s.bos}, {m.eosID, &s.eos}, {m.padID, &s.pad}} {
		if f.id >= 0 && f.id < int64(len(tokens)) && kinds[f.id] == kindControl {
			*f.dst = int32(f.id)
		}
	}
	if s.bos >= 0 {
		s.prefix = []int32{s.bos}
	}
	n := 0
	if m.escape {
		n |= spmEscape
	}
	if m.suffixSpaces {
		n |= spmSuffix
	}
	s.normalize = []step{{op: "spm", a: m.dummyPrefix, b: m.trim, n: n}}
	s.decode = []step{{op: "spm", a: m.dummyPrefix, b: m.trim}}
	return s, nil
}

// isMarkup tells user-defined pieces such as <|user|> and [INST], which mark
// up chats, from those that are just text, such as runs of spaces. In raw text
// the library recognises both alike. In chats the former are added tokens:
// recognised in the template's text only.
func isMarkup(s string) bool {
	n := len(s) - 1
	return n > 1 && (s[0] == '<' && s[n] == '>' || s[0] == '[' && s[n] == ']')
}

// layout returns pieces and kinds by id and fills scores and added tokens.
func (m *spModel) layout(s *spec) ([]string, []byte, error) {
	tokens := make([]string, len(m.pieces))
	kinds := make([]byte, len(m.pieces))
	bytes := 0
	for i, p := range m.pieces {
		if p.text == "" {
			return nil, nil, fmt.Errorf("%w: piece %d is empty", ErrCorrupt, i)
		}
		if p.kind < kindNormal || p.kind > kindByte {
			return nil, nil, fmt.Errorf("%w: piece %d is of type %d", ErrUnsupported, i, p.kind)
		}
		tokens[i], kinds[i] = p.text, byte(p.kind)
		s.scores = append(s.scores, float64(p.score))
		switch byte(p.kind) {
		case kindUnknown:
			if s.unk >= 0 {
				return nil, nil, fmt.Errorf("%w: pieces %d and %d are both unknown pieces", ErrCorrupt, s.unk, i)
			}
			s.unk = int32(i)
		case kindByte:
			bytes++
			if _, ok := byteToken(p.text); !ok {
				return nil, nil, fmt.Errorf("%w: byte piece %d is %q", ErrCorrupt, i, p.text)
			}
		case kindControl:
			s.added = append(s.added, AddedToken{ID: int32(i), Content: p.text, Special: true})
			if ggufEnd[p.text] {
				s.eog = append(s.eog, int32(i))
			}
		case kindUser:
			if isMarkup(p.text) {
				kinds[i] |= kindMarkup
				s.added = append(s.added, AddedToken{ID: int32(i), Content: p.text})
			}
		}
	}
	if s.unk < 0 {
		return nil, nil, fmt.Errorf("%w: no unknown piece", ErrCorrupt)
	}
	if m.byteFallback && bytes != 256 {
		return nil, nil, fmt.Errorf("%w: byte fallback with %d byte pieces, want 256", ErrCorrupt, bytes)
	}
	return tokens, kinds, nil
}
