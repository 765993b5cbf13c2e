package tokenizer

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// Decoding is a chain of stages through which tokens pass one by one. Decode
// pushes all tokens and flushes; a stream pushes them as they are generated.
// So the two agree by construction, and each stage holds back exactly what a
// later token may still change.

// token is what passes between stages: its text, and whether the text is bytes
// of a byte-level vocabulary that are decoded already.
type token struct {
	text string
	raw  bool
}

// stage takes a token, or the end, and emits tokens.
type stage interface {
	push(t token, emit func(token))
	flush(emit func(token))
}

// stageMaker makes a fresh stage for one text.
type stageMaker func() stage

// Stream decodes tokens one by one. It is not safe for concurrent use.
type Stream struct {
	t           *Tokenizer
	skipSpecial bool
	stages      []stage
	emit        []func(token) // what stage i emits into, made once
	out         text
}

// text grows at its end and gives parts of itself as strings, so that a stream
// allocates only when it doubles.
type text struct {
	b     strings.Builder
	taken int
}

// add returns x as a string.
func (t *text) add(x []byte) string {
	n := t.b.Len()
	t.b.Write(x)
	return t.b.String()[n:]
}

// take returns what was written since the last call.
func (t *text) take() string {
	x := t.b.String()[t.taken:]
	t.taken = t.b.Len()
	return x
}

// NewStream starts decoding a text. The strings that Push and Flush return are
// complete UTF-8 characters, and together what Decode returns for all ids.
func (t *Tokenizer) NewStream(skipSpecial bool) *Stream {
	s := &Stream{t: t, skipSpecial: skipSpecial}
	for i, m := range t.stages {
		s.stages = append(s.stages, m())
		s.emit = append(s.emit, func(x token) { s.pass(i+1, x) })
	}
	return s
}

// Push adds a token and returns the text that no later token can change.
// An id that the vocabulary lacks, as the padding rows of an embedding have,
// adds nothing.
func (s *Stream) Push(id int32) string {
	s.push(id)
	return s.out.take()
}

// Flush returns the text held back; incomplete characters become U+FFFD.
func (s *Stream) Flush() string {
	for i := range s.stages {
		s.stages[i].flush(s.emit[i])
	}
	return s.out.take()
}

func (s *Stream) push(id int32) {
	v := s.t.spec.vocab
	if !v.has(id) {
		return
	}
	x := token{v.at(id), v.kind[id]&kindRaw != 0}
	if form, ok := s.t.decoded[id]; ok {
		x = token{form, false} // the reference does not know it for special then
	} else if s.skipSpecial && s.t.special[id] {
		return
	}
	s.pass(0, x)
}

func (s *Stream) pass(i int, x token) {
	if i == len(s.stages) {
		s.out.b.WriteString(x.text)
		return
	}
	s.stages[i].push(x, s.emit[i])
}

// Decode gives the text of ids; with skipSpecial, without special tokens. Ids
// that the vocabulary lacks add nothing. What cannot be UTF-8 becomes U+FFFD,
// counted as the format's reference does.
func (t *Tokenizer) Decode(ids []int32, skipSpecial bool) string {
	s := t.NewStream(skipSpecial)
	for _, id := range ids {
		s.push(id)
	}
	for i := range s.stages {
		s.stages[i].flush(s.emit[i])
	}
	return s.out.take()
}

// compileDecoders makes the stages of s.decode. After "fuse" the text is one
// token to the reference; here it passes on in parts, so the stages after it
// work across parts or wait for all of it.
func compileDecoders(s *spec) ([]stageMaker, error) {
	var out []stageMaker
	fused := false
	for _, st := range s.decode {
		m, err := compileDecoder(s, st, fused)
		if err != nil {
			return nil, fmt.Errorf("decoder %s: %w", st.op, err)
		}
		out = append(out, m)
		fused = fused || st.op == "fuse" || st.op == "bytelevel"
	}
	if len(s.decode) == 0 {
		// Without a decoder the reference joins tokens with spaces.
		out = append(out, func() stage { return &spaced{} })
	}
	return out, nil
}

func compileDecoder(s *spec, st step, fused bool) (stageMaker, error) {
	each := func(f func(string) string) stageMaker {
		return func() stage { return &perToken{f, map[string]string{}} }
	}
	switch st.op {
	case "bytelevel":
		return func() stage { return &byteLevelStage{} }, nil
	case "replace":
		n, err := compileReplace(st)
		if err != nil {
			return nil, err
		}
		f := func(x string) string {
			y, err := n(x)
			if err != nil {
				return x // out of time: the text as it is beats none
			}
			return y
		}
		if fused && (st.a || utf8.RuneCountInString(st.s) > 1) {
			return func() stage { return &whole{f: f} }, nil
		}
		return each(f), nil
	case "bytefallback":
		if fused {
			return func() stage { return &whole{inner: &byteFallbackStage{}} }, nil
		}
		return func() stage { return &byteFallbackStage{} }, nil
	case "fuse":
		return each(func(x string) string { return x }), nil
	case "strip": // s: one character, n: how many at the start, b: n is for the end
		c, _ := utf8.DecodeRuneInString(st.s)
		if st.s == "" {
			return nil, fmt.Errorf("%w: nothing to strip", ErrCorrupt)
		}
		if fused {
			return func() stage { return &stripStage{c: string(c), n: st.n, end: st.b} }, nil
		}
		return each(func(x string) string { return stripRune(x, string(c), st.n, st.b) }), nil
	case "metaspace": // s: replacement, a: a space was prepended
		return func() stage { return &metaspaceStage{mark: st.s, drop: st.a} }, nil
	case "wordpiece": // s: prefix, a: clean up
		return func() stage { return &wordPieceStage{prefix: st.s, clean: st.a} }, nil
	case "bpe": // s: suffix
		return func() stage { return &suffixStage{suffix: st.s} }, nil
	case "ctc": // s: pad token, t: word delimiter, a: clean up
		return func() stage { return &ctcStage{pad: st.s, word: st.t, clean: st.a} }, nil
	case "spm": // a: the first space was added, b: extra white space was removed
		return func() stage { return &spmStage{v: s.vocab, unk: s.unkText, strip: st.a || st.b, all: st.b} }, nil
	case "bytes":
		return func() stage { return &byteLevelStage{} }, nil
	}
	return nil, fmt.Errorf("%w: unknown decoder", ErrUnsupported)
}

// perToken is a stage that rewrites each token on its own. It keeps what it has
// rewritten: a text is made of few different tokens.
type perToken struct {
	f    func(string) string
	done map[string]string
}

func (p *perToken) push(t token, emit func(token)) {
	y, ok := p.done[t.text]
	if !ok {
		y = p.f(t.text)
		if len(p.done) < 1<<16 {
			p.done[t.text] = y
		}
	}
	emit(token{text: y})
}
func (p *perToken) flush(func(token)) {}

// spaced puts a space between tokens.
type spaced struct{ some bool }

func (s *spaced) push(t token, emit func(token)) {
	if s.some {
		t.text = " " + t.text
	}
	s.some = true
	emit(token{text: t.text})
}
func (s *spaced) flush(func(token)) {}

// whole waits for the end and then rewrites the text as one token.
type whole struct {
	f     func(string) string
	inner stage
	text  strings.Builder
}

func (w *whole) push(t token, _ func(token)) { w.text.WriteString(t.text) }
func (w *whole) flush(emit func(token)) {
	if w.inner != nil {
		w.inner.push(token{text: w.text.String()}, emit)
		w.inner.flush(emit)
		return
	}
	emit(token{text: w.f(w.text.String())})
}

// byteLevelStage joins the bytes of all tokens and emits whole characters.
// A token with a character that stands for no byte counts as it is written.
type byteLevelStage struct {
	held []byte
	out  text
}

func (s *byteLevelStage) push(t token, emit func(token)) {
	n := len(s.held)
	ok := false
	if !t.raw {
		s.held, ok = appendByteLevelDecoded(s.held, t.text)
	}
	if !ok {
		s.held = append(s.held[:n], t.text...)
	}
	if utf8.Valid(s.held) {
		x := s.out.add(s.held)
		s.held = s.held[:0]
		if x != "" {
			emit(token{text: x})
		}
		return
	}
	text, rest := lossyUTF8(s.held)
	s.held = append(s.held[:0], rest...)
	if text != "" {
		emit(token{text: text})
	}
}

func (s *byteLevelStage) flush(emit func(token)) {
	if len(s.held) > 0 {
		emit(token{text: "\uFFFD"}) // an incomplete character is one U+FFFD
		s.held = nil
	}
}

// lossyUTF8 returns the text of b with U+FFFD for each maximal invalid part
// (Unicode 15, section 3.9), and the start of a character at its end that
// further bytes may complete.
func lossyUTF8(b []byte) (text string, rest []byte) {
	if utf8.Valid(b) {
		return string(b), nil
	}
	var out strings.Builder
	for len(b) > 0 {
		r, n := utf8.DecodeRune(b)
		if r != utf8.RuneError || n > 1 {
			out.Write(b[:n])
			b = b[n:]
			continue
		}
		n = validStart(b)
		if n == len(b) && !utf8.FullRune(b) {
			return out.String(), b
		}
		out.WriteString("\uFFFD")
		b = b[n:]
	}
	return out.String(), nil
}

// validStart returns the length of the longest start of b that is the start of
// some valid character, at least 1.
func validStart(b []byte) int {
	n := 1
	for n < len(b) && n < 4 && !utf8.FullRune(b[:n]) {
		n++
	}
	// b[:n] is decided; if it is invalid, its last byte is what made it so.
	if utf8.FullRune(b[:n]) && n > 1 {
		n--
	}
	return n
}

// byteFallbackStage joins runs of byte tokens: a run that is valid UTF-8 as a
// whole becomes its text, any other one U+FFFD for each byte, as in Hugging
// Face's ByteFallback. So a run is held until it ends.
type byteFallbackStage struct{ held []byte }

func (s *byteFallbackStage) push(t token, emit func(token)) {
	if b, ok := byteToken(t.text); ok {
		s.held = append(s.held, b)
		return
	}
	s.flush(emit)
	emit(token{text: t.text})
}

func (s *byteFallbackStage) flush(emit func(token)) {
	if len(s.held) == 0 {
		return
	}
	if utf8.Valid(s.held) {
		emit(token{text: string(s.held)})
	} else {
		for range s.held {
			emit(token{text: "\uFFFD"})
		}
	}
	s.held = s.held[:0]
}

// stripRune takes up to n times c from the start or end of x.
func stripRune(x, c string, n int, end bool) string {
	for ; n > 0; n-- {
		y := strings.TrimPrefix(x, c)
		if end {
			y = strings.TrimSuffix(x, c)
		}
		if len(y) == len(x) {
			break
		}
		x = y
	}
	return x
}

// stripStage is stripRune on a text that comes in parts.
type stripStage struct {
	c    string
	n    int
	end  bool
	held string // end: the c's at the end so far
	past bool   // start: the first other character was seen
}

func (s *stripStage) push(t token, emit func(token)) {
	x := t.text
	if !s.end {
		for !s.past && x != "" {
			if s.n == 0 || !strings.HasPrefix(x, s.c) {
				s.past = true
				break
			}
			x = x[len(s.c):]
			s.n--
		}
		if x != "" {
			emit(token{text: x})
		}
		return
	}
	x = s.held + x
	cut := x
	for i := 0; i < s.n && strings.HasSuffix(cut, s.c); i++ {
		cut = cut[:len(cut)-len(s.c)]
	}
	s.held = x[len(cut):]
	if cut != "" {
		emit(token{text: cut})
	}
}

func (s *stripStage) flush(func(token)) {}
