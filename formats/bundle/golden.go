package bundle

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"unsafe"

	"slmc/formats"
)

// Golden is what the golden section holds: prompts with what the packed model
// answers, bit for bit, and what its float teacher thinks of them. A runtime
// that replays the prompts shows that it computes what the build computed; the
// teacher's numbers say how far the bundle is from its source. The section is
// canonical JSON.
type Golden struct {
	// Origin says where the prompts are from: "sampled" by the model itself
	// with Seed, or "given".
	Origin  string         `json:"origin"`
	Seed    uint64         `json:"seed,string"`
	Prompts []GoldenPrompt `json:"prompts"`
}

// GoldenPrompt is one prompt. Position t is that of IDs[t]; the logits there
// are those for the token that follows.
type GoldenPrompt struct {
	IDs    []int          `json:"ids"`
	Logits []LogitsDigest `json:"logits"` // at each position of IDs
	// Greedy are the tokens that argmax gives after IDs, whatever ids end a
	// text; GreedyLogits those after each of them was fed.
	Greedy       []int          `json:"greedy"`
	GreedyLogits []LogitsDigest `json:"greedy_logits"`
	// Teacher is the float model at each position of IDs; empty without one.
	Teacher []TeacherStep `json:"teacher"`
}

// TeacherStep is the teacher's view of the token after one position.
type TeacherStep struct {
	Top []TokenLogProb `json:"top"` // the most likely five, best first
	// NLL is that of the token that follows: IDs[t+1], at the last position
	// Greedy[0]. Nats.
	NLL float32 `json:"nll"`
}

// TokenLogProb is a token with its natural log probability.
type TokenLogProb struct {
	ID      int     `json:"id"`
	LogProb float32 `json:"logprob"`
}

// LogitsDigest is the first half of the SHA-256 of V logits as little-endian
// float32, bit for bit: 0 and -0 differ.
type LogitsDigest [16]byte

// String returns 32 lower-case hexadecimal digits.
func (d LogitsDigest) String() string { return hex.EncodeToString(d[:]) }

// MarshalText implements encoding.TextMarshaler.
func (d LogitsDigest) MarshalText() ([]byte, error) { return hex.AppendEncode(nil, d[:]), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *LogitsDigest) UnmarshalText(text []byte) error { return unhex(d[:], text) }

// DigestLogits digests the V logits of one position.
func DigestLogits(logits []float32) LogitsDigest {
	// Little-endian machines only, as in float32s.
	sum := sha256.Sum256(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(logits))), 4*len(logits)))
	return LogitsDigest(sum[:])
}

// Digest sums up all logits digests of g, in order: one value to compare
// between machines.
func (g *Golden) Digest() Digest {
	h := sha256.New()
	var n [8]byte
	for _, p := range g.Prompts {
		for _, list := range [][]LogitsDigest{p.Logits, p.GreedyLogits} {
			binary.LittleEndian.PutUint64(n[:], uint64(len(list)))
			h.Write(n[:])
			for _, d := range list {
				h.Write(d[:])
			}
		}
	}
	return Digest(h.Sum(nil))
}

// teacherTop is the number of tokens of TeacherStep.Top, fewer in a smaller
// vocabulary.
const teacherTop = 5

// Encode returns the section's bytes after checking g against the vocabulary.
func (g *Golden) Encode(vocab int) ([]byte, error) {
	c := *g
	c.Prompts = append([]GoldenPrompt{}, g.Prompts...)
	for i := range c.Prompts {
		p := &c.Prompts[i]
		fillNil(&p.IDs)
		fillNil(&p.Logits)
		fillNil(&p.Greedy)
		fillNil(&p.GreedyLogits)
		p.Teacher = append([]TeacherStep{}, p.Teacher...)
		for t := range p.Teacher {
			fillNil(&p.Teacher[t].Top)
		}
	}
	if err := c.check(vocab); err != nil {
		return nil, fmt.Errorf("golden: %w", err)
	}
	text, err := canonical(c)
	if err != nil {
		return nil, fmt.Errorf("golden: %w", err)
	}
	if len(text) > MaxGolden {
		return nil, fmt.Errorf("golden: %d bytes, at most %d are allowed", len(text), MaxGolden)
	}
	if at, err := checkCanonical(text); err != nil {
		return nil, fmt.Errorf("golden: at byte %d: %w", at, err)
	}
	return text, nil
}

// DecodeGolden reads the section's bytes; ids must be below vocab. newer says,
// as for DecodeManifest, that fields unknown to this version are ignored. The
// error carries no file name.
func DecodeGolden(text []byte, vocab int, newer bool) (*Golden, error) {
	if len(text) > MaxGolden {
		return nil, fmt.Errorf("golden: %d bytes, at most %d are read", len(text), MaxGolden)
	}
	g := new(Golden)
	at, err := decodeCanonical(text, g, newer)
	if err != nil {
		return nil, fmt.Errorf("golden: at byte %d: %w", at, err)
	}
	again, err := g.Encode(vocab)
	if err != nil {
		return nil, err
	}
	if at, err = sameText(text, again, newer); err != nil {
		return nil, fmt.Errorf("golden: at byte %d: %w", at, err)
	}
	return g, nil
}

// Golden decodes the golden section; nil without one.
func (b *Bundle) Golden() (g *Golden, err error) {
	s := b.manifest.Section(SectionGolden)
	if s == nil {
		return nil, nil
	}
	err = b.Guard(func() error {
		g, err = DecodeGolden(b.Section(SectionGolden), b.manifest.Graph.Vocab, b.header.minor > Minor)
		if err != nil {
			return &formats.Error{File: b.name, Offset: s.Offset, Kind: formats.ErrCorrupt, Msg: "section", Err: err}
		}
		return nil
	})
	return g, err
}

func (g *Golden) check(vocab int) error {
	if err := checkName("origin", g.Origin); err != nil {
		return err
	}
	for i := range g.Prompts {
		if err := g.Prompts[i].check(vocab); err != nil {
			return fmt.Errorf("prompts[%d]: %w", i, err)
		}
	}
	return nil
}

func (p *GoldenPrompt) check(vocab int) error {
	switch {
	case len(p.IDs) == 0:
		return fmt.Errorf("no ids")
	case len(p.Logits) != len(p.IDs):
		return fmt.Errorf("%d logits digests for %d ids", len(p.Logits), len(p.IDs))
	case len(p.GreedyLogits) != len(p.Greedy):
		return fmt.Errorf("%d logits digests for %d greedy tokens", len(p.GreedyLogits), len(p.Greedy))
	case len(p.Teacher) != 0 && len(p.Teacher) != len(p.IDs):
		return fmt.Errorf("teacher at %d positions of %d", len(p.Teacher), len(p.IDs))
	case len(p.Teacher) != 0 && len(p.Greedy) == 0:
		return fmt.Errorf("teacher without the token that follows")
	}
	for _, ids := range [][]int{p.IDs, p.Greedy} {
		for i, id := range ids {
			if err := inRange(fmt.Sprintf("token %d", i), id, 0, vocab-1); err != nil {
				return err
			}
		}
	}
	for t := range p.Teacher {
		if err := p.Teacher[t].check(vocab); err != nil {
			return fmt.Errorf("teacher[%d]: %w", t, err)
		}
	}
	return nil
}

func (s *TeacherStep) check(vocab int) error {
	if want := min(teacherTop, vocab); len(s.Top) != want {
		return fmt.Errorf("%d top tokens, wanted %d", len(s.Top), want)
	}
	best := float32(0)
	for i, t := range s.Top {
		if err := inRange(fmt.Sprintf("top[%d]", i), t.ID, 0, vocab-1); err != nil {
			return err
		}
		if !(t.LogProb <= best) || math.IsInf(float64(t.LogProb), 0) {
			return fmt.Errorf("top[%d]: log probability %g, wanted at most %g", i, t.LogProb, best)
		}
		best = t.LogProb
	}
	return finite("nll", s.NLL, 0, false)
}
