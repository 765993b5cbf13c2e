package jinja

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// number reads a Python number: a float (not behind a dot, so that a.0.1 is two subscripts), else an integer.
func (lx *lexer) number(s string) (token, error) {
	pos := lx.pos
	if n := floatLen(s); n > 0 && (pos == 0 || lx.src[pos-1] != '.') {
		lx.pos += n
		f, err := strconv.ParseFloat(strings.ReplaceAll(s[:n], "_", ""), 64)
		if err != nil && f == 0 {
			return token{}, failAt(pos, ErrSyntax, "bad number %q", s[:n])
		}
		return token{kind: tokFloat, pos: pos, f: f}, nil
	}
	n := intLen(s)
	lx.pos += n
	digits := strings.ReplaceAll(s[:n], "_", "")
	base := 0
	if strings.Trim(digits, "0") == "" {
		digits, base = "0", 10
	}
	i, err := strconv.ParseInt(digits, base, 64)
	if err != nil {
		return token{}, failAt(pos, ErrUnsupported, "integer %s does not fit 64 bits", s[:n])
	}
	return token{kind: tokInt, pos: pos, i: i}, nil
}

// digits returns the length of a run of digits accepted by ok, single underscores allowed between them.
func digitRun(s string, ok func(byte) bool) int {
	n := 0
	for n < len(s) {
		if ok(s[n]) {
			n++
		} else if s[n] == '_' && n > 0 && n+1 < len(s) && ok(s[n+1]) {
			n += 2
		} else {
			break
		}
	}
	return n
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func floatLen(s string) int {
	n := digitRun(s, isDigit)
	frac, exp := 0, 0
	if n < len(s) && s[n] == '.' {
		if k := digitRun(s[n+1:], isDigit); k > 0 {
			frac = 1 + k
		}
	}
	if m := n + frac; m < len(s) && (s[m] == 'e' || s[m] == 'E') {
		k := 1
		if m+k < len(s) && (s[m+k] == '+' || s[m+k] == '-') {
			k++
		}
		if d := digitRun(s[m+k:], isDigit); d > 0 {
			exp = k + d
		}
	}
	if frac == 0 && exp == 0 {
		return 0
	}
	return n + frac + exp
}

func intLen(s string) int {
	if s[0] != '0' {
		return digitRun(s, isDigit)
	}
	if len(s) > 2 {
		var ok func(byte) bool
		switch s[1] {
		case 'x', 'X':
			ok = func(c byte) bool { return isDigit(c) || c >= 'a' && c <= 'f' || c >= 'A' && c <= 'F' }
		case 'o', 'O':
			ok = func(c byte) bool { return c >= '0' && c <= '7' }
		case 'b', 'B':
			ok = func(c byte) bool { return c == '0' || c == '1' }
		}
		if ok != nil {
			if n := digitRun(s[2:], ok); n > 0 {
				return 2 + n
			}
			return 1
		}
	}
	return max(1, digitRun(s, func(c byte) bool { return c == '0' }))
}

func (lx *lexer) str(s string) (token, error) {
	quote, pos := s[0], lx.pos
	for i := 1; i < len(s); i++ {
		if s[i] == '\\' {
			i++
		} else if s[i] == quote {
			lx.pos += i + 1
			val, err := unescape(s[1:i])
			return token{kind: tokString, pos: pos, s: val}, at(pos, err)
		}
	}
	return token{}, failAt(pos, ErrSyntax, "string is not closed")
}

var simpleEscapes = map[byte]string{'\n': "", '\\': "\\", '\'': "'", '"': "\"", 'a': "\a", 'b': "\b", 'f': "\f", 'n': "\n", 'r': "\r", 't': "\t", 'v': "\v"}

// unescape decodes Python's string escapes; an unknown one keeps its backslash.
func unescape(s string) (string, error) {
	if !strings.Contains(s, "\\") {
		return s, nil
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		if s[i] != '\\' || i+1 >= len(s) {
			b.WriteByte(s[i])
			i++
			continue
		}
		c := s[i+1]
		if e, ok := simpleEscapes[c]; ok {
			b.WriteString(e)
			i += 2
			continue
		}
		n, base, digits := 0, 16, 2
		switch {
		case c == 'x':
			n = 2
		case c == 'u':
			n, digits = 2, 4
		case c == 'U':
			n, digits = 2, 8
		case c >= '0' && c <= '7':
			n, base, digits = 1, 8, 0
			for digits < 3 && i+1+digits < len(s) && s[i+1+digits] >= '0' && s[i+1+digits] <= '7' {
				digits++
			}
		case c == 'N':
			return "", failure(ErrUnsupported, "escape \\N in a string")
		default:
			b.WriteByte('\\')
			i++
			if r, size := utf8.DecodeRuneInString(s[i:]); r >= 0x80 {
				b.WriteString(backslashReplace(r)[1:]) // the reference encodes to ASCII first, so "\é" reads "\xe9"
				i += size
			}
			continue
		}
		end := i + n + digits
		if end > len(s) {
			return "", failure(ErrSyntax, "truncated escape in a string")
		}
		v, err := strconv.ParseUint(s[i+n:end], base, 32)
		if err != nil || v > unicode.MaxRune {
			return "", failure(ErrSyntax, "bad escape %q in a string", s[i:end])
		}
		if v >= 0xD800 && v < 0xE000 {
			return "", failure(ErrUnsupported, "surrogate %q in a string", s[i:end])
		}
		b.WriteRune(rune(v))
		i = end
	}
	return b.String(), nil
}

func backslashReplace(r rune) string {
	hex := strconv.FormatInt(int64(r), 16)
	switch {
	case r < 0x100:
		return `\x` + strings.Repeat("0", 2-len(hex)) + hex
	case r < 0x10000:
		return `\u` + strings.Repeat("0", 4-len(hex)) + hex
	}
	return `\U` + strings.Repeat("0", 8-len(hex)) + hex
}
