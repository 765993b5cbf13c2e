package kvshare

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	"slmc/internal/exec"
	"slmc/internal/kernel"
	"slmc/internal/train"
	"slmc/model"
	"slmc/tensor"
)

// Healing has two parts. What is here is the cheap one: taker after taker, the
// matrices around its attention, of queries and outputs, learn to give the
// unshared model's output of that block from the shared model's own input, in
// squared error, as SwiftKV (arXiv 2410.03960, section 3.3) trains what reads
// another layer's cache and leaves the rest. We differ: it is block-wise, so
// that memory holds one block, and outputs learn too, since the values that
// they read are another block's. What follows, end to end on the divergence of
// the output, is the training loop of package qat with float formats.

// MatchConfig is how takers are matched. All of it decides the result.
type MatchConfig struct {
	Epochs      float64 `json:"epochs" yaml:"epochs"` // passes over the examples, for each taker
	Tokens      int     `json:"tokens" yaml:"tokens"` // of the examples, about; 0: all
	BatchTokens int     `json:"batch_tokens" yaml:"batch_tokens"`
	LR          float64 `json:"lr" yaml:"lr"`
	Seed        uint64  `json:"seed" yaml:"seed"`
}

// DefaultMatch is what docs/experiments.md, "Healing shared keys and values",
// arrives at.
func DefaultMatch() MatchConfig {
	return MatchConfig{Epochs: 2, Tokens: 1 << 16, BatchTokens: 1024, LR: 1e-3, Seed: 1}
}

// Check reports a setting outside its range.
func (c MatchConfig) Check() error {
	if !(c.Epochs > 0) || c.Tokens < 0 || c.BatchTokens < 1 || !(c.LR > 0) {
		return fmt.Errorf("%w: matching with epochs %g, %d tokens, batches of %d tokens, lr %g: all must be positive, or tokens 0 for all", ErrPlan, c.Epochs, c.Tokens, c.BatchTokens, c.LR)
	}
	return nil
}

// Match is what a matching run works with.
type Match struct {
	Teacher *model.Model // unshared
	Student *model.Model // Rewrite of the teacher
	Seqs    [][]int32    // examples, each at most the context long
	Config  MatchConfig
	Kernel  *kernel.Funcs
	Pool    *exec.Pool
	// Progress is called after each step; may be nil.
	Progress func(done, total int)
}

// MatchReport is what matching one taker told.
type MatchReport struct {
	Block  int     `json:"block"`
	Before float64 `json:"before"` // squared error over the teacher's mean square, of all examples
	After  float64 `json:"after"`
}

// matcher is one run: both models' residual streams of all examples, and the
// streams that entered givers.
type matcher struct {
	Match
	batches [][]int // sequences of each batch, every one once
	at      []int   // first row of each sequence
	x, y    *tensor.Mat
	givers  map[int]*tensor.Mat
	s, t    *side
	done    int
	total   int
}

// side is one model with the weights that run now.
type side struct {
	m      *model.Model
	tape   *train.Tape
	values map[int][]float32
	grads  map[int][]float32
}

// Value implements train.Weights.
func (s *side) Value(i int) []float32 { return s.values[i] }

// Grad implements train.Weights.
func (s *side) Grad(i int) []float32 { return s.grads[i] }

// Run returns the student with its takers matched, and what that gave. The
// result does not depend on the number of threads.
func (r Match) Run(ctx context.Context) (*model.Model, []MatchReport, error) {
	if err := r.Config.Check(); err != nil {
		return nil, nil, err
	}
	m := &matcher{Match: r, givers: map[int]*tensor.Mat{}}
	if err := m.examples(); err != nil {
		return nil, nil, err
	}
	if err := m.embed(); err != nil {
		return nil, nil, err
	}
	takers := Of(r.Student.Graph)
	m.total = len(takers) * len(m.order(0))
	trained := map[int][]float32{}
	var out []MatchReport
	for i := range r.Student.Blocks {
		rep, err := m.block(ctx, i, trained)
		if err != nil {
			return nil, out, fmt.Errorf("block %d: %w", i, err)
		}
		if rep != nil {
			out = append(out, *rep)
		}
		if len(out) == len(takers) {
			break // nothing behind the last taker changes
		}
	}
	return &model.Model{Graph: r.Student.Graph, Values: patched{r.Student.Values, r.Student.Graph, trained}}, out, nil
}

// examples chooses the sequences and cuts them into batches.
func (m *matcher) examples() error {
	longest, tokens := 0, 0
	var chosen [][]int32
	for _, i := range rand.New(rand.NewPCG(m.Config.Seed, 0)).Perm(len(m.Seqs)) {
		q := m.Seqs[i]
		if len(q) == 0 || len(q) > m.Student.Context {
			return fmt.Errorf("example %d has %d tokens, the model has %d positions", i, len(q), m.Student.Context)
		}
		if m.Config.Tokens > 0 && tokens > 0 && tokens+len(q) > m.Config.Tokens {
			continue
		}
		chosen, tokens, longest = append(chosen, q), tokens+len(q), max(longest, len(q))
	}
	if tokens == 0 {
		return fmt.Errorf("%w: matching wants examples, there are none", ErrPlan)
	}
	m.Seqs = chosen
	at, size := 0, m.Config.BatchTokens+1
	for i, q := range chosen {
		m.at = append(m.at, at)
		at += len(q)
		if size+len(q) > m.Config.BatchTokens {
			m.batches, size = append(m.batches, nil), 0
		}
		last := len(m.batches) - 1
		m.batches[last] = append(m.batches[last], i)
		size += len(q)
	}
	newSide := func(mod *model.Model) *side {
		s := &side{m: mod, values: map[int][]float32{}, grads: map[int][]float32{}}
		s.tape = train.NewTape(mod.Graph, s, m.Kernel, m.Pool.Run, train.Rounding{}, longest)
		return s
	}
	m.s, m.t = newSide(m.Student), newSide(m.Teacher)
	m.x, m.y = newMat(at, m.Student.Hidden), newMat(at, m.Student.Hidden)
	return nil
}

func newMat(R, C int) *tensor.Mat {
	return &tensor.Mat{R: R, C: C, Stride: C, X: make([]float32, R*C)}
}

// load makes exactly these weights present.
func (s *side) load(ids []int, known map[int][]float32) error {
	clear(s.values)
	s.tape.Released()
	for _, i := range ids {
		if v := known[i]; v != nil {
			s.values[i] = v
			continue
		}
		v, err := s.m.Tensor(i)
		if err != nil {
			return err
		}
		s.values[i] = v
	}
	return nil
}

// embed fills both streams.
func (m *matcher) embed() error {
	if err := m.t.load([]int{m.Teacher.Embed}, nil); err != nil {
		return err
	}
	for _, batch := range m.batches {
		var ids []int32
		for _, i := range batch {
			ids = append(ids, m.Seqs[i]...)
		}
		m.t.tape.Start(m.lengths(batch), false)
		m.put(m.y, batch, m.t.tape.Embed(ids, 0))
	}
	copy(m.x.X, m.y.X)
	return nil
}

func (m *matcher) lengths(batch []int) []int {
	var out []int
	for _, i := range batch {
		out = append(out, len(m.Seqs[i]))
	}
	return out
}

// get copies the rows of a batch, put writes them back.
func (m *matcher) get(x *tensor.Mat, batch []int) *tensor.Mat {
	n := 0
	for _, i := range batch {
		n += len(m.Seqs[i])
	}
	out := newMat(n, x.C)
	row := 0
	for _, i := range batch {
		row += copy(out.X[row*x.C:], x.X[m.at[i]*x.C:(m.at[i]+len(m.Seqs[i]))*x.C]) / x.C
	}
	return out
}

func (m *matcher) put(x *tensor.Mat, batch []int, rows *tensor.Mat) {
	row := 0
	for _, i := range batch {
		n := len(m.Seqs[i])
		copy(x.X[m.at[i]*x.C:(m.at[i]+n)*x.C], rows.X[row*rows.C:])
		row += n
	}
}

// block moves both streams past block i, and matches it first if it takes.
func (m *matcher) block(ctx context.Context, i int, trained map[int][]float32) (*MatchReport, error) {
	g := m.Student.Graph
	b := &g.Blocks[i]
	if err := m.t.load(blockWeights(&m.Teacher.Blocks[i], &m.Teacher.Blocks[m.Teacher.Blocks[i].KVFrom]), nil); err != nil {
		return nil, err
	}
	if err := m.s.load(blockWeights(b, &g.Blocks[b.KVFrom]), trained); err != nil {
		return nil, err
	}
	if b.KVFrom == i {
		m.givers[i] = newMat(m.x.R, m.x.C)
		copy(m.givers[i].X, m.x.X)
	}
	// A teacher's taker would need the stream that entered its giver, and only the
	// student's are kept.
	if from := m.Teacher.Blocks[i].KVFrom; from != i {
		return nil, fmt.Errorf("%w: the teacher's block %d reads block %d: matching wants one that shares nothing", ErrPlan, i, from)
	}
	for _, batch := range m.batches {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		m.t.tape.Start(m.lengths(batch), false)
		m.put(m.y, batch, exec.Block(m.Teacher.Graph, m.t.tape, i, m.t.tape.Input(m.get(m.y, batch)), 0))
	}
	var rep *MatchReport
	if b.KVFrom != i {
		rep = &MatchReport{Block: i}
		if err := m.match(ctx, i, trained, rep); err != nil {
			return nil, err
		}
	}
	for _, batch := range m.batches {
		m.put(m.x, batch, m.run(batch, i, false))
	}
	if rep != nil {
		rep.After = m.distance(m.x)
	}
	return rep, ctx.Err()
}

// run is the student's block i on a batch of its stream, behind the block that
// it takes from, whose output nobody reads.
func (m *matcher) run(batch []int, i int, record bool) *tensor.Mat {
	t, b := m.s.tape, &m.Student.Blocks[i]
	t.Start(m.lengths(batch), record)
	if b.KVFrom != i {
		exec.Block(m.Student.Graph, t, b.KVFrom, t.Input(m.get(m.givers[b.KVFrom], batch)), 0)
	}
	return exec.Block(m.Student.Graph, t, i, t.Input(m.get(m.x, batch)), 0)
}

// distance is the squared difference of x and the teacher's stream, over the
// latter's square.
func (m *matcher) distance(x *tensor.Mat) float64 {
	diff, power := 0.0, 0.0
	for k, v := range m.y.X {
		d := float64(x.X[k]) - float64(v)
		diff += d * d
		power += float64(v) * float64(v)
	}
	return diff / max(power, 1e-30)
}

// order lists the batches of all epochs of block i.
func (m *matcher) order(i int) []int {
	total := int(math.Ceil(m.Config.Epochs * float64(len(m.batches))))
	r := rand.New(rand.NewPCG(m.Config.Seed, uint64(1+i)))
	var out []int
	for len(out) < total {
		out = append(out, r.Perm(len(m.batches))...)
	}
	return out[:total]
}

// matchLastLR is the share of the learning rate at the end of a taker.
const matchLastLR = 0.05

// match trains queries and outputs of taker i.
func (m *matcher) match(ctx context.Context, i int, trained map[int][]float32, rep *MatchReport) error {
	b := &m.Student.Blocks[i]
	var ids, lengths []int
	for _, w := range []int{b.Q.W, b.Q.B, b.QNorm, b.O.W, b.O.B} {
		if w != model.None {
			ids, lengths = append(ids, w), append(lengths, len(m.s.values[w]))
			m.s.grads[w] = make([]float32, len(m.s.values[w]))
			trained[w] = m.s.values[w]
		}
	}
	defer clear(m.s.grads)
	before := newMat(m.x.R, m.x.C)
	for _, batch := range m.batches {
		m.put(before, batch, m.run(batch, i, false))
	}
	rep.Before = m.distance(before)
	power := 0.0
	for _, v := range m.y.X {
		power += float64(v) * float64(v)
	}
	power = max(power/float64(m.y.R), 1e-30) // of a row
	opt, order := train.NewAdamW(lengths), m.order(i)
	for step, k := range order {
		if err := ctx.Err(); err != nil {
			return err
		}
		batch := m.batches[k]
		y, want := m.run(batch, i, true), m.get(m.y, batch)
		scale := float32(2 / (power * float64(y.R)))
		for j, v := range want.X {
			want.X[j] = scale * (y.X[j] - v)
		}
		m.s.tape.Backward(y, want)
		rate := train.Cosine(step, 0, len(order), m.Config.LR, matchLastLR)
		opt.Step()
		for j, w := range ids {
			opt.Update(j, m.s.values[w], m.s.grads[w], float32(rate), m.Pool.Run)
			clear(m.s.grads[w])
		}
		m.s.tape.Moved()
		m.done++
		if m.Progress != nil {
			m.Progress(m.done, m.total)
		}
	}
	for _, w := range ids {
		if !kernel.Finite(m.s.values[w]) {
			return errors.New("matching diverged; lower its learning rate")
		}
	}
	return nil
}

// blockWeights lists the weights of a block and of the one it takes from.
func blockWeights(blocks ...*model.Block) []int {
	var out []int
	for _, b := range blocks {
		out = append(out, b.AttnNorm, b.QNorm, b.KNorm, b.PostAttnNorm, b.FFNNorm, b.PostFFNNorm)
		for _, l := range []model.Linear{b.Q, b.K, b.V, b.O, b.Gate, b.Up, b.Down} {
			out = append(out, l.W, l.B)
		}
	}
	seen := map[int]bool{model.None: true}
	unique := out[:0]
	for _, w := range out {
		if !seen[w] {
			seen[w] = true
			unique = append(unique, w)
		}
	}
	return unique
}

// patched are values some of which were trained.
type patched struct {
	model.Values
	g       *model.Graph
	trained map[int][]float32
}

// Read implements model.Values.
func (p patched) Read(i, off int, dst []float32) error {
	v := p.trained[i]
	if v == nil {
		return p.Values.Read(i, off, dst)
	}
	if off < 0 || off+len(dst) > len(v) {
		return fmt.Errorf("%s: elements %d to %d of %d", p.g.Weights[i].Name, off, off+len(dst), len(v))
	}
	copy(dst, v[off:])
	return nil
}
