package tokenizer

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// JSON gives the tokenizer as a tokenizer.json that FromJSON, and Hugging Face
// tokenizers, read: BPE models, those of SentencePiece and GGUF too, whose
// scores become a list of merges as in Hugging Face's own conversion. Special
// tokens are then recognised in raw text, as tokenizer.json always has it.
// Errors: ErrUnsupported for what the format has no words for, by name.
func (t *Tokenizer) JSON() ([]byte, error) {
	w := &jsonWriter{s: t.spec}
	f, err := w.file()
	if err != nil {
		return nil, fmt.Errorf("tokenizer as JSON: %w", err)
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(f); err != nil {
		return nil, fmt.Errorf("tokenizer as JSON: %w", err)
	}
	return b.Bytes(), nil
}

type jsonWriter struct{ s *spec }

// object is one component; encoding/json writes its keys sorted.
type object = map[string]any

func (w *jsonWriter) file() (object, error) {
	s := w.s
	if s.model != modelBPE && s.model != modelScoreBPE {
		return nil, fmt.Errorf("%w: a %s model; BPE alone is written", ErrUnsupported, modelNames[s.model])
	}
	merges, err := w.merges()
	if err != nil {
		return nil, err
	}
	model := object{
		"type": "BPE", "dropout": nil, "unk_token": w.name(s.unk), "continuing_subword_prefix": orNull(s.subwordPrefix), "end_of_word_suffix": orNull(s.wordSuffix),
		"fuse_unk": s.fuseUnk || s.family != familyHF, "byte_fallback": s.byteFallback && !s.rawBytes, "ignore_merges": s.ignoreMerges,
		"vocab": w.vocab(), "merges": merges,
	}
	f := object{"version": "1.0", "truncation": nil, "padding": nil, "added_tokens": w.added(), "model": model, "post_processor": w.post()}
	for _, part := range []struct {
		key, list string
		steps     []step
		write     func(step) ([]object, error)
	}{
		{"normalizer", "normalizers", s.normalize, w.normalizer},
		{"pre_tokenizer", "pretokenizers", s.pre, w.preTokenizer},
		{"decoder", "decoders", s.decode, w.decoder},
	} {
		if f[part.key], err = sequence(part.list, part.steps, part.write); err != nil {
			return nil, fmt.Errorf("%s: %w", part.key, err)
		}
	}
	return f, nil
}

// sequence writes steps as one component, null without any.
func sequence(list string, steps []step, write func(step) ([]object, error)) (any, error) {
	var out []object
	for _, st := range steps {
		more, err := write(st)
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	switch len(out) {
	case 0:
		return nil, nil
	case 1:
		return out[0], nil
	}
	return object{"type": "Sequence", list: out}, nil
}

func orNull(s string) any {
	if s == "" {
		return nil
	}
	return s
}

// name is the text of a token, null for none.
func (w *jsonWriter) name(id int32) any {
	if !w.s.vocab.has(id) {
		return nil
	}
	return w.s.vocab.text(id)
}

func (w *jsonWriter) vocab() map[string]int32 {
	ids := make(map[string]int32, w.s.vocab.size())
	for id := range int32(w.s.vocab.size()) {
		if w.s.vocab.has(id) {
			ids[w.s.vocab.text(id)] = id
		}
	}
	return ids
}

// added lists the added tokens; those of other formats are found in text as it
// stands.
func (w *jsonWriter) added() []object {
	out := []object{}
	for _, a := range w.s.added {
		out = append(out, object{"id": a.ID, "content": a.Content, "single_word": a.SingleWord, "lstrip": a.LStrip, "rstrip": a.RStrip,
			"normalized": a.Normalized, "special": a.Special})
	}
	return out
}

// merges lists the merges in the order of their ranks. Scores become merges as
// in Hugging Face's SentencePieceExtractor: every split of a piece into two
// pieces, pieces of the higher score first, the splits of one by their ids.
func (w *jsonWriter) merges() ([][2]string, error) {
	v := w.s.vocab
	out := [][2]string{}
	for _, m := range w.s.merges {
		out = append(out, [2]string{v.text(m.left), v.text(m.right)})
	}
	if w.s.model == modelBPE {
		return out, nil
	}
	type split struct{ left, right, piece int32 }
	var all []split
	normal := func(id int32) bool {
		k := v.kind[id] & kindMask
		return k == kindNormal || k == kindUser
	}
	for id := range int32(v.size()) {
		if !v.has(id) || !normal(id) {
			continue
		}
		text := v.at(id)
		if len(text) > maxTokenLen {
			return nil, fmt.Errorf("%w: token %d is %d bytes long", ErrUnsupported, id, len(text))
		}
		from := len(all)
		for i := range text {
			if i == 0 {
				continue
			}
			l, r := v.find(text[:i], false), v.find(text[i:], false)
			if l >= 0 && r >= 0 && normal(l) && normal(r) {
				all = append(all, split{l, r, id})
			}
		}
		slices.SortFunc(all[from:], func(a, b split) int {
			if a.left != b.left {
				return int(a.left - b.left)
			}
			return int(a.right - b.right)
		})
	}
	slices.SortStableFunc(all, func(a, b split) int {
		x, y := w.s.scores[a.piece], w.s.scores[b.piece]
		switch {
		case x > y:
			return -1
		case x < y:
			return 1
		}
		return 0
	})
	for _, m := range all {
		out = append(out, [2]string{v.at(m.left), v.at(m.right)})
	}
	return out, nil
}

// post is the template that puts the special tokens around a text.
func (w *jsonWriter) post() any {
	s := w.s
	if len(s.prefix)+len(s.suffix) == 0 {
		return nil
	}
	special := object{}
	around := func(sequence string, kind int) []any {
		var out []any
		put := func(ids []int32) {
			for _, id := range ids {
				text := s.vocab.text(id)
				special[text] = object{"id": text, "ids": []int32{id}, "tokens": []string{text}}
				out = append(out, object{"SpecialToken": object{"id": text, "type_id": kind}})
			}
		}
		put(s.prefix)
		out = append(out, object{"Sequence": object{"id": sequence, "type_id": kind}})
		put(s.suffix)
		return out
	}
	single := around("A", 0)
	return object{"type": "TemplateProcessing", "single": single, "pair": append(around("A", 0), around("B", 1)...), "special_tokens": special}
}

func patternObject(st step) object {
	if st.a {
		return object{"Regex": st.s}
	}
	return object{"String": st.s}
}

func replaceObject(what, with string) object {
	return object{"type": "Replace", "pattern": object{"String": what}, "content": with}
}

// plainTypes are components without parameters, by step.
var plainTypes = map[string]string{"nfc": "NFC", "nfd": "NFD", "nfkc": "NFKC", "nfkd": "NFKD", "lowercase": "Lowercase", "stripaccents": "StripAccents", "nmt": "Nmt"}

func (w *jsonWriter) normalizer(st step) ([]object, error) {
	if name := plainTypes[st.op]; name != "" {
		return []object{{"type": name}}, nil
	}
	switch st.op {
	case "bytelevel":
		return []object{{"type": "ByteLevel"}}, nil
	case "prepend":
		return []object{{"type": "Prepend", "prepend": st.s}}, nil
	case "replace":
		return []object{{"type": "Replace", "pattern": patternObject(st), "content": st.t}}, nil
	case "strip":
		return []object{{"type": "Strip", "strip_left": st.a, "strip_right": st.b}}, nil
	case "spm":
		if st.b || st.n != spmEscape || len(w.s.charsmap) > 0 {
			return nil, fmt.Errorf("%w: SentencePiece's normalizer with a map of characters, or that removes or moves spaces", ErrUnsupported)
		}
		var out []object
		if st.a {
			out = append(out, object{"type": "Prepend", "prepend": spaceMark})
		}
		return append(out, replaceObject(" ", spaceMark)), nil
	}
	return nil, fmt.Errorf("%w: %q", ErrUnsupported, st.op)
}

// key returns the key of a value.
func key(m map[string]int, value int) string {
	for k, v := range m {
		if v == value {
			return k
		}
	}
	return ""
}

func (w *jsonWriter) preTokenizer(st step) ([]object, error) {
	switch st.op {
	case "split":
		return []object{{"type": "Split", "pattern": patternObject(st), "behavior": key(splitNames, st.n), "invert": st.b}}, nil
	case "bytelevel":
		return []object{{"type": "ByteLevel", "add_prefix_space": st.a, "trim_offsets": true, "use_regex": st.b}}, nil
	case "metaspace":
		return []object{{"type": "Metaspace", "replacement": st.s, "prepend_scheme": key(prependNames, st.n), "split": st.a}}, nil
	case "digits":
		return []object{{"type": "Digits", "individual_digits": st.a}}, nil
	case "whitespace", "whitespacesplit":
		return []object{{"type": map[string]string{"whitespace": "Whitespace", "whitespacesplit": "WhitespaceSplit"}[st.op]}}, nil
	case "punctuation":
		return []object{{"type": "Punctuation", "behavior": key(splitNames, st.n)}}, nil
	}
	return nil, fmt.Errorf("%w: %q", ErrUnsupported, st.op)
}

func (w *jsonWriter) decoder(st step) ([]object, error) {
	switch st.op {
	case "fuse":
		return []object{{"type": "Fuse"}}, nil
	case "bytefallback":
		return []object{{"type": "ByteFallback"}}, nil
	case "bytelevel":
		return []object{{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}}, nil
	case "replace":
		return []object{{"type": "Replace", "pattern": patternObject(st), "content": st.t}}, nil
	case "strip":
		o := object{"type": "Strip", "content": st.s, "start": st.n, "stop": 0}
		if st.b {
			o["start"], o["stop"] = 0, st.n
		}
		return []object{o}, nil
	case "metaspace":
		scheme := "never"
		if st.a {
			scheme = "always"
		}
		return []object{{"type": "Metaspace", "replacement": st.s, "prepend_scheme": scheme, "split": true}}, nil
	case "spm":
		out := []object{replaceObject(spaceMark, " "), {"type": "ByteFallback"}, {"type": "Fuse"}}
		if st.a {
			out = append(out, object{"type": "Strip", "content": " ", "start": 1, "stop": 0})
		}
		return out, nil
	}
	return nil, fmt.Errorf("%w: %q", ErrUnsupported, st.op)
}

// ConfigJSON gives the tokenizer_config.json that belongs to JSON: the names of
// the special tokens, so that EOS and padding are found again.
func (t *Tokenizer) ConfigJSON() ([]byte, error) {
	s := t.spec
	c := object{"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false}
	for name, id := range map[string]int32{"bos_token": s.bos, "eos_token": s.eos, "unk_token": s.unk, "pad_token": s.pad} {
		if text, ok := t.Token(id); ok && utf8.ValidString(text) {
			c[name] = text
		}
	}
	data, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("tokenizer_config.json: %w", err)
	}
	return append([]byte(strings.TrimSpace(string(data))), '\n'), nil
}
