package pipeline

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"slmc/formats"
	"slmc/tokenizer"
)

// ownConfig takes the source's config.json, where there is one, with every key
// that it has, in place of the words that the graph gives.
func (h *hfWriter) ownConfig(torch string) error {
	path := h.sourceFile("config.json")
	if path == "" || h.o.Checkpoint.Form != "safetensors" && h.o.Checkpoint.Form != "pytorch" {
		bos, eos, _ := h.o.specialIDs()
		if bos >= 0 {
			h.config["bos_token_id"] = integer(bos)
		}
		if ids := numbers(eos); ids != nil {
			h.config["eos_token_id"] = ids
		}
		return nil
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var own map[string]any
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.UseNumber()
	if err := dec.Decode(&own); err != nil {
		return formats.Corrupt(path, "", -1, "%v", err)
	}
	key := "torch_dtype"
	if _, newer := own["dtype"]; newer {
		key = "dtype"
	}
	own[key] = h.config["torch_dtype"]
	h.config = own
	return nil
}

// numbers is one id alone, or a list; nil without any.
func numbers(ids []int) any {
	switch len(ids) {
	case 0:
		return nil
	case 1:
		return integer(ids[0])
	}
	var out []any
	for _, id := range ids {
		out = append(out, integer(id))
	}
	return out
}

// sourceFile is the path of a file beside the source's weights, "" without it.
func (h *hfWriter) sourceFile(name string) string {
	if h.o.Checkpoint == nil || h.o.Checkpoint.Form == "gguf" || len(h.o.Checkpoint.Files) == 0 {
		return ""
	}
	path := filepath.Join(filepath.Dir(h.o.Checkpoint.Files[0]), name)
	if _, err := os.Stat(path); err != nil {
		return ""
	}
	return path
}

// textFiles are what a folder holds of its tokenizer.
var textFiles = []string{"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
	"vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json", "generation_config.json"}

// text copies the tokenizer's files, or writes what of them is known.
func (h *hfWriter) text() error {
	have := map[string]bool{}
	for _, name := range textFiles {
		path := h.sourceFile(name)
		if path == "" {
			continue
		}
		data, err := readSmall(path)
		if err != nil {
			return err
		}
		if err := h.file(name, data); err != nil {
			return err
		}
		have[name] = true
	}
	if !have["generation_config.json"] {
		if err := h.generation(); err != nil {
			return err
		}
	}
	if have["tokenizer.json"] || have["tokenizer.model"] {
		return nil
	}
	tok, err := h.o.Tokenizer()
	if err != nil {
		return err
	}
	if tok == nil {
		h.note("the model has no tokenizer")
		return nil
	}
	if t := h.o.templateSource(); t != "" {
		if err := h.file("chat_template.jinja", []byte(t)); err != nil {
			return err
		}
	}
	return h.tokenizer(tok)
}

// tokenizer writes tokenizer.json anew, and holds it to the model's tokenizer.
func (h *hfWriter) tokenizer(tok *tokenizer.Tokenizer) error {
	data, err := tok.JSON()
	if errors.Is(err, tokenizer.ErrUnsupported) {
		h.note("the folder has no tokenizer.json: %v; copy the tokenizer's files of the original model into it", err)
		return nil
	}
	if err != nil {
		return err
	}
	config, err := tok.ConfigJSON()
	if err != nil {
		return err
	}
	back, err := tokenizer.FromJSON(data, config)
	if err != nil {
		return err
	}
	for _, text := range slices.Concat(tokenizerTexts, oddTexts) {
		if err := sameIDs(text, func(t *tokenizer.Tokenizer) ([]int32, error) { return t.Encode(text, true) }, tok, back); err != nil {
			return err
		}
	}
	return errors.Join(h.file("tokenizer.json", data), h.file("tokenizer_config.json", config))
}

// generation writes the ids that begin and end a text.
func (h *hfWriter) generation() error {
	bos, eos, _ := h.o.specialIDs()
	ids := map[string]any{}
	if bos >= 0 {
		ids["bos_token_id"] = bos
	}
	if n := numbers(eos); n != nil {
		ids["eos_token_id"] = n
	}
	if len(ids) == 0 {
		return nil
	}
	return h.json("generation_config.json", ids)
}
