package tokenizer

import (
	"fmt"
	"math"
	"slices"
	"sort"
)

// Kinds of model.
const (
	modelBPE       = 1 // merges in rank order
	modelScoreBPE  = 2 // merges by piece score
	modelUnigram   = 3
	modelWordPiece = 4
	modelWordLevel = 5
	modelGreedy    = 6 // longest match, RWKV's
)

// Families decide details in which the reference implementations differ.
const (
	familyHF   = 1 // Hugging Face tokenizers
	familySPM  = 2 // SentencePiece, and llama2.c
	familyGGUF = 3 // llama.cpp
)

// spec is a tokenizer as plain data: what every loader makes, what Marshal
// writes, and what build turns into something that runs.
type spec struct {
	family       int
	model        int
	rawBytes     bool // byte-level: words are bytes and so are the stored tokens
	vocab        *vocab
	scores       []float64 // by id; score BPE and unigram
	merges       []merge   // BPE, in rank order
	byteFallback bool
	fuseUnk      bool
	ignoreMerges bool
	unk          int32 // -1: none, as all ids below
	bos          int32
	eos          int32
	pad          int32

	subwordPrefix string // "##" of WordPiece, or BPE's continuing_subword_prefix
	wordSuffix    string // BPE's end_of_word_suffix
	maxWord       int    // WordPiece: longer words, in characters, are unknown

	added     []AddedToken
	parseRaw  bool // Encode recognises special tokens in raw text
	normalize []step
	pre       []step
	decode    []step
	prefix    []int32   // what the post-processor puts before the text
	suffix    []int32   // and after it
	eog       []int32   // ids that end a generation, ascending
	charsmap  []byte    // SentencePiece's precompiled normalization
	unkText   string    // SentencePiece: what an unknown token decodes to
	template  string    // chat template found in the same file
	pairs     pairTable // of merges, if made already
	order     []int32   // ids by ascending token, if known; unigram and greedy models
}

// step is one stage of a normalizer, pre-tokenizer or decoder; what its fields
// mean depends on op and stands with the code that runs it.
type step struct {
	op   string
	s, t string
	a, b bool
	n    int
}

// AddedToken is a token that is found in the text before anything else is
// done with it.
type AddedToken struct {
	ID         int32
	Content    string
	Special    bool // skipped by Decode with skipSpecial; never found in message contents
	SingleWord bool // only between non-word characters
	LStrip     bool // takes the whitespace on its left
	RStrip     bool // takes the whitespace on its right
	Normalized bool // found in normalized text, and normalized itself
}

func (s *spec) scores32() []float32 {
	f := make([]float32, len(s.scores))
	for i, x := range s.scores {
		f[i] = float32(x)
	}
	return f
}

// check holds a spec to what the run-time form relies on, so that no input can
// index out of range later.
func (s *spec) check() error {
	n := int32(s.vocab.size())
	if n == 0 {
		return fmt.Errorf("%w: empty vocabulary", ErrCorrupt)
	}
	for _, f := range []struct {
		what string
		id   int32
	}{{"unk", s.unk}, {"bos", s.bos}, {"eos", s.eos}, {"pad", s.pad}} {
		if f.id != -1 && !s.vocab.has(f.id) {
			return fmt.Errorf("%w: %s token id %d is not in the vocabulary of %d", ErrCorrupt, f.what, f.id, n)
		}
	}
	for _, list := range [][]int32{s.prefix, s.suffix, s.eog} {
		for _, id := range list {
			if !s.vocab.has(id) {
				return fmt.Errorf("%w: special token id %d is not in the vocabulary of %d", ErrCorrupt, id, n)
			}
		}
	}
	for i, m := range s.merges {
		if !s.vocab.has(m.left) || !s.vocab.has(m.right) || !s.vocab.has(m.out) {
			return fmt.Errorf("%w: merge %d names an id outside the vocabulary of %d", ErrCorrupt, i, n)
		}
	}
	seen := make(map[string]int32, len(s.added))
	for _, a := range s.added {
		if !s.vocab.has(a.ID) {
			return fmt.Errorf("%w: added token %q has id %d, not in the vocabulary of %d", ErrCorrupt, a.Content, a.ID, n)
		}
		if a.Content == "" || len(a.Content) > maxTokenLen {
			return fmt.Errorf("%w: added token %d is %d bytes long", ErrCorrupt, a.ID, len(a.Content))
		}
		if o, dup := seen[a.Content]; dup {
			return fmt.Errorf("%w: added tokens %d and %d are both %q", ErrCorrupt, o, a.ID, a.Content)
		}
		seen[a.Content] = a.ID
	}
	if s.model == modelScoreBPE || s.model == modelUnigram {
		if len(s.scores) != int(n) {
			return fmt.Errorf("%w: %d scores for %d tokens", ErrCorrupt, len(s.scores), n)
		}
		for id, x := range s.scores {
			if math.IsNaN(x) || math.IsInf(x, 0) {
				return fmt.Errorf("%w: score of token %d is %v", ErrCorrupt, id, x)
			}
		}
	}
	return nil
}

// ordered makes the matcher of pats, by s.order where that is indeed their order,
// so that a large vocabulary need not be sorted at each start.
func (s *spec) ordered(pats []pattern) *matcher {
	if len(s.order) != len(pats) {
		return newMatcher(pats)
	}
	at := make([]int32, s.vocab.size())
	for i, p := range pats {
		at[p.id] = int32(i) + 1
	}
	sorted := make([]pattern, 0, len(pats))
	for i, id := range s.order {
		if id < 0 || int(id) >= len(at) || at[id] == 0 {
			return newMatcher(pats)
		}
		p := pats[at[id]-1]
		at[id] = 0
		if i > 0 && p.text < sorted[i-1].text {
			return newMatcher(pats)
		}
		sorted = append(sorted, p)
	}
	return matcherOf(sorted)
}

// textModel turns normalized, pre-tokenized text into ids.
type textModel interface {
	appendText(dst []int32, s string, sc *scratch) ([]int32, error)
}

// build makes the run-time form of a spec whose vocabulary is indexed.
func build(s *spec) (*Tokenizer, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	sort.Slice(s.eog, func(i, j int) bool { return s.eog[i] < s.eog[j] })
	t := &Tokenizer{spec: s, cache: new(wordCache)}
	// SentencePiece's raw text alone recognises markup inside the model.
	markup := slices.ContainsFunc(s.vocab.kind, func(k byte) bool { return k&kindMarkup != 0 })
	switch s.model {
	case modelBPE:
		t.model = newBPE(s, s.vocab)
	case modelScoreBPE:
		t.model = newScoreModel(s, s.vocab, markup)
	case modelUnigram:
		t.model = newUnigram(s, s.vocab, markup)
	case modelWordPiece:
		t.model = &wordPieceModel{vocab: s.vocab, prefix: s.subwordPrefix, maxWord: s.maxWord, unk: s.unk}
	case modelWordLevel:
		t.model = &wordLevelModel{vocab: s.vocab, unk: s.unk}
	case modelGreedy:
		t.model = newGreedy(s)
	default:
		return nil, fmt.Errorf("%w: model kind %d", ErrUnsupported, s.model)
	}
	var err error
	if t.norm, err = compileNormalizers(s, true); err != nil {
		return nil, err
	}
	t.rawModel, t.rawNorm = t.model, t.norm
	if markup && s.family == familySPM {
		if t.rawNorm, err = compileNormalizers(s, false); err != nil {
			return nil, err
		}
		switch s.model {
		case modelScoreBPE:
			t.rawModel = newScoreModel(s, s.vocab, false)
		case modelUnigram:
			t.rawModel = newUnigram(s, s.vocab, false)
		}
	}
	if t.pre, t.scan, err = compilePre(s); err != nil {
		return nil, err
	}
	if t.stages, err = compileDecoders(s); err != nil {
		return nil, err
	}
	if err := t.indexAdded(); err != nil {
		return nil, err
	}
	t.pool.New = func() any { return &scratch{cache: t.cache} }
	return t, nil
}

// isSpace reports whether r is Unicode White_Space.
func isSpace(r rune) bool {
	if r < 128 {
		return asciiClass[r] == classSpace
	}
	return slowClass(r) == classSpace
}
