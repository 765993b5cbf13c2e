package tokenizer

import (
	"math"
	"testing"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// use encodes and decodes with whatever was loaded.
func use(t *testing.T, tok *Tokenizer) {
	for _, s := range []string{"", "a b", " the <s> é中\n\n12345"} {
		ids, err := tok.Encode(s, true)
		if err != nil {
			continue
		}
		for _, id := range ids {
			if !tok.spec.vocab.has(id) {
				t.Fatalf("%q gives id %d of %d", s, id, tok.VocabSize())
			}
		}
		if d := tok.Decode(ids, false); streamed(tok, ids, false) != d {
			t.Fatalf("%q: stream differs from %q", s, d)
		}
		if _, err := tok.EncodeSegments([]Segment{{s, true}, {s, false}}); err != nil {
			continue
		}
	}
}

func FuzzFromJSON(f *testing.F) {
	f.Add(tiny(nil))
	f.Add(tiny(map[string]string{"normalizer": `{"type":"Sequence","normalizers":[{"type":"NFKC"},{"type":"Prepend","prepend":"▁"}]}`, "pre_tokenizer": `{"type":"Metaspace","replacement":"▁","prepend_scheme":"first","split":true}`}))
	f.Add(tiny(map[string]string{"model": `{"type":"Unigram","unk_id":0,"vocab":[["<unk>",0],["a",-1],["▁",-2.5]]}`, "decoder": `{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]}`}))
	f.Add(tiny(map[string]string{"model": `{"type":"WordPiece","unk_token":"[UNK]","vocab":{"[UNK]":0,"a":1,"##b":2}}`, "pre_tokenizer": `{"type":"Split","pattern":{"Regex":"\\s+(?!\\S)|[^\\p{L}]?+"},"behavior":"MergedWithNext","invert":true}`}))
	f.Add(tiny(map[string]string{"added_tokens": `[{"id":3,"content":"<s>","single_word":true,"lstrip":true,"rstrip":true,"normalized":true,"special":true}]`}))
	f.Fuzz(func(t *testing.T, data []byte) {
		if tok, err := FromJSON(data, nil); err == nil {
			use(t, tok)
		}
	})
}

func FuzzFromSentencePiece(f *testing.F) {
	// Small seeds: the engine spends its time on shrinking large ones.
	f.Add(smallModel(1))
	f.Add(smallModel(2))
	f.Fuzz(func(t *testing.T, data []byte) {
		if tok, err := FromSentencePiece(data, nil); err == nil {
			use(t, tok)
		}
	})
}

// smallModel is a ModelProto of a few pieces of every type.
func smallModel(kind uint64) []byte {
	var b []byte
	message := func(num protowire.Number, m []byte) {
		b = protowire.AppendBytes(protowire.AppendTag(b, num, protowire.BytesType), m)
	}
	for i, p := range []string{"<unk>", "<s>", "a", "▁a", "<|x|>", "▁"} {
		m := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), p)
		m = protowire.AppendFixed32(protowire.AppendTag(m, 2, protowire.Fixed32Type), math.Float32bits(-float32(i)))
		m = protowire.AppendVarint(protowire.AppendTag(m, 3, protowire.VarintType), []uint64{2, 3, 1, 1, 4, 5}[i])
		message(1, m)
	}
	message(2, protowire.AppendVarint(protowire.AppendTag(nil, 3, protowire.VarintType), kind))
	message(3, protowire.AppendVarint(protowire.AppendTag(nil, 4, protowire.VarintType), 0))
	return b
}

func FuzzFromLlama2C(f *testing.F) {
	f.Add(llama2cBytes(), 260)
	f.Fuzz(func(t *testing.T, data []byte, n int) {
		if tok, err := FromLlama2C(data, n); err == nil {
			use(t, tok)
		}
	})
}

func FuzzUnmarshal(f *testing.F) {
	for kind := range uint64(2) {
		tok, err := FromSentencePiece(smallModel(kind+1), nil)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(tok.Marshal())
	}
	tok, err := FromJSON(tiny(map[string]string{"pre_tokenizer": `{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true}`, "decoder": `{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true}`}), nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(tok.Marshal())
	f.Fuzz(func(t *testing.T, data []byte) {
		if tok, err := Unmarshal(data); err == nil {
			use(t, tok)
		}
	})
}

func FuzzFromGGUF(f *testing.F) {
	f.Add("llama", "", "▁", "a", "▁a", "x y", int32(1), float32(-1))
	f.Add("gpt2", "llama-bpe", "a", "b", "ab", "a b", int32(3), float32(0))
	f.Add("t5", "", "<unk>", "a", "▁a", "", int32(2), float32(-2))
	f.Fuzz(func(t *testing.T, model, pre, a, b, c, m string, kind int32, score float32) {
		g := NewGGUFVocab()
		g.Model, g.Pre, g.Tokens, g.Merges = model, pre, []string{a, b, c}, []string{m}
		g.Types, g.Scores = []int32{kind, 1, 1}, []float32{score, -1, -2}
		g.BOS, g.EOS, g.UNK = 0, 1, 0
		if tok, err := FromGGUF(g); err == nil {
			use(t, tok)
		}
	})
}

// FuzzRoundTrip: text through a byte-level vocabulary comes back.
func FuzzRoundTrip(f *testing.F) {
	tok, err := FromGGUF(ggufVocabs(f)["BPE"].vocab("gpt-4o"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add("Hello, it's 2026…\r\n")
	f.Fuzz(func(t *testing.T, s string) {
		ids, err := tok.EncodePlain(s)
		if err != nil {
			t.Fatal(err)
		}
		want := s
		if !utf8.ValidString(s) {
			want = string([]rune(s))
		}
		if got := tok.Decode(ids, false); got != want || streamed(tok, ids, false) != want {
			t.Fatalf("%q comes back as %q", s, got)
		}
	})
}
