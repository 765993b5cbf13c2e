package jinja

import (
	"sort"
	"strings"
	"unicode/utf8"
)

// text is a string that knows where its bytes came from. It is immutable, and slicing shares its runs.
type text struct {
	s      string
	runs   []run // covers s when origins differ; nil when all of s has the origin data
	off    int   // the first byte of s counts as off in the ends of runs; the last run may end behind s
	data   bool
	markup bool // marked by |safe: "+" escapes what is added, as the reference's Markup does
}

// run is a piece of a text of one origin: from the end of the run before it to end, both counted from the start of the text it was made
// for.
type run struct {
	end  int
	data bool
}

// runAt returns the index of the run that holds byte i of s.
func (t text) runAt(i int) int {
	return sort.Search(len(t.runs), func(k int) bool { return t.runs[k].end > t.off+i })
}

// slice returns bytes i to j.
func (t text) slice(i, j int) text {
	out := text{s: t.s[i:j], data: t.data, markup: t.markup}
	if t.runs == nil || i == j {
		return out
	}
	first, last := t.runAt(i), t.runAt(j-1)
	if first == last {
		out.data = t.runs[first].data
		return out
	}
	out.runs, out.off = t.runs[first:last+1], t.off+i
	return out
}

// each calls f for every run of t in order.
func (t text) each(f func(s string, data bool)) {
	if t.runs == nil {
		if t.s != "" {
			f(t.s, t.data)
		}
		return
	}
	at := 0
	for _, r := range t.runs {
		end := min(r.end-t.off, len(t.s))
		f(t.s[at:end], r.data)
		at = end
	}
}

// originAt tells the origin of byte i.
func (t text) originAt(i int) bool {
	if t.runs == nil {
		return t.data
	}
	return t.runs[t.runAt(i)].data
}

// mapRunes rewrites t character by character; what f returns has the origin of the character it replaces.
func (t text) mapRunes(f func(i int, r rune) string) text {
	var b builder
	at := 0
	t.each(func(s string, data bool) {
		for i, r := range s {
			b.str(f(at+i, r), data)
		}
		at += len(s)
	})
	out := b.text()
	out.markup = t.markup
	return out
}

// runeLen is Python's len: the number of characters.
func (t text) runeLen() int { return utf8.RuneCountInString(t.s) }

// byteOffset returns where character i of s starts; i is in 0..runeLen.
func byteOffset(s string, i int) int {
	at := 0
	for ; i > 0; i-- {
		if s[at] < utf8.RuneSelf {
			at++
			continue
		}
		_, size := utf8.DecodeRuneInString(s[at:])
		at += size
	}
	return at
}

// runes cuts t into its characters.
func (t text) runes() []text {
	out := make([]text, 0, len(t.s))
	for i := 0; i < len(t.s); {
		_, size := utf8.DecodeRuneInString(t.s[i:])
		out = append(out, t.slice(i, i+size))
		i += size
	}
	return out
}

// trim cuts what cut accepts off the left and right end.
func (t text) trim(left, right bool, cut func(rune) bool) text {
	i, j := 0, len(t.s)
	if left {
		i = j - len(strings.TrimLeftFunc(t.s, cut))
	}
	if right {
		j = i + len(strings.TrimRightFunc(t.s[i:], cut))
	}
	return t.slice(i, j)
}
