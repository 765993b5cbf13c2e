package tokenizer

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// SentencePiece's normalizer (arXiv:1808.06226, section 3): replace the
// longest prefix that the precompiled map knows, over and over; then deal with
// spaces. The map is a double-array trie (Darts) from strings to offsets into
// a list of NUL-terminated replacements.

// Bits of an "spm" step; a: add a dummy prefix, b: remove extra whitespace.
const (
	spmEscape = 1 << iota // write U+2581 for a space
	spmSuffix             // the dummy space stands at the end
)

type spmNormalizer struct {
	user         *matcher // pieces kept as they stand
	trie         []byte   // little-endian 32-bit units
	replacements string
	dummy, trim  bool
	escape       bool
	suffix       bool
}

func newSPMNormalizer(s *spec, st step, plain bool) (normalizer, error) {
	n := &spmNormalizer{dummy: st.a, trim: st.b, escape: st.n&spmEscape != 0, suffix: st.n&spmSuffix != 0}
	if s.family == familySPM || s.model == modelUnigram {
		n.user = userPieces(s.vocab, plain)
	}
	if m := s.charsmap; len(m) > 0 {
		if len(m) < 4 {
			return nil, fmt.Errorf("%w: charsmap of %d bytes", ErrCorrupt, len(m))
		}
		size := uint64(leUint32(m))
		if size%4 != 0 || size > uint64(len(m)-4) || size < 4 {
			return nil, fmt.Errorf("%w: charsmap trie of %d bytes in %d", ErrCorrupt, size, len(m))
		}
		n.trie, n.replacements = m[4:4+size], string(m[4+size:])
		if n.replacements != "" && !strings.HasSuffix(n.replacements, "\x00") {
			return nil, fmt.Errorf("%w: charsmap replacements do not end with NUL", ErrCorrupt)
		}
	}
	return func(x string) (string, error) { return n.normalize(x), nil }, nil
}

// prefix returns the normal form of the longest known prefix of s and its length.
func (n *spmNormalizer) prefix(s string) (string, int) {
	if n.user != nil {
		if _, l := n.user.longest(s); l > 0 {
			return s[:l], l
		}
	}
	if len(n.trie) > 0 {
		if at, l := n.longest(s); l > 0 {
			r := n.replacements[at:]
			return r[:strings.IndexByte(r, 0)], l
		}
	}
	_, l := utf8.DecodeRuneInString(s)
	return s[:l], l
}

// longest walks the double array. A unit holds a label in bits 0-7 and 31,
// has-leaf in bit 8, and an offset in bits 10-30, scaled by 256 where bit 9 is
// set; a leaf's unit holds the value.
func (n *spmNormalizer) longest(s string) (at, length int) {
	units := len(n.trie) / 4
	unit := func(i uint32) uint32 { return leUint32(n.trie[4*i:]) }
	offset := func(u uint32) uint32 { return (u >> 10) << ((u & (1 << 9)) >> 6) }
	pos := offset(unit(0))
	for i := 0; i < len(s); i++ {
		c := uint32(s[i])
		pos ^= c
		if c == 0 || int(pos) >= units {
			break
		}
		u := unit(pos)
		if u&(1<<31|0xff) != c {
			break
		}
		pos ^= offset(u)
		if int(pos) >= units {
			break
		}
		if u>>8&1 == 1 {
			if v := int(unit(pos) & (1<<31 - 1)); v < len(n.replacements) {
				at, length = v, i+1
			}
		}
	}
	return at, length
}

func (n *spmNormalizer) normalize(s string) string {
	if n.trim {
		for s != "" {
			p, l := n.prefix(s)
			if p != " " {
				break
			}
			s = s[l:]
		}
	}
	if s == "" {
		return ""
	}
	space := " "
	if n.escape {
		space = spaceMark
	}
	if len(n.trie) == 0 && !n.trim && !n.suffix {
		s = strings.ReplaceAll(s, " ", space)
		if n.dummy {
			s = space + s
		}
		return s
	}
	var b strings.Builder
	b.Grow(len(s) + len(s)/2)
	if n.dummy && !n.suffix {
		b.WriteString(space)
	}
	afterSpace := n.trim
	for s != "" {
		p, l := n.prefix(s)
		s = s[l:]
		for afterSpace && strings.HasPrefix(p, " ") {
			p = p[1:]
		}
		if p == "" {
			continue
		}
		afterSpace = n.trim && strings.HasSuffix(p, " ")
		if n.escape {
			p = strings.ReplaceAll(p, " ", spaceMark)
		}
		b.WriteString(p)
	}
	out := b.String()
	if n.trim {
		for strings.HasSuffix(out, space) {
			out = out[:len(out)-len(space)]
		}
	}
	if n.dummy && n.suffix {
		out += space
	}
	return out
}
