// Package slmrt is the reference mobile runtime: it runs a model, float or
// packed, and gives the same logits, bit for bit, on every CPU, with every
// kernel, thread count and batch size. It reads bundles and nothing else;
// whoever has another source hands in a Model.
package slmrt

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"slmc/internal/deferral"
	"slmc/internal/exec"
	"slmc/internal/kernel"
	"slmc/model"
	"slmc/tensor"
	"slmc/tokenizer"
	"slmc/tokenizer/jinja"
)

// The failures that callers tell apart with errors.Is. ErrMemory and
// ErrContext are limits that were hit before anything was allocated or
// computed; ErrToken is an id outside the vocabulary.
var (
	ErrMemory  = errors.New("memory budget")
	ErrContext = errors.New("context limit")
	ErrToken   = errors.New("token id")
)

// Model is what sessions run. It is immutable and shared by sessions.
type Model struct {
	Graph     *model.Graph
	Params    *exec.Params
	Tokenizer *tokenizer.Tokenizer // nil: ids only
	Template  *jinja.Template      // nil: no chat
	BOS       int32                // -1 without one
	Stops     []int32              // ids that end a generation
	Special   map[string]string    // bos_token and such, for the template
	Context   int                  // most positions of a session
	KV        exec.KVFormat        // cache format unless the session asks for another
	router    *deferral.Router     // nil: the model does not defer
	Mapped    int64                // bytes of the file that stay mapped, 0 for models in memory
	// guard runs a function that touches mapped memory; nil: nothing is mapped.
	guard func(func() error) error
	close func() error
}

// Close unmaps the bundle. No session may be used afterwards.
func (m *Model) Close() error {
	if m.close == nil {
		return nil
	}
	return m.close()
}

// Options choose how a session runs; the zero value runs on all cores with the
// model's own context and cache format. None of them but KV changes a result.
type Options struct {
	Context int           // positions to make room for; 0: the model's
	Batch   int           // tokens of a prefill step; 0: DefaultBatch
	Threads int           // 0: DefaultThreads
	Kernel  string        // kernel.Select's name; "": the fastest
	KV      exec.KVFormat // "": the model's
	Budget  int64         // bytes the process may take for model and session; 0: no limit
}

// DefaultBatch is the number of prompt tokens that one step takes. More are
// faster (bench/speed.md), and take more memory.
const DefaultBatch = 128

func (o Options) resolve(m *Model) (Options, error) {
	if o.Context == 0 {
		o.Context = m.Context
	}
	if o.Context < 1 || o.Context > m.Context {
		return o, fmt.Errorf("%w: %d positions asked for, the model has %d", ErrContext, o.Context, m.Context)
	}
	if o.Batch == 0 {
		o.Batch = DefaultBatch
	}
	o.Batch = max(1, min(o.Batch, o.Context))
	if o.Threads == 0 {
		o.Threads = DefaultThreads()
	}
	if o.KV == "" {
		o.KV = m.KV
	}
	return o, nil
}

// Memory is what a session takes, in bytes.
type Memory struct {
	Weights int64 `json:"weights"` // mapped file, or weights in memory
	Cache   int64 `json:"cache"`
	Work    int64 `json:"work"`
	Total   int64 `json:"total"`
}

// Memory returns what a session with these options takes, before it is made.
func (m *Model) Memory(o Options) (Memory, error) {
	o, err := o.resolve(m)
	if err != nil {
		return Memory{}, err
	}
	mem := Memory{
		Weights: m.Mapped,
		Cache:   int64(exec.KVBytesPerToken(m.Graph, o.KV)) * int64(o.Context),
		Work:    int64(exec.WorkBytes(m.Graph, m.Params.Format, o.Batch, LogitRows(o.Batch, m.Graph.Vocab), o.Context, o.Threads)),
	}
	if m.Mapped == 0 {
		for _, w := range m.Params.Mats {
			mem.Weights += int64(len(w.Panels))
		}
	}
	mem.Total = mem.Weights + mem.Cache + mem.Work
	return mem, nil
}

// LogitRows is the number of tokens whose logits one step computes when all
// are asked for: at most 4 MiB of them, and at least one.
func LogitRows(batch, vocab int) int { return min(batch, max(1, 1<<20/vocab)) }

// ProcessBytes is about what a process takes beside what Memory counts: the
// code that runs, Go's own memory, manifest and tokenizer (bench/speed.md).
const ProcessBytes = 7 << 20

// Session is one sequence: its cache and its place in it. It is not safe for
// concurrent use.
type Session struct {
	m      *Model
	o      Options
	pool   *exec.Pool
	cache  *exec.Cache
	ops    *exec.Plain
	pos    int
	kernel string // the implementation that was chosen
	f      *kernel.Funcs
	see    func(block int, x *tensor.Mat)
	feed   feed         // the call under way
	run    func() error // batches, as a value made once
}

// NewSession checks the memory contract, then allocates. A budget that is too
// small is ErrMemory, with the numbers.
func (m *Model) NewSession(o Options) (*Session, error) {
	o, err := o.resolve(m)
	if err != nil {
		return nil, err
	}
	mem, err := m.Memory(o)
	if err != nil {
		return nil, err
	}
	if o.Budget > 0 && mem.Total > o.Budget {
		return nil, fmt.Errorf("%w: the session takes %d bytes (weights %d, cache %d for %d positions of %s, work %d), the budget is %d; give a smaller context or a larger budget",
			ErrMemory, mem.Total, mem.Weights, mem.Cache, o.Context, o.KV, mem.Work, o.Budget)
	}
	f, err := kernel.Select(o.Kernel)
	if err != nil {
		return nil, err
	}
	s := &Session{m: m, o: o, pool: exec.NewPool(o.Threads), cache: exec.MapCache(m.Graph, o.KV, o.Context), kernel: f.Name, f: f}
	s.run = s.batches
	s.ops = exec.NewPlain(m.Graph, m.Params, f, s.pool, s.cache)
	return s, nil
}

// Close ends the session's threads and gives its cache back. It must not be
// used afterwards.
func (s *Session) Close() {
	s.pool.Close()
	s.cache.Close()
}

// Pos is the number of tokens that the session has seen.
func (s *Session) Pos() int { return s.pos }

// Room is the number of tokens that still fit.
func (s *Session) Room() int { return s.o.Context - s.pos }

// Truncate forgets all but the first n tokens.
func (s *Session) Truncate(n int) { s.pos = min(s.pos, max(n, 0)) }

// Feed appends ids and returns the logits [V] after the last of them, valid
// until the next call. Nothing is changed when it fails. Feeding one token
// allocates nothing.
func (s *Session) Feed(ctx context.Context, ids []int32) ([]float32, error) {
	err := s.forward(feed{ctx: ctx, ids: ids, batch: s.o.Batch})
	return s.feed.last, err
}

// Logits appends ids and gives each of them the logits [V] that follow it, in
// order; z is valid during the call only.
func (s *Session) Logits(ctx context.Context, ids []int32, each func(i int, z []float32) error) error {
	return s.forward(feed{ctx: ctx, ids: ids, batch: LogitRows(s.o.Batch, s.m.Graph.Vocab), each: each})
}

// feed is one call of Feed or Logits. With each, all ids get their logits;
// without, last receives those of the last.
type feed struct {
	ctx   context.Context
	ids   []int32
	batch int
	each  func(i int, z []float32) error
	last  []float32
}

// forward runs p in batches.
func (s *Session) forward(p feed) error {
	s.feed = p
	if err := s.check(p.ids); err != nil {
		return err
	}
	start := s.pos
	var err error
	if s.m.guard != nil {
		err = s.m.guard(s.run)
	} else {
		err = s.run()
	}
	s.feed.ctx, s.feed.ids, s.feed.each = nil, nil, nil
	if err != nil {
		s.pos, s.feed.last = start, nil
	}
	return err
}

// batches runs the session's feed.
func (s *Session) batches() error {
	p := &s.feed
	s.ops.See = s.see
	for i := 0; i < len(p.ids); i += p.batch {
		if err := p.ctx.Err(); err != nil {
			return err
		}
		part := p.ids[i:min(i+p.batch, len(p.ids))]
		from := 0
		if p.each == nil {
			from = len(part)
			if i+p.batch >= len(p.ids) {
				from-- // the last token's logits are the result
			}
		}
		z, err := exec.Forward(s.m.Graph, s.ops, exec.Batch{IDs: part, Pos: s.pos}, from)
		if err != nil {
			return err
		}
		s.pos += len(part)
		if z == nil {
			continue
		}
		for r := range z.R {
			row := z.Row(r)
			if !(s.f.AbsMax(row) <= math.MaxFloat32) {
				return fmt.Errorf("logits at position %d: %w", s.pos-z.R+r, exec.ErrNotFinite)
			}
			if p.each == nil {
				p.last = row
			} else if err := p.each(i+from+r, row); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Session) check(ids []int32) error {
	if len(ids) == 0 {
		return fmt.Errorf("%w: nothing to feed", ErrToken)
	}
	if len(ids) > s.Room() {
		return fmt.Errorf("%w: %d tokens after %d do not fit %d positions; give fewer tokens, or more positions if the model has them", ErrContext, len(ids), s.pos, s.o.Context)
	}
	bad := slices.IndexFunc(ids, func(id int32) bool { return id < 0 || int(id) >= s.m.Graph.Vocab })
	if bad >= 0 {
		return fmt.Errorf("%w: %d at index %d, the vocabulary has %d", ErrToken, ids[bad], bad, s.m.Graph.Vocab)
	}
	return nil
}
