package tokenizer

import (
	"slices"
	"strings"
	"testing"
)

// TestStories260K: the three forms of one tokenizer give the same ids.
func TestStories260K(t *testing.T) {
	j, err := FromJSON(sharedFile(t, "models/stories260K/tokenizer.json"), nil)
	if err != nil {
		t.Fatal(err)
	}
	sp, err := FromSentencePiece(sharedFile(t, "models/stories260K/tokenizer.model"), nil)
	if err != nil {
		t.Fatal(err)
	}
	c, err := FromLlama2C(sharedFile(t, "models/stories260K/tok512.bin"), 512)
	if err != nil {
		t.Fatal(err)
	}
	texts := plainTexts(t)
	sameOn(t, map[string]*Tokenizer{"json": j, "bin": c}, texts)
	// The model, unlike what was converted from it, removes extra spaces.
	n := 0
	for _, s := range texts {
		trimmed := strings.Trim(strings.ReplaceAll(s, spaceMark, " "), " ")
		if s == trimmed && !strings.Contains(s, "  ") {
			texts[n] = s
			n++
		}
	}
	sameOn(t, map[string]*Tokenizer{"json": j, "model": sp, "bin": c}, texts[:n])
}

// sameOn holds tokenizers to one another.
func sameOn(t *testing.T, toks map[string]*Tokenizer, texts []string) {
	t.Helper()
	for _, text := range texts {
		var want []int32
		var first, decoded string
		for name, tok := range toks {
			ids, err := tok.Encode(text, true)
			if err != nil {
				t.Fatal(err)
			}
			if want == nil {
				want, first, decoded = ids, name, tok.Decode(ids, true)
				continue
			}
			if !slices.Equal(ids, want) {
				t.Errorf("%q: %s gives %v, %s %v", text, name, ids, first, want)
			}
			if d := tok.Decode(ids, true); d != decoded {
				t.Errorf("%q: %s decodes %q, %s %q", text, name, d, first, decoded)
			}
		}
	}
}

// plainTexts are the texts of the project's own vectors that hold no special
// token.
func plainTexts(t *testing.T) []string {
	var out []string
	for _, v := range readVectors(t, testdata(t, "assistant.vectors.jsonl")) {
		if !containsMarkup(v.Text) {
			out = append(out, v.Text)
		}
	}
	return out
}
