package convert

import (
	"errors"
	"path/filepath"

	"slmc/formats"
	"slmc/formats/gguf"
	"slmc/model"
)

// maxTextBytes bounds the small JSON files and templates that are read here.
const maxTextBytes = 16 << 20

// Tokenizer is what a checkpoint says about text. Paths are "" where the file
// is absent.
type Tokenizer struct {
	JSON     string // tokenizer.json
	Model    string // tokenizer.model, SentencePiece
	Config   string // tokenizer_config.json
	Specials string // special_tokens_map.json

	GGUF *gguf.Vocab // the vocabulary of a GGUF file, nil otherwise

	// Template is the source of the chat template, "" without one; the newer
	// chat_template.jinja goes before tokenizer_config.json, as in
	// transformers.
	Template string
	// BOS and EOS are the ids that generation_config.json names, or else
	// config.json; EOS may be several. nil where none is named.
	BOS, EOS []int

	files []string // paths of everything read
}

// findTokenizer looks for the tokenizer's files in the checkpoint's folder.
func findTokenizer(dir string) (Tokenizer, error) {
	var t Tokenizer
	take := func(name string) string {
		if !exists(dir, name) {
			return ""
		}
		t.files = append(t.files, filepath.Join(dir, name))
		return filepath.Join(dir, name)
	}
	t.JSON, t.Model = take("tokenizer.json"), take("tokenizer.model")
	t.Config, t.Specials = take("tokenizer_config.json"), take("special_tokens_map.json")
	if path := take("generation_config.json"); path != "" {
		c, err := readConfig(path)
		if err != nil {
			return t, err
		}
		if err := t.ids(c); err != nil {
			return t, err
		}
	}
	if path := take("chat_template.jinja"); path != "" {
		text, err := readText(path)
		t.Template = text
		return t, err
	}
	for _, path := range []string{t.Config, take("chat_template.json")} {
		if path == "" || t.Template != "" {
			continue
		}
		c, err := readConfig(path)
		if err != nil {
			return t, err
		}
		if t.Template, err = templateOf(c); err != nil {
			return t, err
		}
	}
	return t, nil
}

// ids takes the token ids of a config for those that are not known yet.
func (t *Tokenizer) ids(c *model.Config) error {
	if t.BOS == nil {
		t.BOS = c.IDs("bos_token_id")
	}
	if t.EOS == nil {
		t.EOS = c.IDs("eos_token_id")
	}
	return c.Err()
}

// fromVocab takes what a GGUF vocabulary says. An end of turn ends a
// generation as an end of text does.
func (t *Tokenizer) fromVocab(v *gguf.Vocab) {
	t.Template = v.ChatTemplate
	if v.BOS >= 0 {
		t.BOS = []int{v.BOS}
	}
	for _, id := range []int{v.EOS, v.EOT, v.EOM} {
		if id >= 0 {
			t.EOS = append(t.EOS, id)
		}
	}
}

// templateOf returns the chat_template of a tokenizer_config.json: one source,
// or a list of named ones, of which "default" is meant.
func templateOf(c *model.Config) (string, error) {
	const key = "chat_template"
	list := c.List(key)
	if list == nil {
		return c.TextOr(key, ""), c.Err()
	}
	for _, item := range list {
		if item.TextOr("name", "") == "default" {
			return item.TextOr("template", ""), c.Err()
		}
	}
	return "", c.Err()
}

// readText reads a whole small file.
func readText(path string) (string, error) {
	f, err := formats.OpenFile(path)
	if err != nil {
		return "", err
	}
	if f.Size() > maxTextBytes {
		err = formats.Corrupt(path, "", -1, "%d bytes, at most %d are read", f.Size(), maxTextBytes)
		return "", errors.Join(err, f.Close())
	}
	b := make([]byte, f.Size())
	err = errors.Join(f.ReadFull("", 0, b), f.Close())
	return string(b), err
}
