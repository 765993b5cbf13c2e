package tokenizer

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/text/unicode/norm"
)

// viaGGUF writes a tokenizer as a GGUF vocabulary and reads it as llama.cpp
// would.
func viaGGUF(t *testing.T, tok *Tokenizer) (*Tokenizer, GGUFVocab, []string) {
	t.Helper()
	g, notes, err := tok.GGUF()
	if err != nil {
		t.Fatal(err)
	}
	back, err := FromGGUF(g)
	if err != nil {
		t.Fatal(err)
	}
	return back, g, notes
}

// sameIDs holds back to tok's ids of raw text, special tokens added, and to
// its decoding of them.
func sameIDs(t *testing.T, tok, back *Tokenizer, texts []string) {
	t.Helper()
	bad := 0
	for _, text := range texts {
		want, err := tok.Encode(text, true)
		if err != nil {
			t.Fatal(err)
		}
		got, err := back.Encode(text, true)
		if err != nil {
			t.Fatal(err)
		}
		if bad < 5 && (!slices.Equal(got, want) || back.Decode(got, true) != tok.Decode(want, true)) {
			bad++
			t.Errorf("%q\nas GGUF %v %q\nwant    %v %q", text, got, back.Decode(got, true), want, tok.Decode(want, true))
		}
	}
}

func textsOf(vs []vector) []string {
	var out []string
	for _, v := range vs {
		out = append(out, v.Text)
	}
	return out
}

// TestGGUFFromAssistant writes both forms of the project's own tokenizer.
func TestGGUFFromAssistant(t *testing.T) {
	config := repoFile(t, "assistant-tiny/tokenizer_config.json")
	fromJSON, err := FromJSON(repoFile(t, "assistant-tiny/tokenizer.json"), config)
	if err != nil {
		t.Fatal(err)
	}
	back, g, notes := viaGGUF(t, fromJSON)
	if g.Model != "llama" || len(g.Tokens) != 2048 || len(g.Scores) != 2048 || g.BOS != 1 || g.EOS != 5 || g.UNK != 0 || !*g.AddBOS || *g.AddEOS || !*g.AddSpacePrefix || len(notes) != 0 {
		t.Errorf("%s: %d tokens, bos %d, eos %d, unk %d, notes %q", g.Model, len(g.Tokens), g.BOS, g.EOS, g.UNK, notes)
	}
	if g.ChatTemplate == "" || g.Types[0] != kindUnknown || g.Types[5] != kindControl || g.Types[6] != kindByte || g.Tokens[6] != "<0x00>" {
		t.Errorf("types %v, template %.20q", g.Types[:8], g.ChatTemplate)
	}
	sameIDs(t, fromJSON, back, textsOf(readVectors(t, testdata(t, "assistant.vectors.jsonl"))))

	fromModel, err := FromSentencePiece(repoFile(t, "assistant-tiny/tokenizer.model"), config)
	if err != nil {
		t.Fatal(err)
	}
	back, _, notes = viaGGUF(t, fromModel)
	if len(notes) != 0 {
		t.Errorf("notes %q", notes)
	}
	sameIDs(t, fromModel, back, plainTexts(t))
}

// TestGGUFPreTypes: each pre type is found again by its regexes alone.
func TestGGUFPreTypes(t *testing.T) {
	vocabs := ggufVocabs(t)
	for _, p := range ggufPres {
		if p.spaceMarks || p.words || p.addSEP {
			continue
		}
		name := strings.Fields(p.names)[0]
		d := vocabs[name]
		if d == nil {
			d = vocabs["BPE"]
		}
		tok, err := FromGGUF(d.vocab(name))
		if err != nil {
			t.Fatal(err)
		}
		back, g, _ := viaGGUF(t, tok)
		found, _ := findGGUFPre(g.Pre)
		if !slices.Equal(found.steps(), p.steps()) || found.ignoreMerges != p.ignoreMerges {
			t.Errorf("%s was written as %s", name, g.Pre)
		}
		sameIDs(t, tok, back, append(plainTexts(t), "x1234567 it's  \n\n don't\tÜber 東京12345"))
	}
}

// TestGGUFOfShared writes the tokenizers of large models, as they stand in
// tokenizer.json. The ids differ only where a note says so.
func TestGGUFOfShared(t *testing.T) {
	for name, want := range map[string]struct {
		pre   string
		notes []string
	}{
		"llama2": {pre: "default"}, "llama3": {pre: "llama-bpe"},
		"gemma3": {pre: "default"}, "qwen3": {"qwen2", []string{"form NFC", `"</s>"`}},
	} {
		t.Run(name, func(t *testing.T) {
			tok := loadNamed(t, name)
			back, g, notes := viaGGUF(t, tok)
			if g.Pre != want.pre || len(notes) != len(want.notes) {
				t.Errorf("pre %q, notes %q", g.Pre, notes)
			}
			for _, n := range want.notes {
				if !strings.Contains(strings.Join(notes, "\n"), n) {
					t.Errorf("notes %q, wanted one with %q", notes, n)
				}
			}
			var texts []string
			for i, v := range readVectors(t, sharedFile(t, "tokenizers/"+name+".vectors.jsonl")) {
				if i%4 == 0 && norm.NFC.IsNormalString(v.Text) && !strings.Contains(v.Text, "</s>") {
					texts = append(texts, v.Text)
				}
			}
			sameIDs(t, tok, back, texts)
		})
	}
}

func TestGGUFRefuses(t *testing.T) {
	load := func(name string) *Tokenizer {
		tok, err := FromSentencePiece(testdata(t, name), nil)
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	fromJSON := func(text string) *Tokenizer {
		tok, err := FromJSON([]byte(text), nil)
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	const bpe = `{"version":"1.0","added_tokens":[],"normalizer":null,"post_processor":null,"decoder":null,"pre_tokenizer":%PRE%,
		"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}}`
	for want, tok := range map[string]*Tokenizer{
		"unigram":               load("sp_unigram.model"),
		"without byte fallback": load("sp_bpe_unk.model"),
		"no tokenizer.ggml.pre type": fromJSON(strings.Replace(bpe, "%PRE%",
			`{"type":"Sequence","pretokenizers":[{"type":"Split","pattern":{"Regex":"x+"},"behavior":"Isolated","invert":false},{"type":"ByteLevel","add_prefix_space":false,"trim_offsets":true,"use_regex":false}]}`, 1)),
		`pre-tokenizer "bytelevel"`: fromJSON(strings.Replace(bpe, "%PRE%", `{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,"use_regex":true}`, 1)),
	} {
		if _, _, err := tok.GGUF(); !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
}
