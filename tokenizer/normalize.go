package tokenizer

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// normalizer rewrites the text between added tokens.
type normalizer func(string) (string, error)

// compileNormalizers makes the functions for s.normalize. The steps are those
// of Hugging Face tokenizers, and two that are not in any tokenizer.json: "spm"
// for SentencePiece models and "wpm" for llama.cpp's BERT vocabularies. plain
// makes those for text in which nothing marks up a chat.
func compileNormalizers(s *spec, plain bool) ([]normalizer, error) {
	var out []normalizer
	for _, st := range s.normalize {
		n, err := compileNormalizer(s, st, plain)
		if err != nil {
			return nil, fmt.Errorf("normalizer %s: %w", st.op, err)
		}
		out = append(out, n)
	}
	return out, nil
}

func pure(f func(string) string) normalizer {
	return func(s string) (string, error) { return f(s), nil }
}

func compileNormalizer(s *spec, st step, plain bool) (normalizer, error) {
	switch st.op {
	case "prepend":
		if len(st.s) > maxTokenLen {
			return nil, fmt.Errorf("%w: %d bytes to prepend", ErrUnsupported, len(st.s))
		}
		return pure(func(x string) string {
			if x == "" {
				return x
			}
			return st.s + x
		}), nil
	case "replace": // s: what, t: by what, a: s is a regex
		return compileReplace(st)
	case "nfc":
		return pure(func(x string) string { return unicodeForm(norm.NFC, x) }), nil
	case "nfd":
		return pure(func(x string) string { return unicodeForm(norm.NFD, x) }), nil
	case "nfkc":
		return pure(func(x string) string { return unicodeForm(norm.NFKC, x) }), nil
	case "nfkd":
		return pure(func(x string) string { return unicodeForm(norm.NFKD, x) }), nil
	case "lowercase":
		return pure(lowercase), nil
	case "strip": // a: left, b: right
		return pure(func(x string) string {
			if st.a {
				x = x[skipSpaces(x, 0):]
			}
			if st.b {
				x = x[:trimLeftEnd(x)]
			}
			return x
		}), nil
	case "stripaccents":
		return pure(func(x string) string { return dropRunes(x, unicode.IsMark) }), nil
	case "nmt":
		return pure(nmt), nil
	case "bytelevel":
		return pure(func(x string) string { return string(appendByteLevelEncoded(nil, x)) }), nil
	case "bert": // n: bits clean text, Chinese characters, strip accents, lowercase
		return pure(func(x string) string { return bertNormalize(x, st.n) }), nil
	case "wpm": // a: lowercase, b: strip accents
		return pure(func(x string) string { return strings.Join(wpmWords(x, st.a, st.b), " ") }), nil
	case "spm":
		return newSPMNormalizer(s, st, plain)
	}
	return nil, fmt.Errorf("%w: unknown normalizer", ErrUnsupported)
}

func compileReplace(st step) (normalizer, error) {
	if !st.a {
		return func(x string) (string, error) {
			if st.s == "" {
				return x, nil
			}
			if grow := len(st.t) - len(st.s); grow > 0 && strings.Count(x, st.s) > mayGrow(len(x))/grow {
				return x, errGrowth(len(x))
			}
			return strings.ReplaceAll(x, st.s, st.t), nil
		}, nil
	}
	re, err := compileRegex(st.s)
	if err != nil {
		return nil, err
	}
	return func(x string) (string, error) {
		var b strings.Builder
		at := 0
		full := false
		err := re.each(x, func(start, end int) {
			if full = full || b.Len()+len(st.t) > len(x)+mayGrow(len(x)); full {
				return
			}
			b.WriteString(x[at:start])
			b.WriteString(st.t)
			at = end
		})
		if full {
			return x, errGrowth(len(x))
		}
		if at == 0 && b.Len() == 0 {
			return x, err
		}
		b.WriteString(x[at:])
		return b.String(), err
	}, nil
}

// mayGrow is by how many bytes one normalization step may lengthen n bytes: a
// few replacements of one letter by many would else fill any memory.
func mayGrow(n int) int { return 1<<16 + 16*n }

func errGrowth(n int) error {
	return fmt.Errorf("%w: a replacement makes more than %d bytes out of %d", ErrUnsupported, n+mayGrow(n), n)
}

// maxMarks is the longest run of combining marks that x/text normalizes as
// the Unicode standard says; it breaks longer ones with U+034F (the
// Stream-Safe Text Format), which no reference implementation does.
const maxMarks = 28

// unicodeForm is f.String without the Stream-Safe Text Format.
func unicodeForm(f norm.Form, s string) string {
	ascii := true
	for i := 0; i < len(s) && ascii; i++ {
		ascii = s[i] < 0x80
	}
	if ascii {
		return s
	}
	if !longMarks(s) {
		return f.String(s)
	}
	decompose := norm.NFD
	if f == norm.NFKC || f == norm.NFKD {
		decompose = norm.NFKD
	}
	runes := decomposed(decompose, s)
	if f == norm.NFC || f == norm.NFKC {
		runes = composed(runes)
	}
	return string(runes)
}

// longMarks reports whether s may have more marks in a row than x/text keeps
// together.
func longMarks(s string) bool {
	n := 0
	for _, r := range s {
		if r < 0x300 {
			n = 0
			continue
		}
		p := norm.NFKD.PropertiesString(string(r))
		if p.CCC() == 0 && !(len(p.Decomposition()) > 0 && p.TrailCCC() > 0) && p.BoundaryBefore() {
			n = 0
			continue
		}
		if n += max(1, utf8.RuneCount(p.Decomposition())); n > maxMarks {
			return true
		}
	}
	return false
}

// decomposed is canonical ordering of the full decomposition (UAX 15).
func decomposed(f norm.Form, s string) []rune {
	var out []rune
	for _, r := range s {
		if d := f.PropertiesString(string(r)).Decomposition(); len(d) > 0 {
			out = append(out, []rune(string(d))...)
		} else {
			out = append(out, []rune(f.String(string(r)))...) // Hangul decomposes by rule
		}
	}
	ccc := func(r rune) uint8 { return norm.NFD.PropertiesString(string(r)).CCC() }
	for i := 0; i < len(out); {
		j := i
		for j < len(out) && ccc(out[j]) != 0 {
			j++
		}
		if j-i > 1 {
			stableByClass(out[i:j], ccc)
		}
		i = max(j, i+1)
	}
	return out
}

// stableByClass orders a run of marks by class; counting keeps a hostile run of
// a million marks linear.
func stableByClass(run []rune, ccc func(rune) uint8) {
	var buckets [256][]rune
	for _, r := range run {
		c := ccc(r)
		buckets[c] = append(buckets[c], r)
	}
	i := 0
	for _, b := range buckets {
		i += copy(run[i:], b)
	}
}

// composed is canonical composition of decomposed text (UAX 15).
func composed(in []rune) []rune {
	var out []rune
	starter := -1
	last := -1 // class of the last rune kept since the starter
	for _, r := range in {
		c := int(norm.NFD.PropertiesString(string(r)).CCC())
		if starter >= 0 && (last < c || last == -1) {
			pair := []rune(norm.NFC.String(string([]rune{out[starter], r})))
			if len(pair) == 1 {
				out[starter] = pair[0]
				continue
			}
		}
		out = append(out, r)
		if c == 0 {
			starter, last = len(out)-1, -1
		} else {
			last = c
		}
	}
	return out
}

// lowercase maps each character to its full lower case, without regard to
// context: of all characters only U+0130 becomes two.
func lowercase(s string) string {
	var b strings.Builder
	b.Grow(len(s))
	for _, r := range s {
		if r == 0x130 {
			b.WriteString("i\u0307")
		} else {
			b.WriteRune(unicode.ToLower(r))
		}
	}
	return b.String()
}

func dropRunes(s string, drop func(rune) bool) string {
	return strings.Map(func(r rune) rune {
		if drop(r) {
			return -1
		}
		return r
	}, s)
}

// nmt is the normalization of SentencePiece's nmt rules: control characters
// vanish and other white space becomes a space.
func nmt(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 1 && r <= 8, r == 0x0B, r >= 0x0E && r <= 0x1F, r == 0x7F, r == 0x8F, r == 0x9F:
			return -1
		case r == 9, r == 0x0A, r == 0x0C, r == 0x0D, r == 0x1680, r >= 0x200B && r <= 0x200F,
			r == 0x2028, r == 0x2029, r == 0x2581, r == 0xFEFF, r == 0xFFFD:
			return ' '
		}
		return r
	}, s)
}

// Bits of a "bert" step.
const (
	bertClean = 1 << iota
	bertChinese
	bertStrip
	bertLower
)

func bertNormalize(s string, flags int) string {
	if flags&bertClean != 0 {
		s = strings.Map(func(r rune) rune {
			switch {
			case r == '\t' || r == '\n' || r == '\r':
				return ' '
			case r == 0 || r == 0xFFFD || isOther(r):
				return -1
			case isSpace(r):
				return ' '
			}
			return r
		}, s)
	}
	if flags&bertChinese != 0 {
		var b strings.Builder
		for _, r := range s {
			if isChinese(r) {
				b.WriteByte(' ')
				b.WriteRune(r)
				b.WriteByte(' ')
			} else {
				b.WriteRune(r)
			}
		}
		s = b.String()
	}
	if flags&bertStrip != 0 {
		s = dropRunes(unicodeForm(norm.NFD, s), func(r rune) bool { return unicode.Is(unicode.Mn, r) })
	}
	if flags&bertLower != 0 {
		s = lowercase(s)
	}
	return s
}

// isOther reports Unicode category C, unassigned included.
func isOther(r rune) bool {
	return !unicode.In(r, unicode.L, unicode.M, unicode.N, unicode.P, unicode.S, unicode.Z)
}

// isChinese is BERT's notion of a CJK character; 0x2B920 is in its code where
// 0x2B820 was meant.
func isChinese(r rune) bool {
	return r >= 0x4E00 && r <= 0x9FFF || r >= 0x3400 && r <= 0x4DBF || r >= 0x20000 && r <= 0x2A6DF ||
		r >= 0x2A700 && r <= 0x2B73F || r >= 0x2B740 && r <= 0x2B81F || r >= 0x2B920 && r <= 0x2CEAF ||
		r >= 0xF900 && r <= 0xFAFF || r >= 0x2F800 && r <= 0x2FA1F
}

// wpmWords cuts text into words as llama.cpp does for BERT vocabularies, each
// with the U+2581 that its vocabularies put before the first piece of a word.
func wpmWords(s string, lower, strip bool) []string {
	var words []string
	var w strings.Builder
	end := func() {
		if w.Len() > 0 {
			words = append(words, spaceMark+w.String())
			w.Reset()
		}
	}
	for _, r := range s {
		if strip {
			r, _ = utf8.DecodeRuneInString(norm.NFD.String(string(r)))
		}
		switch {
		case isSpace(r):
			end()
		case r == 0 || r == 0xFFFD || unicode.Is(unicode.C, r), strip && unicode.IsMark(r):
		default:
			if lower {
				r = unicode.ToLower(r)
			}
			if unicode.IsPunct(r) || r < 0x7F && unicode.IsSymbol(r) || isChinese(r) {
				end()
				w.WriteRune(r)
				end()
			} else {
				w.WriteRune(r)
			}
		}
	}
	end()
	return words
}
