package slmrt

import (
	"context"
	"crypto/sha256"
	"fmt"
	"slices"

	"slmc/formats"
	"slmc/tensor"
)

// Speculative decoding (arXiv 2211.17192): a cheap source proposes some tokens,
// the model computes the logits after all of them in one pass, which reads the
// weights once, and those proposals stand that the model itself would have
// chosen. The source is a smaller model, or the text so far: what followed the
// last tokens when they stood there before (prompt lookup, arXiv 2304.04487,
// section 3).
//
// Where we differ: a proposal stands when it is the very token that the
// request's sampler takes from the model's logits, instead of by rejection
// sampling. Logits are the same bits however tokens are cut into passes, so the
// tokens, of greedy and of seeded sampling, are those of a generation without
// speculation, not just tokens of the same distribution. A draft draws with a
// copy of the sampler, the same random numbers included, so that it agrees as
// often as the distributions do.

// Speculation chooses the source of proposals; the zero value is none. It never
// changes a token.
type Speculation struct {
	Draft   *Model  // proposes by its own logits; nil: none
	Options Options // of the draft's session; Context 0: as many as both have
	// Lookup is the longest run of last tokens that is looked for in what the
	// session has read and written; 0: none. With both, the draft proposes where
	// nothing is found.
	Lookup int
	// Tokens is the most proposals of a pass; 0: DefaultProposals. How many are
	// made follows what was accepted before.
	Tokens int
}

// DefaultProposals is the most proposals of a pass unless a Speculation says
// otherwise (bench/speculative.md).
const DefaultProposals = 4

// Limits of a Speculation's numbers: more is a mistake.
const (
	maxLookup    = 64
	maxProposals = 64
)

// ErrDraft is a draft that can't propose tokens of the model: it has another
// tokenizer. It is of kind formats.ErrUnsupported.
var ErrDraft = fmt.Errorf("draft model: %w", formats.ErrUnsupported)

// Speculated tells how proposals fared. A pass is a step of the model after the
// prompt: without speculation each token but the last takes one.
type Speculated struct {
	Proposed      int     `json:"proposed"`
	Accepted      int     `json:"accepted"`
	Passes        int     `json:"passes"`
	TokensPerPass float64 `json:"tokens_per_pass"` // steps of a plain generation / Passes
}

// Speculator proposes tokens for the sessions of one model, one request at a
// time. It remembers what its last request's session held.
type Speculator struct {
	o     Speculation
	vocab int
	draft *Session // nil: lookup only
	owns  *Model   // to be closed; may be nil
	fed   []int32  // what the draft's session holds

	history []int32 // what the model's session holds from position base on
	base    int
	next    int // how many to propose

	pass trial
	sum  Speculated
}

// trial is one pass of the model over a token and the proposals after it.
type trial struct {
	ids   []int32
	rows  [][]float32 // logits [V] after each of ids
	at    int         // of ids that stand; their rows were given out
	start int         // position of ids[0]
	seen  [][]float32 // by block: states [len(ids) D], when somebody observes
	width int         // D
}

// NewSpeculator prepares speculation for sessions of m. A draft whose tokenizer
// differs is ErrDraft; one that does not fit Options.Budget is ErrMemory.
func NewSpeculator(m *Model, o Speculation) (*Speculator, error) {
	if o.Lookup < 0 || o.Lookup > maxLookup || o.Tokens < 0 || o.Tokens > maxProposals {
		return nil, fmt.Errorf("speculation with a lookup of %d and %d tokens, want 0 to %d and 0 to %d", o.Lookup, o.Tokens, maxLookup, maxProposals)
	}
	o.Tokens = o.proposals()
	sp := &Speculator{o: o, vocab: m.Graph.Vocab, next: o.Tokens}
	if o.Draft == nil {
		return sp, nil
	}
	if err := sameTokenizer(m, o.Draft); err != nil {
		return nil, err
	}
	if o.Options.Context == 0 {
		o.Options.Context = min(m.Context, o.Draft.Context)
	}
	var err error
	if sp.draft, err = o.Draft.NewSession(o.Options); err != nil {
		return nil, fmt.Errorf("draft model: %w", err)
	}
	return sp, nil
}

// proposals is the most of a pass.
func (o Speculation) proposals() int {
	if o.Tokens == 0 {
		return DefaultProposals
	}
	return o.Tokens
}

// rowBytes is what the logits of a pass take, beside the draft.
func (o Speculation) rowBytes(m *Model) int64 {
	return 4 * int64(m.Graph.Vocab) * int64(o.proposals()+1)
}

// sameTokenizer compares the serialized tokenizers, the bytes of a bundle's
// section.
func sameTokenizer(m, draft *Model) error {
	if m.Tokenizer == nil || draft.Tokenizer == nil {
		if m.Tokenizer == draft.Tokenizer && m.Graph.Vocab == draft.Graph.Vocab {
			return nil
		}
		return fmt.Errorf("%w: one of the two models has no tokenizer, so their ids can not be compared", ErrDraft)
	}
	a, b := sha256.Sum256(m.Tokenizer.Marshal()), sha256.Sum256(draft.Tokenizer.Marshal())
	if a != b {
		return fmt.Errorf("%w: its tokenizer has SHA-256 %x, the model's %x; a draft must read and write the same ids", ErrDraft, b, a)
	}
	return nil
}

// Close ends the draft's session, and closes the draft if OpenSpeculator opened
// it.
func (sp *Speculator) Close() error {
	if sp.draft != nil {
		sp.draft.Close()
	}
	if sp.owns != nil {
		return sp.owns.Close()
	}
	return nil
}

// decoder feeds a session token by token, with proposals if it has a
// speculator.
type decoder struct {
	s  *Session
	sp *Speculator // nil: one pass a token
}

// start feeds the prompt.
func (d decoder) start(ctx context.Context, prompt []int32) ([]float32, error) {
	if sp := d.sp; sp != nil {
		if known := d.s.pos - sp.base; known >= 0 && known <= len(sp.history) {
			sp.history = sp.history[:known]
		} else {
			sp.history, sp.base = sp.history[:0], d.s.pos
		}
		sp.history = append(sp.history, prompt...)
		sp.pass, sp.sum, sp.next = trial{start: d.s.pos + len(prompt)}, Speculated{}, sp.o.Tokens
	}
	return d.s.Feed(ctx, prompt)
}

// room is Session.Room as if no proposal had been fed.
func (d decoder) room() int {
	if d.sp == nil {
		return d.s.Room()
	}
	return d.s.o.Context - d.sp.pass.start - d.sp.pass.at
}

// end forgets what was fed beyond the tokens that stand.
func (d decoder) end() {
	if d.sp != nil {
		d.s.Truncate(d.sp.pass.start + d.sp.pass.at)
	}
}

// step feeds the token at the end of seen and returns the logits [V] after it,
// valid until the next call. s is the sampler that will see them, left bytes
// the most further tokens that are wanted, 0 for any number.
func (d decoder) step(ctx context.Context, seen []int32, s *Sampler, left int) ([]float32, error) {
	sp := d.sp
	if sp == nil {
		return d.s.Feed(ctx, seen[len(seen)-1:])
	}
	id := seen[len(seen)-1]
	sp.history = append(sp.history, id)
	p := &sp.pass
	if p.at == len(p.ids) || p.ids[p.at] != id {
		if err := d.run(ctx, seen, s, left); err != nil {
			sp.history = sp.history[:len(sp.history)-1]
			return nil, err
		}
	} else {
		sp.sum.Accepted++
	}
	sp.sum.TokensPerPass = float64(sp.sum.Accepted+sp.sum.Passes) / float64(sp.sum.Passes)
	d.show(p.at)
	p.at++
	return p.rows[p.at-1], nil
}

// run makes a pass over the token at the end of seen and proposals.
func (d decoder) run(ctx context.Context, seen []int32, s *Sampler, left int) error {
	sp, p := d.sp, &d.sp.pass
	sp.adapt()
	d.end()
	p.start, p.at = d.s.pos, 0
	most := min(sp.next, d.s.Room()-1)
	if left > 0 {
		most = min(most, left-1) // the last token that is wanted needs no logits after it
	}
	p.ids = append(p.ids[:0], seen[len(seen)-1])
	if most > 0 {
		var err error
		if p.ids, err = sp.propose(ctx, p.ids, seen, s, most); err != nil {
			return err
		}
	}
	sp.sum.Passes++
	err := d.logits(ctx)
	if err != nil && len(p.ids) > 1 && ctx.Err() == nil {
		// A proposal may break what the model's own tokens do not.
		p.ids = p.ids[:1]
		err = d.logits(ctx)
	}
	sp.sum.Proposed += len(p.ids) - 1
	return err
}

// adapt sets the number of the next proposals: more after a pass in which all
// stood, one more than stood otherwise.
func (sp *Speculator) adapt() {
	p := &sp.pass
	if len(p.ids) < 2 {
		return
	}
	sp.next = min(p.at, sp.o.Tokens)
	if p.at == len(p.ids) {
		sp.next = min(2*p.at, sp.o.Tokens)
	}
}

// logits feeds the pass and keeps the logits after each of its tokens, and the
// states if they are observed.
func (d decoder) logits(ctx context.Context) error {
	p := &d.sp.pass
	for len(p.rows) < len(p.ids) {
		p.rows = append(p.rows, make([]float32, d.sp.vocab))
	}
	if see := d.s.see; see != nil {
		for i := range p.seen {
			p.seen[i] = p.seen[i][:0]
		}
		d.s.see = p.keep
		defer func() { d.s.see = see }()
	}
	return d.s.Logits(ctx, p.ids, func(i int, z []float32) error {
		copy(p.rows[i], z)
		return nil
	})
}

// keep copies the states of a block; a pass may come in several batches, each
// with all of its rows since all logits are wanted.
func (p *trial) keep(block int, x *tensor.Mat) {
	for len(p.seen) <= block {
		p.seen = append(p.seen, nil)
	}
	p.width = x.C
	for r := range x.R {
		p.seen[block] = append(p.seen[block], x.Row(r)[:x.C]...)
	}
}

// show hands the states of token i of the pass to the observer, as a pass of
// that token alone would.
func (d decoder) show(i int) {
	if d.s.see == nil {
		return
	}
	p := &d.sp.pass
	for block, x := range p.seen {
		d.s.see(block, &tensor.Mat{R: 1, C: p.width, Stride: p.width, X: x[i*p.width:][:p.width]})
	}
}

// propose appends up to n proposals for what follows seen to ids.
func (sp *Speculator) propose(ctx context.Context, ids, seen []int32, s *Sampler, n int) ([]int32, error) {
	found := lookup(ids, sp.history, sp.o.Lookup, n)
	if len(found) > len(ids) || sp.draft == nil {
		return found, nil
	}
	return sp.ask(ctx, ids, seen, s, n)
}

// lookup appends n tokens to dst as they followed the last occurrence of the
// longest run, of at most longest tokens, that ends history; none when no run
// occurs twice. Where history ends, what was appended goes on: a text that
// repeats itself is continued around.
func lookup(dst, history []int32, longest, n int) []int32 {
	for size := min(longest, len(history)-1); size > 0; size-- {
		run := history[len(history)-size:]
		for at := len(history) - size - 1; at >= 0; at-- {
			if !slices.Equal(history[at:at+size], run) {
				continue
			}
			period := len(history) - size - at
			for i := range n {
				dst = append(dst, history[at+size+i%period])
			}
			return dst
		}
	}
	return dst
}

// ask lets the draft go on from the history.
func (sp *Speculator) ask(ctx context.Context, ids, seen []int32, s *Sampler, n int) ([]int32, error) {
	same := 0
	for same < min(len(sp.fed), len(sp.history)-1) && sp.fed[same] == sp.history[same] {
		same++
	}
	more := sp.history[same:]
	sp.draft.Truncate(same)
	sp.fed = sp.fed[:same]
	if len(more) > sp.draft.Room() {
		return ids, nil // the draft is full; the model goes on alone
	}
	twin, told := s.twin(), slices.Clone(seen)
	for i := 0; ; i++ {
		z, err := sp.draft.Feed(ctx, more)
		if err != nil {
			if ctx.Err() != nil {
				return ids, err
			}
			return ids, nil // a draft that fails proposes nothing
		}
		sp.fed = append(sp.fed, more...)
		id := twin.Next(z[:min(len(z), sp.vocab)], told)
		ids, told = append(ids, id), append(told, id)
		if i+1 == n || sp.draft.Room() == 0 {
			return ids, nil
		}
		more = told[len(told)-1:]
	}
}

// twin is a sampler that will draw what s will draw.
func (s *Sampler) twin() *Sampler {
	r := *s.rand
	return &Sampler{c: s.c, rand: &r}
}
