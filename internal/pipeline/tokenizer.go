package pipeline

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

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
	tok, file, err := loadTokenizer(c)
	if err != nil {
		return Text{}, err
	}
	source := c.Template
	if tok != nil {
		if source == "" {
			source = tok.ChatTemplate()
		}
		if err := checkRows(tok, file, source, vocab); err != nil {
			return Text{}, err
		}
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
// vocabulary of a GGUF file; nil when the checkpoint has none. file is what
// errors about it name.
func loadTokenizer(c convert.Tokenizer) (tok *tokenizer.Tokenizer, file string, err error) {
	if c.JSON == "" && c.Model == "" {
		if c.GGUF == nil {
			return nil, "", nil
		}
		tok, err = tokenizer.FromGGUF(ggufVocab(c.GGUF))
		return tok, "tokenizer.ggml.tokens", err
	}
	var config []byte
	if c.Config != "" {
		if config, err = readSmall(c.Config); err != nil {
			return nil, "", err
		}
	}
	path, load := c.JSON, tokenizer.FromJSON
	if path == "" {
		path, load = c.Model, tokenizer.FromSentencePiece
	}
	data, err := readSmall(path)
	if err != nil {
		return nil, "", err
	}
	tok, err = load(data, config)
	return tok, filepath.Base(path), err
}

// checkRows holds a tokenizer to the rows [V] of the model's embedding. Added
// tokens may lie beyond them: the tokenizer of Gemma 3 has a token for images
// that its text models have no row for. Such a token is refused when it is fed;
// a chat template must not write it.
func checkRows(tok *tokenizer.Tokenizer, file, template string, vocab int) error {
	added := map[int32]string{}
	for _, a := range tok.AddedTokens() {
		added[a.ID] = a.Content
	}
	for id := int32(vocab); int(id) < tok.VocabSize(); id++ {
		if _, ok := tok.Token(id); !ok {
			continue
		}
		text, ok := added[id]
		if !ok {
			return formats.Corrupt(file, "", -1, "the tokenizer has %d tokens, the model's embedding %d rows", tok.VocabSize(), vocab)
		}
		if strings.Contains(template, text) {
			return formats.Corrupt(file, "", -1, "the chat template writes %q, token %d: the model's embedding has %d rows", text, id, vocab)
		}
	}
	return nil
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
