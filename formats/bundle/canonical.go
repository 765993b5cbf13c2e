package bundle

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Canonical JSON is that of RFC 8785 (JSON Canonicalization Scheme): no white
// space, keys sorted by their UTF-16 code units, the shortest decimal that
// gives the same double, and escapes only where JSON demands them. So a value
// has one encoding, and a reader can refuse every other one. A float32 is
// written as the shortest decimal that rounds to it, which has at most nine
// digits and is therefore also the shortest one of its double.

// Bounds on a canonical document, so that its decoded form cannot be much
// larger than its text.
const (
	maxDepth    = 32
	maxElements = 1 << 14 // of one array or object
)

// canonical returns the canonical form of what json.Marshal makes of v.
func canonical(v any) ([]byte, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	tree, err := decodeTree(plain)
	if err != nil {
		return nil, err
	}
	return appendValue(nil, tree)
}

func decodeTree(text []byte) (tree any, err error) {
	dec := json.NewDecoder(bytes.NewReader(text))
	dec.UseNumber()
	return tree, dec.Decode(&tree)
}

func appendValue(dst []byte, v any) ([]byte, error) {
	var err error
	switch v := v.(type) {
	case nil:
		return append(dst, "null"...), nil
	case bool:
		return strconv.AppendBool(dst, v), nil
	case string:
		return appendString(dst, v), nil
	case json.Number:
		return appendNumber(dst, v.String())
	case []any:
		dst = append(dst, '[')
		for i, e := range v {
			if i > 0 {
				dst = append(dst, ',')
			}
			if dst, err = appendValue(dst, e); err != nil {
				return nil, err
			}
		}
		return append(dst, ']'), nil
	case map[string]any:
		dst = append(dst, '{')
		for i, k := range slices.SortedFunc(maps.Keys(v), compareKeys) {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = append(appendString(dst, k), ':')
			if dst, err = appendValue(dst, v[k]); err != nil {
				return nil, err
			}
		}
		return append(dst, '}'), nil
	}
	return nil, fmt.Errorf("no canonical JSON for %T", v)
}

func compareKeys(a, b string) int {
	return slices.Compare(utf16.Encode([]rune(a)), utf16.Encode([]rune(b)))
}

func appendString(dst []byte, s string) []byte {
	const hexDigits = "0123456789abcdef"
	dst = append(dst, '"')
	for i := range len(s) {
		switch c := s[i]; {
		case c == '"' || c == '\\':
			dst = append(dst, '\\', c)
		case c >= 0x20:
			dst = append(dst, c)
		case shortEscape(c) != 0:
			dst = append(dst, '\\', shortEscape(c))
		default:
			dst = append(dst, '\\', 'u', '0', '0', hexDigits[c>>4], hexDigits[c&15])
		}
	}
	return append(dst, '"')
}

// shortEscape returns the letter of a control character's two-character escape.
func shortEscape(c byte) byte {
	switch c {
	case '\b':
		return 'b'
	case '\t':
		return 't'
	case '\n':
		return 'n'
	case '\f':
		return 'f'
	case '\r':
		return 'r'
	}
	return 0
}

// appendNumber writes a JSON number as ECMAScript writes its double. An integer
// that a double cannot hold is an error, not a rounding.
func appendNumber(dst []byte, text string) ([]byte, error) {
	f, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return nil, fmt.Errorf("number %.40s: %w", text, err)
	}
	if f == 0 {
		return append(dst, '0'), nil
	}
	at := len(dst)
	if a := max(f, -f); a >= 1e-6 && a < 1e21 {
		dst = strconv.AppendFloat(dst, f, 'f', -1, 64)
	} else {
		dst = strconv.AppendFloat(dst, f, 'e', -1, 64)
		// Go writes e-09 where ECMAScript writes e-9.
		if e := at + bytes.IndexByte(dst[at:], 'e'); dst[e+2] == '0' {
			dst = slices.Delete(dst, e+2, e+3)
		}
	}
	if got := dst[at:]; !strings.ContainsAny(text, ".eE") && string(got) != text {
		return nil, fmt.Errorf("integer %.40s: a double holds %s", text, got)
	}
	return dst, nil
}

// checkCanonical reports the offset in text at which it stops being one
// canonical JSON value within the bounds, and why; nil when it never does. It
// allocates nothing that grows with text.
func checkCanonical(text []byte) (int, error) {
	s := scanner{text: text}
	if err := s.value(0); err != nil {
		return s.at, err
	}
	if s.at != len(text) {
		return s.at, fmt.Errorf("%d bytes after the end of the value", len(text)-s.at)
	}
	return 0, nil
}

type scanner struct {
	text []byte
	at   int
}

// accept consumes word if it is next.
func (s *scanner) accept(word string) bool {
	if !bytes.HasPrefix(s.text[s.at:], []byte(word)) {
		return false
	}
	s.at += len(word)
	return true
}

func (s *scanner) value(depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("nested deeper than %d", maxDepth)
	}
	if s.at == len(s.text) {
		return fmt.Errorf("the text ends where a value should stand")
	}
	switch c := s.text[s.at]; {
	case c == '{':
		var last []byte
		return s.list('}', func(first bool) error {
			at := s.at
			key, err := s.str()
			if err != nil {
				return err
			}
			if !first && compareText(last, key) >= 0 {
				s.at = at
				return fmt.Errorf("key %.60s stands after key %.60s: not in canonical order", key, last)
			}
			if last = key; !s.accept(":") {
				return fmt.Errorf("no ':' after key %.60s", key)
			}
			return s.value(depth + 1)
		})
	case c == '[':
		return s.list(']', func(bool) error { return s.value(depth + 1) })
	case c == '"':
		_, err := s.str()
		return err
	case c == '-' || '0' <= c && c <= '9':
		return s.number()
	case s.accept("true") || s.accept("false") || s.accept("null"):
		return nil
	}
	return fmt.Errorf("found %q where a value should stand", s.text[s.at])
}

// list scans the elements between a bracket, which is next, and end.
func (s *scanner) list(end byte, element func(first bool) error) error {
	s.at++
	if s.accept(string(end)) {
		return nil
	}
	for n := 0; ; n++ {
		if n == maxElements {
			return fmt.Errorf("more than %d elements", maxElements)
		}
		if err := element(n == 0); err != nil {
			return err
		}
		if s.accept(string(end)) {
			return nil
		}
		if !s.accept(",") {
			return fmt.Errorf("wanted ',' or %q", end)
		}
	}
}

func (s *scanner) number() error {
	at := s.at
	for s.at < len(s.text) && bytes.IndexByte([]byte("+-.0123456789Ee"), s.text[s.at]) >= 0 {
		s.at++
	}
	text := s.text[at:s.at]
	s.at = at
	if len(text) > 32 { // the longest canonical one has 25
		return fmt.Errorf("number of %d characters", len(text))
	}
	var buf [32]byte
	if want, err := appendNumber(buf[:0], string(text)); err != nil {
		return err
	} else if !bytes.Equal(want, text) {
		return fmt.Errorf("number %s, its canonical form is %s", text, want)
	}
	s.at += len(text)
	return nil
}

// str scans a string and returns its text, quotes included.
func (s *scanner) str() ([]byte, error) {
	at := s.at
	if !s.accept(`"`) {
		return nil, fmt.Errorf("no string where a key should stand")
	}
	for s.at < len(s.text) {
		c := s.text[s.at]
		switch {
		case c == '"':
			s.at++
			return s.text[at:s.at], nil
		case c == '\\':
			if err := s.escape(); err != nil {
				return nil, err
			}
		case c < 0x20:
			return nil, fmt.Errorf("control character %#02x in a string", c)
		default:
			r, n := utf8.DecodeRune(s.text[s.at:])
			if r == utf8.RuneError && n == 1 {
				return nil, fmt.Errorf("invalid UTF-8")
			}
			s.at += n
		}
	}
	return nil, fmt.Errorf("the text ends inside a string")
}

// escape scans an escape, which must be the one that appendString writes.
func (s *scanner) escape() error {
	rest := s.text[s.at:min(s.at+6, len(s.text))]
	var c byte
	n := 2
	if len(rest) < 2 {
		return fmt.Errorf("the text ends inside a string")
	}
	if rest[1] == 'u' {
		v, err := strconv.ParseUint(string(rest[2:]), 16, 8)
		if len(rest) < 6 || err != nil {
			return fmt.Errorf("escape %q is not canonical", rest)
		}
		c, n = byte(v), 6
	} else {
		c = unescape(rest[1])
	}
	if want := appendString(nil, string(rune(c))); !bytes.Equal(want[1:len(want)-1], rest[:n]) {
		return fmt.Errorf("escape %q is not canonical", rest[:n])
	}
	s.at += n
	return nil
}

// unescape returns the character of a two-character escape; a letter that
// makes none stands for itself, which is then seen not to be canonical.
func unescape(letter byte) byte {
	for _, c := range []byte("\b\t\n\f\r") {
		if shortEscape(c) == letter {
			return c
		}
	}
	return letter
}

// compareText compares two canonical strings with their quotes.
func compareText(a, b []byte) int {
	if bytes.IndexByte(a, '\\') < 0 && bytes.IndexByte(b, '\\') < 0 {
		return compareKeys(string(a[1:len(a)-1]), string(b[1:len(b)-1]))
	}
	var x, y string
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return 1
	}
	return compareKeys(x, y)
}
