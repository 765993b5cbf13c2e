package tokenizer

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// GGUF gives the tokenizer as the values of a GGUF file's tokenizer.ggml.*
// keys, so that FromGGUF, and llama.cpp, give the same ids: SentencePiece-style
// vocabularies as model "llama", byte-level ones as "gpt2" with the pre type
// whose regexes are the tokenizer's. notes say in which texts the ids differ,
// because llama.cpp has no such step; nothing is dropped without one. Errors:
// ErrUnsupported for what can't be written at all, by name.
//
// EOS is the tokenizer's own; ids that end a generation stand in EndIDs.
func (t *Tokenizer) GGUF() (g GGUFVocab, notes []string, err error) {
	x := &ggufWriter{s: t.spec, g: NewGGUFVocab()}
	if err := x.write(); err != nil {
		return GGUFVocab{}, nil, fmt.Errorf("tokenizer as GGUF: %w", err)
	}
	return x.g, x.notes, nil
}

type ggufWriter struct {
	s     *spec
	g     GGUFVocab
	notes []string
}

func (x *ggufWriter) note(format string, args ...any) {
	x.notes = append(x.notes, fmt.Sprintf(format, args...))
}

func (x *ggufWriter) write() error {
	s := x.s
	var err error
	switch {
	case s.model == modelScoreBPE, s.model == modelBPE && !s.rawBytes:
		err = x.pieces()
	case s.model == modelBPE:
		err = x.byteLevel()
	default:
		err = fmt.Errorf("%w: a %s model; BPE alone is written", ErrUnsupported, modelNames[s.model])
	}
	if err != nil {
		return err
	}
	x.tokens()
	x.added()
	if s.model == modelBPE && x.g.Model == "llama" {
		x.g.Scores = mergeScores(s)
	}
	return x.wrap()
}

var modelNames = map[int]string{modelUnigram: "unigram", modelWordPiece: "WordPiece", modelWordLevel: "word level", modelGreedy: "longest-match"}

// pieces describes a vocabulary of characters with U+2581 for spaces.
func (x *ggufWriter) pieces() error {
	s := x.s
	x.g.Model, x.g.Pre = "llama", "default"
	if !s.byteFallback || slices.Contains(bytePieceIDs(s.vocab), -1) {
		return fmt.Errorf("%w: BPE of characters without byte fallback, which llama.cpp always has", ErrUnsupported)
	}
	if s.subwordPrefix != "" || s.wordSuffix != "" {
		return fmt.Errorf("%w: subword prefix %q, word suffix %q", ErrUnsupported, s.subwordPrefix, s.wordSuffix)
	}
	prefix, err := x.spaces()
	if err != nil {
		return err
	}
	x.g.AddSpacePrefix = &prefix
	if s.model == modelBPE {
		return nil
	}
	x.g.Scores = s.scores32()
	return nil
}

// spaces reads off the normalizer and the pre-tokenizer how spaces become
// U+2581, and whether one is put before a text.
func (x *ggufWriter) spaces() (prefix bool, err error) {
	marked := false
	for _, st := range x.s.normalize {
		switch {
		case st.op == "spm" && st.n == spmEscape:
			prefix, marked = st.a, true
			if st.b && x.s.family != familyGGUF {
				x.note("spaces at the ends of a text and runs of them inside are kept, not removed")
			}
			if len(x.s.charsmap) > 0 {
				x.note("characters are not replaced by the SentencePiece model's normalization map")
			}
		case st.op == "prepend" && st.s == spaceMark:
			prefix = true
		case st.op == "replace" && !st.a && st.s == " " && st.t == spaceMark:
			marked = true
		case st.op == "nfc" || st.op == "nfkc":
			x.note("texts that are not in Unicode's form %s are not brought into it", strings.ToUpper(st.op))
		default:
			return false, fmt.Errorf("%w: normalizer %q of a BPE of characters", ErrUnsupported, st.op)
		}
	}
	for _, st := range x.s.pre {
		switch {
		case st.op == "metaspace" && st.s == spaceMark && !st.a:
			prefix, marked = st.n != prependNever, true
			if st.n == prependFirst {
				x.note("a space is put before the text after each special token, not only at the start")
			}
		case st.op == "split" && marked && st.s == " " && !st.a:
			// No space is left to split at.
		default:
			return false, fmt.Errorf("%w: pre-tokenizer %q of a BPE of characters", ErrUnsupported, st.op)
		}
	}
	if !marked {
		return false, fmt.Errorf("%w: BPE of characters that does not mark spaces with %s", ErrUnsupported, spaceMark)
	}
	return prefix, nil
}

func bytePieceIDs(v *vocab) []int32 {
	ids := bytePieces(v)
	return ids[:]
}

// byteLevel finds the pre type of a byte-level vocabulary.
func (x *ggufWriter) byteLevel() error {
	s := x.s
	x.g.Model = "gpt2"
	for _, st := range s.normalize {
		if st.op != "nfc" && st.op != "nfkc" {
			return fmt.Errorf("%w: normalizer %q of a byte-level BPE", ErrUnsupported, st.op)
		}
		x.note("texts that are not in Unicode's form %s are not brought into it", strings.ToUpper(st.op))
	}
	want, err := canonicalPre(s.pre)
	if err != nil {
		return err
	}
	for _, p := range ggufPres {
		if p.spaceMarks || p.words || p.addSEP || p.ignoreMerges != s.ignoreMerges || !slices.Equal(p.steps(), want) {
			continue
		}
		names := strings.Fields(p.names)
		x.g.Pre = names[0]
		for _, usual := range []string{"llama-bpe", "qwen2", "smollm", "gpt-2", "gpt-4o", "deepseek-v3"} {
			if slices.Contains(names, usual) {
				x.g.Pre = usual
			}
		}
		x.merges()
		return nil
	}
	return fmt.Errorf("%w: llama.cpp has no tokenizer.ggml.pre type for the pre-tokenizer %v with ignore_merges %v", ErrUnsupported, want, s.ignoreMerges)
}

// steps are the pre-tokenizer's regexes and its custom splitter, in the form of
// canonicalPre.
func (p ggufPre) steps() []string {
	var out []string
	if p.custom != "" {
		out = append(out, "custom "+p.custom)
	}
	for _, re := range p.regexes {
		out = append(out, canonicalRegex(re))
	}
	return out
}

// canonicalPre writes a byte-level pre-tokenizer as the regexes that isolate
// its words, one after the other.
func canonicalPre(steps []step) ([]string, error) {
	var out []string
	for i, st := range steps {
		switch {
		case st.op == "split" && st.a && (st.n == splitIsolated && !st.b || st.n == splitRemoved && st.b):
			out = append(out, canonicalRegex(st.s))
		case st.op == "digits" && st.a:
			out = append(out, `\p{N}`)
		case st.op == "afmoedigits" || st.op == "kimi":
			out = append(out, "custom "+st.op)
		case st.op == "bytelevel" && i == len(steps)-1 && !st.a:
			if st.b {
				out = append(out, canonicalRegex(gpt2Regex))
			}
		default:
			return nil, fmt.Errorf("%w: pre-tokenizer %q of a byte-level BPE", ErrUnsupported, st.op)
		}
	}
	return out, nil
}

// canonicalRegex undoes the two ways in which files write a regex of llama.cpp's
// otherwise: contractions under (?i:), and an alternative at the end that never
// matches, since one before it takes all white space that ends a text.
func canonicalRegex(re string) string {
	const folded = `(?i:'s|'t|'re|'ve|'m|'ll|'d)`
	re = strings.ReplaceAll(re, folded, preFold)
	if re == preGPT2+`|\s+` {
		return preGPT2
	}
	return re
}

func (x *ggufWriter) merges() {
	v := x.s.vocab
	x.g.Merges = make([]string, len(x.s.merges))
	for i, m := range x.s.merges {
		x.g.Merges[i] = v.text(m.left) + " " + v.text(m.right)
	}
}

// tokens lists the vocabulary with llama.cpp's kinds. Ids without a token are
// named as the rows of a padded embedding are.
func (x *ggufWriter) tokens() {
	v := x.s.vocab
	x.g.Tokens = make([]string, v.size())
	x.g.Types = make([]int32, v.size())
	for id := range int32(v.size()) {
		x.g.Tokens[id], x.g.Types[id] = v.text(id), int32(v.kind[id]&kindMask)
		switch {
		case !v.has(id):
			x.g.Tokens[id], x.g.Types[id] = PaddingToken(int(id)), kindUnused
		case id == x.s.unk:
			x.g.Types[id] = kindUnknown
		case x.g.Model == "llama" && x.s.family == familyHF:
			if _, ok := byteToken(v.at(id)); ok {
				x.g.Types[id] = kindByte
			}
		}
	}
}

// PaddingToken names row id of an embedding that no token belongs to.
func PaddingToken(id int) string { return "[PAD" + strconv.Itoa(id) + "]" }

// added marks the tokens that are found in text before the model.
func (x *ggufWriter) added() {
	sided := 0
	for _, a := range x.s.added {
		x.g.Tokens[a.ID] = a.Content
		switch {
		case a.ID == x.s.unk || x.s.family == familyGGUF:
		case a.Special:
			x.g.Types[a.ID] = kindControl
		default:
			x.g.Types[a.ID] = kindUser
		}
		if a.LStrip || a.RStrip || a.SingleWord {
			sided++
		}
	}
	kinds := make([]byte, len(x.g.Types))
	for i, k := range x.g.Types {
		kinds[i] = byte(k)
	}
	x.g.override(kinds)
	for i, k := range kinds {
		if x.g.Types[i] == kindNormal && k != kindNormal && x.s.family != familyGGUF {
			x.note("llama.cpp takes %q in a text for a special token, by its name", x.g.Tokens[i])
		}
	}
	if sided > 0 {
		x.note("%d added tokens no longer take the white space beside them, or match inside words", sided)
	}
}

// mergeScores gives pieces that are known by a list of merges the scores by
// which llama.cpp merges in that order: minus the rank of the first merge that
// makes a piece; pieces that no merge makes score below all others.
func mergeScores(s *spec) []float32 {
	scores := make([]float32, s.vocab.size())
	for i := range scores {
		scores[i] = -float32(len(s.merges))
	}
	for rank := len(s.merges) - 1; rank >= 0; rank-- {
		scores[s.merges[rank].out] = -float32(rank)
	}
	return scores
}

// wrap writes the special ids and what the post-processor adds.
func (x *ggufWriter) wrap() error {
	s := x.s
	x.g.BOS, x.g.EOS, x.g.UNK, x.g.PAD = int(s.bos), int(s.eos), int(s.unk), int(s.pad)
	bos, eos := len(s.prefix) > 0, len(s.suffix) > 0
	if len(s.prefix) > 1 || bos && s.prefix[0] != s.bos {
		return fmt.Errorf("%w: ids %v before a text; llama.cpp puts BOS (%d) there or nothing", ErrUnsupported, s.prefix, s.bos)
	}
	if len(s.suffix) > 1 || eos && s.suffix[0] != s.eos {
		return fmt.Errorf("%w: ids %v after a text; llama.cpp puts EOS (%d) there or nothing", ErrUnsupported, s.suffix, s.eos)
	}
	x.g.AddBOS, x.g.AddEOS = &bos, &eos
	x.g.ChatTemplate = s.template
	return nil
}
