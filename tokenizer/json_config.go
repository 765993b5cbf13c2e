package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"sort"
)

// What tokenizer_config.json adds to a tokenizer: the names of special tokens, the
// chat template, and the post-processor that some classes of transformers put in
// place of the file's (LlamaTokenizerFast.update_post_processor).

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
