package convert

import (
	"bytes"
	"context"
	"errors"
	"os"
	"testing"

	"slmc/formats"
	"slmc/formats/gguf"
	"slmc/model"
)

// known reports whether an error has a kind that a caller can tell.
func known(err error) bool {
	return errors.Is(err, formats.ErrCorrupt) || errors.Is(err, formats.ErrUnsupported)
}

// FuzzGGUFConfig: metadata of any content becomes a config and a graph, or an
// error of a known kind.
func FuzzGGUFConfig(f *testing.F) {
	for _, path := range []string{"arch/llama3", "arch/gemma2", "arch/gemma3-types", "arch/qwen3"} {
		c, err := Open(context.Background(), testdata(path), Options{})
		if err != nil {
			f.Fatal(err)
		}
		g, err := GGUF(c.Model, "seed", gguf.F32, nil)
		if err != nil {
			f.Fatal(err)
		}
		var b bytes.Buffer
		// One small tensor: the fuzzer minimizes long inputs for ever.
		embed := []gguf.Tensor{{Name: "token_embd.weight", Shape: []int{1, 1}, Type: gguf.F32, Read: func(int, []float32) error { return nil }}}
		if err := gguf.Write(context.Background(), &b, g.KVs, embed); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		g, err := gguf.New(formats.NewFile("fuzz.gguf", bytes.NewReader(data), int64(len(data))))
		if err != nil {
			return
		}
		op, err := newGGUF(g, "fuzz.gguf")
		if err == nil {
			_, err = bind(context.Background(), op, Options{})
		}
		if err != nil && !known(err) {
			t.Errorf("%v is of no kind", err)
		}
	})
}

// FuzzTokenizerConfig: the small JSON files beside a tokenizer.
func FuzzTokenizerConfig(f *testing.F) {
	for _, name := range []string{"tokenizer_config.json", "config.json"} {
		b, err := os.ReadFile(testdata("assistant-tiny", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(b))
	}
	f.Add(`{"chat_template": [{"name": "default", "template": "x"}], "eos_token_id": [1, 2]}`)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := model.ParseConfig("tokenizer_config.json", bytes.NewReader([]byte(text)), int64(len(text)))
		if err == nil {
			var k Tokenizer
			if err = k.ids(c); err == nil {
				_, err = templateOf(c)
			}
		}
		if err != nil && !known(err) {
			t.Errorf("%v is of no kind", err)
		}
	})
}
