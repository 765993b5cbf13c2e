package pipeline

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"slmc/convert"
	"slmc/formats"
	"slmc/formats/gguf"
	slmrt "slmc/runtime"
	"slmc/tokenizer"
	"slmc/tokenizer/jinja"
)

// Text is everything that a checkpoint says about text: how it becomes ids,
// which ids begin and end it, and how a chat is written.
type Text struct {
	Tokenizer *tokenizer.Tokenizer // nil: the checkpoint has none
	Template  *jinja.Template      // nil: it has none
	BOS       int32                // -1 without one
	EOS       []int32              // what the checkpoint's configs name
	Stops     []int32              // EOS and the tokenizer's own ends, ascending
	Special   map[string]string    // for the template
}

// loadText reads the tokenizer and the chat template of a checkpoint. A
// template with a construct that slmc does not know is an error now, so that
// it is none on the phone.
func loadText(c convert.Tokenizer, vocab int) (Text, error) {
	tok, err := loadTokenizer(c, vocab)
	if err != nil {
		return Text{}, err
	}
	source := c.Template
	if source == "" && tok != nil {
		source = tok.ChatTemplate()
	}
	t := Text{Tokenizer: tok, BOS: -1}
	for _, id := range c.BOS {
		t.BOS = int32(id)
	}
	for _, id := range c.EOS {
		t.EOS = append(t.EOS, int32(id))
	}
	if tok != nil {
		// A tokenizer that starts texts with another BOS than the config
		// names was trained that way.
		if tok.AddsBOS() || t.BOS < 0 {
			t.BOS = tok.BOS()
		}
		t.Stops = append(tok.EndIDs(), t.EOS...)
	} else {
		t.Stops = slices.Clone(t.EOS)
	}
	t.EOS = within(t.EOS, vocab)
	t.Stops = within(t.Stops, vocab)
	eos := int32(-1)
	if len(t.EOS) > 0 {
		eos = t.EOS[0]
	}
	t.Special = slmrt.SpecialTokens(tok, t.BOS, eos)
	if source != "" {
		if t.Template, err = jinja.Parse(source); err != nil {
			return Text{}, fmt.Errorf("chat template: %w", err)
		}
	}
	return t, nil
}

// within sorts ids and drops those that the model can not produce.
func within(ids []int32, vocab int) []int32 {
	ids = slices.DeleteFunc(ids, func(id int32) bool { return id < 0 || int(id) >= vocab })
	slices.Sort(ids)
	return slices.Compact(ids)
}

// loadTokenizer prefers tokenizer.json, then SentencePiece's model, then the
// vocabulary of a GGUF file; nil when the checkpoint has none.
func loadTokenizer(c convert.Tokenizer, vocab int) (*tokenizer.Tokenizer, error) {
	if c.JSON == "" && c.Model == "" {
		if c.GGUF == nil {
			return nil, nil
		}
		return tokenizer.FromGGUF(ggufVocab(c.GGUF))
	}
	var config []byte
	var err error
	if c.Config != "" {
		if config, err = readSmall(c.Config); err != nil {
			return nil, err
		}
	}
	path, load := c.JSON, tokenizer.FromJSON
	if path == "" {
		path, load = c.Model, tokenizer.FromSentencePiece
	}
	data, err := readSmall(path)
	if err != nil {
		return nil, err
	}
	tok, err := load(data, config)
	if err != nil {
		return nil, err
	}
	if n := tok.VocabSize(); n > vocab {
		return nil, formats.Corrupt(filepath.Base(path), "", -1, "the tokenizer has %d tokens, the model's embedding %d rows", n, vocab)
	}
	return tok, nil
}

// maxTokenizer bounds a tokenizer file; the largest known has 33 MB.
const maxTokenizer = 256 << 20

// readSmall reads a file of at most maxTokenizer bytes.
func readSmall(path string) ([]byte, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if st.Size() > maxTokenizer {
		return nil, formats.Corrupt(filepath.Base(path), "", -1, "%d bytes, at most %d are read", st.Size(), maxTokenizer)
	}
	return os.ReadFile(path)
}

// OpenTokenizer reads a bare tokenizer: a tokenizer.json, a SentencePiece
// model, or a GGUF file with or without weights.
func OpenTokenizer(path string) (*tokenizer.Tokenizer, error) {
	switch filepath.Ext(path) {
	case ".gguf":
		f, err := gguf.Open(path)
		if err != nil {
			return nil, err
		}
		v, err := f.Vocab()
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		return tokenizer.FromGGUF(ggufVocab(v))
	case ".json":
		data, err := readSmall(path)
		if err != nil {
			return nil, err
		}
		config, err := readSmall(filepath.Join(filepath.Dir(path), "tokenizer_config.json"))
		if err != nil {
			config = nil // a bare file: nothing beside it
		}
		return tokenizer.FromJSON(data, config)
	case ".model":
		data, err := readSmall(path)
		if err != nil {
			return nil, err
		}
		return tokenizer.FromSentencePiece(data, nil)
	}
	return nil, formats.Unsupported(path, "", -1, "no tokenizer; wanted tokenizer.json, tokenizer.model or a .gguf file")
}

// ggufVocab hands the vocabulary from the file's reader to the tokenizer,
// which know nothing of each other.
func ggufVocab(v *gguf.Vocab) tokenizer.GGUFVocab {
	types := make([]int32, len(v.Types))
	for i, t := range v.Types {
		types[i] = int32(t)
	}
	return tokenizer.GGUFVocab{
		Model: v.Model, Pre: v.Pre, Tokens: v.Tokens, Scores: v.Scores, Types: types, Merges: v.Merges,
		BOS: v.BOS, EOS: v.EOS, EOT: v.EOT, EOM: v.EOM, UNK: v.Unknown, SEP: v.Separator, PAD: v.Padding,
		AddBOS: v.AddBOS, AddEOS: v.AddEOS, AddSpacePrefix: v.AddSpacePrefix, RemoveExtraWhitespaces: v.RemoveExtraSpaces,
		Charsmap: v.CharsMap, ChatTemplate: v.ChatTemplate,
	}
}
