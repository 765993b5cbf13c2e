package tokenizer

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/dlclark/regexp2"
)

// Regexes of tokenizer files are written for Oniguruma (Ruby syntax). regexp2
// is of the .NET family, so a regex is translated where the two differ and
// refused, by name, where it cannot be.

// Limits on a regex from a file: a backtracking engine can be made to run for
// ever, and then encoding must fail and not hang.
const (
	maxRegexLen  = 1 << 14
	regexTimeout = 2 * time.Second  // one match, in a text of up to longText bytes
	regexBudget  = 10 * time.Second // all matches in one text, plus the next
	regexPerByte = 100 * time.Microsecond

	// One match may span a long text, and an honest one must not fail because
	// the machine is slow or busy.
	longText    = 64 << 10
	longTimeout = 2 * time.Minute
)

// matcherRegex finds the successive matches of a compiled regex: the same one
// twice, since its limit of time is part of it.
type matcherRegex struct{ re, long *regexp2.Regexp }

// compileRegex translates and compiles an Oniguruma regex.
func compileRegex(src string) (*matcherRegex, error) {
	if len(src) > maxRegexLen {
		return nil, fmt.Errorf("%w: regex of %d bytes, at most %d are supported", ErrUnsupported, len(src), maxRegexLen)
	}
	p, err := translateRegex(src)
	if err != nil {
		return nil, err
	}
	compile := func(limit time.Duration) (*regexp2.Regexp, error) {
		// In Ruby ^ and $ always stand for line starts and ends.
		re, err := regexp2.Compile(p, regexp2.Multiline)
		if err != nil {
			return nil, fmt.Errorf("%w: regex %q: %v", ErrUnsupported, src, err)
		}
		re.MatchTimeout = limit
		return re, nil
	}
	re, err := compile(regexTimeout)
	if err != nil {
		return nil, err
	}
	long, err := compile(longTimeout)
	return &matcherRegex{re, long}, err
}

// each calls f with the byte range of every match in s, in order.
func (m *matcherRegex) each(s string, f func(start, end int)) error {
	deadline := time.Now().Add(regexBudget + time.Duration(len(s))*regexPerByte)
	re := m.re
	if len(s) > longText {
		re = m.long
	}
	runes := []rune(s)
	match, err := re.FindRunesMatch(runes)
	at, pos := 0, 0 // byte and character position, which move on together
	advance := func(to int) int {
		for ; pos < to; pos++ {
			at += utf8.RuneLen(runes[pos])
		}
		return at
	}
	for n := 0; match != nil && err == nil; n++ {
		start := advance(match.Index)
		f(start, advance(match.Index+match.Length))
		if n%64 == 63 && time.Now().After(deadline) {
			return fmt.Errorf("%w: regex took more than %v on %d bytes", ErrUnsupported, regexBudget, len(s))
		}
		match, err = re.FindNextMatch(match)
	}
	if err != nil {
		// The library's own text quotes the whole input.
		return fmt.Errorf("%w: regex did not come to an end within %v on %d bytes", ErrUnsupported, re.MatchTimeout, len(s))
	}
	return nil
}

// wordClass is Oniguruma's \w, to within Other_Alphabetic symbols.
const wordClass = `\p{L}\p{M}\p{Nd}\p{Nl}\p{Pc}`

// regexReader walks a regex and writes its translation.
type regexReader struct {
	src   string
	i     int
	out   strings.Builder
	atom  int // where in out the last quantifiable element starts, -1 if none
	fold  bool
	stack []regexGroup
}

type regexGroup struct {
	start int
	fold  bool
}

func translateRegex(src string) (string, error) {
	r := &regexReader{src: src, atom: -1}
	for r.i < len(src) {
		if err := r.element(); err != nil {
			return "", fmt.Errorf("%w: regex %q: %v", ErrUnsupported, src, err)
		}
	}
	return r.out.String(), nil
}

func (r *regexReader) element() error {
	switch c := r.src[r.i]; c {
	case '\\':
		return r.escape(false)
	case '[':
		return r.class()
	case '(':
		return r.open()
	case ')':
		if len(r.stack) == 0 {
			return fmt.Errorf("unmatched )")
		}
		g := r.stack[len(r.stack)-1]
		r.stack = r.stack[:len(r.stack)-1]
		r.fold, r.atom = g.fold, g.start
		r.out.WriteByte(')')
		r.i++
	case '*', '+', '?':
		r.quantifier(r.src[r.i : r.i+1])
	case '{':
		end := strings.IndexByte(r.src[r.i:], '}')
		if end < 0 || strings.Trim(r.src[r.i+1:r.i+end], "0123456789,") != "" {
			return fmt.Errorf("unsupported { at %d", r.i)
		}
		q := r.src[r.i : r.i+end+1]
		if strings.HasPrefix(q, "{,") {
			q = "{0" + q[1:]
		}
		r.i += end + 1
		if r.i < len(r.src) && r.src[r.i] == '+' {
			return fmt.Errorf("a quantified %s is unsupported", q)
		}
		r.out.WriteString(q)
	case '|':
		r.atom = -1
		r.out.WriteByte(c)
		r.i++
	default:
		_, n := utf8.DecodeRuneInString(r.src[r.i:])
		r.literal(r.src[r.i : r.i+n])
		r.i += n
	}
	return nil
}

// literal writes a character. Under (?i) Unicode folds s with U+017F and k
// with U+212A, which regexp2 does not know.
func (r *regexReader) literal(s string) {
	r.atom = r.out.Len()
	switch {
	case r.fold && (s == "s" || s == "S"):
		s = "[sS\u017f]"
	case r.fold && (s == "k" || s == "K"):
		s = "[kK\u212a]"
	}
	r.out.WriteString(s)
}

// quantifier writes * + or ?, with the ? of a lazy one; a possessive one
// becomes an atomic group.
func (r *regexReader) quantifier(q string) {
	r.i++
	if r.i < len(r.src) && r.src[r.i] == '?' {
		q += "?"
		r.i++
	} else if r.i < len(r.src) && r.src[r.i] == '+' && r.atom >= 0 {
		r.i++
		s := r.out.String()
		r.out.Reset()
		r.out.WriteString(s[:r.atom] + "(?>" + s[r.atom:] + q + ")")
		return
	}
	r.out.WriteString(q)
}

func (r *regexReader) open() error {
	g := regexGroup{r.out.Len(), r.fold}
	rest := r.src[r.i:]
	for _, p := range []string{"(?:", "(?=", "(?!", "(?>", "(?<=", "(?<!"} {
		if strings.HasPrefix(rest, p) {
			r.push(g, p)
			return nil
		}
	}
	switch {
	case strings.HasPrefix(rest, "(?i:"):
		r.push(g, "(?i:")
		r.fold = true
	case strings.HasPrefix(rest, "(?i)"):
		r.fold = true
		r.out.WriteString("(?i)")
		r.i += 4
	case strings.HasPrefix(rest, "(?"):
		return fmt.Errorf("group %.4q at %d is unsupported", rest, r.i)
	default:
		r.push(g, "(")
	}
	return nil
}

func (r *regexReader) push(g regexGroup, text string) {
	r.stack = append(r.stack, g)
	r.out.WriteString(text)
	r.i += len(text)
	r.atom = -1
}

func (r *regexReader) escape(inClass bool) error {
	if r.i+1 >= len(r.src) {
		return fmt.Errorf("\\ at the end")
	}
	c := r.src[r.i+1]
	n := 2
	text := r.src[r.i : r.i+2]
	switch {
	case c == 'p' || c == 'P':
		end := strings.IndexByte(r.src[r.i:], '}')
		if end < 4 || r.src[r.i+2] != '{' || r.src[r.i+3] == '^' {
			return fmt.Errorf("unsupported \\%c at %d", c, r.i)
		}
		n = end + 1
		text = r.src[r.i : r.i+n]
	case c == 'w' && inClass:
		text = wordClass
	case c == 'w':
		text = "[" + wordClass + "]"
	case c == 'W' && !inClass:
		text = "[^" + wordClass + "]"
	case c == 'u' && r.i+6 <= len(r.src):
		n, text = 6, r.src[r.i:r.i+6]
	case c == 'x' && strings.HasPrefix(r.src[r.i+2:], "{"):
		end := strings.IndexByte(r.src[r.i:], '}')
		if end < 0 {
			return fmt.Errorf("unclosed \\x{")
		}
		n, text = end+1, r.src[r.i:r.i+end+1]
	case c == 'x' && r.i+4 <= len(r.src):
		n, text = 4, r.src[r.i:r.i+4]
	case strings.IndexByte("sSdDrntfvAz", c) >= 0, (c == 'b' || c == 'B') && !inClass:
	case c < 128 && (c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'):
		return fmt.Errorf("\\%c at %d is unsupported", c, r.i)
	case c >= 128:
		_, size := utf8.DecodeRuneInString(r.src[r.i+1:])
		n = 1 + size
		text = r.src[r.i+1 : r.i+n]
	}
	if !inClass {
		r.atom = r.out.Len()
	}
	r.out.WriteString(text)
	r.i += n
	return nil
}

// class copies a bracket expression. Oniguruma's nested classes,
// intersections and POSIX brackets mean something else to regexp2.
func (r *regexReader) class() error {
	start := r.i
	r.atom = r.out.Len()
	r.out.WriteByte('[')
	r.i++
	if r.i < len(r.src) && r.src[r.i] == '^' {
		r.out.WriteByte('^')
		r.i++
	}
	for first := true; r.i < len(r.src); first = false {
		c := r.src[r.i]
		switch {
		case c == ']' && !first:
			r.out.WriteByte(']')
			r.i++
			return nil
		case c == '\\':
			if err := r.escape(true); err != nil {
				return err
			}
			continue
		case c == '[':
			return fmt.Errorf("nested class at %d is unsupported", r.i)
		case c == '&' && strings.HasPrefix(r.src[r.i:], "&&"):
			return fmt.Errorf("class intersection at %d is unsupported", r.i)
		case c == '-' && strings.HasPrefix(r.src[r.i:], "-["):
			return fmt.Errorf("class subtraction at %d is unsupported", r.i)
		}
		r.out.WriteByte(c)
		r.i++
	}
	return fmt.Errorf("unclosed [ at %d", start)
}
