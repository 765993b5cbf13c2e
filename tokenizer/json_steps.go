package tokenizer

import (
	"encoding/json"
	"fmt"
	"unicode/utf8"
)

// maxSteps bounds the stages of a pipeline, nested sequences included.
const maxSteps = 64

func typeOf(data json.RawMessage) (string, error) {
	var t struct {
		Type string `json:"type"`
	}
	if err := json.Unmarshal(data, &t); err != nil {
		return "", fmt.Errorf("%w: %v", ErrCorrupt, err)
	}
	return t.Type, nil
}

// readSteps flattens a component, which may be a Sequence, into steps.
func readSteps(data json.RawMessage, read func(kind string, data json.RawMessage) (step, error)) ([]step, error) {
	if isNull(data) {
		return nil, nil
	}
	kind, err := typeOf(data)
	if err != nil {
		return nil, err
	}
	if kind != "Sequence" {
		st, err := read(kind, data)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", kind, err)
		}
		return []step{st}, nil
	}
	var seq struct {
		Type          string            `json:"type"`
		Normalizers   []json.RawMessage `json:"normalizers"`
		PreTokenizers []json.RawMessage `json:"pretokenizers"`
		Decoders      []json.RawMessage `json:"decoders"`
	}
	if err := strict(data, &seq); err != nil {
		return nil, err
	}
	var out []step
	for _, x := range append(append(seq.Normalizers, seq.PreTokenizers...), seq.Decoders...) {
		more, err := readSteps(x, read)
		if err != nil {
			return nil, err
		}
		if out = append(out, more...); len(out) > maxSteps {
			return nil, fmt.Errorf("%w: more than %d steps", ErrUnsupported, maxSteps)
		}
	}
	return out, nil
}

type jsonByteLevel struct {
	Type     string `json:"type"`
	Prefix   bool   `json:"add_prefix_space"`
	Trim     bool   `json:"trim_offsets"`
	UseRegex *bool  `json:"use_regex"`
}

// jsonPattern is {"String": s} or {"Regex": s}.
type jsonPattern struct {
	String *string `json:"String"`
	Regex  *string `json:"Regex"`
}

func (p jsonPattern) set(st *step) error {
	switch {
	case p.String != nil && p.Regex == nil:
		st.s = *p.String
	case p.Regex != nil && p.String == nil:
		st.s, st.a = *p.Regex, true
	default:
		return fmt.Errorf("%w: pattern is neither a string nor a regex", ErrCorrupt)
	}
	return nil
}

func readReplace(data json.RawMessage) (step, error) {
	var r struct {
		Type    string      `json:"type"`
		Pattern jsonPattern `json:"pattern"`
		Content string      `json:"content"`
	}
	if err := strict(data, &r); err != nil {
		return step{}, err
	}
	st := step{op: "replace", t: r.Content}
	return st, r.Pattern.set(&st)
}

// plainSteps are components without parameters.
func plainStep(data json.RawMessage, op string) (step, error) {
	return step{op: op}, strict(data, &struct {
		Type string `json:"type"`
	}{})
}

func readNormalizer(kind string, data json.RawMessage) (step, error) {
	switch kind {
	case "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Nmt", "ByteLevel":
		ops := map[string]string{"NFC": "nfc", "NFD": "nfd", "NFKC": "nfkc", "NFKD": "nfkd", "Lowercase": "lowercase",
			"StripAccents": "stripaccents", "Nmt": "nmt", "ByteLevel": "bytelevel"}
		return plainStep(data, ops[kind])
	case "Prepend":
		var p struct {
			Type    string `json:"type"`
			Prepend string `json:"prepend"`
		}
		err := strict(data, &p)
		return step{op: "prepend", s: p.Prepend}, err
	case "Replace":
		return readReplace(data)
	case "Strip":
		var p struct {
			Type  string `json:"type"`
			Left  bool   `json:"strip_left"`
			Right bool   `json:"strip_right"`
		}
		err := strict(data, &p)
		return step{op: "strip", a: p.Left, b: p.Right}, err
	case "BertNormalizer", "Bert":
		p := struct {
			Type    string `json:"type"`
			Clean   bool   `json:"clean_text"`
			Chinese bool   `json:"handle_chinese_chars"`
			Strip   *bool  `json:"strip_accents"`
			Lower   bool   `json:"lowercase"`
		}{Clean: true, Chinese: true, Lower: true}
		err := strict(data, &p)
		st := step{op: "bert"}
		strip := p.Lower
		if p.Strip != nil {
			strip = *p.Strip
		}
		for bit, on := range map[int]bool{bertClean: p.Clean, bertChinese: p.Chinese, bertStrip: strip, bertLower: p.Lower} {
			if on {
				st.n |= bit
			}
		}
		return st, err
	}
	return step{}, fmt.Errorf("%w: unknown type", ErrUnsupported)
}

func readPreTokenizer(kind string, data json.RawMessage) (step, error) {
	switch kind {
	case "Whitespace", "WhitespaceSplit", "BertPreTokenizer":
		ops := map[string]string{"Whitespace": "whitespace", "WhitespaceSplit": "whitespacesplit", "BertPreTokenizer": "bert"}
		return plainStep(data, ops[kind])
	case "ByteLevel":
		var p jsonByteLevel
		err := strict(data, &p)
		return step{op: "bytelevel", a: p.Prefix, b: p.UseRegex == nil || *p.UseRegex}, err
	case "Split":
		var p struct {
			Type     string      `json:"type"`
			Pattern  jsonPattern `json:"pattern"`
			Behavior string      `json:"behavior"`
			Invert   bool        `json:"invert"`
		}
		if err := strict(data, &p); err != nil {
			return step{}, err
		}
		n, ok := splitNames[p.Behavior]
		if !ok {
			return step{}, fmt.Errorf("%w: behavior %q", ErrUnsupported, p.Behavior)
		}
		st := step{op: "split", b: p.Invert, n: n}
		return st, p.Pattern.set(&st)
	case "Digits":
		var p struct {
			Type       string `json:"type"`
			Individual bool   `json:"individual_digits"`
		}
		err := strict(data, &p)
		return step{op: "digits", a: p.Individual}, err
	case "Punctuation":
		p := struct {
			Type     string `json:"type"`
			Behavior string `json:"behavior"`
		}{Behavior: "Isolated"}
		if err := strict(data, &p); err != nil {
			return step{}, err
		}
		n, ok := splitNames[p.Behavior]
		if !ok {
			return step{}, fmt.Errorf("%w: behavior %q", ErrUnsupported, p.Behavior)
		}
		return step{op: "punctuation", n: n}, nil
	case "CharDelimiterSplit", "Delimiter":
		var p struct {
			Type      string `json:"type"`
			Delimiter string `json:"delimiter"`
		}
		if err := strict(data, &p); err != nil {
			return step{}, err
		}
		if utf8.RuneCountInString(p.Delimiter) != 1 {
			return step{}, fmt.Errorf("%w: delimiter %q is not one character", ErrCorrupt, p.Delimiter)
		}
		return step{op: "delimiter", s: p.Delimiter}, nil
	case "FixedLength":
		p := struct {
			Type   string `json:"type"`
			Length int    `json:"length"`
		}{Length: 5}
		if err := strict(data, &p); err != nil {
			return step{}, err
		}
		if p.Length < 1 {
			return step{}, fmt.Errorf("%w: length %d", ErrCorrupt, p.Length)
		}
		return step{op: "fixedlength", n: p.Length}, nil
	case "Metaspace":
		m, err := readMetaspace(data)
		return step{op: "metaspace", s: m.Replacement, n: m.scheme, a: m.Split == nil || *m.Split}, err
	}
	return step{}, fmt.Errorf("%w: unknown type", ErrUnsupported)
}

type jsonMetaspace struct {
	Type        string  `json:"type"`
	Replacement string  `json:"replacement"`
	PrefixSpace *bool   `json:"add_prefix_space"`
	Scheme      *string `json:"prepend_scheme"`
	Split       *bool   `json:"split"`
	StrRep      string  `json:"str_rep"`
	scheme      int
}

func readMetaspace(data json.RawMessage) (jsonMetaspace, error) {
	var m jsonMetaspace
	if err := strict(data, &m); err != nil {
		return m, err
	}
	if utf8.RuneCountInString(m.Replacement) != 1 {
		return m, fmt.Errorf("%w: replacement %q is not one character", ErrCorrupt, m.Replacement)
	}
	if m.Scheme != nil {
		var ok bool
		if m.scheme, ok = prependNames[*m.Scheme]; !ok {
			return m, fmt.Errorf("%w: prepend_scheme %q", ErrUnsupported, *m.Scheme)
		}
	}
	if m.PrefixSpace != nil && !*m.PrefixSpace {
		if m.scheme != prependNever && m.Scheme != nil {
			return m, fmt.Errorf("%w: add_prefix_space is false, prepend_scheme %q", ErrCorrupt, *m.Scheme)
		}
		m.scheme = prependNever
	}
	return m, nil
}

func readDecoder(kind string, data json.RawMessage) (step, error) {
	switch kind {
	case "Fuse", "ByteFallback":
		ops := map[string]string{"Fuse": "fuse", "ByteFallback": "bytefallback"}
		return plainStep(data, ops[kind])
	case "ByteLevel":
		return step{op: "bytelevel"}, strict(data, &jsonByteLevel{})
	case "Replace":
		return readReplace(data)
	case "Strip":
		var p struct {
			Type    string `json:"type"`
			Content string `json:"content"`
			Start   int    `json:"start"`
			Stop    int    `json:"stop"`
		}
		if err := strict(data, &p); err != nil {
			return step{}, err
		}
		if utf8.RuneCountInString(p.Content) != 1 || p.Start < 0 || p.Stop < 0 {
			return step{}, fmt.Errorf("%w: content %q, start %d, stop %d", ErrCorrupt, p.Content, p.Start, p.Stop)
		}
		if p.Start > 0 && p.Stop > 0 {
			return step{}, fmt.Errorf("%w: strip at both ends", ErrUnsupported)
		}
		return step{op: "strip", s: p.Content, n: p.Start + p.Stop, b: p.Stop > 0}, nil
	case "Metaspace":
		m, err := readMetaspace(data)
		return step{op: "metaspace", s: m.Replacement, a: m.scheme != prependNever}, err
	case "WordPiece":
		var p struct {
			Type    string `json:"type"`
			Prefix  string `json:"prefix"`
			Cleanup bool   `json:"cleanup"`
		}
		err := strict(data, &p)
		return step{op: "wordpiece", s: p.Prefix, a: p.Cleanup}, err
	case "BPEDecoder":
		var p struct {
			Type   string `json:"type"`
			Suffix string `json:"suffix"`
		}
		err := strict(data, &p)
		return step{op: "bpe", s: p.Suffix}, err
	case "CTC":
		var p struct {
			Type    string `json:"type"`
			Pad     string `json:"pad_token"`
			Word    string `json:"word_delimiter_token"`
			Cleanup bool   `json:"cleanup"`
		}
		err := strict(data, &p)
		return step{op: "ctc", s: p.Pad, t: p.Word, a: p.Cleanup}, err
	}
	return step{}, fmt.Errorf("%w: unknown type", ErrUnsupported)
}
