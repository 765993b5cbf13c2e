// The tokenizer's metadata as plain data, read and written. Keys are those of
// the GGUF specification, section "Tokenizer", and of llama.cpp's
// src/llama-arch.cpp.

package gguf

import (
	"errors"
	"math"
	"slices"
	"strings"

	"slmc/formats"
)

// TokenType is llama.cpp's class of a token.
type TokenType int32

// The classes. Control tokens are matched in text only where special tokens
// are wanted, and decode to nothing; user-defined ones are always matched;
// byte tokens are named <0x00> to <0xFF>.
const (
	TokenNormal      TokenType = 1
	TokenUnknown     TokenType = 2
	TokenControl     TokenType = 3
	TokenUserDefined TokenType = 4
	TokenUnused      TokenType = 5
	TokenByte        TokenType = 6
)

// Vocab is the tokenizer of a file. Ids are -1 where the file names none; the
// reader of the file then applies its own default. Pointers are nil where the
// key is absent.
type Vocab struct {
	Model  string // "llama" (SentencePiece), "gpt2" (byte-level BPE), ...
	Pre    string // which pre-tokenizer, "" where absent
	Tokens []string
	Scores []float32   // nil or one a token
	Types  []TokenType // nil or one a token
	Merges []string    // "left right", nil outside BPE

	BOS, EOS, EOT, EOM, Unknown, Separator, Padding, Mask int

	AddBOS, AddEOS, AddSeparator, AddSpacePrefix, RemoveExtraSpaces *bool
	Lowercase, StripAccents                                         *bool // what normalizes text first

	CharsMap      []byte            // SentencePiece's compiled normalizer, nil where absent
	ChatTemplate  string            // "" where absent
	ChatTemplates map[string]string // further templates by name, nil where there are none
}

// NoIDs returns a Vocab whose ids are all absent.
func NoIDs() Vocab {
	return Vocab{BOS: -1, EOS: -1, EOT: -1, EOM: -1, Unknown: -1, Separator: -1, Padding: -1, Mask: -1}
}

const (
	tokenizerKey = "tokenizer.ggml."
	templateKey  = "tokenizer.chat_template"
)

// ids lists the token ids with their keys, in the order they are written.
func (v *Vocab) ids() []struct {
	key string
	id  *int
} {
	return []struct {
		key string
		id  *int
	}{
		{"bos_token_id", &v.BOS}, {"eos_token_id", &v.EOS}, {"eot_token_id", &v.EOT}, {"eom_token_id", &v.EOM},
		{"unknown_token_id", &v.Unknown}, {"seperator_token_id", &v.Separator}, // spelled so by the format
		{"padding_token_id", &v.Padding}, {"mask_token_id", &v.Mask},
	}
}

func (v *Vocab) flags() []struct {
	key string
	on  **bool
} {
	return []struct {
		key string
		on  **bool
	}{
		{"add_bos_token", &v.AddBOS}, {"add_eos_token", &v.AddEOS}, {"add_sep_token", &v.AddSeparator},
		{"add_space_prefix", &v.AddSpacePrefix}, {"remove_extra_whitespaces", &v.RemoveExtraSpaces},
		{"normalizer.lowercase", &v.Lowercase}, {"normalizer.strip_accents", &v.StripAccents},
	}
}

// Vocab returns the tokenizer's metadata; a file without one gives an error
// that is ErrMissing. Lengths agree and ids lie inside the vocabulary, nothing
// else is checked. Slices must not be changed.
func (f *File) Vocab() (*Vocab, error) {
	v := NoIDs()
	var err error
	if v.Model, err = f.String(tokenizerKey + "model"); err != nil {
		return nil, err
	}
	if v.Tokens, err = f.Strings(tokenizerKey + "tokens"); err != nil {
		return nil, err
	}
	if v.Pre, err = orZero(f.String(tokenizerKey + "pre")); err != nil {
		return nil, err
	}
	if err := f.tokenTables(&v); err != nil {
		return nil, err
	}
	for _, x := range v.ids() {
		if *x.id, err = f.tokenID(x.key, len(v.Tokens)); err != nil {
			return nil, err
		}
	}
	for _, x := range v.flags() {
		if on, err := f.Bool(tokenizerKey + x.key); err == nil {
			*x.on = &on
		} else if !errors.Is(err, ErrMissing) {
			return nil, err
		}
	}
	return &v, f.templates(&v)
}

// orZero turns an absent key into the zero value.
func orZero[T any](v T, err error) (T, error) {
	if errors.Is(err, ErrMissing) {
		err = nil
	}
	return v, err
}

func (f *File) tokenTables(v *Vocab) (err error) {
	if v.Scores, err = orZero(f.Float32s(tokenizerKey + "scores")); err != nil {
		return err
	}
	types, err := orZero(get[[]int32](&f.Metadata, tokenizerKey+"token_type", "array of int32"))
	if err != nil {
		return err
	}
	if types != nil {
		v.Types = make([]TokenType, len(types))
		for i, t := range types {
			v.Types[i] = TokenType(t)
		}
	}
	for _, x := range []struct {
		key string
		n   int
	}{{"scores", len(v.Scores)}, {"token_type", len(types)}} {
		if x.n != 0 && x.n != len(v.Tokens) {
			return formats.Corrupt(f.name, "", -1, "%s%s has %d values for %d tokens", tokenizerKey, x.key, x.n, len(v.Tokens))
		}
	}
	if v.Merges, err = orZero(f.Strings(tokenizerKey + "merges")); err != nil {
		return err
	}
	switch m := f.Value(tokenizerKey + "precompiled_charsmap").(type) {
	case nil:
	case []uint8:
		v.CharsMap = m
	case []int8:
		v.CharsMap = make([]byte, len(m))
		for i, b := range m {
			v.CharsMap[i] = byte(b)
		}
	default:
		return f.wrongType(tokenizerKey+"precompiled_charsmap", "array of bytes", m)
	}
	return nil
}

// tokenID returns an id, -1 where the key is absent or holds llama.cpp's mark
// for "none", which is -1 in 32 bits.
func (f *File) tokenID(key string, tokens int) (int, error) {
	id, err := f.Int(tokenizerKey + key)
	if errors.Is(err, ErrMissing) {
		return -1, nil
	}
	if err != nil {
		return 0, err
	}
	if id == -1 || id == math.MaxUint32 {
		return -1, nil
	}
	if id < 0 || id >= int64(tokens) {
		return 0, formats.Corrupt(f.name, "", -1, "%s%s is %d, the vocabulary has %d tokens", tokenizerKey, key, id, tokens)
	}
	return int(id), nil
}

func (f *File) templates(v *Vocab) (err error) {
	if v.ChatTemplate, err = orZero(f.String(templateKey)); err != nil {
		return err
	}
	for _, kv := range f.kvs {
		name, ok := strings.CutPrefix(kv.Key, templateKey+".")
		if !ok {
			continue
		}
		s, ok := kv.Value.(string)
		if !ok {
			return f.wrongType(kv.Key, "string", kv.Value)
		}
		if v.ChatTemplates == nil {
			v.ChatTemplates = map[string]string{}
		}
		v.ChatTemplates[name] = s
	}
	return nil
}

// KVs returns the metadata of a vocabulary in the order in which llama.cpp's
// converter writes it; absent fields are left out.
func (v Vocab) KVs() []KV {
	kvs := []KV{{tokenizerKey + "model", v.Model}}
	if v.Pre != "" {
		kvs = append(kvs, KV{tokenizerKey + "pre", v.Pre})
	}
	kvs = append(kvs, KV{tokenizerKey + "tokens", v.Tokens})
	if v.Scores != nil {
		kvs = append(kvs, KV{tokenizerKey + "scores", v.Scores})
	}
	if v.Types != nil {
		types := make([]int32, len(v.Types))
		for i, t := range v.Types {
			types[i] = int32(t)
		}
		kvs = append(kvs, KV{tokenizerKey + "token_type", types})
	}
	if v.Merges != nil {
		kvs = append(kvs, KV{tokenizerKey + "merges", v.Merges})
	}
	for _, x := range v.ids() {
		if *x.id >= 0 {
			kvs = append(kvs, KV{tokenizerKey + x.key, uint32(*x.id)})
		}
	}
	for _, x := range v.flags() {
		if *x.on != nil {
			kvs = append(kvs, KV{tokenizerKey + x.key, **x.on})
		}
	}
	if v.CharsMap != nil {
		kvs = append(kvs, KV{tokenizerKey + "precompiled_charsmap", v.CharsMap})
	}
	if v.ChatTemplate != "" {
		kvs = append(kvs, KV{templateKey, v.ChatTemplate})
	}
	names := make([]string, 0, len(v.ChatTemplates))
	for name := range v.ChatTemplates {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		kvs = append(kvs, KV{templateKey + "." + name, v.ChatTemplates[name]})
	}
	return kvs
}
