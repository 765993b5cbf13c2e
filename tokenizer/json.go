package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strings"
)

// The tokenizer.json format of Hugging Face tokenizers, version 1.0. Every
// component and every key of one that this package does not know is an error
// that names it. "truncation" and "padding" are read over: transformers turns
// both off unless a caller asks for them.

// maxJSON bounds a tokenizer.json; Gemma 3's has 33 MB.
const maxJSON = 256 << 20

// maxDepth bounds nesting, since each level of components is parsed anew; real
// files nest 7 deep.
const maxDepth = 32

// jsonDepth returns how deep arrays and objects nest in data.
func jsonDepth(data []byte) int {
	depth, most := 0, 0
	for i := 0; i < len(data); i++ {
		switch data[i] {
		case '"':
			for i++; i < len(data) && data[i] != '"'; i++ {
				if data[i] == '\\' {
					i++
				}
			}
		case '[', '{':
			depth++
			most = max(most, depth)
		case ']', '}':
			depth--
		}
	}
	return most
}

type jsonFile struct {
	Version       string          `json:"version"`
	Truncation    json.RawMessage `json:"truncation"`
	Padding       json.RawMessage `json:"padding"`
	AddedTokens   []jsonAdded     `json:"added_tokens"`
	Normalizer    json.RawMessage `json:"normalizer"`
	PreTokenizer  json.RawMessage `json:"pre_tokenizer"`
	PostProcessor json.RawMessage `json:"post_processor"`
	Decoder       json.RawMessage `json:"decoder"`
	Model         json.RawMessage `json:"model"`
}

type jsonAdded struct {
	ID         int64  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"`
	LStrip     bool   `json:"lstrip"`
	RStrip     bool   `json:"rstrip"`
	Normalized bool   `json:"normalized"`
	Special    bool   `json:"special"`
}

type jsonModel struct {
	Type          string          `json:"type"`
	Dropout       *float64        `json:"dropout"`
	UnkToken      *string         `json:"unk_token"`
	UnkID         *int64          `json:"unk_id"`
	SubwordPrefix *string         `json:"continuing_subword_prefix"`
	WordSuffix    *string         `json:"end_of_word_suffix"`
	FuseUnk       bool            `json:"fuse_unk"`
	ByteFallback  bool            `json:"byte_fallback"`
	IgnoreMerges  bool            `json:"ignore_merges"`
	MaxWord       *int            `json:"max_input_chars_per_word"`
	Vocab         json.RawMessage `json:"vocab"`
	Merges        json.RawMessage `json:"merges"`
}

// FromJSON reads a tokenizer.json. config is the tokenizer_config.json beside
// it, or nil: from it come the names of BOS, EOS and padding, the chat
// template, and, for the classes of transformers that replace the file's
// post-processor (Llama, Code Llama, Gemma, Cohere), whether BOS and EOS are
// added.
func FromJSON(data, config []byte) (*Tokenizer, error) {
	s, err := specFromJSON(data)
	if err == nil && config != nil {
		err = s.applyConfig(config)
	}
	if err != nil {
		return nil, fmt.Errorf("tokenizer.json: %w", err)
	}
	t, err := build(s)
	if err != nil {
		return nil, fmt.Errorf("tokenizer.json: %w", err)
	}
	return t, nil
}

// strict decodes JSON into v; a key that v lacks is an error that names it.
func strict(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		if strings.Contains(err.Error(), "unknown field") {
			return fmt.Errorf("%w: %v", ErrUnsupported, err)
		}
		return fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	return nil
}

func isNull(b json.RawMessage) bool { return len(b) == 0 || string(b) == "null" }

func specFromJSON(data []byte) (*spec, error) {
	if len(data) > maxJSON {
		return nil, fmt.Errorf("%w: %d bytes, at most %d are supported", ErrUnsupported, len(data), maxJSON)
	}
	if d := jsonDepth(data); d > maxDepth {
		return nil, fmt.Errorf("%w: nested %d deep, at most %d are supported", ErrUnsupported, d, maxDepth)
	}
	var f jsonFile
	if err := strict(data, &f); err != nil {
		return nil, err
	}
	if f.Version != "" && f.Version != "1.0" {
		return nil, fmt.Errorf("%w: version %q", ErrUnsupported, f.Version)
	}
	s := &spec{family: familyHF, parseRaw: true, unk: -1, bos: -1, eos: -1, pad: -1}
	var err error
	if s.normalize, err = readSteps(f.Normalizer, readNormalizer); err != nil {
		return nil, fmt.Errorf("normalizer: %w", err)
	}
	if s.pre, err = readSteps(f.PreTokenizer, readPreTokenizer); err != nil {
		return nil, fmt.Errorf("pre_tokenizer: %w", err)
	}
	if s.decode, err = readSteps(f.Decoder, readDecoder); err != nil {
		return nil, fmt.Errorf("decoder: %w", err)
	}
	if err := s.readModel(f.Model, f.AddedTokens); err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	if err := s.readPost(f.PostProcessor); err != nil {
		return nil, fmt.Errorf("post_processor: %w", err)
	}
	s.guessSpecials()
	return s, nil
}

// readModel reads the model with the added tokens, which share its ids.
func (s *spec) readModel(data json.RawMessage, added []jsonAdded) error {
	if isNull(data) {
		return fmt.Errorf("%w: missing", ErrCorrupt)
	}
	var m jsonModel
	if err := strict(data, &m); err != nil {
		return err
	}
	if m.Dropout != nil && *m.Dropout != 0 {
		return fmt.Errorf("%w: dropout %v makes encoding random", ErrUnsupported, *m.Dropout)
	}
	switch m.Type {
	case "", "BPE":
		s.model = modelBPE
		if m.Type == "" && isNull(m.Merges) {
			return fmt.Errorf("%w: model without a type", ErrUnsupported)
		}
	case "WordPiece":
		s.model = modelWordPiece
	case "WordLevel":
		s.model = modelWordLevel
	case "Unigram":
		s.model = modelUnigram
	default:
		return fmt.Errorf("%w: model type %q; known are BPE, Unigram, WordPiece, WordLevel", ErrUnsupported, m.Type)
	}
	s.fuseUnk, s.byteFallback, s.ignoreMerges = m.FuseUnk, m.ByteFallback, m.IgnoreMerges
	if m.SubwordPrefix != nil {
		s.subwordPrefix = *m.SubwordPrefix
	}
	if m.WordSuffix != nil {
		s.wordSuffix = *m.WordSuffix
	}
	s.maxWord = 100
	if m.MaxWord != nil {
		s.maxWord = max(*m.MaxWord, 1)
	}
	tokens, err := s.readVocab(m.Vocab)
	if err != nil {
		return fmt.Errorf("vocab: %w", err)
	}
	if err := s.storeVocab(tokens, added); err != nil {
		return err
	}
	if err := s.readUnknown(&m); err != nil {
		return err
	}
	if s.model != modelBPE {
		return nil
	}
	pairs, err := readMerges(m.Merges)
	if err != nil {
		return fmt.Errorf("merges: %w", err)
	}
	return s.resolveMerges(pairs, false)
}

func (s *spec) readUnknown(m *jsonModel) error {
	if m.UnkID != nil {
		if *m.UnkID < 0 || *m.UnkID >= int64(s.vocab.size()) {
			return fmt.Errorf("%w: unk_id %d is not in the vocabulary", ErrCorrupt, *m.UnkID)
		}
		s.unk = int32(*m.UnkID)
	}
	if m.UnkToken != nil && *m.UnkToken != "" {
		if s.unk = s.vocab.lookup(*m.UnkToken); s.unk < 0 && s.model == modelBPE {
			return fmt.Errorf("%w: unk_token %q is not in the vocabulary", ErrCorrupt, *m.UnkToken)
		}
	}
	return nil
}

// readVocab returns the tokens by id; scores go to s.
func (s *spec) readVocab(data json.RawMessage) (map[int64]string, error) {
	tokens := map[int64]string{}
	if s.model == modelUnigram {
		var list []json.RawMessage
		if err := strict(data, &list); err != nil {
			return nil, err
		}
		for i, raw := range list {
			var text string
			var score float64
			pair := [2]any{&text, &score}
			if err := strict(raw, &pair); err != nil {
				return nil, fmt.Errorf("entry %d: %w", i, err)
			}
			tokens[int64(i)] = text
			s.scores = append(s.scores, score)
		}
		return tokens, nil
	}
	var ids map[string]int64
	if err := strict(data, &ids); err != nil {
		return nil, err
	}
	for text, id := range ids {
		if other, dup := tokens[id]; dup {
			a, b := min(text, other), max(text, other)
			return nil, fmt.Errorf("%w: tokens %q and %q both have id %d", ErrCorrupt, a, b, id)
		}
		tokens[id] = text
	}
	return tokens, nil
}

// storeVocab lays out tokens and added tokens by id. Ids may have holes, as
// long as they are not far larger than their number.
func (s *spec) storeVocab(tokens map[int64]string, added []jsonAdded) error {
	byText := make(map[string]int64, len(tokens))
	top := int64(-1)
	for id, text := range tokens {
		byText[text] = id
		top = max(top, id)
		if id < 0 {
			return fmt.Errorf("%w: token %q has id %d", ErrCorrupt, text, id)
		}
	}
	seen := map[string]bool{}
	for _, a := range added {
		if a.Content == "" || seen[a.Content] {
			continue // as the reference does
		}
		seen[a.Content] = true
		if a.ID < 0 {
			return fmt.Errorf("%w: added token %q has id %d", ErrCorrupt, a.Content, a.ID)
		}
		if id, ok := byText[a.Content]; ok && id != a.ID {
			return fmt.Errorf("%w: added token %q has id %d, but %d in the vocabulary", ErrCorrupt, a.Content, a.ID, id)
		}
		if text, ok := tokens[a.ID]; ok && text != a.Content {
			return fmt.Errorf("%w: added token %q has the id %d of token %q", ErrCorrupt, a.Content, a.ID, text)
		}
		tokens[a.ID], byText[a.Content] = a.Content, a.ID
		top = max(top, a.ID)
	}
	if top >= maxVocab || top > 4*int64(len(tokens))+1<<16 {
		return fmt.Errorf("%w: id %d in a vocabulary of %d tokens", ErrUnsupported, top, len(tokens))
	}
	list := make([]string, top+1)
	kinds := make([]byte, top+1)
	for id, text := range tokens {
		list[id], kinds[id] = text, kindNormal
	}
	for _, a := range added {
		if !seen[a.Content] {
			continue
		}
		delete(seen, a.Content)
		if a.Special {
			kinds[a.ID] = kindControl
		}
		s.added = append(s.added, AddedToken{ID: int32(a.ID), Content: a.Content, Special: a.Special,
			SingleWord: a.SingleWord, LStrip: a.LStrip, RStrip: a.RStrip, Normalized: a.Normalized})
	}
	if s.scores != nil {
		for len(s.scores) < len(list) {
			s.scores = append(s.scores, math.Inf(-1)) // an added token, never a piece
		}
		for i, x := range s.scores {
			if math.IsInf(x, -1) {
				s.scores[i], kinds[i] = 0, kindControl
			}
		}
	}
	s.rawBytes = s.model == modelBPE && s.subwordPrefix == "" && s.wordSuffix == "" && lastStep(s.pre) == "bytelevel"
	var err error
	if s.vocab, err = newVocab(list, kinds, s.rawBytes); err != nil {
		return err
	}
	return s.vocab.index()
}

func lastStep(steps []step) string {
	if len(steps) == 0 {
		return ""
	}
	return steps[len(steps)-1].op
}

// readMerges takes both forms: "left right" and ["left", "right"].
func readMerges(data json.RawMessage) ([][2]string, error) {
	if isNull(data) {
		return nil, fmt.Errorf("%w: missing", ErrCorrupt)
	}
	var pairs [][]string
	if err := json.Unmarshal(data, &pairs); err == nil {
		out := make([][2]string, len(pairs))
		for i, p := range pairs {
			if len(p) != 2 {
				return nil, fmt.Errorf("%w: merge %d has %d parts", ErrCorrupt, i, len(p))
			}
			out[i] = [2]string{p[0], p[1]}
		}
		return out, nil
	}
	var lines []string
	if err := strict(data, &lines); err != nil {
		return nil, err
	}
	out := make([][2]string, 0, len(lines))
	for i, l := range lines {
		if strings.HasPrefix(l, "#version") {
			continue
		}
		a, b, ok := strings.Cut(l, " ")
		if !ok || strings.Contains(b, " ") {
			return nil, fmt.Errorf("%w: merge %d %q is not a pair", ErrCorrupt, i, l)
		}
		out = append(out, [2]string{a, b})
	}
	return out, nil
}
