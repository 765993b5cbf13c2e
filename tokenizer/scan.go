package tokenizer

import (
	"unicode"
	"unicode/utf8"
)

// Hand-written scanners for the splitting regexes of the large model
// families. Each gives the end of the match that starts at i, exactly as a
// backtracking engine would find it; the regexes cover every text, so matches
// are contiguous. The tests hold each scanner to regexp2 on random strings.

// scanFunc returns the end of the token of s that starts at i < len(s).
type scanFunc func(s string, i int) int

// scanners maps each known regex to its scanner; any other regex runs on
// regexp2. The same regex is written in several ways: with (?i:) or with
// letter pairs, and with a dead final alternative or without.
var scanners = func() map[string]scanFunc {
	const (
		ciGroup = `(?i:'s|'t|'re|'ve|'m|'ll|'d)`
		ciPairs = `(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])`
		word    = `|[^\r\n\p{L}\p{N}]?\p{L}+|`
		other   = `| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
		gpt2    = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)`
		marked  = `|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
		noCase  = `[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}` + other
		upper   = `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`
		lower   = `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`
		lead    = `[^\r\n\p{L}\p{N}]?`
		slashed = `| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
		upperCp = `((?=[\p{L}])([^a-z]))`
		lowerCp = `((?=[\p{L}])([^A-Z]))`
	)
	m := map[string]scanFunc{gpt2: scanGPT2, gpt2 + `|\s+`: scanGPT2}
	for i, ci := range []string{ciGroup, ciPairs} {
		// Only Unicode case folding knows U+017F as an s.
		long := i == 0
		m[ci+word+`\p{N}{1,3}`+other] = scanWords(wordScan{contract: true, longS: long, digits: 3})
		m[ci+word+`\p{N}`+other] = scanWords(wordScan{contract: true, longS: long, digits: 1})
		m[ci+word+`\p{N}+`+other] = scanWords(wordScan{contract: true, longS: long})
		m[ci+marked] = scanWords(wordScan{contract: true, longS: long, digits: 1, marks: true})
		for d, n := range map[int]string{1: `|\p{N}`, 3: `|\p{N}{1,3}`} {
			cs := caseScan{contract: true, longS: long, digits: d, upper: isUpperish, lower: isLowerish}
			m[lead+upper+`*`+lower+`+`+ci+`?|`+lead+upper+`+`+lower+`*`+ci+`?`+n+slashed] = scanCase(cs)
			cs.upper, cs.lower = isUpperASCII, isLowerASCII
			m[lead+upperCp+`*`+lowerCp+`+`+ci+`?|`+lead+upperCp+`+`+lowerCp+`*`+ci+`?`+n+slashed] = scanCase(cs)
		}
	}
	m[noCase] = scanWords(wordScan{digits: 1})
	m[lead+upper+`*`+lower+`+|`+lead+upper+`+`+lower+`*|\p{N}`+slashed] =
		scanCase(caseScan{digits: 1, upper: isUpperish, lower: isLowerish})
	m[lead+upperCp+`*`+lowerCp+`+|`+lead+upperCp+`+`+lowerCp+`*|\p{N}`+slashed] =
		scanCase(caseScan{digits: 1, upper: isUpperASCII, lower: isLowerASCII})
	return m
}()

// Classes of characters; a character has exactly one.
const (
	classOther = iota
	classLetter
	classNumber
	classSpace
	classMark
)

var asciiClass = func() (t [128]uint8) {
	for r := rune(0); r < 128; r++ {
		t[r] = slowClass(r)
	}
	return t
}()

func slowClass(r rune) uint8 {
	switch {
	case unicode.IsLetter(r):
		return classLetter
	case unicode.IsNumber(r):
		return classNumber
	case unicode.IsSpace(r):
		return classSpace
	case unicode.IsMark(r):
		return classMark
	}
	return classOther
}

// classAt returns the class and width of the character of s at i, or class
// 255 at the end.
func classAt(s string, i int) (class uint8, r rune, size int) {
	if i >= len(s) {
		return 255, -1, 0
	}
	if c := s[i]; c < 128 {
		return asciiClass[c], rune(c), 1
	}
	r, size = utf8.DecodeRuneInString(s[i:])
	return slowClass(r), r, size
}

// run returns the end of the run of class c that starts at i.
func run(s string, i int, c uint8) int {
	for i < len(s) {
		if b := s[i]; b < 128 {
			if asciiClass[b] != c {
				return i
			}
			i++
			continue
		}
		k, _, n := classAt(s, i)
		if k != c {
			return i
		}
		i += n
	}
	return i
}

// runOther returns the end of the run [^\s\p{L}\p{N}]*; marks decides whether
// a mark belongs to it.
func runOther(s string, i int, marks bool) int {
	for i < len(s) {
		k, _, n := classAt(s, i)
		if k != classOther && !(marks && k == classMark) {
			return i
		}
		i += n
	}
	return i
}

// contraction returns the length of 's 't 're 've 'm 'll 'd at i, 0 if none.
func contraction(s string, i int, fold, longS bool) int {
	if i+1 >= len(s) || s[i] != '\'' {
		return 0
	}
	c := s[i+1]
	var d byte
	if i+2 < len(s) {
		d = s[i+2]
	}
	if fold {
		if longS && c == 0xC5 && d == 0xBF { // U+017F
			return 3
		}
		c |= 0x20
		d |= 0x20
	}
	switch c {
	case 's', 't', 'm', 'd':
		return 2
	case 'r', 'v':
		if d == 'e' {
			return 3
		}
	case 'l':
		if d == 'l' {
			return 3
		}
	}
	return 0
}

// scanSpaces handles the whitespace that starts at i: with newlines set,
// \s*[\r\n]+ first; then \s+(?!\S), then \s+.
func scanSpaces(s string, i int, newlines bool) int {
	end, last, newline := i, i, -1
	for end < len(s) {
		k, r, n := classAt(s, end)
		if k != classSpace {
			break
		}
		last = end
		end += n
		if r == '\n' || r == '\r' {
			newline = end
		}
	}
	if newlines && newline >= 0 {
		return newline
	}
	if end < len(s) && last > i {
		return last
	}
	return end
}

// scanGPT2 is 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
func scanGPT2(s string, i int) int {
	k, r, n := classAt(s, i)
	if r == '\'' {
		if l := contraction(s, i, false, false); l > 0 {
			return i + l
		}
	}
	j := i
	if r == ' ' {
		j++
		k, _, n = classAt(s, j)
	}
	switch k {
	case classLetter, classNumber:
		return run(s, j+n, k)
	case classOther, classMark:
		return runOther(s, j+n, true)
	}
	return scanSpaces(s, i, false)
}

// wordScan is the family of
// CONTRACTIONS|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
type wordScan struct {
	contract bool
	longS    bool
	digits   int  // most numbers in a token, 0: any
	marks    bool // marks belong to words
}

func scanWords(w wordScan) scanFunc { return w.scan }

func (w wordScan) inWord(k uint8) bool { return k == classLetter || w.marks && k == classMark }

func (w wordScan) word(s string, i int) int {
	if !w.marks {
		return run(s, i, classLetter)
	}
	for i < len(s) {
		k, _, n := classAt(s, i)
		if !w.inWord(k) {
			break
		}
		i += n
	}
	return i
}

func (w wordScan) scan(s string, i int) int {
	k, r, n := classAt(s, i)
	if w.inWord(k) {
		return w.word(s, i+n)
	}
	if r == '\'' && w.contract {
		if l := contraction(s, i, true, w.longS); l > 0 {
			return i + l
		}
	}
	if k == classNumber {
		return scanNumber(s, i, w.digits)
	}
	k2, _, n2 := classAt(s, i+n)
	if r != '\r' && r != '\n' && w.inWord(k2) {
		return w.word(s, i+n+n2)
	}
	if k == classSpace && (r != ' ' || k2 != classOther && k2 != classMark) {
		return scanSpaces(s, i, true)
	}
	return newlines(s, runOther(s, i+n, !w.marks), false)
}

func scanNumber(s string, i, most int) int {
	for c := 0; most == 0 || c < most; c++ {
		k, _, n := classAt(s, i)
		if k != classNumber {
			break
		}
		i += n
	}
	return i
}

func newlines(s string, i int, slash bool) int {
	for i < len(s) && (s[i] == '\r' || s[i] == '\n' || slash && s[i] == '/') {
		i++
	}
	return i
}

// caseScan is the family of GPT-4o and Mistral's Tekken, which cuts words
// where lower case turns to upper:
// LEAD?UPPER*LOWER+CONTRACTION?|LEAD?UPPER+LOWER*CONTRACTION?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
type caseScan struct {
	contract     bool
	longS        bool
	digits       int
	upper, lower func(rune) bool // they overlap
}

func scanCase(c caseScan) scanFunc { return c.scan }

func isUpperish(r rune) bool {
	if r < 128 {
		return r >= 'A' && r <= 'Z'
	}
	return unicode.In(r, unicode.Lu, unicode.Lt, unicode.Lm, unicode.Lo, unicode.M)
}

func isLowerish(r rune) bool {
	if r < 128 {
		return r >= 'a' && r <= 'z'
	}
	return unicode.In(r, unicode.Ll, unicode.Lm, unicode.Lo, unicode.M)
}

// isUpperASCII and isLowerASCII are llama.cpp's stand-ins: every letter beyond
// ASCII is both.
func isUpperASCII(r rune) bool { return unicode.IsLetter(r) && !(r >= 'a' && r <= 'z') }
func isLowerASCII(r rune) bool { return unicode.IsLetter(r) && !(r >= 'A' && r <= 'Z') }

func (c caseScan) scan(s string, i int) int {
	k, r, n := classAt(s, i)
	lead := r != '\r' && r != '\n' && k != classLetter && k != classNumber
	if lead {
		if e := c.lowerEnd(s, i+n); e > 0 {
			return e
		}
	}
	if e := c.lowerEnd(s, i); e > 0 {
		return e
	}
	if lead {
		if e := c.upperEnd(s, i+n); e > 0 {
			return e
		}
	}
	if e := c.upperEnd(s, i); e > 0 {
		return e
	}
	if k == classNumber {
		return scanNumber(s, i, c.digits)
	}
	k2, _, _ := classAt(s, i+n)
	if k == classSpace && (r != ' ' || k2 != classOther && k2 != classMark) {
		return scanSpaces(s, i, true)
	}
	return newlines(s, runOther(s, i+n, true), true)
}

// lowerEnd matches UPPER*LOWER+CONTRACTION? at i; 0 if it does not match.
func (c caseScan) lowerEnd(s string, i int) int {
	back := 0 // the end of the last character that is also LOWER
	for i < len(s) {
		r, n := utf8.DecodeRuneInString(s[i:])
		if !c.upper(r) {
			break
		}
		i += n
		if c.lower(r) {
			back = i
		}
	}
	end := i
	for end < len(s) {
		r, n := utf8.DecodeRuneInString(s[end:])
		if !c.lower(r) {
			break
		}
		end += n
	}
	if end == i {
		end = back
	}
	if end == 0 {
		return 0
	}
	return c.tail(s, end)
}

// upperEnd matches UPPER+LOWER*CONTRACTION? at i, where lowerEnd did not.
func (c caseScan) upperEnd(s string, i int) int {
	end := i
	for end < len(s) {
		r, n := utf8.DecodeRuneInString(s[end:])
		if !c.upper(r) {
			break
		}
		end += n
	}
	if end == i {
		return 0
	}
	return c.tail(s, end)
}

func (c caseScan) tail(s string, end int) int {
	if c.contract {
		end += contraction(s, end, true, c.longS)
	}
	return end
}
