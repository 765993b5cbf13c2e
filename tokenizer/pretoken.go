package tokenizer

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// piece is a part of the text on its way to the model.
type piece struct {
	text  string
	first bool // it starts the whole text
}

// splitter cuts a piece and appends the parts to out.
type splitter func(out []piece, p piece) ([]piece, error)

// What to do with the matches of a pattern: Hugging Face's SplitDelimiterBehavior.
const (
	splitIsolated = iota
	splitRemoved
	splitContiguous
	splitPrevious
	splitNext
)

var splitNames = map[string]int{
	"Isolated": splitIsolated, "Removed": splitRemoved, "Contiguous": splitContiguous,
	"MergedWithPrevious": splitPrevious, "MergedWithNext": splitNext,
}

const gpt2Regex = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`

// compilePre makes the splitters of s.pre. Where a byte-level model's whole
// pre-tokenizer is one hand-written scanner, that comes back instead.
func compilePre(s *spec) ([]splitter, scanFunc, error) {
	if scan := soleScanner(s); scan != nil {
		return nil, scan, nil
	}
	var out []splitter
	for i, st := range s.pre {
		last := s.rawBytes && i == len(s.pre)-1
		p, err := compileSplitter(st, last)
		if err != nil {
			return nil, nil, fmt.Errorf("pre-tokenizer %s: %w", st.op, err)
		}
		out = append(out, p)
	}
	return out, nil, nil
}

func soleScanner(s *spec) scanFunc {
	if !s.rawBytes || s.model != modelBPE {
		return nil
	}
	switch {
	case len(s.pre) == 1 && s.pre[0].op == "bytelevel" && !s.pre[0].a && s.pre[0].b:
		return scanGPT2
	case len(s.pre) == 2 && s.pre[1].op == "bytelevel" && !s.pre[1].a && !s.pre[1].b:
		st := s.pre[0]
		if st.op == "split" && st.a && !st.b && (st.n == splitIsolated) {
			return scanners[st.s]
		}
	}
	return nil
}

// compileSplitter makes one step; raw says that a "bytelevel" step is the last
// one of a model that takes bytes, so that its characters need not be mapped.
func compileSplitter(st step, raw bool) (splitter, error) {
	switch st.op {
	case "split": // s: pattern, a: it is a regex, b: invert, n: behaviour
		return compileSplit(st)
	case "bytelevel": // a: add a space before, b: split by GPT-2's regex
		return byteLevelSplitter(st, raw), nil
	case "metaspace": // s: replacement, n: prepend scheme, a: split
		if utf8.RuneCountInString(st.s) != 1 {
			return nil, fmt.Errorf("%w: replacement %q", ErrCorrupt, st.s)
		}
		return metaspaceSplitter(st), nil
	case "digits": // a: each on its own
		n := splitContiguous
		if st.a {
			n = splitIsolated
		}
		return runeSplitter(unicode.IsNumber, n), nil
	case "whitespacesplit":
		return runeSplitter(isSpace, splitRemoved), nil
	case "whitespace": // \w+|[^\w\s]+, all else removed
		return splitterOf(func(s string, add func(int, int, bool)) error {
			wordRuns(s, add)
			return nil
		}, splitRemoved), nil
	case "punctuation": // n: behaviour
		return runeSplitter(isPunctuation, st.n), nil
	case "delimiter": // s: one character
		d, _ := utf8.DecodeRuneInString(st.s)
		return runeSplitter(func(r rune) bool { return r == d }, splitRemoved), nil
	case "bert":
		space, punct := runeSplitter(isSpace, splitRemoved), runeSplitter(isPunctuation, splitIsolated)
		return func(out []piece, p piece) ([]piece, error) {
			words, _ := space(nil, p)
			for _, w := range words {
				out, _ = punct(out, w)
			}
			return out, nil
		}, nil
	case "fixedlength": // n: characters
		if st.n < 1 {
			return nil, fmt.Errorf("%w: length %d", ErrCorrupt, st.n)
		}
		return fixedSplitter(st.n), nil
	case "afmoedigits":
		return splitterOf(afmoeDigits, splitIsolated), nil
	case "kimi":
		return splitterOf(func(s string, add func(int, int, bool)) error {
			for i := 0; i < len(s); {
				j := scanKimi(s, i)
				add(i, j, true)
				i = j
			}
			return nil
		}, splitIsolated), nil
	case "lower":
		return func(out []piece, p piece) ([]piece, error) {
			return append(out, piece{strings.ToLower(p.text), p.first}), nil
		}, nil
	}
	return nil, fmt.Errorf("%w: unknown pre-tokenizer", ErrUnsupported)
}

// finder reports the successive parts of s: every byte lies in one part, and
// match says whether the part matched.
type finder func(s string, add func(start, end int, match bool)) error

// splitterOf applies a behaviour to what find reports.
func splitterOf(find finder, behaviour int) splitter {
	return func(out []piece, p piece) ([]piece, error) {
		base := len(out)
		was := false
		push := func(start, end int) {
			if start < end {
				out = append(out, piece{p.text[start:end], p.first && start == 0})
			}
		}
		// pending is the part that the next one may still join.
		var pending span
		have, first := false, true
		err := find(p.text, func(start, end int, match bool) {
			join := false
			switch behaviour {
			case splitRemoved:
				if match {
					return
				}
			case splitContiguous:
				join = match == was && !first
			case splitPrevious:
				join = match && !was
			case splitNext:
				// A match joins what follows it, unless that is a match too.
				join = !match && was
			}
			if join && have && pending.end == start {
				pending.end = end
			} else {
				if have {
					push(pending.start, pending.end)
				}
				pending, have = span{start, end}, true
			}
			was, first = match, false
		})
		if err != nil {
			return out[:base], err
		}
		if have {
			push(pending.start, pending.end)
		}
		return out, nil
	}
}

func runeSplitter(is func(rune) bool, behaviour int) splitter {
	return splitterOf(func(s string, add func(int, int, bool)) error {
		at := 0
		for i, r := range s {
			if !is(r) {
				continue
			}
			if at < i {
				add(at, i, false)
			}
			at = i + utf8.RuneLen(r)
			add(i, at, true)
		}
		if at < len(s) {
			add(at, len(s), false)
		}
		return nil
	}, behaviour)
}

func compileSplit(st step) (splitter, error) {
	find, err := patternFinder(st)
	if err != nil {
		return nil, err
	}
	if st.b {
		direct := find
		find = func(s string, add func(int, int, bool)) error {
			return direct(s, func(i, j int, m bool) { add(i, j, !m) })
		}
	}
	return splitterOf(find, st.n), nil
}

func patternFinder(st step) (finder, error) {
	if !st.a {
		if st.s == "" {
			return nil, fmt.Errorf("%w: empty pattern", ErrUnsupported)
		}
		return func(s string, add func(int, int, bool)) error {
			at := 0
			for {
				i := strings.Index(s[at:], st.s)
				if i < 0 {
					break
				}
				if i > 0 {
					add(at, at+i, false)
				}
				add(at+i, at+i+len(st.s), true)
				at += i + len(st.s)
			}
			if at < len(s) {
				add(at, len(s), false)
			}
			return nil
		}, nil
	}
	if scan := scanners[st.s]; scan != nil {
		return func(s string, add func(int, int, bool)) error {
			for i := 0; i < len(s); {
				j := scan(s, i)
				add(i, j, true)
				i = j
			}
			return nil
		}, nil
	}
	re, err := compileRegex(st.s)
	if err != nil {
		return nil, err
	}
	return func(s string, add func(int, int, bool)) error {
		at := 0
		err := re.each(s, func(start, end int) {
			if at < start {
				add(at, start, false)
			}
			add(start, end, true)
			at = end
		})
		if at < len(s) {
			add(at, len(s), false)
		}
		return err
	}, nil
}

func byteLevelSplitter(st step, raw bool) splitter {
	return func(out []piece, p piece) ([]piece, error) {
		if p.text == "" {
			return out, nil
		}
		if st.a && !strings.HasPrefix(p.text, " ") {
			p.text = " " + p.text
		}
		for i := 0; i < len(p.text); {
			j := len(p.text)
			if st.b {
				j = scanGPT2(p.text, i)
			}
			w := p.text[i:j]
			if !raw {
				w = string(appendByteLevelEncoded(nil, w))
			}
			out = append(out, piece{w, p.first && i == 0})
			i = j
		}
		return out, nil
	}
}

// Prepend schemes of Metaspace.
const (
	prependAlways = iota
	prependFirst
	prependNever
)

var prependNames = map[string]int{"always": prependAlways, "first": prependFirst, "never": prependNever}

func metaspaceSplitter(st step) splitter {
	mark, _ := utf8.DecodeRuneInString(st.s)
	split := runeSplitter(func(r rune) bool { return r == mark }, splitNext)
	return func(out []piece, p piece) ([]piece, error) {
		p.text = strings.ReplaceAll(p.text, " ", st.s)
		if p.text != "" && !strings.HasPrefix(p.text, st.s) &&
			(st.n == prependAlways || st.n == prependFirst && p.first) {
			p.text = st.s + p.text
		}
		if !st.a {
			if p.text != "" {
				out = append(out, p)
			}
			return out, nil
		}
		return split(out, p)
	}
}

func fixedSplitter(n int) splitter {
	return func(out []piece, p piece) ([]piece, error) {
		for i := 0; i < len(p.text); {
			j := i
			for c := 0; c < n && j < len(p.text); c++ {
				_, size := utf8.DecodeRuneInString(p.text[j:])
				j += size
			}
			out = append(out, piece{p.text[i:j], p.first && i == 0})
			i = j
		}
		return out, nil
	}
}

// isPunctuation is ASCII punctuation or Unicode category P.
func isPunctuation(r rune) bool {
	if r < 128 {
		return r > ' ' && r < 127 && asciiClass[r] == classOther
	}
	return unicode.IsPunct(r)
}

// wordRuns reports \w+|[^\w\s]+ as parts that do not match, so that Removed
// drops the white space between them.
func wordRuns(s string, add func(int, int, bool)) {
	kind := func(r rune) int {
		switch {
		case isWord(r):
			return 1
		case isSpace(r):
			return 2
		}
		return 3
	}
	at, was := 0, 0
	for i, r := range s {
		k := kind(r)
		if k != was && i > 0 {
			add(at, i, was == 2)
			at = i
		}
		was = k
	}
	if at < len(s) {
		add(at, len(s), was == 2)
	}
}
