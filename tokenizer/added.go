package tokenizer

import (
	"unicode"
	"unicode/utf8"
)

// span is a byte range of a text.
type span struct{ start, end int }

// addedSet finds added tokens in text: leftmost first, the longest at a place.
type addedSet struct {
	match  *matcher
	tokens map[int32]*AddedToken
	starts [256]bool // first bytes of tokens
}

func newAddedSet(tokens []AddedToken, form func(*AddedToken) string) *addedSet {
	a := &addedSet{tokens: make(map[int32]*AddedToken, len(tokens))}
	pats := make([]pattern, 0, len(tokens))
	for i := range tokens {
		s := form(&tokens[i])
		if s == "" {
			continue
		}
		a.tokens[int32(i)] = &tokens[i]
		a.starts[s[0]] = true
		pats = append(pats, pattern{s, int32(i)})
	}
	if len(pats) == 0 {
		return nil
	}
	a.match = newMatcher(pats)
	return a
}

// indexAdded sorts the added tokens into those looked for before
// normalization and those looked for, themselves normalized, after it.
func (t *Tokenizer) indexAdded() error {
	t.special = make(map[int32]bool)
	t.decoded = make(map[int32]string)
	var plain, normed []AddedToken
	forms := make(map[int32]string)
	for _, a := range t.spec.added {
		if a.Special {
			t.special[a.ID] = true
		}
		if !a.Normalized {
			plain = append(plain, a)
			continue
		}
		form := a.Content
		var err error
		for _, n := range t.norm {
			if form, err = n(form); err != nil {
				return err
			}
		}
		forms[a.ID] = form
		if form != a.Content {
			t.decoded[a.ID] = form
		}
		normed = append(normed, a)
	}
	content := func(a *AddedToken) string { return a.Content }
	t.plain = newAddedSet(plain, content)
	t.normed = newAddedSet(normed, func(a *AddedToken) string { return forms[a.ID] })
	t.literal = newAddedSet(append([]AddedToken(nil), t.spec.added...), content)
	return nil
}

// split calls f for each part of s in order: with id of an added token found
// within one of spans, or with id -1 and start for the text between. spans are
// ascending and apart.
func (a *addedSet) split(s string, spans []span, f func(part string, start int, id int32) error) error {
	done := 0
	if a != nil {
		for _, sp := range spans {
			for i := sp.start; i < sp.end; {
				if !a.starts[s[i]] {
					i++
					continue
				}
				k, n := a.match.longest(s[i:sp.end])
				if n == 0 {
					i++
					continue
				}
				tok := a.tokens[k]
				start, end := i, i+n
				i = end
				if tok.SingleWord && !singleWord(s, start, end) {
					continue
				}
				if tok.LStrip {
					start = max(trimLeftEnd(s[:start]), done)
				}
				if tok.RStrip {
					end = skipSpaces(s, end)
				}
				if done < start {
					if err := f(s[done:start], done, -1); err != nil {
						return err
					}
				}
				if err := f(s[start:end], start, tok.ID); err != nil {
					return err
				}
				done = max(done, end)
				i = max(i, done)
			}
		}
	}
	if done < len(s) {
		return f(s[done:], done, -1)
	}
	return nil
}

// singleWord reports whether s[start:end] stands between non-word characters.
func singleWord(s string, start, end int) bool {
	l, _ := utf8.DecodeLastRuneInString(s[:start])
	r, _ := utf8.DecodeRuneInString(s[end:])
	return (start == 0 || !isWord(l)) && (end == len(s) || !isWord(r))
}

// isWord is \w of Rust's regex: Alphabetic, marks, decimal digits, connector
// punctuation, join controls.
func isWord(r rune) bool {
	if r < 128 {
		return r == '_' || asciiClass[r] == classLetter || asciiClass[r] == classNumber
	}
	return unicode.IsLetter(r) || unicode.In(r, unicode.M, unicode.Nd, unicode.Nl, unicode.Pc,
		unicode.Other_Alphabetic, unicode.Join_Control)
}

// trimLeftEnd returns the end of s without its trailing whitespace.
func trimLeftEnd(s string) int {
	for len(s) > 0 {
		r, n := utf8.DecodeLastRuneInString(s)
		if !isSpace(r) {
			break
		}
		s = s[:len(s)-n]
	}
	return len(s)
}

func skipSpaces(s string, i int) int {
	for i < len(s) {
		r, n := utf8.DecodeRuneInString(s[i:])
		if !isSpace(r) {
			break
		}
		i += n
	}
	return i
}
