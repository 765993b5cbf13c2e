package tokenizer

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/klauspost/compress/zstd"
)

const sharedDir = "../../shared"

// big are the tokenizers of other people's models, which stay outside the
// repository.
var big = []string{"llama2", "llama3", "gemma3", "qwen3"}

// sharedFile reads a file of the shared folder, decompressing .zst, or skips.
func sharedFile(tb testing.TB, path string) []byte {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join(sharedDir, path))
	if err != nil {
		tb.Skipf("lacks shared/%s: %v", path, err)
	}
	if filepath.Ext(path) != ".zst" {
		return b
	}
	d, err := zstd.NewReader(nil)
	if err != nil {
		tb.Fatal(err)
	}
	defer d.Close()
	if b, err = d.DecodeAll(b, nil); err != nil {
		tb.Fatal(err)
	}
	return b
}

func repoFile(tb testing.TB, path string) []byte {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join("..", "testdata", path))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// loadNamed loads a tokenizer by the name of its vectors file.
func loadNamed(tb testing.TB, name string) *Tokenizer {
	tb.Helper()
	var data []byte
	if name == "assistant" {
		data = repoFile(tb, "assistant-tiny/tokenizer.json")
	} else {
		data = sharedFile(tb, "tokenizers/"+name+".tokenizer.json.zst")
	}
	t, err := FromJSON(data, nil)
	if err != nil {
		tb.Fatal(err)
	}
	return t
}

type vector struct {
	Text    string  `json:"text"`
	IDs     []int32 `json:"ids"`
	Decoded string  `json:"decoded"`
}

func readVectors(tb testing.TB, data []byte) []vector {
	tb.Helper()
	var out []vector
	sc := bufio.NewScanner(bytes.NewReader(data))
	sc.Buffer(nil, 1<<24)
	for sc.Scan() {
		var v vector
		if err := json.Unmarshal(sc.Bytes(), &v); err != nil {
			tb.Fatal(err)
		}
		out = append(out, v)
	}
	if len(out) == 0 {
		tb.Fatal("no vectors")
	}
	return out
}

// checkVectors holds t to vectors in ids and text, decoded whole and as a stream.
func checkVectors(t *testing.T, tok *Tokenizer, vs []vector) {
	t.Helper()
	bad := 0
	for i, v := range vs {
		ids, err := tok.Encode(v.Text, true)
		if err != nil {
			t.Fatalf("line %d: %v", i+1, err)
		}
		got := tok.Decode(v.IDs, true)
		if slices.Equal(ids, v.IDs) && got == v.Decoded && streamed(tok, v.IDs, true) == got {
			continue
		}
		if bad++; bad <= 5 {
			t.Errorf("line %d: %q\nids     %v\nwant    %v\ndecoded %q\nwant    %q\nstream  %q",
				i+1, v.Text, ids, v.IDs, got, v.Decoded, streamed(tok, v.IDs, true))
		}
	}
	if bad > 0 {
		t.Errorf("%d of %d lines differ", bad, len(vs))
	}
}

func streamed(tok *Tokenizer, ids []int32, skip bool) string {
	s := tok.NewStream(skip)
	out := ""
	for _, id := range ids {
		out += s.Push(id)
	}
	return out + s.Flush()
}

func TestSharedVectors(t *testing.T) {
	for _, name := range append([]string{"assistant"}, big...) {
		t.Run(name, func(t *testing.T) {
			vs := readVectors(t, sharedFile(t, "tokenizers/"+name+".vectors.jsonl"))
			checkVectors(t, loadNamed(t, name), vs)
		})
	}
}
