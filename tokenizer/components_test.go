package tokenizer

import (
	"bufio"
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func testdata(tb testing.TB, name string) []byte {
	tb.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

func containsMarkup(s string) bool {
	for _, m := range []string{"<s>", "</s>", "<unk>", "<|user|>", "<|assistant|>", "<|end|>"} {
		if strings.Contains(s, m) {
			return true
		}
	}
	return false
}

// component is a line of components.jsonl, which testdata/components.js made
// with the reference implementation.
type component struct {
	Name      string          `json:"name"`
	Tokenizer json.RawMessage `json:"tokenizer"`
	Vectors   []struct {
		Text    string  `json:"text"`
		IDs     []int32 `json:"ids"`
		Decoded *string `json:"decoded"`
	} `json:"vectors"`
}

func components(tb testing.TB) []component {
	tb.Helper()
	var out []component
	sc := bufio.NewScanner(bytes.NewReader(testdata(tb, "components.jsonl")))
	sc.Buffer(nil, 1<<24)
	for sc.Scan() {
		var c component
		if err := json.Unmarshal(sc.Bytes(), &c); err != nil {
			tb.Fatal(err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		tb.Fatal("no components")
	}
	return out
}

func TestComponents(t *testing.T) {
	for _, c := range components(t) {
		t.Run(c.Name, func(t *testing.T) {
			tok, err := FromJSON(c.Tokenizer, nil)
			if err != nil {
				t.Fatal(err)
			}
			again := remarshal(t, tok)
			bad := 0
			for _, v := range c.Vectors {
				ids, err := tok.Encode(v.Text, true)
				if err != nil {
					t.Fatal(err)
				}
				got := tok.Decode(v.IDs, true)
				if !slices.Equal(ids, v.IDs) || v.Decoded != nil && got != *v.Decoded || streamed(tok, v.IDs, true) != got {
					if bad++; bad <= 3 {
						t.Errorf("%q\nids  %v\nwant %v\ndecoded %q\nwant    %q\nstream  %q", v.Text, ids, v.IDs, got, deref(v.Decoded), streamed(tok, v.IDs, true))
					}
				}
				if ids2, err := again.Encode(v.Text, true); err != nil || !slices.Equal(ids, ids2) || again.Decode(v.IDs, true) != got {
					t.Errorf("%q: after a round trip %v, before %v", v.Text, ids2, ids)
				}
			}
			if bad > 0 {
				t.Errorf("%d of %d differ", bad, len(c.Vectors))
			}
		})
	}
}

func deref(s *string) string {
	if s == nil {
		return "(none)"
	}
	return *s
}
