package qat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"time"

	"slmc/internal/exec"
	"slmc/internal/kernel"
	"slmc/internal/train"
	"slmc/model"
	"slmc/quant"
	"slmc/tensor"
)

// Config is how a model is trained end to end. All of it decides the result.
type Config struct {
	Epochs      float64 `json:"epochs" yaml:"epochs"`             // passes over the sequences
	BatchTokens int     `json:"batch_tokens" yaml:"batch_tokens"` // of one step, at least one sequence
	LR          float64 `json:"lr" yaml:"lr"`                     // of weights and norms
	ScaleLR     float64 `json:"scale_lr" yaml:"scale_lr"`         // of scales
	Warmup      int     `json:"warmup" yaml:"warmup"`             // steps of rising rate
	LastLR      float64 `json:"last_lr" yaml:"last_lr"`           // share of the rate at the end
	Clip        float64 `json:"clip" yaml:"clip"`                 // largest gradient norm
	// Frozen is the share of the steps, at the end, in which codes no longer
	// move and only scales, norms and floats learn.
	Frozen float64 `json:"frozen" yaml:"frozen"`
	Seed   uint64  `json:"seed" yaml:"seed"`
}

// DefaultConfig is what docs/experiments.md, "End-to-end training", arrives at
// for models of a few million parameters.
func DefaultConfig() Config {
	return Config{Epochs: 4, BatchTokens: 3072, LR: 1e-3, ScaleLR: 2e-4, Warmup: 30, LastLR: 0.02, Clip: 1, Seed: 1}
}

// ErrDiverged is returned when a loss is not finite, or rises far beyond where
// it began.
var ErrDiverged = errors.New("training diverged")

// Run is what a training run works with; none of it but the model, the
// formats, the sequences and the config decides a bit of the result.
type Run struct {
	Teacher *model.Model
	Formats []quant.Format // of each weight
	KV8     bool           // the cache is rounded to 8 bits
	Scales  Scales         // first scales
	Seqs    [][]int32      // each at most the context long
	Config  Config
	Kernel  *kernel.Funcs
	Pool    *exec.Pool
	State   string // file that keeps the state of an unfinished run; "" for none
	// Every is the number of steps between two states.
	Every    int
	Log      *slog.Logger
	Progress func(p Progress)
}

// Progress is the state of a run after a step.
type Progress struct {
	Step, Steps int
	Loss        float64 // KL to the teacher in nats a token, of this batch
	Tokens      int     // trained so far in this process
	Elapsed     time.Duration
}

// Report is what a run tells at its end: deterministic.
type Report struct {
	Steps     int     `json:"steps"`
	Tokens    int     `json:"tokens"`
	FirstLoss float64 `json:"first_loss"` // of the first step, before anything was learned
	LastLoss  float64 `json:"last_loss"`  // mean of the last steps
}

// lossWindow is the number of steps that LastLoss averages.
const lossWindow = 20

// diverged is how far beyond the first loss a loss may rise.
const diverged = 4

// trainer is one run.
type trainer struct {
	Run
	s       *student
	opt     *train.AdamW
	tape    *train.Tape
	teacher *train.Tape
	batches [][]int // indices of Seqs, of one epoch after another
	report  Report
	recent  []float64
	step    int
}

// EndToEnd trains all weights, scales and norms against the teacher's logits
// at every position and gives the result to sink. A run that was stopped
// continues from State and gives the same bytes.
func EndToEnd(ctx context.Context, r Run, sink Sink) (Report, error) {
	t, err := newTrainer(r)
	if err != nil {
		return Report{}, err
	}
	if err := t.resume(); err != nil {
		return Report{}, err
	}
	begin, tokens := time.Now(), 0
	for t.step < len(t.batches) {
		if err := ctx.Err(); err != nil {
			return t.report, errors.Join(err, t.save())
		}
		loss, n := t.train()
		if err := t.watch(loss); err != nil {
			return t.report, err
		}
		t.step++
		tokens += n
		t.report.Tokens += n
		if t.Progress != nil {
			t.Progress(Progress{t.step, len(t.batches), loss, tokens, time.Since(begin)})
		}
		if t.Every > 0 && t.step%t.Every == 0 {
			if err := t.save(); err != nil {
				return t.report, err
			}
		}
	}
	t.report.Steps = t.step
	return t.report, t.s.emit(r.Formats, sink)
}

func newTrainer(r Run) (*trainer, error) {
	g := r.Teacher.Graph
	s, err := newStudent(r.Teacher, r.Formats, r.Scales)
	if err != nil {
		return nil, err
	}
	fixed, err := newFixed(r.Teacher)
	if err != nil {
		return nil, err
	}
	for _, l := range s.all {
		l.wake()
	}
	t := &trainer{Run: r, s: s}
	longest, err := r.longest()
	if err != nil {
		return nil, err
	}
	if t.batches = plan(r.Seqs, r.Config.Epochs, r.Config.BatchTokens, r.Config.Seed); len(t.batches) == 0 {
		return nil, errors.New("nothing to train on: no sequences, or no epochs")
	}
	t.tape = train.NewTape(g, s, r.Kernel, r.Pool.Run, s.rounding(r.Kernel, r.KV8), longest)
	t.teacher = train.NewTape(g, fixed, r.Kernel, r.Pool.Run, train.Rounding{}, longest)
	var lengths []int
	for _, l := range s.all {
		lengths = append(lengths, len(l.w), len(l.scales))
	}
	t.opt = train.NewAdamW(lengths)
	return t, nil
}

// longest is the length of the longest sequence, which must fit the model.
func (r *Run) longest() (int, error) {
	longest := 0
	for i, q := range r.Seqs {
		if len(q) == 0 || len(q) > r.Teacher.Context {
			return 0, fmt.Errorf("training sequence %d has %d tokens, the model has %d positions", i, len(q), r.Teacher.Context)
		}
		longest = max(longest, len(q))
	}
	return longest, nil
}

// plan lists the batches of all epochs, as indices of seqs: each epoch in a new
// order, a batch of at most size tokens or one sequence.
func plan(seqs [][]int32, epochs float64, size int, seed uint64) [][]int {
	var out [][]int
	total := int(math.Round(epochs * float64(len(seqs))))
	for epoch := uint64(0); total > 0; epoch++ {
		r := rand.New(rand.NewPCG(seed, epoch))
		var batch []int
		tokens := 0
		for _, i := range r.Perm(len(seqs))[:min(total, len(seqs))] {
			if tokens > 0 && tokens+len(seqs[i]) > size {
				out, batch, tokens = append(out, batch), nil, 0
			}
			batch, tokens = append(batch, i), tokens+len(seqs[i])
		}
		out = append(out, batch)
		total -= len(seqs)
	}
	return out
}

// train makes one step and returns the batch's loss and its tokens.
func (t *trainer) train() (loss float64, tokens int) {
	var ids []int32
	var lengths []int
	for _, i := range t.batches[t.step] {
		ids, lengths = append(ids, t.Seqs[i]...), append(lengths, len(t.Seqs[i]))
	}
	freeze := float64(t.step) >= float64(len(t.batches))*(1-t.Config.Frozen)
	t.s.each(t.Pool.Run, func(l *latent, lo, hi int) {
		l.round(lo, hi)
		clear(l.grad[lo*l.cols : hi*l.cols])
	})
	for _, l := range t.s.all {
		l.frozen = freeze && l.format != nil
	}
	want := t.forward(t.teacher, ids, lengths)
	got := t.forward(t.tape, ids, lengths)
	seed := &tensor.Mat{R: got.R, C: got.C, Stride: got.C, X: make([]float32, got.R*got.C)}
	loss = t.loss(seed, got, want) / float64(len(ids))
	t.tape.Backward(got, seed)
	t.s.each(t.Pool.Run, (*latent).back)
	t.update()
	return loss, len(ids)
}

func (t *trainer) forward(tape *train.Tape, ids []int32, lengths []int) *tensor.Mat {
	tape.Start(lengths)
	z, err := exec.Forward(t.Teacher.Graph, tape, exec.Batch{IDs: ids}, 0)
	if err != nil {
		panic("qat: a tape does not fail: " + err.Error())
	}
	return z
}

// loss is the sum of the divergences, split by rows; its sum runs in order.
func (t *trainer) loss(seed, got, want *tensor.Mat) float64 {
	sums := make([]float64, got.R)
	n := float32(got.R)
	t.Pool.Run(got.R, 8, func(lo, hi int) {
		scratch := make([]float32, got.C)
		for r := lo; r < hi; r++ {
			sums[r] = train.DistillRow(t.Kernel, seed.Row(r), got.Row(r), want.Row(r), scratch, n)
		}
	})
	total := 0.0
	for _, s := range sums {
		total += s
	}
	return total
}

// update clips the gradients and moves everything that learns.
func (t *trainer) update() {
	var grads [][]float32
	for _, l := range t.s.all {
		grads = append(grads, l.dw, l.dscales)
	}
	train.ClipNorm(grads, t.Config.Clip)
	rate := train.Cosine(t.step, t.Config.Warmup, len(t.batches), 1, t.Config.LastLR)
	t.opt.Step()
	for i, l := range t.s.all {
		if !l.frozen {
			t.opt.Update(2*i, l.w, l.dw, float32(rate*t.Config.LR), t.Pool.Run)
		}
		if l.format != nil {
			t.opt.Update(2*i+1, l.scales, l.dscales, float32(rate*t.Config.ScaleLR), t.Pool.Run)
		}
	}
}

// watch keeps the report and stops a run that can not come to good.
func (t *trainer) watch(loss float64) error {
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return fmt.Errorf("%w: the loss of step %d is %g; lower the learning rate", ErrDiverged, t.step, loss)
	}
	if t.step == 0 {
		t.report.FirstLoss = loss
	} else if loss > diverged*t.report.FirstLoss+diverged {
		return fmt.Errorf("%w: the loss of step %d is %.4f, the first had %.4f; lower the learning rate", ErrDiverged, t.step, loss, t.report.FirstLoss)
	}
	t.recent = append(t.recent, loss)
	t.recent = t.recent[max(0, len(t.recent)-lossWindow):]
	t.report.LastLoss = 0
	for _, l := range t.recent {
		t.report.LastLoss += l / float64(len(t.recent))
	}
	return nil
}

// fixed are the teacher's weights, which nobody trains.
type fixed [][]float32

func newFixed(m *model.Model) (fixed, error) {
	out := make(fixed, len(m.Weights))
	for i := range out {
		var err error
		if out[i], err = m.Tensor(i); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// Value implements train.Weights.
func (f fixed) Value(i int) []float32 { return f[i] }

// Grad implements train.Weights: none is wanted.
func (f fixed) Grad(int) []float32 { return nil }
