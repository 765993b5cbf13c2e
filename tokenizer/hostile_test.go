package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// tiny is a tokenizer.json with parts replaced.
func tiny(parts map[string]string) []byte {
	p := map[string]string{
		"added_tokens": "[]", "normalizer": "null", "pre_tokenizer": "null", "post_processor": "null", "decoder": "null",
		"model": `{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]}`,
	}
	for k, v := range parts {
		p[k] = v
	}
	return []byte(fmt.Sprintf(`{"version":"1.0","truncation":null,"padding":null,"added_tokens":%s,"normalizer":%s,"pre_tokenizer":%s,"post_processor":%s,"decoder":%s,"model":%s}`,
		p["added_tokens"], p["normalizer"], p["pre_tokenizer"], p["post_processor"], p["decoder"], p["model"]))
}

func TestRefusedJSON(t *testing.T) {
	if _, err := FromJSON(tiny(nil), nil); err != nil {
		t.Fatal(err)
	}
	deep := strings.Repeat(`{"type":"Sequence","normalizers":[`, 10000) + strings.Repeat(`]}`, 10000)
	many := strings.Repeat(`{"type":"NFC"},`, 100) + `{"type":"NFC"}`
	for name, c := range map[string]struct {
		key, value, mention string
		kind                error
	}{
		"unknown normalizer":     {"normalizer", `{"type":"Rot13"}`, "Rot13", ErrUnsupported},
		"precompiled":            {"normalizer", `{"type":"Precompiled","precompiled_charsmap":"AAAA"}`, "Precompiled", ErrUnsupported},
		"unknown key":            {"normalizer", `{"type":"NFC","strength":3}`, "strength", ErrUnsupported},
		"unknown pre-tokenizer":  {"pre_tokenizer", `{"type":"UnicodeScripts"}`, "UnicodeScripts", ErrUnsupported},
		"unknown behaviour":      {"pre_tokenizer", `{"type":"Punctuation","behavior":"Shredded"}`, "Shredded", ErrUnsupported},
		"unknown post-processor": {"post_processor", `{"type":"Mail"}`, "Mail", ErrUnsupported},
		"unknown decoder":        {"decoder", `{"type":"Morse"}`, "Morse", ErrUnsupported},
		"unknown model":          {"model", `{"type":"Markov","vocab":{}}`, "Markov", ErrUnsupported},
		"posix class":            {"pre_tokenizer", `{"type":"Split","pattern":{"Regex":"[[:alpha:]]+"},"behavior":"Isolated","invert":false}`, "nested class", ErrUnsupported},
		"intersection":           {"pre_tokenizer", `{"type":"Split","pattern":{"Regex":"[a-z&&[^b]]"},"behavior":"Isolated","invert":false}`, "intersection", ErrUnsupported},
		"bad regex":              {"pre_tokenizer", `{"type":"Split","pattern":{"Regex":"(a"},"behavior":"Isolated","invert":false}`, "(a", ErrUnsupported},
		"dropout":                {"model", `{"type":"BPE","dropout":0.1,"vocab":{"a":0},"merges":[]}`, "dropout", ErrUnsupported},
		"huge id":                {"model", `{"type":"BPE","vocab":{"a":4294967295},"merges":[]}`, "4294967295", ErrUnsupported},
		"negative id":            {"model", `{"type":"BPE","vocab":{"a":-1},"merges":[]}`, "-1", ErrCorrupt},
		"duplicate id":           {"model", `{"type":"BPE","vocab":{"a":0,"b":0},"merges":[]}`, `"a" and "b"`, ErrCorrupt},
		"merge of nothing":       {"model", `{"type":"BPE","vocab":{"a":0},"merges":["a x"]}`, `"x"`, ErrCorrupt},
		"merge to nothing":       {"model", `{"type":"BPE","vocab":{"a":0,"b":1},"merges":["a b"]}`, `"ab"`, ErrCorrupt},
		"merge of three":         {"model", `{"type":"BPE","vocab":{"a":0},"merges":[["a","a","a"]]}`, "3 parts", ErrCorrupt},
		"no merges":              {"model", `{"type":"BPE","vocab":{"a":0}}`, "merges", ErrCorrupt},
		"empty vocabulary":       {"model", `{"type":"BPE","vocab":{},"merges":[]}`, "empty", ErrCorrupt},
		"added id taken":         {"added_tokens", `[{"id":0,"content":"<x>","single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":true}]`, `"<x>"`, ErrCorrupt},
		"added id huge":          {"added_tokens", `[{"id":99999999,"content":"<x>","special":true}]`, "99999999", ErrUnsupported},
		"template without ids":   {"post_processor", `{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{}}`, `"x"`, ErrCorrupt},
		"template id outside":    {"post_processor", `{"type":"TemplateProcessing","single":[{"SpecialToken":{"id":"x","type_id":0}},{"Sequence":{"id":"A","type_id":0}}],"pair":[],"special_tokens":{"x":{"id":"x","ids":[77],"tokens":["x"]}}}`, "77", ErrCorrupt},
		"deep":                   {"normalizer", deep, "deep", ErrUnsupported},
		"many steps":             {"normalizer", `{"type":"Sequence","normalizers":[` + many + `]}`, "steps", ErrUnsupported},
		"unigram score":          {"model", `{"type":"Unigram","unk_id":5,"vocab":[["a",-1]]}`, "unk_id", ErrCorrupt},
		"long token":             {"model", `{"type":"BPE","vocab":{"` + strings.Repeat("a", 1<<16) + `":0},"merges":[]}`, "bytes long", ErrUnsupported},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := FromJSON(tiny(map[string]string{c.key: c.value}), nil)
			if !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.mention) {
				t.Errorf("%v; want %v that mentions %q", err, c.kind, c.mention)
			}
			if d := time.Since(start); d > time.Second {
				t.Errorf("took %v", d)
			}
		})
	}
	for _, s := range []string{"", "null", "[]", "{", `{"version":"2.0"}`, `{"surprise":1}`} {
		if _, err := FromJSON([]byte(s), nil); err == nil {
			t.Errorf("%q loads", s)
		}
	}
}

// TestGrowth: replacements that multiply the text are an error, not the end of
// memory.
func TestGrowth(t *testing.T) {
	double := strings.Repeat(`{"type":"Replace","pattern":{"String":"a"},"content":"aaaaaaaa"},`, 40)
	for _, n := range []string{
		`{"type":"Sequence","normalizers":[` + strings.TrimSuffix(double, ",") + `]}`,
		`{"type":"Replace","pattern":{"String":"a"},"content":"` + strings.Repeat("b", 1<<20) + `"}`,
		`{"type":"Replace","pattern":{"Regex":"a|"},"content":"` + strings.Repeat("b", 1<<20) + `"}`,
	} {
		tok, err := FromJSON(tiny(map[string]string{"normalizer": n}), nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tok.Encode(strings.Repeat("a", 1000), true); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%.60s: %v", n, err)
		}
	}
}

// TestCyclicMerges: merges that lead back to their own parts end all the same.
func TestCyclicMerges(t *testing.T) {
	tok, err := FromJSON(tiny(map[string]string{"model": `{"type":"BPE","vocab":{"a":0,"aa":1,"aaa":2,"aaaa":3},"merges":["aa aa","a aaa","aaa a","aa a","a aa","a a"]}`}), nil)
	if err != nil {
		t.Fatal(err)
	}
	ids, err := tok.Encode(strings.Repeat("a", 1000), true)
	if err != nil || tok.Decode(ids, true) == "" {
		t.Error(ids, err)
	}
}

// TestCatastrophicRegex: a regex that backtracks for ever is an error of
// Encode, in bounded time.
func TestCatastrophicRegex(t *testing.T) {
	re, _ := json.Marshal(`(a+)+$|(a|aa)+b`)
	tok, err := FromJSON(tiny(map[string]string{"pre_tokenizer": `{"type":"Split","pattern":{"Regex":` + string(re) + `},"behavior":"Isolated","invert":false}`}), nil)
	if err != nil {
		t.Fatal(err)
	}
	start := time.Now()
	_, err = tok.Encode(strings.Repeat("a", 60)+"!", true)
	if !errors.Is(err, ErrUnsupported) {
		t.Errorf("got %v", err)
	}
	if d := time.Since(start); d > 4*regexBudget {
		t.Errorf("took %v", d)
	}
}

// TestStrayIDs: ids that no token has add nothing and never panic.
func TestStrayIDs(t *testing.T) {
	tok := loadNamed(t, "assistant")
	ids := []int32{-1, 1 << 30, -1 << 31, int32(tok.VocabSize())}
	if s := tok.Decode(ids, false); s != "" {
		t.Errorf("%q", s)
	}
	if _, ok := tok.Token(1 << 30); ok {
		t.Error("a token for a stray id")
	}
}

// TestBytesOfTruncatedModels: every shorter tokenizer.model or tokenizer.bin is
// an error or a tokenizer, never a panic.
func TestTruncatedModels(t *testing.T) {
	model := testdata(t, "sp_unigram.model")
	for n := 0; n < len(model); n += 7 {
		if tok, err := FromSentencePiece(model[:n], nil); err == nil {
			if _, err := tok.Encode("what is the weather", true); err != nil {
				t.Fatal(err)
			}
		}
	}
	bin := llama2cBytes()
	if _, err := FromLlama2C(bin, 260); err != nil {
		t.Fatal(err)
	}
	for n := 0; n < len(bin); n++ {
		if _, err := FromLlama2C(bin[:n], 260); !errors.Is(err, ErrCorrupt) {
			t.Fatalf("%d bytes: %v", n, err)
		}
	}
}

// llama2cBytes is a tokenizer.bin of 260 tokens.
func llama2cBytes() []byte {
	b := []byte{9, 0, 0, 0}
	add := func(s string) {
		b = append(b, 0, 0, 0, 0, byte(len(s)), 0, 0, 0)
		b = append(b, s...)
	}
	add("<unk>")
	add("\n<s>\n")
	add("\n</s>\n")
	for _, s := range byteTokens {
		add(s)
	}
	add(" a")
	return b
}
