package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"sort"
	"strings"
)

// The tokenizer.json format of Hugging Face tokenizers, version 1.0. Every
// component and every key of one that this package does not know is an error
// that names it. "truncation" and "padding" are read over: transformers turns
// both off unless a caller asks for them.

// maxJSON bounds a tokenizer.json; Gemma 3's has 33 MB.
const maxJSON = 256 << 20

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

// readPost turns a post-processor into the ids before and after a text.
func (s *spec) readPost(data json.RawMessage) error {
	if isNull(data) {
		return nil
	}
	kind, err := typeOf(data)
	if err != nil {
		return err
	}
	switch kind {
	case "ByteLevel": // concerns offsets only
		return strict(data, &jsonByteLevel{})
	case "Sequence":
		var seq struct {
			Type       string            `json:"type"`
			Processors []json.RawMessage `json:"processors"`
		}
		if err := strict(data, &seq); err != nil {
			return err
		}
		for _, p := range seq.Processors {
			if err := s.readPost(p); err != nil {
				return err
			}
		}
		return nil
	case "BertProcessing", "RobertaProcessing":
		var p struct {
			Type   string `json:"type"`
			Sep    [2]any `json:"sep"`
			Cls    [2]any `json:"cls"`
			Trim   bool   `json:"trim_offsets"`
			Prefix bool   `json:"add_prefix_space"`
		}
		if err := strict(data, &p); err != nil {
			return err
		}
		cls, ok1 := p.Cls[1].(float64)
		sep, ok2 := p.Sep[1].(float64)
		if !ok1 || !ok2 || cls < 0 || sep < 0 || cls >= maxVocab || sep >= maxVocab {
			return fmt.Errorf("%w: %s without ids", ErrCorrupt, kind)
		}
		s.wrapWith([]int32{int32(cls)}, []int32{int32(sep)})
		return nil
	case "TemplateProcessing":
		return s.readTemplate(data)
	}
	return fmt.Errorf("%w: type %q", ErrUnsupported, kind)
}

func (s *spec) wrapWith(before, after []int32) {
	s.prefix = append(append([]int32(nil), before...), s.prefix...)
	s.suffix = append(s.suffix, after...)
}

func (s *spec) readTemplate(data json.RawMessage) error {
	type ref struct {
		ID     any   `json:"id"`
		TypeID int64 `json:"type_id"`
	}
	type part struct {
		SpecialToken *ref `json:"SpecialToken"`
		Sequence     *ref `json:"Sequence"`
	}
	var t struct {
		Type    string `json:"type"`
		Single  []part `json:"single"`
		Pair    []part `json:"pair"`
		Special map[string]struct {
			ID     string   `json:"id"`
			IDs    []int64  `json:"ids"`
			Tokens []string `json:"tokens"`
		} `json:"special_tokens"`
	}
	if err := strict(data, &t); err != nil {
		return err
	}
	var before, after []int32
	seen := false
	for _, p := range t.Single {
		switch {
		case p.Sequence != nil && p.Sequence.ID == "A" && !seen:
			seen = true
		case p.SpecialToken != nil:
			name, _ := p.SpecialToken.ID.(string)
			tok, ok := t.Special[name]
			if !ok {
				return fmt.Errorf("%w: template names %q, which has no ids", ErrCorrupt, name)
			}
			for _, id := range tok.IDs {
				if id < 0 || id >= maxVocab {
					return fmt.Errorf("%w: template token %q has id %d", ErrCorrupt, name, id)
				}
				if seen {
					after = append(after, int32(id))
				} else {
					before = append(before, int32(id))
				}
			}
		default:
			return fmt.Errorf("%w: template for one text that is not special tokens around $A", ErrUnsupported)
		}
	}
	if !seen {
		return fmt.Errorf("%w: template without $A", ErrUnsupported)
	}
	s.wrapWith(before, after)
	return nil
}

// guessSpecials names BOS, EOS and the ends of generation from the added
// tokens, where no tokenizer_config.json says better: BOS is what the
// post-processor puts first.
func (s *spec) guessSpecials() {
	if len(s.prefix) > 0 {
		s.bos = s.prefix[0]
	}
	if len(s.suffix) > 0 {
		s.eos = s.suffix[len(s.suffix)-1]
	}
	for _, a := range s.added {
		if !a.Special {
			continue
		}
		if ggufEnd[a.Content] {
			s.eog = append(s.eog, a.ID)
		}
		switch a.Content {
		case "<s>", "<bos>", "<|begin_of_text|>":
			if s.bos < 0 {
				s.bos = a.ID
			}
		case "</s>", "<eos>", "<|end_of_text|>", "<|endoftext|>":
			if s.eos < 0 {
				s.eos = a.ID
			}
		}
	}
}

// jsonConfig is what matters here of a tokenizer_config.json.
type jsonConfig struct {
	Class    string          `json:"tokenizer_class"`
	AddBOS   *bool           `json:"add_bos_token"`
	AddEOS   *bool           `json:"add_eos_token"`
	BOS      jsonToken       `json:"bos_token"`
	EOS      jsonToken       `json:"eos_token"`
	Pad      jsonToken       `json:"pad_token"`
	Template json.RawMessage `json:"chat_template"`
}

// jsonToken is a token's text, alone or as an AddedToken's content.
type jsonToken string

func (t *jsonToken) UnmarshalJSON(b []byte) error {
	var text string
	if json.Unmarshal(b, &text) == nil {
		*t = jsonToken(text)
		return nil
	}
	var obj struct {
		Content string `json:"content"`
	}
	if err := json.Unmarshal(b, &obj); err != nil {
		return errors.New("neither a string nor an object with content")
	}
	*t = jsonToken(obj.Content)
	return nil
}

// classesWithBOS are the tokenizer classes of transformers that put their own
// post-processor in place of the file's, and whether BOS is their default.
var classesWithBOS = map[string]bool{
	"LlamaTokenizer": true, "LlamaTokenizerFast": true, "CodeLlamaTokenizer": true, "CodeLlamaTokenizerFast": true,
	"GemmaTokenizer": true, "GemmaTokenizerFast": true, "CohereTokenizer": true, "CohereTokenizerFast": true,
}

func (s *spec) applyConfig(config []byte) error {
	var c jsonConfig
	if err := json.Unmarshal(config, &c); err != nil {
		return fmt.Errorf("%w: tokenizer_config.json: %v", ErrCorrupt, err)
	}
	for _, f := range []struct {
		name jsonToken
		id   *int32
	}{{c.BOS, &s.bos}, {c.EOS, &s.eos}, {c.Pad, &s.pad}} {
		if f.name != "" {
			if id := s.vocab.lookup(string(f.name)); id >= 0 {
				*f.id = id
			}
		}
	}
	if s.eos >= 0 {
		s.eog = append(s.eog, s.eos)
		sort.Slice(s.eog, func(i, j int) bool { return s.eog[i] < s.eog[j] })
		s.eog = dedupe(s.eog)
	}
	var text string
	if json.Unmarshal(c.Template, &text) == nil {
		s.template = text
	}
	if !classesWithBOS[c.Class] {
		return nil
	}
	s.prefix, s.suffix = nil, nil
	if c.AddBOS == nil || *c.AddBOS {
		if s.bos < 0 {
			return fmt.Errorf("%w: tokenizer_config.json: add_bos_token without a bos_token", ErrCorrupt)
		}
		s.prefix = []int32{s.bos}
	}
	if c.AddEOS != nil && *c.AddEOS {
		if s.eos < 0 {
			return fmt.Errorf("%w: tokenizer_config.json: add_eos_token without an eos_token", ErrCorrupt)
		}
		s.suffix = []int32{s.eos}
	}
	return nil
}

func dedupe(sorted []int32) []int32 {
	out := sorted[:0]
	for i, x := range sorted {
		if i == 0 || x != sorted[i-1] {
			out = append(out, x)
		}
	}
	return out
}
