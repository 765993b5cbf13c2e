package tokenizer

import (
	"unicode/utf8"
)

// The unigram language model tokenizer (Kudo, arXiv:1804.10959): of all ways
// to cut the text into pieces, the one of the greatest sum of scores, found by
// dynamic programming over byte positions. SentencePiece keeps sums in
// float32, Hugging Face tokenizers and llama.cpp in float64; where sums nearly
// tie the result depends on it, so the model carries which it is.
type unigramModel struct {
	*vocab
	scores       []float64
	single       bool // keep sums in float32, as SentencePiece does
	hf           bool // Hugging Face rules: no bonus for user-defined pieces
	trie         *matcher
	byteIDs      [256]int32
	byteFallback bool
	unk          int32
	unkScore     float64
	maxScore     float64
}

const unkPenalty = 10 // below the lowest score; SentencePiece's kUnkPenalty

func newUnigram(s *spec, v *vocab, plain bool) *unigramModel {
	m := &unigramModel{vocab: v, scores: s.scores, single: s.family == familySPM, hf: s.family == familyHF,
		byteFallback: s.byteFallback, unk: s.unk}
	m.maxScore = 0x1p-126 // SentencePiece starts from FLT_MIN, so the bonus is about -0.1
	m.byteIDs = bytePieces(v)
	pats := make([]pattern, 0, v.size())
	first := true
	var low float64
	for id := range v.kind {
		k := v.kind[id] & kindMask
		if k == kindAbsent || v.off[id] == v.off[id+1] || plain && v.kind[id]&kindMarkup != 0 {
			continue
		}
		if m.hf || k == kindNormal {
			if first || m.scores[id] < low {
				low = m.scores[id]
			}
			m.maxScore = max(m.maxScore, m.scores[id])
			first = false
		}
		if m.hf || k == kindNormal || k == kindUser {
			pats = append(pats, pattern{v.at(int32(id)), int32(id)})
		}
	}
	m.trie = s.ordered(pats)
	m.unkScore = low - unkPenalty
	return m
}

// bestEnd is the best way to reach a byte position: the piece that ends
// there, where it starts, and the sum of scores.
type bestEnd struct {
	score float64
	start int32
	id    int32
}

func (m *unigramModel) appendText(dst []int32, s string, sc *scratch) ([]int32, error) {
	if s == "" {
		return dst, nil
	}
	best := make([]bestEnd, len(s)+1)
	for i := range best {
		best[i].start = -1
	}
	for i := 0; i < len(s); {
		_, size := utf8.DecodeRuneInString(s[i:])
		here := best[i].score
		whole := false
		m.trie.each(s[i:], func(id int32, n int) {
			m.offer(&best[i+n], here, m.pieceScore(id, n), i, id)
			whole = whole || n == size
		})
		if !whole {
			score := m.unkScore
			if m.single {
				score = float64(float32(here)+float32(score)) - here // this sum is float32 throughout
			}
			m.offer(&best[i+size], here, score, i, m.unk)
		}
		i += size
	}
	return m.backtrack(dst, s, best)
}

// pieceScore gives user-defined pieces of n bytes the bonus that makes them
// always win: SentencePiece's, or 0 as llama.cpp sets it.
func (m *unigramModel) pieceScore(id int32, n int) float64 {
	if m.hf || m.kind[id]&kindMask != kindUser {
		return m.scores[id]
	}
	if m.single {
		return float64(n)*m.maxScore - 0.1
	}
	return 0
}

// offer proposes a piece as the last of the best way to b. SentencePiece adds
// in float64, compares that with the best so far, and keeps it as a float32;
// exact ties such as "=" "==" against "==" "=" hang on it.
func (m *unigramModel) offer(b *bestEnd, here, score float64, start int, id int32) {
	sum := here + score
	if b.start >= 0 && sum <= b.score {
		return
	}
	if m.single {
		sum = float64(float32(sum))
	}
	*b = bestEnd{sum, int32(start), id}
}

func (m *unigramModel) backtrack(dst []int32, s string, best []bestEnd) ([]int32, error) {
	var rev []bestEnd
	ends := make([]int32, 0, 16)
	for end := int32(len(s)); end > 0; end = best[end].start {
		rev = append(rev, best[end])
		ends = append(ends, end)
	}
	for i := len(rev) - 1; i >= 0; i-- {
		if rev[i].id != m.unk {
			dst = append(dst, rev[i].id)
			continue
		}
		start := rev[i].start
		for i > 0 && rev[i-1].id == m.unk {
			i--
		}
		var err error
		if dst, err = m.unknown(dst, s[start:ends[i]]); err != nil {
			return dst, err
		}
	}
	return dst, nil
}

// unknown writes a run of unknown text: as bytes, or as one unknown token.
// Hugging Face first looks whether the run as a whole is a token, which it can
// be only if the text spells the unknown token itself.
func (m *unigramModel) unknown(dst []int32, s string) ([]int32, error) {
	if m.hf {
		if id := m.find(s, false); id >= 0 {
			return append(dst, id), nil
		}
	}
	if m.byteFallback && m.bytesOf(s) {
		for j := 0; j < len(s); j++ {
			dst = append(dst, m.byteIDs[s[j]])
		}
		return dst, nil
	}
	if m.unk < 0 {
		return dst, errUnknown(s)
	}
	return append(dst, m.unk), nil
}

func (m *unigramModel) bytesOf(s string) bool {
	for i := 0; i < len(s); i++ {
		if m.byteIDs[s[i]] < 0 {
			return false
		}
	}
	return true
}
