package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// Byte-pair encoding by piece scores, as the SentencePiece library does it
// (Kudo and Richardson, arXiv:1808.06226) and llama.cpp and llama2.c after it:
// two neighbours may merge if their concatenation is a piece, the highest
// score first, leftmost first among equals. User-defined pieces are matched
// before and never merge; unused pieces may take part in merges and are then
// split again; what is no piece becomes its bytes, or the unknown piece once
// for each run.
type scoreModel struct {
	*vocab
	scores       []float32
	byteIDs      [256]int32
	byteFallback bool
	unk          int32
	user         *matcher
	plain        bool // pieces that mark up chats do not exist
	unused       bool // some piece is unused
	maxLen       int  // bytes of the longest piece that can be merged to
	cut          cutter
}

// scorePair is a possible merge of the symbols at left and right, which
// together were size bytes when it was found.
type scorePair struct {
	score       float32
	left, right int32
	size        int32
}

func newScoreModel(s *spec, v *vocab, plain bool) *scoreModel {
	m := &scoreModel{vocab: v, scores: s.scores32(), byteFallback: s.byteFallback, unk: s.unk, cut: newCutter(), plain: plain}
	m.byteIDs = bytePieces(v)
	if s.family == familySPM { // llama.cpp finds them before the model does
		m.user = userPieces(v, plain)
	}
	for id := range v.kind {
		k := v.kind[id] & kindMask
		if k != kindNormal && k != kindUser && k != kindUnused {
			continue
		}
		m.unused = m.unused || k == kindUnused
		t := v.at(int32(id))
		m.maxLen = max(m.maxLen, len(t))
		for i := 1; i < len(t); {
			j := strings.Index(t[i:], spaceMark)
			if j < 0 {
				break
			}
			i += j
			r, _ := utf8.DecodeLastRuneInString(t[:i])
			m.cut.joins[r] = true
			i += len(spaceMark)
		}
	}
	// An unknown run may cross a cut only if the mark itself can be unknown.
	if m.mergeable(spaceMark) < 0 {
		m.cut.joins = nil
	}
	return m
}

func bytePieces(v *vocab) (ids [256]int32) {
	for b := range ids {
		ids[b] = v.find(byteTokens[b], false)
	}
	return ids
}

// userPieces returns the matcher for user-defined pieces, with plain only for
// those that do not mark up chats; nil if there are none.
func userPieces(v *vocab, plain bool) *matcher {
	var pats []pattern
	for id := range v.kind {
		if plain && v.kind[id]&kindMarkup != 0 {
			continue
		}
		if v.kind[id]&kindMask == kindUser && v.off[id] != v.off[id+1] {
			pats = append(pats, pattern{v.at(int32(id)), int32(id)})
		}
	}
	if len(pats) == 0 {
		return nil
	}
	return newMatcher(pats)
}

// mergeable returns the id of s if it is a piece that text can become.
func (m *scoreModel) mergeable(s string) int32 {
	if len(s) > m.maxLen {
		return -1
	}
	id := m.find(s, false)
	if id < 0 {
		return -1
	}
	if m.plain && m.kind[id]&kindMarkup != 0 {
		return -1
	}
	switch m.kind[id] & kindMask {
	case kindNormal, kindUser, kindUnused:
		return id
	}
	return -1
}

func (m *scoreModel) appendText(dst []int32, s string, sc *scratch) ([]int32, error) {
	if m.user == nil {
		return m.appendWords(dst, s, sc), nil
	}
	at := 0
	for i := 0; i < len(s); {
		if id, n := m.user.longest(s[i:]); n > 0 {
			dst = append(m.appendWords(dst, s[at:i], sc), id)
			i += n
			at = i
			continue
		}
		_, n := utf8.DecodeRuneInString(s[i:])
		i += n
	}
	return m.appendWords(dst, s[at:], sc), nil
}

// appendWords encodes text without user-defined pieces, word by word.
func (m *scoreModel) appendWords(dst []int32, s string, sc *scratch) []int32 {
	for len(s) > 0 {
		n := m.cut.next(s)
		w := s[:n]
		if ids, ok := sc.cache.get(w); ok {
			dst = append(dst, ids...)
		} else {
			at := len(dst)
			dst = m.mergeWord(dst, w, sc)
			sc.cache.put(w, dst[at:])
		}
		s = s[n:]
	}
	return dst
}

// mergeWord encodes w. sc.starts holds the start of each symbol's text, sc.ids
// its length in bytes, 0 once it is merged into another.
func (m *scoreModel) mergeWord(dst []int32, w string, sc *scratch) []int32 {
	sc.ids, sc.starts = sc.ids[:0], sc.starts[:0]
	for i := 0; i < len(w); {
		_, n := utf8.DecodeRuneInString(w[i:])
		sc.starts = append(sc.starts, int32(i))
		sc.ids = append(sc.ids, int32(n))
		i += n
	}
	n := len(sc.ids)
	if n == 0 {
		return dst
	}
	sc.link(n)
	m.mergeSymbols(w, sc)
	out := &pieceWriter{m: m, dst: dst}
	for i := int32(0); i >= 0; i = sc.next[i] {
		m.emit(w[sc.starts[i]:sc.starts[i]+sc.ids[i]], out)
	}
	return out.dst
}

func (m *scoreModel) mergeSymbols(w string, sc *scratch) {
	size, prev, next := sc.ids, sc.prev, sc.next
	h := sc.sheap[:0]
	add := func(l, r int32) {
		if l < 0 || r < 0 {
			return
		}
		n := size[l] + size[r]
		if id := m.mergeable(w[sc.starts[l] : sc.starts[l]+n]); id >= 0 {
			h = pushPair(h, scorePair{m.scores[id], l, r, n})
		}
	}
	for i := 1; i < len(size); i++ {
		add(int32(i)-1, int32(i))
	}
	for len(h) > 0 {
		top := h[0]
		h = popPair(h)
		l, r := top.left, top.right
		if size[l] == 0 || size[r] == 0 || size[l]+size[r] != top.size {
			continue
		}
		size[l] += size[r]
		size[r] = 0
		next[l] = next[r]
		if next[r] >= 0 {
			prev[next[r]] = l
		}
		add(prev[l], l)
		add(l, next[l])
	}
	sc.sheap = h[:0]
}

// pieceWriter appends ids and joins a run of unknown pieces into one.
type pieceWriter struct {
	m       *scoreModel
	dst     []int32
	unknown bool
}

// emit writes the ids of the symbol s.
func (m *scoreModel) emit(s string, out *pieceWriter) {
	id := m.mergeable(s)
	if id < 0 {
		if m.byteFallback {
			out.unknown = true
			for i := 0; i < len(s); i++ {
				if b := m.byteIDs[s[i]]; b >= 0 {
					out.dst = append(out.dst, b)
				} else if m.unk >= 0 {
					out.dst = append(out.dst, m.unk)
				}
			}
			return
		}
		if !out.unknown && m.unk >= 0 {
			out.dst = append(out.dst, m.unk)
		}
		out.unknown = true
		return
	}
	if m.unused && m.kind[id]&kindMask == kindUnused {
		if l := m.splitUnused(s); l > 0 {
			m.emit(s[:l], out)
			m.emit(s[l:], out)
			return
		}
	}
	out.unknown = false
	out.dst = append(out.dst, id)
}

// splitUnused returns where the last merge that made the unused piece s joined
// it: the merge of s is repeated on its own, which is what led to it inside
// the text as well.
func (m *scoreModel) splitUnused(s string) int {
	sc := &scratch{}
	for i := 0; i < len(s); {
		_, n := utf8.DecodeRuneInString(s[i:])
		sc.starts = append(sc.starts, int32(i))
		sc.ids = append(sc.ids, int32(n))
		i += n
	}
	if len(sc.ids) < 2 {
		return 0
	}
	sc.link(len(sc.ids))
	// Without s itself among the pieces the last two symbols stay apart.
	m2 := *m
	m2.maxLen = min(m.maxLen, len(s)-1)
	m2.mergeSymbols(s, sc)
	if sc.next[0] < 0 {
		return 0
	}
	return int(sc.starts[sc.next[0]])
}

func lessPair(a, b scorePair) bool {
	return a.score > b.score || a.score == b.score && a.left < b.left
}

func pushPair(h []scorePair, x scorePair) []scorePair {
	h = append(h, x)
	i := len(h) - 1
	for i > 0 {
		p := (i - 1) / 2
		if !lessPair(h[i], h[p]) {
			break
		}
		h[p], h[i] = h[i], h[p]
		i = p
	}
	return h
}

func popPair(h []scorePair) []scorePair {
	n := len(h) - 1
	h[0] = h[n]
	h = h[:n]
	for i := 0; ; {
		c := 2*i + 1
		if c >= len(h) {
			return h
		}
		if c+1 < len(h) && lessPair(h[c+1], h[c]) {
			c++
		}
		if !lessPair(h[c], h[i]) {
			return h
		}
		h[i], h[c] = h[c], h[i]
		i = c
	}
}
