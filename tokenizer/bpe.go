package tokenizer

import (
	"slices"
	"strings"
	"unicode/utf8"
)

// Byte-pair encoding with a ranked merge list (Sennrich et al., arXiv:1508.07909)
// as Hugging Face tokenizers applies it: start from characters, or from bytes
// in a byte-level vocabulary, and apply the lowest-ranked merge, leftmost
// first, until none applies.
//
// Two things make it fast. Words up to shortWord symbols are merged by
// scanning an array of ranks, longer ones with a heap, so a run of a million
// letters costs n log n. And a SentencePiece-style vocabulary, whose text is
// one word of any length, is cut before a U+2581 that no merge can join to
// what stands before it: such a cut cannot change the result, and the pieces
// then hit the word cache.

const (
	shortWord = 40       // symbols; above it the heap is used
	spaceMark = "\u2581" // SentencePiece's stand-in for a space
)

// bpeModel is the run-time form of a merge-list vocabulary.
type bpeModel struct {
	*vocab
	pairs        pairTable
	raw          bool       // words are bytes, not characters
	byteIDs      [256]int32 // raw: token of a byte; else: byte-fallback token; -1 if none
	byteFallback bool
	fuseUnk      bool
	ignoreMerges bool
	gaps         bool // a character without a token keeps its neighbours apart
	unk          int32
	prefix       string // continuing subword prefix
	suffix       string // end of word suffix
	cut          cutter
}

func newBPE(s *spec, v *vocab) *bpeModel {
	m := &bpeModel{
		vocab: v, pairs: s.pairs, raw: s.rawBytes,
		fuseUnk: s.fuseUnk, ignoreMerges: s.ignoreMerges, unk: s.unk,
		prefix: s.subwordPrefix, suffix: s.wordSuffix, gaps: s.family == familyGGUF,
	}
	if m.pairs.slots == nil {
		m.pairs = newPairTable(s.merges)
	}
	if m.raw {
		for b := range m.byteIDs {
			m.byteIDs[b] = v.find(string([]byte{byte(b)}), true)
		}
	} else if s.byteFallback {
		m.byteFallback = true
		for b := range m.byteIDs {
			m.byteIDs[b] = v.find(byteTokens[b], false)
		}
	}
	if !m.raw && !m.ignoreMerges && m.prefix == "" && m.suffix == "" && v.find(spaceMark, false) >= 0 && m.keepsAll() {
		m.cut = newCutter()
		for i := range s.merges {
			left, right := v.at(s.merges[i].left), v.at(s.merges[i].right)
			if !strings.HasPrefix(right, spaceMark) {
				continue
			}
			if _, isByte := byteToken(left); isByte || s.merges[i].left == s.unk {
				m.cut.joins = nil // what stands before the cut is not the token's text
				break
			}
			r, _ := utf8.DecodeLastRuneInString(left)
			m.cut.joins[r] = true
		}
	}
	return m
}

// keepsAll reports whether every character has a symbol: one that vanishes
// would let a merge join what stands on its two sides, across a cut.
func (m *bpeModel) keepsAll() bool {
	return m.gaps || m.unk >= 0 || m.byteFallback && !slices.Contains(m.byteIDs[:], -1)
}

var byteTokens = func() (t [256]string) {
	const hex = "0123456789ABCDEF"
	for b := range t {
		t[b] = "<0x" + string(hex[b>>4]) + string(hex[b&15]) + ">"
	}
	return t
}()

// cutter finds the places where a text may be cut without changing its
// encoding: before a spaceMark whose left neighbour no merge or piece joins
// to it.
type cutter struct {
	joins map[rune]bool // nil: never cut
}

func newCutter() cutter { return cutter{joins: map[rune]bool{'\u2581': true}} }

// next returns the end of the first piece of s.
func (c *cutter) next(s string) int {
	if c.joins == nil {
		return len(s)
	}
	for i := 1; i < len(s); {
		j := strings.Index(s[i:], spaceMark)
		if j < 0 {
			return len(s)
		}
		i += j
		if i > 0 {
			if r, _ := utf8.DecodeLastRuneInString(s[:i]); !c.joins[r] {
				return i
			}
		}
		i += len(spaceMark)
	}
	return len(s)
}

func (m *bpeModel) appendText(dst []int32, s string, sc *scratch) ([]int32, error) {
	for len(s) > 0 {
		n := m.cut.next(s)
		dst = m.appendWord(dst, s[:n], sc)
		s = s[n:]
	}
	return dst, nil
}

func (m *bpeModel) appendWord(dst []int32, w string, sc *scratch) []int32 {
	if ids, ok := sc.cache.get(w); ok {
		return append(dst, ids...)
	}
	n := len(dst)
	dst = m.mergeWord(dst, w, sc)
	sc.cache.put(w, dst[n:])
	return dst
}

func (m *bpeModel) mergeWord(dst []int32, w string, sc *scratch) []int32 {
	if m.ignoreMerges {
		// A special token is never the encoding of plain text.
		if id := m.find(w, m.raw); id >= 0 && m.kind[id]&kindMask != kindControl {
			return append(dst, id)
		}
	}
	sc.ids = sc.ids[:0]
	if m.raw {
		complete := true
		for i := 0; i < len(w); i++ {
			id := m.byteIDs[w[i]]
			if id < 0 {
				complete = false
				break
			}
			sc.ids = append(sc.ids, id)
		}
		if !complete {
			sc.ids = sc.ids[:0]
			m.symbols(string(appendByteLevelEncoded(nil, w)), sc)
		}
	} else {
		m.symbols(w, sc)
	}
	if len(sc.ids) <= shortWord {
		return m.mergeShort(dst, sc)
	}
	return m.mergeLong(dst, sc)
}

// symbols splits w into the tokens of its characters. It follows the
// reference in each detail, so also in this one: a pending unknown token is
// written only before the next known character, after any byte tokens that
// stand between.
func (m *bpeModel) symbols(w string, sc *scratch) {
	pending := int32(-1)
	flush := func() {
		if pending >= 0 {
			sc.ids = append(sc.ids, pending)
			pending = -1
		}
	}
	for i := 0; i < len(w); {
		_, size := utf8.DecodeRuneInString(w[i:])
		s := w[i : i+size]
		if m.prefix != "" && i > 0 {
			s = m.prefix + s
		}
		i += size
		if m.suffix != "" && i == len(w) {
			s += m.suffix
		}
		var id int32
		if m.raw {
			id = m.lookup(s)
		} else {
			id = m.find(s, false)
		}
		if id >= 0 {
			flush()
			sc.ids = append(sc.ids, id)
			continue
		}
		if m.appendBytes(s, sc) {
			continue
		}
		if m.unk < 0 {
			if m.gaps {
				sc.ids = append(sc.ids, -1)
			}
			continue
		}
		if pending >= 0 && !m.fuseUnk {
			flush()
		}
		pending = m.unk
	}
	flush()
}

// appendBytes writes s as byte-fallback tokens if it has one for each byte.
func (m *bpeModel) appendBytes(s string, sc *scratch) bool {
	if !m.byteFallback {
		return false
	}
	for i := 0; i < len(s); i++ {
		if m.byteIDs[s[i]] < 0 {
			return false
		}
	}
	for i := 0; i < len(s); i++ {
		sc.ids = append(sc.ids, m.byteIDs[s[i]])
	}
	return true
}

// mergeShort merges sc.ids by scanning the ranks of all neighbours.
func (m *bpeModel) mergeShort(dst []int32, sc *scratch) []int32 {
	ids := sc.ids
	var buf [shortWord]int32
	n := len(ids)
	if n == 0 {
		return dst
	}
	ranks := buf[:n-1]
	for i := range ranks {
		ranks[i] = m.pairs.rank(ids[i], ids[i+1])
	}
	for {
		best, at := int32(-1), -1
		for i, r := range ranks {
			if r >= 0 && (best < 0 || r < best) {
				best, at = r, i
			}
		}
		if at < 0 {
			return appendKnown(dst, ids)
		}
		ids[at] = m.pairs.merges[best].out
		ids = append(ids[:at+1], ids[at+2:]...)
		ranks = append(ranks[:at], ranks[at+1:]...)
		if at > 0 {
			ranks[at-1] = m.pairs.rank(ids[at-1], ids[at])
		}
		if at < len(ranks) {
			ranks[at] = m.pairs.rank(ids[at], ids[at+1])
		}
	}
}

// mergeLong merges sc.ids with a heap of rank<<32|position.
func (m *bpeModel) mergeLong(dst []int32, sc *scratch) []int32 {
	ids := sc.ids
	n := len(ids)
	sc.link(n)
	prev, next := sc.prev, sc.next
	h := sc.heap[:0]
	for i := 0; i+1 < n; i++ {
		if r := m.pairs.rank(ids[i], ids[i+1]); r >= 0 {
			h = append(h, uint64(r)<<32|uint64(i))
		}
	}
	heapInit(h)
	for len(h) > 0 {
		top := h[0]
		h = heapPop(h)
		i, want := int32(top&0xffffffff), int32(top>>32)
		if ids[i] < 0 || next[i] < 0 {
			continue
		}
		j := next[i]
		if m.pairs.rank(ids[i], ids[j]) != want {
			continue // an outdated entry
		}
		ids[i] = m.pairs.merges[want].out
		ids[j] = -1
		next[i] = next[j]
		if next[j] >= 0 {
			prev[next[j]] = i
		}
		if p := prev[i]; p >= 0 {
			if r := m.pairs.rank(ids[p], ids[i]); r >= 0 {
				h = heapPush(h, uint64(r)<<32|uint64(p))
			}
		}
		if k := next[i]; k >= 0 {
			if r := m.pairs.rank(ids[i], ids[k]); r >= 0 {
				h = heapPush(h, uint64(r)<<32|uint64(i))
			}
		}
	}
	sc.heap = h[:0]
	for i := int32(0); i >= 0; i = next[i] {
		if ids[i] >= 0 {
			dst = append(dst, ids[i])
		}
	}
	return dst
}

// appendKnown appends ids without the gaps.
func appendKnown(dst, ids []int32) []int32 {
	for _, id := range ids {
		if id >= 0 {
			dst = append(dst, id)
		}
	}
	return dst
}

// heapInit, heapPush and heapPop keep a min-heap of uint64. container/heap
// calls through an interface for every comparison: measured 3 times slower
// on a million-letter word.
func heapInit(h []uint64) {
	for i := len(h)/2 - 1; i >= 0; i-- {
		siftDown(h, i)
	}
}

func siftDown(h []uint64, i int) {
	for {
		c := 2*i + 1
		if c >= len(h) {
			return
		}
		if c+1 < len(h) && h[c+1] < h[c] {
			c++
		}
		if h[i] <= h[c] {
			return
		}
		h[i], h[c] = h[c], h[i]
		i = c
	}
}

func heapPop(h []uint64) []uint64 {
	n := len(h) - 1
	h[0] = h[n]
	h = h[:n]
	siftDown(h, 0)
	return h
}

func heapPush(h []uint64, x uint64) []uint64 {
	h = append(h, x)
	i := len(h) - 1
	for i > 0 {
		p := (i - 1) / 2
		if h[p] <= h[i] {
			break
		}
		h[p], h[i] = h[i], h[p]
		i = p
	}
	return h
}
