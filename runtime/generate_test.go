package slmrt

import (
	"strings"
	"testing"
)

// However the text arrives, what is emitted ends before the first stop string,
// and nothing of a stop string is ever emitted.
func TestStopper(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"hello world", "hello world"},
		{"hello\n\nUser: x", "hello"},
		{"hello\nUser", "hello\nUser"},
		{"aab", ""},
		{"xaaab", "xa"},
		{"ends with aa", "ends with aa"},
	} {
		stop := []string{"\n\nUser:", "aab", "\n\n", ""}
		for size := 1; size <= len(c.text); size++ {
			var got strings.Builder
			s := newStopper(nil, stop, func(x string) error { got.WriteString(x); return nil })
			ended := false
			for i := 0; i < len(c.text) && !ended; i += size {
				var err error
				if ended, err = s.add(c.text[i:min(i+size, len(c.text))], false); err != nil {
					t.Fatal(err)
				}
			}
			if !ended {
				if _, err := s.add("", true); err != nil {
					t.Fatal(err)
				}
			}
			text, err := s.finish()
			if err != nil {
				t.Fatal(err)
			}
			if got.String() != c.want || text != c.want {
				t.Errorf("%q in pieces of %d: emitted %q, returned %q, want %q", c.text, size, got.String(), text, c.want)
			}
		}
	}
}
