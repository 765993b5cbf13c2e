package tokenizer

import (
	"sort"
	"strings"
)

// matcher finds the longest of many fixed strings at a place in a text. It is
// the sorted list of the strings, walked as if it were a trie: the strings
// that share the prefix read so far are one range, which each further byte
// narrows by binary search.
type matcher struct {
	pats  []pattern // ascending
	first [257]int32
	long  int
}

type pattern struct {
	text string
	id   int32
}

// newMatcher takes patterns of distinct non-empty text; among equal ones the
// first of the list counts.
func newMatcher(pats []pattern) *matcher {
	p := append([]pattern(nil), pats...)
	sort.SliceStable(p, func(i, j int) bool { return p[i].text < p[j].text })
	return matcherOf(p)
}

// matcherOf is newMatcher for patterns that are already ascending.
func matcherOf(pats []pattern) *matcher {
	m := &matcher{pats: pats}
	i := 0
	for b := 0; b < 256; b++ {
		m.first[b] = int32(i)
		for i < len(pats) && pats[i].text[0] == byte(b) {
			m.long = max(m.long, len(pats[i].text))
			i++
		}
	}
	m.first[256] = int32(len(pats))
	return m
}

// longest returns the id and length of the longest pattern that s starts
// with; length 0 if there is none.
func (m *matcher) longest(s string) (id int32, n int) {
	m.each(s, func(i int32, l int) { id, n = i, l })
	return id, n
}

// each calls f for every pattern that s starts with, shortest first.
func (m *matcher) each(s string, f func(id int32, n int)) {
	if s == "" {
		return
	}
	lo, hi := int(m.first[s[0]]), int(m.first[int(s[0])+1])
	for d := 1; lo < hi; d++ {
		if hi-lo == 1 {
			if t := m.pats[lo].text; strings.HasPrefix(s[d:], t[d:]) {
				f(m.pats[lo].id, len(t))
			}
			return
		}
		if len(m.pats[lo].text) == d {
			f(m.pats[lo].id, d)
			for lo < hi && len(m.pats[lo].text) == d {
				lo++
			}
		}
		if d == len(s) {
			return
		}
		c := s[d]
		a, b := lo, hi
		for a < b {
			k := int(uint(a+b) >> 1)
			if m.pats[k].text[d] < c {
				a = k + 1
			} else {
				b = k
			}
		}
		lo = a
		b = hi
		for a < b {
			k := int(uint(a+b) >> 1)
			if m.pats[k].text[d] <= c {
				a = k + 1
			} else {
				b = k
			}
		}
		hi = a
	}
}
