package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// wordPieceModel is BERT's WordPiece (arXiv:1810.04805; the algorithm is
// Schuster and Nakajima's, greedy longest match first). A word of which some
// part has no token is unknown as a whole.
type wordPieceModel struct {
	*vocab
	prefix  string
	maxWord int // characters; 0: any
	unk     int32
}

func (m *wordPieceModel) appendText(dst []int32, w string, sc *scratch) ([]int32, error) {
	if ids, ok := sc.cache.get(w); ok {
		return append(dst, ids...), nil
	}
	at := len(dst)
	if m.maxWord > 0 && utf8.RuneCountInString(w) > m.maxWord {
		return m.unknown(dst, w)
	}
	buf := sc.buf[:0]
	for start := 0; start < len(w); {
		buf = buf[:0]
		if start > 0 {
			buf = append(buf, m.prefix...)
		}
		head := len(buf)
		// No token is longer than maxTokenLen, so no longer part need be tried.
		end := min(len(w), start+maxTokenLen)
		for end < len(w) && !utf8.RuneStart(w[end]) {
			end--
		}
		buf = append(buf, w[start:end]...)
		id := int32(-1)
		for len(buf) > head {
			if id = m.find(string(buf), false); id >= 0 {
				break
			}
			_, n := utf8.DecodeLastRune(buf)
			buf = buf[:len(buf)-n]
		}
		sc.buf = buf
		if id < 0 {
			return m.unknown(dst[:at], w)
		}
		dst = append(dst, id)
		start += len(buf) - head
	}
	sc.cache.put(w, dst[at:])
	return dst, nil
}

func (m *wordPieceModel) unknown(dst []int32, w string) ([]int32, error) {
	if m.unk < 0 {
		return dst, errUnknown(w)
	}
	return append(dst, m.unk), nil
}

// wordLevelModel has a token for each known word.
type wordLevelModel struct {
	*vocab
	unk int32
}

func (m *wordLevelModel) appendText(dst []int32, w string, _ *scratch) ([]int32, error) {
	if id := m.find(w, false); id >= 0 {
		return append(dst, id), nil
	}
	if m.unk < 0 {
		return dst, errUnknown(w)
	}
	return append(dst, m.unk), nil
}

// greedyModel takes the longest token at each byte, as RWKV's "world"
// tokenizer does; a byte that starts no token is unknown.
type greedyModel struct {
	trie *matcher
	unk  int32
}

func newGreedy(s *spec) *greedyModel {
	pats := make([]pattern, 0, s.vocab.size())
	for id := range s.vocab.kind {
		if t := s.vocab.at(int32(id)); t != "" {
			pats = append(pats, pattern{t, int32(id)})
		}
	}
	return &greedyModel{trie: s.ordered(pats), unk: s.unk}
}

func (m *greedyModel) appendText(dst []int32, s string, _ *scratch) ([]int32, error) {
	for len(s) > 0 {
		id, n := m.trie.longest(s)
		if n == 0 {
			if m.unk < 0 {
				return dst, errUnknown(s[:1])
			}
			id, n = m.unk, 1
		}
		dst = append(dst, id)
		s = s[n:]
	}
	return dst, nil
}

// replaceAll is strings.ReplaceAll that leaves s alone for an empty pattern.
func replaceAll(s, old, with string) string {
	if old == "" {
		return s
	}
	return strings.ReplaceAll(s, old, with)
}
