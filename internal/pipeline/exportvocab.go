package pipeline

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"slmc/formats"
	"slmc/formats/bundle"
	"slmc/formats/gguf"
	"slmc/tokenizer"
)

// vocab is the metadata of the tokenizer, with a token for each row of the
// embedding.
func (e *export) vocab() (kvs []gguf.KV, notes []string, err error) {
	tok, err := e.o.Tokenizer()
	if err != nil {
		return nil, nil, err
	}
	if tok == nil {
		e.report.Tokenizer = "none"
		kvs = append(kvs, gguf.KV{Key: "tokenizer.ggml.model", Value: "no_vocab"})
		size := e.report.Architecture + ".vocab_size"
		if !slices.ContainsFunc(e.kvs, func(kv gguf.KV) bool { return kv.Key == size }) {
			kvs = append(kvs, gguf.KV{Key: size, Value: uint32(e.m.Vocab)})
		}
		return kvs, []string{"the model has no tokenizer: the file takes and gives token ids only"}, nil
	}
	v, notes, err := tok.GGUF()
	if err != nil {
		return nil, nil, err
	}
	e.report.Tokenizer = v.Model
	if rows := e.m.Vocab; len(v.Tokens) > rows {
		// Added tokens that the model has no rows for, as Gemma 3's image token:
		// opening the model has seen to it that there are no others.
		notes = append(notes, fmt.Sprintf("tokens without a row of the embedding are left out: %s", strings.Join(v.Tokens[rows:], " ")))
		v.Tokens, v.Types = v.Tokens[:rows], v.Types[:min(rows, len(v.Types))]
		if v.Scores != nil {
			v.Scores = v.Scores[:rows]
		}
	}
	for id := len(v.Tokens); id < e.m.Vocab; id++ {
		v.Tokens, v.Types = append(v.Tokens, tokenizer.PaddingToken(id)), append(v.Types, int32(gguf.TokenUnused))
		if v.Scores != nil {
			v.Scores = append(v.Scores, slices.Min(v.Scores))
		}
	}
	more, err := e.ends(&v)
	if err != nil {
		return nil, nil, err
	}
	v.ChatTemplate = e.o.templateSource()
	return fileVocab(v).KVs(), append(notes, more...), nil
}

// specialIDs are the ids that begin a text, and those that end one or a turn;
// BOS is -1 without one.
func (o *Opened) specialIDs() (bos int, eos, stops []int) {
	if o.Bundle != nil {
		t := o.Bundle.Manifest().Tokenizer
		return t.BOS, t.EOS, slices.Concat(t.EOS, t.Stop)
	}
	return int(o.text.BOS), ints(o.text.EOS), ints(o.text.Stops)
}

// templateSource is the source of the chat template, "" without one.
func (o *Opened) templateSource() string {
	if o.Bundle != nil {
		return string(o.Bundle.Section(bundle.SectionTemplate))
	}
	if s := o.Checkpoint.Tokenizer.Template; s != "" || o.text.Tokenizer == nil {
		return s
	}
	return o.text.Tokenizer.ChatTemplate()
}

// ends names the model's end tokens: one is EOS; those of the others that
// llama.cpp does not know by their text take the places of EOT and EOM.
func (e *export) ends(v *tokenizer.GGUFVocab) (notes []string, err error) {
	bos, eos, stops := e.o.specialIDs()
	if v.BOS < 0 {
		v.BOS = bos
	}
	if len(eos) > 0 && !slices.Contains(eos, v.EOS) && !*v.AddEOS {
		v.EOS = eos[0]
	}
	for _, place := range []*int{&v.EOT, &v.EOM, nil} {
		known, err := tokenizer.FromGGUF(*v)
		if err != nil {
			return nil, err
		}
		i := slices.IndexFunc(stops, func(id int) bool { return !slices.Contains(known.EndIDs(), int32(id)) })
		switch {
		case i < 0:
			return nil, nil
		case place == nil:
			return []string{fmt.Sprintf("token %d does not end an answer", stops[i])}, nil
		}
		*place = stops[i]
	}
	return nil, nil
}

// fileVocab hands a vocabulary from the tokenizer to the file's writer, which
// know nothing of each other.
func fileVocab(t tokenizer.GGUFVocab) gguf.Vocab {
	types := make([]gguf.TokenType, len(t.Types))
	for i, k := range t.Types {
		types[i] = gguf.TokenType(k)
	}
	return gguf.Vocab{
		Model: t.Model, Pre: t.Pre, Tokens: t.Tokens, Scores: t.Scores, Types: types, Merges: t.Merges,
		BOS: t.BOS, EOS: t.EOS, EOT: t.EOT, EOM: t.EOM, Unknown: t.UNK, Separator: t.SEP, Padding: t.PAD, Mask: -1,
		AddBOS: t.AddBOS, AddEOS: t.AddEOS, AddSpacePrefix: t.AddSpacePrefix, RemoveExtraSpaces: t.RemoveExtraWhitespaces,
		CharsMap: t.Charsmap, ChatTemplate: t.ChatTemplate,
	}
}

// tokenizerTexts try what tokenizers differ in. A text may hold what a note of
// the export says is split differently, so those with odd spaces count only
// where there is no note.
var tokenizerTexts = []string{
	"Once upon a time, there was a little girl.", "what is the weather in paris tomorrow", "It's 12345.67 o'clock, isn't it? We'll see!",
	"def f(x):\n\treturn x[0] + 1\n", "Größe Straße naïve café", "数学は面白い 東京 2024年", "Привет, мир! Ελληνικά עברית العربية", "🙂👍🏽 e=mc²", "a", "",
}

var oddTexts = []string{"  two  spaces  ", " \n\n x \t y ", "e\u0301 \ufb01 \u212b"}

// checkTokenizer holds the tokenizer that a reader of the file gets to the
// model's.
func (e *export) checkTokenizer(f *gguf.File) error {
	want, err := e.o.Tokenizer()
	if err != nil {
		return err
	}
	v, err := f.Vocab()
	if errors.Is(err, gguf.ErrMissing) && want == nil {
		return nil
	}
	if err != nil {
		return err
	}
	got, err := tokenizer.FromGGUF(ggufVocab(v))
	if err != nil {
		return err
	}
	texts := tokenizerTexts
	if len(e.report.Notes) == 0 {
		texts = slices.Concat(texts, oddTexts)
	}
	for _, text := range texts {
		err := sameIDs(text, func(t *tokenizer.Tokenizer) ([]int32, error) { return t.Encode(text, true) }, want, got)
		if err != nil {
			return err
		}
	}
	var chat strings.Builder
	for i, a := range want.AddedTokens() {
		if i < 8 && int(a.ID) < e.m.Vocab {
			chat.WriteString(a.Content + "hello")
		}
	}
	return sameIDs(chat.String(), func(t *tokenizer.Tokenizer) ([]int32, error) { return t.EncodeTemplate(chat.String()) }, want, got)
}

func sameIDs(text string, encode func(*tokenizer.Tokenizer) ([]int32, error), want, got *tokenizer.Tokenizer) error {
	a, err := encode(want)
	if err != nil {
		return err
	}
	b, err := encode(got)
	if err != nil {
		return err
	}
	if !slices.Equal(a, b) {
		return fmt.Errorf("%w: the tokenizer can not be written exactly: %q is %v, in the file %v", formats.ErrUnsupported, text, a, b)
	}
	return nil
}
