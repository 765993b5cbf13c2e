package tokenizer

import (
	"encoding/binary"
	"fmt"
	"math"
)

// The serialized form that a bundle holds: the whole tokenizer as it runs, so
// that a phone neither parses 33 MB of JSON nor re-derives merges. Little
// endian; "uvarint" is that of encoding/binary; a string is a uvarint length and
// bytes; a list is a uvarint count and its elements.
//
//	magic "SLTK", version uint8
//	family, model uint8; flags uint8 (raw bytes, byte fallback, fuse unk, ignore merges, parse raw)
//	unk, bos, eos, pad: uvarint of id+1
//	maxWord uvarint; subword prefix, word suffix, unk text, charsmap, template: strings
//	tokens: count, kinds (1 byte each), lengths (uvarints), bytes of all tokens
//	scores: width uint8 (0, 4 or 8 bytes), values
//	order: list of uvarint ids, ascending by token bytes; unigram and greedy only
//	merges: count, then left, right and result as 3 bytes each
//	added tokens: list of id, flags uint8, string
//	normalizer, pre-tokenizer, decoder: lists of op string, s, t strings, flags uint8, n uvarint
//	prefix, suffix, end ids: lists of uvarints
const (
	marshalMagic   = "SLTK"
	marshalVersion = 1
)

// Marshal returns the serialized tokenizer. It is the same bytes for the same
// tokenizer, whatever it was loaded from in between.
func (t *Tokenizer) Marshal() []byte {
	s, v := t.spec, t.spec.vocab
	w := &writer{b: make([]byte, 0, len(v.blob)+8*len(s.merges)+8*v.size()+4096)}
	w.b = append(append(w.b, marshalMagic...), marshalVersion)
	w.b = append(w.b, byte(s.family), byte(s.model), flagBits(s.rawBytes, s.byteFallback, s.fuseUnk, s.ignoreMerges, s.parseRaw))
	for _, id := range []int32{s.unk, s.bos, s.eos, s.pad} {
		w.uint(uint64(id + 1))
	}
	w.uint(uint64(s.maxWord))
	for _, x := range []string{s.subwordPrefix, s.wordSuffix, s.unkText, string(s.charsmap), s.template} {
		w.string(x)
	}
	w.vocab(v)
	w.scores(s.scores)
	w.ids(t.order())
	w.merges(s.merges)
	w.uint(uint64(len(s.added)))
	for _, a := range s.added {
		w.uint(uint64(a.ID))
		w.b = append(w.b, flagBits(a.Special, a.SingleWord, a.LStrip, a.RStrip, a.Normalized))
		w.string(a.Content)
	}
	for _, steps := range [][]step{s.normalize, s.pre, s.decode} {
		w.uint(uint64(len(steps)))
		for _, st := range steps {
			w.string(st.op)
			w.string(st.s)
			w.string(st.t)
			w.b = append(w.b, flagBits(st.a, st.b))
			w.uint(uint64(st.n))
		}
	}
	w.ids(s.prefix)
	w.ids(s.suffix)
	w.ids(s.eog)
	return w.b
}

// order returns the order in which the model's matcher holds its tokens.
func (t *Tokenizer) order() []int32 {
	var m *matcher
	switch x := t.rawModel.(type) {
	case *unigramModel:
		m = x.trie
	case *greedyModel:
		m = x.trie
	default:
		return nil
	}
	ids := make([]int32, len(m.pats))
	for i, p := range m.pats {
		ids[i] = p.id
	}
	return ids
}

// Unmarshal reads what Marshal wrote. Errors: ErrCorrupt for damage,
// ErrUnsupported for a version this package does not know. data is not
// referred to afterwards.
func Unmarshal(data []byte) (*Tokenizer, error) {
	t, err := unmarshal(data)
	if err != nil {
		return nil, fmt.Errorf("serialized tokenizer: %w", err)
	}
	return t, nil
}

func unmarshal(data []byte) (*Tokenizer, error) {
	if len(data) < len(marshalMagic)+4 || string(data[:4]) != marshalMagic {
		return nil, fmt.Errorf("%w: no %q at the start", ErrCorrupt, marshalMagic)
	}
	if data[4] != marshalVersion {
		return nil, fmt.Errorf("%w: version %d; this build knows %d", ErrUnsupported, data[4], marshalVersion)
	}
	r := &reader{b: data, at: 5}
	s := &spec{family: int(r.byte()), model: int(r.byte())}
	if s.family < familyHF || s.family > familyGGUF {
		return nil, fmt.Errorf("%w: family %d", ErrUnsupported, s.family)
	}
	f := r.byte()
	s.rawBytes, s.byteFallback, s.fuseUnk = f&1 != 0, f&2 != 0, f&4 != 0
	s.ignoreMerges, s.parseRaw = f&8 != 0, f&16 != 0
	for _, p := range []*int32{&s.unk, &s.bos, &s.eos, &s.pad} {
		*p = int32(r.uint(maxVocab)) - 1
	}
	s.maxWord = int(r.uint(math.MaxInt32))
	for _, p := range []*string{&s.subwordPrefix, &s.wordSuffix, &s.unkText} {
		*p = r.string()
	}
	s.charsmap, s.template = []byte(r.string()), r.string()
	s.vocab = r.vocab()
	s.scores = r.scores(s.vocab.size())
	s.order = r.ids()
	s.merges = r.merges()
	for range r.count(3) {
		a := AddedToken{ID: int32(r.uint(maxVocab))}
		f := r.byte()
		a.Special, a.SingleWord, a.LStrip, a.RStrip, a.Normalized = f&1 != 0, f&2 != 0, f&4 != 0, f&8 != 0, f&16 != 0
		a.Content = r.string()
		s.added = append(s.added, a)
	}
	s.normalize, s.pre, s.decode = r.steps(), r.steps(), r.steps()
	s.prefix, s.suffix, s.eog = r.ids(), r.ids(), r.ids()
	if r.err == nil && r.at != len(data) {
		r.fail("%d bytes after the end", len(data)-r.at)
	}
	if r.err != nil {
		return nil, r.err
	}
	// The two large tables do not need each other.
	done := make(chan pairTable)
	go func() { done <- newPairTable(s.merges) }()
	err := s.vocab.index()
	s.pairs = <-done
	if err != nil {
		return nil, err
	}
	return build(s)
}

func flagBits(flags ...bool) (b byte) {
	for i, f := range flags {
		if f {
			b |= 1 << i
		}
	}
	return b
}

type writer struct{ b []byte }

func (w *writer) uint(x uint64) { w.b = binary.AppendUvarint(w.b, x) }

func (w *writer) string(s string) {
	w.uint(uint64(len(s)))
	w.b = append(w.b, s...)
}

func (w *writer) ids(ids []int32) {
	w.uint(uint64(len(ids)))
	for _, id := range ids {
		w.uint(uint64(id))
	}
}

func (w *writer) vocab(v *vocab) {
	w.uint(uint64(v.size()))
	w.b = append(w.b, v.kind...)
	for i := range v.kind {
		w.uint(uint64(v.off[i+1] - v.off[i]))
	}
	w.b = append(w.b, v.blob...)
}

func (w *writer) scores(x []float64) {
	single := true
	for _, f := range x {
		single = single && float64(float32(f)) == f
	}
	switch {
	case len(x) == 0:
		w.b = append(w.b, 0)
	case single:
		w.b = append(w.b, 4)
		for _, f := range x {
			w.b = binary.LittleEndian.AppendUint32(w.b, math.Float32bits(float32(f)))
		}
	default:
		w.b = append(w.b, 8)
		for _, f := range x {
			w.b = binary.LittleEndian.AppendUint64(w.b, math.Float64bits(f))
		}
	}
}

func (w *writer) merges(ms []merge) {
	w.uint(uint64(len(ms)))
	for _, m := range ms {
		for _, id := range [3]int32{m.left, m.right, m.out} {
			w.b = append(w.b, byte(id), byte(id>>8), byte(id>>16))
		}
	}
}

// reader reads with one error, checked at the end; after it everything is 0.
type reader struct {
	b   []byte
	at  int
	err error
}

func (r *reader) fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w at byte %d: "+format, append([]any{ErrCorrupt, r.at}, args...)...)
	}
	r.at = len(r.b)
}

func (r *reader) byte() byte {
	if r.at >= len(r.b) {
		r.fail("the data ends")
		return 0
	}
	r.at++
	return r.b[r.at-1]
}

// uint reads a uvarint of at most limit.
func (r *reader) uint(limit uint64) uint64 {
	if r.at < len(r.b) && r.b[r.at] < 0x80 && uint64(r.b[r.at]) <= limit {
		r.at++
		return uint64(r.b[r.at-1])
	}
	x, n := binary.Uvarint(r.b[r.at:])
	if n <= 0 || x > limit {
		r.fail("number %d, at most %d expected", x, limit)
		return 0
	}
	r.at += n
	return x
}

// count reads the length of a list whose elements take at least size bytes, so
// that what is left bounds what is allocated.
func (r *reader) count(size int) int {
	return int(r.uint(uint64(len(r.b)-r.at) / uint64(size)))
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.b)-r.at {
		r.fail("%d bytes wanted, %d left", n, len(r.b)-r.at)
		return nil
	}
	r.at += n
	return r.b[r.at-n : r.at]
}

func (r *reader) string() string { return string(r.take(r.count(1))) }

func (r *reader) ids() []int32 {
	n := r.count(1)
	if n == 0 {
		return nil
	}
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(r.uint(maxVocab))
	}
	return ids
}

func (r *reader) vocab() *vocab {
	n := min(r.count(2), maxVocab)
	v := &vocab{off: make([]uint32, n+1), kind: append([]byte(nil), r.take(n)...)}
	for len(v.kind) < n { // after an error
		v.kind = append(v.kind, kindAbsent)
	}
	total := uint64(0)
	for i := range n {
		k := v.kind[i]
		if k&kindMask > kindByte || k&^(kindMask|kindRaw|kindMarkup) != 0 {
			r.fail("token %d of kind %d", i, k)
		}
		if total += r.uint(maxTokenLen); total > uint64(len(r.b)) {
			r.fail("tokens of more than %d bytes", len(r.b))
		}
		v.off[i+1] = uint32(total)
	}
	v.blob = string(r.take(int(total)))
	if r.err != nil {
		return &vocab{off: make([]uint32, 1)}
	}
	return v
}

func (r *reader) scores(n int) []float64 {
	width := int(r.byte())
	if width == 0 {
		return nil
	}
	if width != 4 && width != 8 {
		r.fail("scores of %d bytes", width)
		return nil
	}
	b := r.take(n * width)
	if len(b) == 0 {
		return nil
	}
	x := make([]float64, n)
	for i := range x {
		if width == 4 {
			x[i] = float64(math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:])))
		} else {
			x[i] = math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:]))
		}
	}
	return x
}

func (r *reader) merges() []merge {
	n := r.count(9)
	if n == 0 {
		return nil
	}
	if n > maxMerges {
		r.fail("%d merges", n)
		return nil
	}
	b := r.take(9 * n)
	if b == nil {
		return nil
	}
	ms := make([]merge, n)
	for i := range ms {
		x := b[9*i : 9*i+9 : 9*i+9]
		ms[i] = merge{
			int32(x[0]) | int32(x[1])<<8 | int32(x[2])<<16,
			int32(x[3]) | int32(x[4])<<8 | int32(x[5])<<16,
			int32(x[6]) | int32(x[7])<<8 | int32(x[8])<<16,
		}
	}
	return ms
}

func (r *reader) steps() []step {
	n := r.count(5)
	if n > maxSteps {
		r.fail("%d steps", n)
		return nil
	}
	var out []step
	for range n {
		st := step{op: r.string(), s: r.string(), t: r.string()}
		f := r.byte()
		st.a, st.b = f&1 != 0, f&2 != 0
		st.n = int(r.uint(math.MaxInt32))
		out = append(out, st)
	}
	return out
}
