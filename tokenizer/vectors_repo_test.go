package tokenizer

import (
	"testing"
)

// TestAssistantVectors holds the project's own tokenizer to the reference's
// vectors for texts written for the project.
func TestAssistantVectors(t *testing.T) {
	checkVectors(t, loadNamed(t, "assistant"), readVectors(t, testdata(t, "assistant.vectors.jsonl")))
}

// TestAssistantModel does the same for its SentencePiece form, against the
// SentencePiece library.
func TestAssistantModel(t *testing.T) {
	tok, err := FromSentencePiece(repoFile(t, "assistant-tiny/tokenizer.model"), nil)
	if err != nil {
		t.Fatal(err)
	}
	checkVectors(t, tok, readVectors(t, testdata(t, "assistant_sp.vectors.jsonl")))
	sameOn(t, map[string]*Tokenizer{"json": loadNamed(t, "assistant"), "model": tok}, plainTexts(t))
}

// TestSentencePieceModels: models trained for the tests with the options that
// change ids, against the library that trained them (testdata/train_sp.py).
func TestSentencePieceModels(t *testing.T) {
	for _, name := range []string{"bpe", "bpe_unk", "bpe_spaces", "unigram", "unigram_unk", "unigram_suffix"} {
		t.Run(name, func(t *testing.T) {
			tok, err := FromSentencePiece(testdata(t, "sp_"+name+".model"), nil)
			if err != nil {
				t.Fatal(err)
			}
			vs := readVectors(t, testdata(t, "sp_"+name+".vectors.jsonl"))
			checkVectors(t, tok, vs)
			checkVectors(t, remarshal(t, tok), vs)
		})
	}
}
