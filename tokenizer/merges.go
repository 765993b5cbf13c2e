package tokenizer

import "fmt"

// resolveMerges turns pairs of token strings into merges of ids. Of two
// merges of one pair the first counts if firstWins, else the last: llama.cpp
// does the one, Hugging Face the other.
func (s *spec) resolveMerges(pairs [][2]string, firstWins bool) error {
	if len(pairs) > maxMerges {
		return fmt.Errorf("%w: %d merges, at most %d are supported", ErrUnsupported, len(pairs), maxMerges)
	}
	merges := make([]merge, 0, len(pairs))
	seen := make(map[[2]int32]int, len(pairs))
	for i, p := range pairs {
		l, r := s.vocab.lookup(p[0]), s.vocab.lookup(p[1])
		if l < 0 || r < 0 {
			missing := p[0]
			if l >= 0 {
				missing = p[1]
			}
			return fmt.Errorf("%w: merge %d: token %q is not in the vocabulary", ErrCorrupt, i, missing)
		}
		if len(p[1]) < len(s.subwordPrefix) {
			return fmt.Errorf("%w: merge %d: token %q is shorter than the subword prefix %q", ErrCorrupt, i, p[1], s.subwordPrefix)
		}
		joined := p[0] + p[1][len(s.subwordPrefix):]
		out := s.vocab.lookup(joined)
		if out < 0 {
			return fmt.Errorf("%w: merge %d: result %q is not in the vocabulary", ErrCorrupt, i, joined)
		}
		key := [2]int32{l, r}
		if at, dup := seen[key]; dup {
			if firstWins {
				continue
			}
			merges[at].left = -1
		}
		seen[key] = len(merges)
		merges = append(merges, merge{l, r, out})
	}
	s.merges = merges[:0]
	for _, m := range merges {
		if m.left >= 0 {
			s.merges = append(s.merges, m)
		}
	}
	return nil
}
