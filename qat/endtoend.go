package qat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"slices"
	"time"

	"slmc/internal/exec"
	"slmc/internal/train"
	"slmc/tensor"
)

// lossWindow is the number of steps that LastLoss averages.
const lossWindow = 20

// Bounds of divergence: how far beyond the first loss one loss may rise, and
// beyond the best mean of lossWindow steps their mean; the latter with some
// nats more, since a loss near 0 may double without harm.
const (
	firstRise = 4
	bestRise  = 4
	riseNats  = 0.05
)

// trainer is the end-to-end phase: all weights, scales and norms learn from
// the teacher's distribution at every position (Hinton et al., arXiv
// 1503.02531).
type trainer struct {
	*Run
	s       *student
	opt     *train.AdamW
	pass    *pass
	head    *train.Tape
	teacher *teacher
	ready   bool      // the teacher's last stream is there for all that is left
	batches [][]int   // indices of Seqs, of one epoch after another
	average []average // of what is trained, with EMA
	report  Report
	recent  []float64
	lowest  float64 // best mean of a full window
	step    int
	before  int // steps of the phases before

	states, dx *tensor.Mat // of a part: the teacher's last stream, the gradient of the student's
	seed       *tensor.Mat // of some rows
}

// average is the moving average of one weight and its scales.
type average struct{ w, scales []float32 }

func newTrainer(r *Run, s *student, longest int) (*trainer, error) {
	if r.Progress == nil {
		r.Progress = func(Progress) {}
	}
	if r.Log == nil {
		r.Log = slog.New(slog.DiscardHandler)
	}
	g := r.Student.Graph
	t := &trainer{Run: r, s: s, lowest: math.Inf(1)}
	t.batches = plan(r.Seqs, r.Config.Epochs, r.Config.BatchTokens, r.Config.Seed)
	tape := train.NewTape(g, s, r.Kernel, r.Pool.Run, s.rounding(r.Kernel, r.KV8), longest)
	t.head = train.NewTape(g, s, r.Kernel, r.Pool.Run, s.rounding(r.Kernel, r.KV8), longest)
	t.pass = newPass(g, tape, longest)
	var err error
	t.teacher, err = newTeacher(r, longest)
	return t, err
}

// prepare makes room for training; with empty the weights come from a state.
func (t *trainer) prepare(empty bool) error {
	if t.opt != nil {
		return nil
	}
	if err := t.s.loadAll(empty); err != nil {
		return err
	}
	var lengths []int
	for _, l := range t.s.all {
		l.wake()
		lengths = append(lengths, len(l.w), len(l.scales))
		if t.Config.EMA > 0 {
			t.average = append(t.average, average{slices.Clone(l.w), slices.Clone(l.scales)})
		}
	}
	t.opt = train.NewAdamW(lengths)
	return nil
}

// run trains to the end and emits the result.
func (t *trainer) run(ctx context.Context, sink Sink) (Report, error) {
	if err := t.prepare(false); err != nil {
		return t.report, err
	}
	if err := t.teach(ctx); err != nil {
		return t.report, err
	}
	begin, tokens, left := time.Now(), 0, 0
	for _, b := range t.batches[t.step:] {
		left += t.tokens(b)
	}
	for t.step < len(t.batches) && t.report.Stopped == "" {
		if err := ctx.Err(); err != nil {
			return t.report, errors.Join(err, t.save(false))
		}
		loss, n, err := t.train()
		if err == nil {
			err = t.watch(loss)
		}
		if err != nil {
			if err = t.fallBack(err); err != nil {
				return t.report, err
			}
			break
		}
		t.step++
		tokens, left = tokens+n, left-n
		t.report.Tokens += n
		t.Progress(Progress{"end to end", t.before + t.step, t.before + len(t.batches), loss, tokens, left, time.Since(begin)})
		if t.Every > 0 && t.step%t.Every == 0 {
			if err := t.save(true); err != nil {
				return t.report, err
			}
		}
	}
	t.report.Steps = t.step
	for i, a := range t.average {
		if l := t.s.all[i]; !l.frozen {
			l.w, l.scales = a.w, a.scales
		}
	}
	return t.report, t.s.emit(sink)
}

// teach computes the teacher's last stream for the sequences that are left,
// unless the phase before has.
func (t *trainer) teach(ctx context.Context) error {
	if !t.ready {
		var parts [][]int
		seen := make([]bool, len(t.Seqs))
		tokens := 0
		for _, b := range t.batches[t.step:] {
			for _, i := range b {
				if !seen[i] {
					seen[i], tokens = true, tokens+len(t.Seqs[i])
				}
			}
		}
		var order []int
		for i, s := range seen {
			if s {
				order = append(order, i)
			}
		}
		if len(order) > 0 {
			parts = t.parts(order)
		}
		t.Log.Info("the teacher reads the sequences", "sequences", len(order), "tokens", tokens)
		if err := t.teacher.all(ctx, parts); err != nil {
			return err
		}
		t.ready = true
	}
	return t.teacher.headOnly()
}

// train makes one step and returns the batch's loss and its tokens.
func (t *trainer) train() (loss float64, tokens int, err error) {
	batch := t.batches[t.step]
	tokens = t.tokens(batch)
	t.s.each(t.Pool.Run, func(l *latent, lo, hi int) {
		l.round(lo, hi)
		clear(l.grad[lo*l.cols : hi*l.cols])
	})
	t.freeze(t.step) // after the rounding that its codes stay at
	t.pass.tape.Moved()
	t.head.Moved()
	for _, part := range t.parts(batch) {
		l, err := t.part(part, tokens)
		if err != nil {
			return 0, 0, err
		}
		loss += l
	}
	t.s.each(t.Pool.Run, (*latent).back)
	t.update()
	return loss / float64(tokens), tokens, nil
}

// freeze stops the codes if step is among the last ones that Frozen asks for.
func (t *trainer) freeze(step int) {
	for _, l := range t.s.all {
		l.frozen = l.format != nil && float64(step) >= float64(len(t.batches))*(1-t.Config.Frozen)
	}
}

// part adds the gradients of one part of a batch of tokens tokens and returns
// the sum of its losses. The head runs over some rows at a time, so that the
// logits of a large vocabulary stay few.
func (t *trainer) part(part []int, tokens int) (float64, error) {
	ids, lengths := t.concat(part)
	D, V := t.Teacher.Hidden, t.Teacher.Vocab
	t.states = reshape(t.states, len(ids), D)
	if err := t.teacher.x.get(t.states, part); err != nil {
		return 0, err
	}
	x := t.pass.forward(ids, lengths)
	t.dx = reshape(t.dx, len(ids), D)
	targets := next(ids, lengths)
	const logits = 1 << 20 // of a run of rows
	rows := max(16, logits/V)
	loss := 0.0
	for r := 0; r < len(ids); r += rows {
		n := min(rows, len(ids)-r)
		want := t.teacher.logits(between(t.states, r, n))
		t.head.Start([]int{n}, true)
		h := t.head.Input(between(x, r, n))
		z := exec.Head(t.Student.Graph, t.head, h)
		t.seed = reshape(t.seed, n, V)
		loss += t.loss(t.seed, z, want, targets[r:r+n], float32(tokens))
		t.head.Backward(z, t.seed)
		copy(t.dx.X[r*D:(r+n)*D], t.head.Grad(h).X)
	}
	t.pass.backward(t.dx)
	return loss, nil
}

// between is the n rows of x from r on.
func between(x *tensor.Mat, r, n int) *tensor.Mat {
	return &tensor.Mat{R: n, C: x.C, Stride: x.Stride, X: x.X[r*x.Stride : (r+n-1)*x.Stride+x.C]}
}

// next lists the token that follows each; -1 at the end of a sequence.
func next(ids []int32, lengths []int) []int32 {
	out := make([]int32, len(ids))
	copy(out, ids[1:])
	at := 0
	for _, n := range lengths {
		at += n
		out[at-1] = -1
	}
	return out
}

// loss is the sum of the losses of some rows, whose gradient of the mean over
// tokens it writes to seed; split by rows, its sum runs in order.
func (t *trainer) loss(seed, got, want *tensor.Mat, targets []int32, tokens float32) float64 {
	sums := make([]float64, got.R)
	share := t.Config.CrossEntropy
	t.Pool.Run(got.R, 8, func(lo, hi int) {
		scratch, data := make([]float32, got.C), make([]float32, got.C)
		for r := lo; r < hi; r++ {
			d := seed.Row(r)
			sums[r] = train.DistillRow(t.Kernel, d, got.Row(r), want.Row(r), scratch, tokens)
			if share == 0 {
				continue
			}
			sums[r] *= 1 - share
			sums[r] += share * train.CrossEntropyRow(t.Kernel, data, got.Row(r), targets[r], tokens)
			for i := range d {
				d[i] = float32(float32(1-share)*d[i]) + float32(float32(share)*data[i])
			}
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
		if !l.frozen {
			grads = append(grads, l.grad)
		}
		grads = append(grads, l.dscales)
	}
	if t.Config.Clip > 0 {
		train.ClipNorm(grads, t.Config.Clip)
	}
	rate := train.Cosine(t.step, t.Config.Warmup, len(t.batches), 1, t.Config.LastLR)
	t.opt.Step()
	for i, l := range t.s.all {
		if !l.frozen {
			t.opt.Update(2*i, l.w, l.grad, float32(rate*t.Config.LR), t.Pool.Run)
		}
		if l.format != nil {
			t.opt.Update(2*i+1, l.scales, l.dscales, float32(rate*t.Config.ScaleLR), t.Pool.Run)
		}
	}
	for i, a := range t.average {
		l := t.s.all[i]
		train.Average(a.w, l.w, float32(t.Config.EMA), t.Pool.Run)
		train.Average(a.scales, l.scales, float32(t.Config.EMA), t.Pool.Run)
	}
}

// watch keeps the report, and reports a run that can not come to good.
func (t *trainer) watch(loss float64) error {
	if math.IsNaN(loss) || math.IsInf(loss, 0) {
		return fmt.Errorf("%w: the loss of step %d is %g; lower the learning rate", ErrDiverged, t.step, loss)
	}
	if t.step == 0 {
		t.report.FirstLoss = loss
	} else if loss > firstRise*t.report.FirstLoss+firstRise {
		return fmt.Errorf("%w: the loss of step %d is %.4f, the first had %.4f; lower the learning rate", ErrDiverged, t.step, loss, t.report.FirstLoss)
	}
	t.recent = append(t.recent, loss)
	t.recent = t.recent[max(0, len(t.recent)-lossWindow):]
	t.report.LastLoss = mean(t.recent)
	if len(t.recent) < lossWindow {
		return nil
	}
	if t.report.LastLoss > bestRise*t.lowest+riseNats {
		return fmt.Errorf("%w: the losses of the last %d steps to step %d are %.4f on average, they have been %.4f; lower the learning rate", ErrDiverged, lossWindow, t.step, t.report.LastLoss, t.lowest)
	}
	t.lowest = min(t.lowest, t.report.LastLoss)
	return nil
}

func mean(x []float64) float64 {
	sum := 0.0
	for _, v := range x {
		sum += v / float64(len(x))
	}
	return sum
}
