package tokenizer

import (
	"encoding/json"
	"fmt"
)

// Post-processors of tokenizer.json. Those that add tokens around one text come down
// to ids before and ids after it.

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
