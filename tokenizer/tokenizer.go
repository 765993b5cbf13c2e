// Package tokenizer turns text into token ids and back, exactly as the
// reference implementation of each file format does: Hugging Face tokenizers
// for tokenizer.json, the SentencePiece library for tokenizer.model, llama.cpp
// for vocabularies in GGUF files, llama2.c for its .bin.
//
// Text is split at added tokens, normalized, pre-tokenized into words, given
// to a model (BPE, unigram, WordPiece, word level) word by word, and wrapped in
// what the post-processor adds. Whatever a file asks for and this package does
// not do is an error when it is loaded.
//
// Input is treated as UTF-8; each byte that is not part of a valid character
// counts as U+FFFD, as in SentencePiece and llama.cpp.
package tokenizer

import (
	"fmt"
	"strings"
	"sync"
	"unicode/utf8"
)

// Tokenizer is immutable after loading: any number of goroutines may use it.
type Tokenizer struct {
	spec  *spec
	model textModel
	norm  []normalizer
	// SentencePiece's raw text, in which pieces that mark up chats count.
	rawModel textModel
	rawNorm  []normalizer
	pre      []splitter
	scan     scanFunc // whole pre-tokenizer of a byte-level model, where hand-written
	stages   []stageMaker
	plain    *addedSet // added tokens found in text as it stands
	normed   *addedSet // added tokens found in normalized text
	literal  *addedSet // all added tokens as written, for EncodeSegments
	special  map[int32]bool
	decoded  map[int32]string // added tokens that decode to their normalized form
	cache    *wordCache
	pool     sync.Pool
}

// Segment is a part of a rendered chat. Only the template's own text may
// contain special tokens; message contents must not be able to forge them.
type Segment struct {
	Text    string
	Special bool // text of the template itself
}

// Encode gives the ids of raw text as the reference's encode(text) does.
// Special tokens written in the text are recognised where the reference does
// so (tokenizer.json and GGUF: yes, SentencePiece: no). With addSpecial the
// post-processor's tokens, such as BOS, are added.
//
// Errors: a regex of the tokenizer that runs out of time, or text without a
// token in a vocabulary without an unknown token.
func (t *Tokenizer) Encode(text string, addSpecial bool) ([]int32, error) {
	scope := scopeRaw
	if t.spec.parseRaw {
		scope = scopeAll
	}
	var dst []int32
	if addSpecial {
		dst = append(dst, t.spec.prefix...)
	}
	dst, err := t.encode(dst, text, scope)
	if err == nil && addSpecial {
		dst = append(dst, t.spec.suffix...)
	}
	return dst, err
}

// EncodeTemplate gives the ids of text in which special tokens are
// recognised, without what the post-processor adds: a rendered chat template
// writes its own BOS.
func (t *Tokenizer) EncodeTemplate(text string) ([]int32, error) {
	return t.encode(nil, text, scopeAll)
}

// EncodePlain gives the ids of text in which no added token is recognised, so
// that text can never become a special token.
func (t *Tokenizer) EncodePlain(text string) ([]int32, error) {
	return t.encode(nil, text, scopeNone)
}

// EncodeSegments gives the ids of the concatenation of segs, without the
// post-processor. Added tokens are recognised only where they lie wholly in
// special segments; apart from that the text is encoded as one, so a word may
// span two segments. In these segments added tokens are looked for as they
// are written, before normalization.
func (t *Tokenizer) EncodeSegments(segs []Segment) ([]int32, error) {
	var text strings.Builder
	var spans []span
	for _, s := range segs {
		start := text.Len()
		text.WriteString(validUTF8(s.Text))
		if !s.Special || start == text.Len() {
			continue
		}
		if n := len(spans); n > 0 && spans[n-1].end == start {
			spans[n-1].end = text.Len()
		} else {
			spans = append(spans, span{start, text.Len()})
		}
	}
	if len(spans) == 1 && spans[0] == (span{0, text.Len()}) {
		return t.encode(nil, text.String(), scopeAll)
	}
	sc := t.pool.Get().(*scratch)
	defer t.pool.Put(sc)
	var dst []int32
	s := text.String()
	err := t.literal.split(s, spans, func(part string, start int, id int32) error {
		if id >= 0 {
			dst = append(dst, id)
			return nil
		}
		var err error
		dst, err = t.fragment(dst, part, start == 0, scopeNone, sc)
		return err
	})
	return dst, err
}

// validUTF8 replaces each byte that is not part of a valid character by
// U+FFFD.
func validUTF8(s string) string {
	if utf8.ValidString(s) {
		return s
	}
	return string([]rune(s))
}

// Which added tokens are looked for.
const (
	scopeNone = iota
	scopeAll
	scopeRaw // none before the model, but the model's own
)

func (t *Tokenizer) encode(dst []int32, text string, scope int) ([]int32, error) {
	text = validUTF8(text)
	sc := t.pool.Get().(*scratch)
	defer t.pool.Put(sc)
	if scope != scopeAll || t.plain == nil {
		return t.fragment(dst, text, true, scope, sc)
	}
	err := t.plain.split(text, []span{{0, len(text)}}, func(part string, start int, id int32) error {
		if id >= 0 {
			dst = append(dst, id)
			return nil
		}
		var err error
		dst, err = t.fragment(dst, part, start == 0, scope, sc)
		return err
	})
	return dst, err
}

// fragment encodes text between added tokens; first says that it starts the
// whole text.
func (t *Tokenizer) fragment(dst []int32, s string, first bool, scope int, sc *scratch) ([]int32, error) {
	if s == "" {
		return dst, nil
	}
	var err error
	norm := t.norm
	if scope == scopeRaw {
		norm = t.rawNorm
	}
	limit := len(s) + 2*mayGrow(len(s))
	for _, n := range norm {
		if s, err = n(s); err != nil {
			return dst, err
		}
		if len(s) > limit {
			return dst, fmt.Errorf("%w: normalization makes more than %d bytes of one text", ErrUnsupported, limit)
		}
	}
	if scope != scopeAll || t.normed == nil {
		return t.words(dst, s, first, scope, sc)
	}
	err = t.normed.split(s, []span{{0, len(s)}}, func(part string, start int, id int32) error {
		if id >= 0 {
			dst = append(dst, id)
			return nil
		}
		var err error
		dst, err = t.words(dst, part, first && start == 0, scope, sc)
		return err
	})
	return dst, err
}

// words pre-tokenizes normalized text and gives the words to the model.
func (t *Tokenizer) words(dst []int32, s string, first bool, scope int, sc *scratch) ([]int32, error) {
	if s == "" {
		return dst, nil
	}
	if t.scan != nil {
		m := t.model.(*bpeModel)
		for i := 0; i < len(s); {
			j := t.scan(s, i)
			dst = m.appendWord(dst, s[i:j], sc)
			i = j
		}
		return dst, nil
	}
	model := t.model
	if scope == scopeRaw {
		model = t.rawModel
	}
	if len(t.pre) == 0 {
		return model.appendText(dst, s, sc)
	}
	in, out := append(sc.pieces[:0], piece{s, first}), sc.other[:0]
	var err error
	for _, p := range t.pre {
		out = out[:0]
		for _, x := range in {
			if out, err = p(out, x); err != nil {
				return dst, err
			}
		}
		in, out = out, in
	}
	sc.pieces, sc.other = in, out
	for _, x := range in {
		if dst, err = model.appendText(dst, x.text, sc); err != nil {
			return dst, err
		}
	}
	return dst, nil
}
