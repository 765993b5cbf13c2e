package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// metaspaceStage turns the mark into a space, and drops those of the first
// token if one was prepended.
type metaspaceStage struct {
	mark string
	drop bool
	some bool
}

func (s *metaspaceStage) push(t token, emit func(token)) {
	with := " "
	if !s.some && s.drop {
		with = ""
	}
	s.some = true
	emit(token{text: replaceAll(t.text, s.mark, with)})
}
func (s *metaspaceStage) flush(func(token)) {}

// wordPieceStage joins continuation pieces and separates words.
type wordPieceStage struct {
	prefix string
	clean  bool
	some   bool
}

func (s *wordPieceStage) push(t token, emit func(token)) {
	x := t.text
	if s.some {
		if y, ok := strings.CutPrefix(x, s.prefix); ok {
			x = y
		} else {
			x = " " + x
		}
	}
	s.some = true
	if s.clean {
		x = cleanUp(x)
	}
	emit(token{text: x})
}
func (s *wordPieceStage) flush(func(token)) {}

// cleanUp undoes the spaces that word tokenizers leave before punctuation and
// contractions; the rules and their order are Hugging Face's.
func cleanUp(s string) string {
	for _, r := range [...][2]string{
		{" .", "."}, {" ?", "?"}, {" !", "!"}, {" ,", ","}, {" ' ", "'"}, {" n't", "n't"}, {" 'm", "'m"},
		{" do not", " don't"}, {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
	} {
		s = strings.ReplaceAll(s, r[0], r[1])
	}
	return s
}

// suffixStage turns the end-of-word suffix into a space, but for the last
// token into nothing; so it holds one token.
type suffixStage struct {
	suffix string
	held   string
	some   bool
}

func (s *suffixStage) push(t token, emit func(token)) {
	if s.some {
		emit(token{text: replaceAll(s.held, s.suffix, " ")})
	}
	s.held, s.some = t.text, true
}

func (s *suffixStage) flush(emit func(token)) {
	if s.some {
		emit(token{text: replaceAll(s.held, s.suffix, "")})
		s.some = false
	}
}

// ctcStage drops repeated tokens and padding.
type ctcStage struct {
	pad, word string
	clean     bool
	last      string
	some      bool
}

func (s *ctcStage) push(t token, emit func(token)) {
	if s.some && s.last == t.text {
		return
	}
	s.last, s.some = t.text, true
	x := replaceAll(t.text, s.pad, "")
	if s.clean {
		x = replaceAll(cleanUp(x), s.word, " ")
	}
	if x != "" {
		emit(token{text: x})
	}
}
func (s *ctcStage) flush(func(token)) {}

// spmStage is SentencePiece's decoder: bytes are joined into characters, each
// invalid byte is a U+FFFD, and the space that normalization put at the start
// goes.
type spmStage struct {
	v     *vocab
	unk   string
	strip bool // drop the space at the start
	all   bool // and further tokens' too, as long as there is no text
	held  []byte
	begun bool // text was written, or the added space seen
}

func (s *spmStage) push(t token, emit func(token)) {
	id := s.v.find(t.text, false)
	kind := byte(kindNormal)
	if id >= 0 {
		kind = s.v.kind[id] & kindMask
	}
	if kind == kindByte {
		if b, ok := byteToken(t.text); ok {
			s.held = append(s.held, b)
			s.drain(emit, false)
			return
		}
	}
	s.drain(emit, true)
	x := t.text
	switch kind {
	case kindUnknown:
		x = s.unk
	case kindControl:
	default:
		if !s.begun && s.strip {
			if y, ok := strings.CutPrefix(x, spaceMark); ok {
				x = y
				s.begun = !s.all
			}
		}
		x = strings.ReplaceAll(x, spaceMark, " ")
	}
	if x != "" {
		s.begun = true
		emit(token{text: x})
	}
}

// drain emits the held bytes; those that may yet become a character stay
// unless all is set.
func (s *spmStage) drain(emit func(token), all bool) {
	b := s.held
	for len(b) > 0 && (all || utf8.FullRune(b)) {
		r, n := utf8.DecodeRune(b)
		s.begun = true
		emit(token{text: string(r)})
		b = b[n:]
	}
	s.held = append(s.held[:0], b...)
}

func (s *spmStage) flush(emit func(token)) { s.drain(emit, true) }
