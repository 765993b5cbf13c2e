package tokenizer

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// TestCut: cutting text at spaces, which only makes it faster, changes no id,
// also where merges and pieces do cross spaces.
func TestCut(t *testing.T) {
	crossing := tiny(map[string]string{
		"normalizer": `{"type":"Replace","pattern":{"String":" "},"content":"▁"}`,
		"model":      `{"type":"BPE","unk_token":"?","vocab":{"?":0,"a":1,"b":2,"▁":3,"b▁":4,"b▁a":5,"▁▁":6,"▁a":7,"a▁▁":8,"▁b":9,"é":10,"é▁b":11},"merges":["▁ ▁","b ▁","▁ a","b▁ a","a ▁▁","▁ b","é ▁b"]}`,
	})
	tok, err := FromJSON(crossing, nil)
	if err != nil {
		t.Fatal(err)
	}
	if ids, _ := tok.Encode("b a", true); !slices.Equal(ids, []int32{5}) {
		t.Errorf("a merge across a space gives %v, want [5]", ids)
	}
	spaces, err := FromSentencePiece(testdata(t, "sp_bpe_spaces.model"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, tok := range []*Tokenizer{tok, spaces, loadNamed(t, "assistant")} {
		whole, err := build(tok.spec)
		if err != nil {
			t.Fatal(err)
		}
		switch m := whole.model.(type) {
		case *bpeModel:
			m.cut.joins = nil
		case *scoreModel:
			m.cut.joins = nil
		}
		whole.rawModel = whole.model
		r := rand.New(rand.NewPCG(9, 9))
		for range 500 {
			b := make([]rune, r.IntN(40))
			for i := range b {
				b[i] = []rune("aabbé   ▁thex")[r.IntN(13)]
			}
			got, _ := tok.Encode(string(b), true)
			want, _ := whole.Encode(string(b), true)
			if !slices.Equal(got, want) {
				t.Fatalf("%q: cut %v, whole %v", string(b), got, want)
			}
		}
	}
}

// TestPreRanges: no range of a pre-tokenizer's regex takes white space beyond
// ASCII, which llama.cpp keeps out of them.
func TestPreRanges(t *testing.T) {
	for _, p := range ggufPres {
		if p.names != "deepseek-llm" && p.names != "deepseek-coder" {
			continue
		}
		for _, src := range p.regexes {
			re, err := compileRegex(src)
			if err != nil {
				t.Fatal(err)
			}
			if err := re.each("中\u2028\u3000中", func(i, j int) {
				if j-i > 3 && src[0] != '\\' {
					t.Errorf("%s: %q takes bytes %d to %d", p.names, src, i, j)
				}
			}); err != nil {
				t.Fatal(err)
			}
		}
	}
}
