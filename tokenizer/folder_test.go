package tokenizer

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"testing"
	"testing/fstest"
)

func TestFromFolder(t *testing.T) {
	root := os.DirFS("../testdata")
	tok, err := FromFolder(root, "assistant-tiny")
	if err != nil {
		t.Fatal(err)
	}
	if tok.EOS() != 5 || tok.BOS() != 1 || !tok.AddsBOS() || tok.ChatTemplate() == "" || !slices.Equal(tok.EndIDs(), []int32{2, 5}) {
		t.Errorf("bos %d, eos %d, adds BOS %v, ends %v", tok.BOS(), tok.EOS(), tok.AddsBOS(), tok.EndIDs())
	}
	if again := remarshal(t, tok); again.ChatTemplate() != tok.ChatTemplate() || again.EOS() != 5 {
		t.Error("a round trip loses the configuration")
	}
	model := fstest.MapFS{"tokenizer.model": {Data: repoFile(t, "assistant-tiny/tokenizer.model")}}
	if tok, err = FromFolder(model, "."); err != nil || tok.VocabSize() != 2048 {
		t.Errorf("tokenizer.model alone: %v", err)
	}
	if _, err = FromFolder(fstest.MapFS{}, "."); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("empty folder: %v", err)
	}
	bad := fstest.MapFS{"tokenizer.json": {Data: tiny(nil)}, "tokenizer_config.json": {Data: []byte(`{"tokenizer_class":"LlamaTokenizer"}`)}}
	if _, err = FromFolder(bad, "."); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a class that adds BOS without one: %v", err)
	}
}
