package tokenizer

import (
	"fmt"
	"math"
	"strings"
)

// The tokenizer.bin of llama2.c: int32 length of the longest token, then for
// each token a float32 score, an int32 length and its bytes, little-endian. It
// is a Llama SentencePiece model with the marks for spaces undone: 0 unknown, 1
// BOS, 2 EOS, 3 to 258 bytes, then pieces.

// FromLlama2C reads a tokenizer.bin of vocabSize tokens, or of as many as it
// has if vocabSize is 0: the file itself does not say. Files written before
// the length was added are not supported.
func FromLlama2C(data []byte, vocabSize int) (*Tokenizer, error) {
	s, err := specFromLlama2C(data, vocabSize)
	if err != nil {
		return nil, fmt.Errorf("llama2.c tokenizer: %w", err)
	}
	t, err := build(s)
	if err != nil {
		return nil, fmt.Errorf("llama2.c tokenizer: %w", err)
	}
	return t, nil
}

func specFromLlama2C(data []byte, want int) (*spec, error) {
	if len(data) > maxModel || want < 0 || want > maxVocab {
		return nil, fmt.Errorf("%w: %d bytes, %d tokens", ErrUnsupported, len(data), want)
	}
	if len(data) < 4 {
		return nil, fmt.Errorf("%w: %d bytes, no room for the header", ErrCorrupt, len(data))
	}
	longest := leUint32(data)
	s := &spec{family: familySPM, model: modelScoreBPE, byteFallback: true, unk: 0, bos: 1, eos: 2, pad: -1}
	var tokens []string
	var kinds []byte
	for at := 4; at < len(data) && (want == 0 || len(tokens) < want); {
		id := len(tokens)
		if len(data)-at < 8 {
			return nil, fmt.Errorf("%w: token %d at byte %d: %d bytes left, want 8", ErrCorrupt, id, at, len(data)-at)
		}
		score := math.Float32frombits(leUint32(data[at:]))
		n := leUint32(data[at+4:])
		at += 8
		if n > longest || uint64(n) > uint64(len(data)-at) {
			return nil, fmt.Errorf("%w: token %d at byte %d: length %d, longest %d, %d bytes left", ErrCorrupt, id, at-8, n, longest, len(data)-at)
		}
		text, kind := llama2cToken(id, string(data[at:at+int(n)]))
		if kind == kindByte && text != byteTokens[id-3] {
			return nil, fmt.Errorf("%w: token %d is %q, want %q", ErrUnsupported, id, text, byteTokens[id-3])
		}
		at += int(n)
		tokens, kinds = append(tokens, text), append(kinds, kind)
		s.scores = append(s.scores, float64(score))
	}
	if want != 0 && len(tokens) != want {
		return nil, fmt.Errorf("%w: %d tokens, want %d", ErrCorrupt, len(tokens), want)
	}
	if len(tokens) < 259 {
		return nil, fmt.Errorf("%w: %d tokens, want at least 259", ErrCorrupt, len(tokens))
	}
	for id := int32(1); id <= 2; id++ {
		s.added = append(s.added, AddedToken{ID: id, Content: tokens[id], Special: true})
	}
	s.prefix, s.eog = []int32{1}, []int32{2}
	s.unkText = " \u2047 "
	s.normalize = []step{{op: "spm", a: true, n: spmEscape}}
	s.decode = []step{{op: "spm", a: true}}
	var err error
	if s.vocab, err = newVocab(tokens, kinds, false); err != nil {
		return nil, err
	}
	return s, s.vocab.index()
}

func llama2cToken(id int, text string) (string, byte) {
	switch {
	case id == 0:
		return text, kindUnknown
	case id <= 2:
		return strings.Trim(text, "\n"), kindControl
	case id < 259:
		return text, kindByte
	}
	return strings.ReplaceAll(text, " ", spaceMark), kindNormal
}
