package tokenizer

import (
	"bytes"
	"errors"
	"testing"
	"time"
)

// remarshal returns tok after a round trip and checks that the bytes are the
// same from then on.
func remarshal(tb testing.TB, tok *Tokenizer) *Tokenizer {
	tb.Helper()
	b := tok.Marshal()
	again, err := Unmarshal(b)
	if err != nil {
		tb.Fatal(err)
	}
	if !bytes.Equal(b, again.Marshal()) {
		tb.Error("a round trip changes the bytes")
	}
	return again
}

func TestRoundTrip(t *testing.T) {
	for _, name := range append([]string{"assistant"}, big...) {
		t.Run(name, func(t *testing.T) {
			vs := readVectors(t, sharedFile(t, "tokenizers/"+name+".vectors.jsonl"))
			tok := loadNamed(t, name)
			checkVectors(t, remarshal(t, tok), vs)
			b := tok.Marshal()
			best := time.Hour
			for range 5 {
				start := time.Now()
				if _, err := Unmarshal(b); err != nil {
					t.Fatal(err)
				}
				best = min(best, time.Since(start))
			}
			t.Logf("%d tokens, %d merges: %d bytes, loaded in %v", tok.VocabSize(), len(tok.spec.merges), len(b), best)
		})
	}
}

// TestMarshalTruncated: every shorter form is an error, and none panics.
func TestMarshalTruncated(t *testing.T) {
	b := loadNamed(t, "assistant").Marshal()
	for n := 0; n < len(b); n += 1 + n/64 {
		if _, err := Unmarshal(b[:n]); err == nil || !errors.Is(err, ErrCorrupt) {
			t.Fatalf("%d of %d bytes: %v", n, len(b), err)
		}
	}
	b[4]++
	if _, err := Unmarshal(b); !errors.Is(err, ErrUnsupported) {
		t.Errorf("unknown version: %v", err)
	}
}
