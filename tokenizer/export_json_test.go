package tokenizer

import (
	"errors"
	"testing"
)

// viaJSON writes a tokenizer as tokenizer.json and reads it again.
func viaJSON(t *testing.T, tok *Tokenizer) *Tokenizer {
	t.Helper()
	data, err := tok.JSON()
	if err != nil {
		t.Fatal(err)
	}
	config, err := tok.ConfigJSON()
	if err != nil {
		t.Fatal(err)
	}
	back, err := FromJSON(data, config)
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range [][2]int32{{tok.BOS(), back.BOS()}, {tok.EOS(), back.EOS()}, {tok.Unk(), back.Unk()}, {tok.Pad(), back.Pad()}} {
		if p[0] != p[1] {
			t.Errorf("special ids %d became %d", p[0], p[1])
		}
	}
	return back
}

// The project's own tokenizer, from tokenizer.json, from SentencePiece's model
// and from GGUF, all as tokenizer.json again.
func TestJSONFromAssistant(t *testing.T) {
	config := repoFile(t, "assistant-tiny/tokenizer_config.json")
	texts := textsOf(readVectors(t, testdata(t, "assistant.vectors.jsonl")))
	fromJSON, err := FromJSON(repoFile(t, "assistant-tiny/tokenizer.json"), config)
	if err != nil {
		t.Fatal(err)
	}
	sameIDs(t, fromJSON, viaJSON(t, remarshal(t, fromJSON)), texts)
	asGGUF, _, _ := viaGGUF(t, fromJSON)
	sameIDs(t, fromJSON, viaJSON(t, asGGUF), plainTexts(t))
	fromModel, err := FromSentencePiece(repoFile(t, "assistant-tiny/tokenizer.model"), config)
	if err != nil {
		t.Fatal(err)
	}
	sameIDs(t, fromJSON, viaJSON(t, fromModel), plainTexts(t))
}

// TestJSONOfShared writes the tokenizers of large models again.
func TestJSONOfShared(t *testing.T) {
	for _, name := range []string{"llama2", "llama3", "qwen3"} {
		t.Run(name, func(t *testing.T) {
			tok := loadNamed(t, name)
			var texts []string
			for i, v := range readVectors(t, sharedFile(t, "tokenizers/"+name+".vectors.jsonl")) {
				if i%4 == 0 {
					texts = append(texts, v.Text)
				}
			}
			sameIDs(t, tok, viaJSON(t, tok), texts)
		})
	}
}

// Pre types of GGUF become the regexes that they are.
func TestJSONOfGGUF(t *testing.T) {
	d := ggufVocabs(t)["BPE"]
	for _, pre := range []string{"gpt-2", "llama-bpe", "qwen2", "smollm", "default"} {
		tok, err := FromGGUF(d.vocab(pre))
		if err != nil {
			t.Fatal(err)
		}
		sameIDs(t, tok, viaJSON(t, tok), append(plainTexts(t), "x1234567 it's  \n\n don't\tÜber 東京12345"))
	}
}

func TestJSONRefuses(t *testing.T) {
	tok, err := FromSentencePiece(testdata(t, "sp_unigram.model"), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tok.JSON(); !errors.Is(err, ErrUnsupported) {
		t.Errorf("unigram: %v", err)
	}
}
