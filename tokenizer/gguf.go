package tokenizer

import (
	"fmt"
	"strconv"
	"strings"
)

// GGUFVocab is the tokenizer of a GGUF file as plain data: the values of its
// tokenizer.ggml.* keys. Ids that the file does not give are -1 and flags nil;
// llama.cpp's defaults for the model then hold.
type GGUFVocab struct {
	Model  string    // model: "llama", "gpt2", "bert", "t5", "rwkv", ...
	Pre    string    // pre
	Tokens []string  // tokens
	Scores []float32 // scores; may be empty
	Types  []int32   // token_type: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte; may be empty
	Merges []string  // merges, "left right"

	BOS, EOS, EOT, EOM, UNK, SEP, PAD int // *_token_id

	AddBOS, AddEOS, AddSEP, AddSpacePrefix *bool
	RemoveExtraWhitespaces                 *bool
	Lowercase, StripAccents                *bool  // normalizer.*
	Charsmap                               []byte // precompiled_charsmap
	ChatTemplate                           string // tokenizer.chat_template
}

// NewGGUFVocab returns a GGUFVocab in which nothing is set.
func NewGGUFVocab() GGUFVocab {
	return GGUFVocab{BOS: -1, EOS: -1, EOT: -1, EOM: -1, UNK: -1, SEP: -1, PAD: -1}
}

// FromGGUF makes the tokenizer of a GGUF file. Ids are those of llama.cpp's
// tokenize with parse_special; Decode is not followed by its clean-up of
// spaces. Errors: ErrUnsupported for a model or pre type that is not known,
// naming those that are, ErrCorrupt for values that contradict each other.
func FromGGUF(g GGUFVocab) (*Tokenizer, error) {
	t, err := fromGGUF(&g)
	if err != nil {
		return nil, fmt.Errorf("gguf vocabulary: %w", err)
	}
	return t, nil
}

func fromGGUF(g *GGUFVocab) (*Tokenizer, error) {
	s := &spec{family: familyGGUF, parseRaw: true, unk: -1, bos: -1, eos: -1, pad: -1, template: g.ChatTemplate, charsmap: g.Charsmap}
	var err error
	var addBOS, addEOS, addSEP bool
	sep := -1
	set := func(id *int32, given, fallback int) {
		*id = int32(given)
		if given < 0 || given >= len(g.Tokens) {
			*id = int32(fallback)
		}
		if int(*id) >= len(g.Tokens) {
			*id = -1
		}
	}
	switch g.Model {
	case "llama":
		set(&s.bos, g.BOS, 1)
		set(&s.eos, g.EOS, 2)
		set(&s.unk, g.UNK, 0)
		addBOS = true
		err = g.scorePieces(s)
	case "gpt2", "gemma4", "whitespace":
		var p ggufPre
		if p, err = g.pre(); err != nil {
			return nil, err
		}
		def := 11
		if g.Model == "gemma4" || p.noBOS {
			def = -1
		}
		set(&s.bos, g.BOS, def)
		if g.Model == "gemma4" {
			set(&s.eos, g.EOS, -1)
		} else {
			set(&s.eos, g.EOS, 11)
		}
		set(&s.unk, g.UNK, -1)
		addBOS, addSEP = p.addBOS, p.addSEP
		if p.spaceMarks && strings.HasPrefix(p.names, "gemma4") && g.AddBOS != nil && !*g.AddBOS {
			t := true // llama.cpp overrides the file here
			g.AddBOS = &t
		}
		err = g.mergedPieces(s, p)
	case "bert":
		set(&s.bos, g.BOS, 101)
		set(&s.eos, g.EOS, -1)
		set(&s.unk, g.UNK, 100)
		sep = 102
		addBOS, addSEP = true, true
		err = g.wordPieces(s)
	case "t5":
		set(&s.bos, g.BOS, -1)
		set(&s.eos, g.EOS, 1)
		set(&s.unk, g.UNK, 2)
		addEOS = true
		err = g.unigramPieces(s)
	case "rwkv":
		set(&s.bos, g.BOS, -1)
		set(&s.eos, g.EOS, -1)
		set(&s.unk, g.UNK, -1)
		err = g.greedyPieces(s)
	default:
		return nil, fmt.Errorf("%w: tokenizer.ggml.model %q; known are llama, gpt2, gemma4, whitespace, bert, t5, rwkv", ErrUnsupported, g.Model)
	}
	if err != nil {
		return nil, err
	}
	set(&s.pad, g.PAD, -1)
	var sepID int32
	set(&sepID, g.SEP, sep)
	if err := g.wrap(s, addBOS, addEOS, addSEP, sepID); err != nil {
		return nil, err
	}
	g.specials(s)
	return build(s)
}

// wrap sets what stands before and after a text. llama.cpp adds SEP only for
// BERT vocabularies, and for those in EOS's place.
func (g *GGUFVocab) wrap(s *spec, addBOS, addEOS, addSEP bool, sep int32) error {
	flag := func(given *bool, def bool) bool {
		if given != nil {
			return *given
		}
		return def
	}
	if g.Model == "rwkv" {
		return nil // llama.cpp adds nothing there
	}
	if g.Model == "bert" {
		if s.bos < 0 || sep < 0 {
			return fmt.Errorf("%w: bert vocabulary without BOS or SEP token", ErrCorrupt)
		}
		s.prefix, s.suffix = []int32{s.bos}, []int32{sep}
		return nil
	}
	if flag(g.AddBOS, addBOS) {
		if s.bos < 0 {
			return fmt.Errorf("%w: add_bos_token is true, but there is no BOS token", ErrCorrupt)
		}
		s.prefix = []int32{s.bos}
	}
	if flag(g.AddEOS, addEOS) {
		if s.eos < 0 {
			return fmt.Errorf("%w: add_eos_token is true, but there is no EOS token", ErrCorrupt)
		}
		s.suffix = []int32{s.eos}
	}
	if flag(g.AddSEP, addSEP) && sep < 0 && g.AddSEP != nil {
		return fmt.Errorf("%w: add_sep_token is true, but there is no SEP token", ErrCorrupt)
	}
	return nil
}

func (g *GGUFVocab) pre() (ggufPre, error) {
	name := g.Pre
	if g.Model == "gemma4" {
		name = "gemma4"
	}
	if name == "" {
		name = "default"
	}
	p, ok := findGGUFPre(name)
	if !ok {
		return p, fmt.Errorf("%w: tokenizer.ggml.pre %q; known are %s", ErrUnsupported, name, strings.Join(GGUFPreTypes(), ", "))
	}
	return p, nil
}

// load fills vocabulary, kinds and scores.
func (g *GGUFVocab) load(s *spec, tokens []string, raw bool) error {
	n := len(g.Tokens)
	if len(g.Types) != 0 && len(g.Types) < n {
		return fmt.Errorf("%w: %d token types for %d tokens", ErrCorrupt, len(g.Types), n)
	}
	if len(g.Scores) != 0 && len(g.Scores) < n {
		return fmt.Errorf("%w: %d scores for %d tokens", ErrCorrupt, len(g.Scores), n)
	}
	kinds := make([]byte, n)
	for i := range kinds {
		kinds[i] = kindNormal
		if len(g.Types) > 0 {
			if k := g.Types[i]; k >= kindNormal && k <= kindByte {
				kinds[i] = byte(k)
			}
		}
		if tokens[i] == "" {
			tokens[i] = "[EMPTY_" + strconv.Itoa(i) + "]"
		}
	}
	g.override(kinds)
	for i := range kinds {
		if kinds[i] == kindUser && isMarkup(tokens[i]) {
			kinds[i] |= kindMarkup
		}
	}
	var err error
	if s.vocab, err = newVocab(tokens, kinds, raw); err != nil {
		return err
	}
	if raw {
		// Control and user-defined tokens stand for their own text.
		if err := g.literalTokens(s.vocab, tokens, kinds); err != nil {
			return err
		}
	}
	s.scores = make([]float64, n)
	for i := range s.scores {
		if len(g.Scores) > 0 {
			s.scores[i] = float64(g.Scores[i])
		}
	}
	return s.vocab.index()
}

// literalTokens stores tokens that are not made of byte-level characters by
// design, whatever their text looks like.
func (g *GGUFVocab) literalTokens(v *vocab, tokens []string, kinds []byte) error {
	var blob strings.Builder
	off := make([]uint32, 1, len(v.off))
	for i := range tokens {
		if kinds[i]&kindMask != kindNormal && v.kind[i]&kindRaw != 0 {
			v.kind[i] &^= kindRaw
			blob.WriteString(tokens[i])
		} else {
			blob.WriteString(v.at(int32(i)))
		}
		off = append(off, uint32(blob.Len()))
	}
	v.blob, v.off = blob.String(), off
	return nil
}

func (g *GGUFVocab) scorePieces(s *spec) error {
	s.model, s.byteFallback = modelScoreBPE, true
	if err := g.load(s, append([]string(nil), g.Tokens...), false); err != nil {
		return err
	}
	dummy := g.AddSpacePrefix == nil || *g.AddSpacePrefix
	s.normalize = []step{{op: "spm", a: dummy, n: spmEscape}}
	s.decode = []step{{op: "spm", a: dummy}}
	return nil
}

func (g *GGUFVocab) unigramPieces(s *spec) error {
	s.model = modelUnigram
	if err := g.load(s, append([]string(nil), g.Tokens...), false); err != nil {
		return err
	}
	dummy := g.AddSpacePrefix != nil && *g.AddSpacePrefix
	trim := g.RemoveExtraWhitespaces != nil && *g.RemoveExtraWhitespaces
	s.normalize = []step{{op: "spm", a: dummy || trim, b: trim, n: spmEscape}}
	s.decode = []step{{op: "spm", a: dummy || trim, b: trim}}
	return nil
}

func (g *GGUFVocab) wordPieces(s *spec) error {
	s.model = modelWordPiece
	if err := g.load(s, append([]string(nil), g.Tokens...), false); err != nil {
		return err
	}
	lower := g.Lowercase == nil || *g.Lowercase
	strip := lower
	if g.StripAccents != nil {
		strip = *g.StripAccents
	}
	s.normalize = []step{{op: "wpm", a: lower, b: strip}}
	s.pre = []step{{op: "whitespacesplit"}}
	s.decode = []step{{op: "replace", s: spaceMark, t: " "}, {op: "fuse"}, {op: "strip", s: " ", n: 1}}
	return nil
}

func (g *GGUFVocab) mergedPieces(s *spec, p ggufPre) error {
	if len(g.Merges) == 0 && p.custom != "kimi" {
		return fmt.Errorf("%w: no merges", ErrCorrupt)
	}
	s.model = modelBPE
	s.rawBytes = !p.spaceMarks && !p.words
	s.ignoreMerges = p.ignoreMerges
	if err := g.load(s, append([]string(nil), g.Tokens...), s.rawBytes); err != nil {
		return err
	}
	s.byteFallback = !s.rawBytes
	if p.spaceMarks {
		s.normalize = []step{{op: "replace", s: " ", t: spaceMark}}
		s.decode = []step{{op: "replace", s: spaceMark, t: " "}, {op: "bytefallback"}, {op: "fuse"}}
	} else if s.rawBytes {
		s.decode = []step{{op: "bytelevel"}}
	} else {
		s.pre = append(s.pre, step{op: "whitespacesplit"})
		if g.Lowercase != nil && *g.Lowercase {
			s.pre = append(s.pre, step{op: "lower"})
		}
		s.decode = []step{{op: "bytefallback"}, {op: "fuse"}}
	}
	if p.custom != "" {
		s.pre = append(s.pre, step{op: p.custom})
	}
	for _, re := range p.regexes {
		s.pre = append(s.pre, step{op: "split", s: re, a: true, n: splitIsolated})
	}
	if s.rawBytes {
		s.pre = append(s.pre, step{op: "bytelevel"})
	}
	s.unk = -1 // bytes without a token are dropped, as in llama.cpp
	pairs := make([][2]string, len(g.Merges))
	for i, m := range g.Merges {
		// The first space that is not the first byte separates.
		at := -1
		if len(m) > 1 {
			at = strings.IndexByte(m[1:], ' ')
		}
		if at < 0 {
			return fmt.Errorf("%w: merge %d %q is not a pair", ErrCorrupt, i, m)
		}
		pairs[i] = [2]string{m[:at+1], m[at+2:]}
	}
	return s.resolveMerges(pairs, true)
}

func (g *GGUFVocab) greedyPieces(s *spec) error {
	s.model = modelGreedy
	tokens := make([]string, len(g.Tokens))
	for i, t := range g.Tokens {
		tokens[i] = unescapeRWKV(t)
	}
	if err := g.load(s, tokens, false); err != nil {
		return err
	}
	for i := range s.vocab.kind {
		s.vocab.kind[i] |= kindRaw // the tokens are bytes
	}
	if err := s.vocab.index(); err != nil {
		return err
	}
	s.decode = []step{{op: "bytes"}}
	return nil
}

// unescapeRWKV undoes the escapes \t \n \r \xAB of RWKV's vocabulary.
func unescapeRWKV(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		switch s[i] {
		case 't':
			b.WriteByte('\t')
		case 'n':
			b.WriteByte('\n')
		case 'r':
			b.WriteByte('\r')
		case 'x':
			if i+2 < len(s) {
				hi, _ := unhex(s[i+1])
				lo, _ := unhex(s[i+2])
				b.WriteByte(hi<<4 | lo)
				i += 2
			}
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}
