package tokenizer

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"
)

// ggufData is an entry of gguf_vocab.json (testdata/gguf_vocab.py).
type ggufData struct {
	Model              string
	Tokens, Merges     []string
	Types              []int32
	Scores             []float32
	BOS, EOS, Unk, Sep *int
}

func (d *ggufData) vocab(pre string) GGUFVocab {
	g := NewGGUFVocab()
	g.Model, g.Tokens, g.Types, g.Scores, g.Merges = d.Model, d.Tokens, d.Types, d.Scores, d.Merges
	if d.Model == "gpt2" {
		g.Pre = pre
	}
	for _, p := range []struct {
		from *int
		to   *int
	}{{d.BOS, &g.BOS}, {d.EOS, &g.EOS}, {d.Unk, &g.UNK}, {d.Sep, &g.SEP}} {
		if p.from != nil {
			*p.to = *p.from
		}
	}
	return g
}

func ggufVocabs(tb testing.TB) map[string]*ggufData {
	tb.Helper()
	var all map[string]*ggufData
	if err := json.Unmarshal(testdata(tb, "gguf_vocab.json"), &all); err != nil {
		tb.Fatal(err)
	}
	return all
}

// TestGGUF holds every pre-tokenizer type, and the other models, to the ids of
// llama.cpp (testdata/gguf_vectors.mjs).
func TestGGUF(t *testing.T) {
	vocabs := ggufVocabs(t)
	sc := bufio.NewScanner(bytes.NewReader(testdata(t, "gguf.vectors.jsonl")))
	sc.Buffer(nil, 1<<24)
	var head struct{ Texts []string }
	if !sc.Scan() || json.Unmarshal(sc.Bytes(), &head) != nil || len(head.Texts) == 0 {
		t.Fatal("no texts")
	}
	seen := map[string]bool{}
	for sc.Scan() {
		var c struct {
			Pre        string
			BOS        bool
			IDs, Plain [][]int32
		}
		if err := json.Unmarshal(sc.Bytes(), &c); err != nil {
			t.Fatal(err)
		}
		t.Run(c.Pre, func(t *testing.T) {
			d := vocabs[c.Pre]
			if d == nil {
				d = vocabs["BPE"]
			}
			tok, err := FromGGUF(d.vocab(c.Pre))
			if err != nil {
				t.Fatal(err)
			}
			tok = remarshal(t, tok)
			if tok.AddsBOS() != c.BOS {
				t.Errorf("adds BOS: %v, llama.cpp %v", tok.AddsBOS(), c.BOS)
			}
			for i, text := range head.Texts {
				ids, err := tok.EncodeTemplate(text)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(ids, c.IDs[i]) {
					t.Errorf("%q\ngot  %v\nwant %v", text, ids, c.IDs[i])
				}
				// llama.cpp recognises user-defined tokens even here; they are
				// what this package keeps out of message contents.
				if strings.Contains(text, "<think>") {
					continue
				}
				if ids, _ = tok.EncodePlain(text); !slices.Equal(ids, c.Plain[i]) {
					t.Errorf("plain %q\ngot  %v\nwant %v", text, ids, c.Plain[i])
				}
			}
		})
		seen[c.Pre] = true
	}
	for _, p := range ggufPres {
		if name := strings.Fields(p.names)[0]; !seen[name] && name != "whitespace" {
			t.Errorf("no vectors for %s", name)
		}
	}
}

func TestGGUFRefused(t *testing.T) {
	d := ggufVocabs(t)["BPE"]
	if _, err := FromGGUF(d.vocab("no-such-type")); !errors.Is(err, ErrUnsupported) ||
		!strings.Contains(err.Error(), "no-such-type") || !strings.Contains(err.Error(), "llama-bpe") {
		t.Errorf("unknown pre type: %v", err)
	}
	for _, name := range GGUFPreTypes() {
		if _, err := FromGGUF(d.vocab(name)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	g := d.vocab("gpt-2")
	g.Model = "plamo2"
	if _, err := FromGGUF(g); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "plamo2") {
		t.Errorf("unknown model: %v", err)
	}
	g = d.vocab("gpt-2")
	g.Tokens = append([]string{"!"}, g.Tokens...)
	g.Types = append([]int32{1}, g.Types...)
	if _, err := FromGGUF(g); !errors.Is(err, ErrCorrupt) {
		t.Errorf("a token twice: %v", err)
	}
	g = d.vocab("gpt-2")
	g.Types = g.Types[:3]
	if _, err := FromGGUF(g); !errors.Is(err, ErrCorrupt) {
		t.Errorf("too few types: %v", err)
	}
	g = d.vocab("gpt-2")
	g.Merges = append(g.Merges, "x", " ", "a b c")
	if _, err := FromGGUF(g); !errors.Is(err, ErrCorrupt) {
		t.Errorf("merges that are no pairs: %v", err)
	}
}

// TestRWKV: longest match over bytes, with the vocabulary's escapes.
func TestRWKV(t *testing.T) {
	g := NewGGUFVocab()
	g.Model = "rwkv"
	for b := 0; b < 256; b++ {
		g.Tokens = append(g.Tokens, `\x`+string("0123456789abcdef"[b>>4])+string("0123456789abcdef"[b&15]))
	}
	g.Tokens = append(g.Tokens, "ab", "abc", `\n\n`, `\xe4\xb8`)
	tok, err := FromGGUF(g)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []*Tokenizer{tok, remarshal(t, tok)} {
		ids, err := x.Encode("abcab\n\n中a", true)
		if err != nil || !slices.Equal(ids, []int32{257, 256, 258, 259, 0xAD, 'a'}) {
			t.Errorf("got %v, %v", ids, err)
		}
		if s := x.Decode(ids, true); s != "abcab\n\n中a" || streamed(x, ids, true) != s {
			t.Errorf("decodes to %q", s)
		}
	}
}
