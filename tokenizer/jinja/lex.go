package jinja

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

type tokKind uint8

const (
	tokData tokKind = iota
	tokVarBegin
	tokVarEnd
	tokBlockBegin
	tokBlockEnd
	tokName
	tokString
	tokInt
	tokFloat
	tokOp
	tokEOF
)

type token struct {
	kind tokKind
	pos  int    // byte offset in the normalised source
	s    string // data, name, operator or decoded string
	i    int64
	f    float64
}

func (t token) describe() string {
	switch t.kind {
	case tokData:
		return "template text"
	case tokVarBegin:
		return "'{{'"
	case tokVarEnd:
		return "'}}'"
	case tokBlockBegin:
		return "'{%'"
	case tokBlockEnd:
		return "'%}'"
	case tokString:
		return "a string"
	case tokInt, tokFloat:
		return "a number"
	case tokEOF:
		return "the end of the template"
	}
	return strconv.Quote(t.s)
}

// lexer splits a template as Jinja's lexer does with trim_blocks and lstrip_blocks: a block or comment swallows one newline behind it and,
// if only blanks stand before it on its line, those; "-" strips all white space on its side, "+" keeps it.
type lexer struct {
	src       string
	pos       int
	toks      []token
	lineStart bool // the last match ended with a newline, or nothing has been matched
}

// lex returns the tokens of src and the normalised source that their positions refer to.
func lex(src string) ([]token, string, error) {
	src = strings.ReplaceAll(src, "\r\n", "\n")
	src = strings.ReplaceAll(src, "\r", "\n")
	src = strings.TrimSuffix(src, "\n")
	lx := &lexer{src: src, lineStart: true}
	for lx.pos < len(src) {
		if err := lx.root(); err != nil {
			return nil, src, err
		}
	}
	lx.toks = append(lx.toks, token{kind: tokEOF, pos: len(src)})
	return lx.toks, src, nil
}

// root reads text up to the next tag, and the tag.
func (lx *lexer) root() error {
	open := lx.nextOpen()
	if open < 0 {
		lx.data(lx.src[lx.pos:])
		lx.pos = len(lx.src)
		return nil
	}
	text, start := lx.src[lx.pos:open], lx.pos
	kind := lx.src[open+1]
	sign := byte(0)
	next := open + 2
	if next < len(lx.src) && (lx.src[next] == '-' || lx.src[next] == '+') {
		sign = lx.src[next]
		next++
	}
	switch {
	case sign == '-':
		text = strings.TrimRightFunc(text, isSpace)
	case sign != '+' && kind != '{':
		text = lx.lstrip(text)
	}
	lx.pos = start
	lx.data(text)
	lx.pos, lx.lineStart = next, false
	switch kind {
	case '#':
		return lx.comment(open)
	case '{':
		lx.toks = append(lx.toks, token{kind: tokVarBegin, pos: open})
		return lx.tag(open, tokVarEnd)
	}
	if end, ok := lx.rawBegin(next); ok {
		lx.pos = end
		return lx.raw(open)
	}
	lx.toks = append(lx.toks, token{kind: tokBlockBegin, pos: open})
	return lx.tag(open, tokBlockEnd)
}

func (lx *lexer) nextOpen() int {
	for i := lx.pos; ; i++ {
		j := strings.IndexByte(lx.src[i:], '{')
		if j < 0 || i+j+1 >= len(lx.src) {
			return -1
		}
		i += j
		switch lx.src[i+1] {
		case '{', '%', '#':
			return i
		}
	}
}

func (lx *lexer) lstrip(text string) string {
	cut := strings.LastIndexByte(text, '\n') + 1
	if (cut > 0 || lx.lineStart) && strings.TrimLeftFunc(text[cut:], isSpace) == "" {
		return text[:cut]
	}
	return text
}

func (lx *lexer) data(s string) {
	if s != "" {
		lx.toks = append(lx.toks, token{kind: tokData, pos: lx.pos, s: s})
	}
}

// closing matches the end of a tag at pos: c is the character before '}'. Blocks and comments know "+" and swallow a newline.
func (lx *lexer) closing(pos int, c byte) (end int, ok bool) {
	s := lx.src[pos:]
	sign := byte(0)
	if s != "" && (s[0] == '-' || s[0] == '+' && c != '}') {
		sign, s = s[0], s[1:]
		pos++
	}
	if len(s) < 2 || s[0] != c || s[1] != '}' {
		return 0, false
	}
	pos += 2
	switch {
	case sign == '-':
		rest := strings.TrimLeftFunc(lx.src[pos:], isSpace)
		pos = len(lx.src) - len(rest)
	case sign == 0 && c != '}' && pos < len(lx.src) && lx.src[pos] == '\n':
		pos++
	}
	return pos, true
}

func (lx *lexer) moveTo(pos int) {
	lx.pos = pos
	lx.lineStart = pos > 0 && lx.src[pos-1] == '\n'
}

func (lx *lexer) comment(open int) error {
	for i := lx.pos; i < len(lx.src); i++ {
		if c := lx.src[i]; c != '#' && c != '-' && c != '+' {
			continue
		}
		if end, ok := lx.closing(i, '#'); ok {
			lx.moveTo(end)
			return nil
		}
	}
	return failAt(open, ErrSyntax, "comment is not closed")
}

// rawBegin matches "raw %}" at pos, right behind "{%" and its sign.
func (lx *lexer) rawBegin(pos int) (int, bool) {
	s := strings.TrimLeftFunc(lx.src[pos:], isSpace)
	if !strings.HasPrefix(s, "raw") {
		return 0, false
	}
	s = strings.TrimLeftFunc(s[3:], isSpace)
	if strings.HasPrefix(s, "-%}") {
		s = strings.TrimLeftFunc(s[3:], isSpace)
	} else if strings.HasPrefix(s, "%}") {
		s = s[2:]
	} else {
		return 0, false
	}
	return len(lx.src) - len(s), true
}

func (lx *lexer) raw(open int) error {
	lx.lineStart = lx.pos > 0 && lx.src[lx.pos-1] == '\n'
	for i := lx.pos; i+1 < len(lx.src); i++ {
		if lx.src[i] != '{' || lx.src[i+1] != '%' {
			continue
		}
		sign, j := byte(0), i+2
		if j < len(lx.src) && (lx.src[j] == '-' || lx.src[j] == '+') {
			sign = lx.src[j]
			j++
		}
		s := strings.TrimLeftFunc(lx.src[j:], isSpace)
		if !strings.HasPrefix(s, "endraw") {
			continue
		}
		s = strings.TrimLeftFunc(s[6:], isSpace)
		end, ok := lx.closing(len(lx.src)-len(s), '%')
		if !ok {
			continue
		}
		text := lx.src[lx.pos:i]
		if sign == '-' {
			text = strings.TrimRightFunc(text, isSpace)
		} else if sign == 0 {
			text = lx.lstrip(text)
		}
		lx.data(text)
		lx.moveTo(end)
		return nil
	}
	return failAt(open, ErrSyntax, "raw block is not closed")
}

// tag reads the tokens of a tag up to and including its end, which counts only outside of brackets.
func (lx *lexer) tag(open int, endKind tokKind) error {
	var stack []byte
	closer := byte('}')
	if endKind == tokBlockEnd {
		closer = '%'
	}
	for {
		lx.pos = len(lx.src) - len(strings.TrimLeftFunc(lx.src[lx.pos:], isSpace))
		if lx.pos >= len(lx.src) {
			return failAt(open, ErrSyntax, "tag is not closed")
		}
		if len(stack) == 0 {
			if end, ok := lx.closing(lx.pos, closer); ok {
				lx.toks = append(lx.toks, token{kind: endKind, pos: lx.pos})
				lx.moveTo(end)
				return nil
			}
		}
		t, err := lx.token()
		if err != nil {
			return err
		}
		if t.kind == tokOp {
			switch t.s {
			case "(", "[", "{":
				stack = append(stack, t.s[0])
			case ")", "]", "}":
				if len(stack) == 0 || !matches(stack[len(stack)-1], t.s[0]) {
					return failAt(t.pos, ErrSyntax, "unexpected %q", t.s)
				}
				stack = stack[:len(stack)-1]
			}
		}
		lx.toks = append(lx.toks, t)
	}
}

func matches(open, close byte) bool {
	return open == '(' && close == ')' || open == '[' && close == ']' || open == '{' && close == '}'
}

var operators = []string{"//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{", "}", ">", "<", "=", ".", ":", "|", ",", ";"}

func (lx *lexer) token() (token, error) {
	s, pos := lx.src[lx.pos:], lx.pos
	if s[0] >= '0' && s[0] <= '9' {
		return lx.number(s)
	}
	if s[0] == '"' || s[0] == '\'' {
		return lx.str(s)
	}
	n := 0
	for n < len(s) {
		r, size := utf8.DecodeRuneInString(s[n:])
		if r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.Is(unicode.M, r) {
			break
		}
		n += size
	}
	if n > 0 {
		if r, _ := utf8.DecodeRuneInString(s); r != '_' && !unicode.IsLetter(r) {
			return token{}, failAt(pos, ErrSyntax, "invalid character in name %q", s[:n])
		}
		lx.pos += n
		return token{kind: tokName, pos: pos, s: s[:n]}, nil
	}
	for _, op := range operators {
		if strings.HasPrefix(s, op) {
			lx.pos += len(op)
			return token{kind: tokOp, pos: pos, s: op}, nil
		}
	}
	r, _ := utf8.DecodeRuneInString(s)
	return token{}, failAt(pos, ErrSyntax, "unexpected character %q", r)
}

// isSpace is Python's str.isspace of one character, which is also \s of its regular expressions.
func isSpace(r rune) bool {
	return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f
}
