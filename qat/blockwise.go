package qat

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"slmc/internal/train"
	"slmc/tensor"
)

// Block-wise training (Block-AP of EfficientQAT, arXiv 2407.11062, section
// 3.2): block after block, weights, scales and norms learn to give the
// teacher's output of that block, in squared error, from the student's own
// input of it, so that later blocks make up for earlier ones. Memory holds one
// block's training state and the two streams of activations, whatever the
// model's depth; what is finished goes to the sink, or waits for the
// end-to-end phase.
//
// We differ: blocks that share keys and values, or weights, are trained
// together; the error is relative to the teacher's mean square, so that one
// learning rate serves blocks of all sizes; activations and the cache are
// rounded as the runtime rounds them.

// BlockReport is what training one unit of blocks told.
type BlockReport struct {
	First  int     `json:"first"` // blocks
	Last   int     `json:"last"`
	Before float64 `json:"before"` // mean squared error relative to the teacher's mean square, of the first step
	After  float64 `json:"after"`  // of the last steps
}

// blockTrainer carries both streams from block to block.
type blockTrainer struct {
	*Run
	s     *student
	tape  *train.Tape
	u     *teacher
	sx    *stream // student's input of the next unit
	units [][2]int
	plans [][][]int // batches of each unit
	after int       // steps of the phase that follows
	keep  bool      // the end-to-end phase needs what was trained
	all   [][]int   // every sequence, in parts

	step     int // of all units
	in, want *tensor.Mat
}

func newBlockTrainer(r *Run, s *student, u *teacher, longest, after int) *blockTrainer {
	b := &blockTrainer{Run: r, s: s, u: u, units: units(r.Student.Graph), after: after, keep: after > 0}
	b.tape = train.NewTape(r.Student.Graph, s, r.Kernel, r.Pool.Run, s.rounding(r.Kernel, r.KV8), longest)
	order := make([]int, len(r.Seqs))
	for i := range order {
		order[i] = i
	}
	b.all = r.parts(order)
	c := r.Config.Blocks
	for _, unit := range b.units {
		b.plans = append(b.plans, plan(r.Seqs, c.Epochs, c.BatchTokens, r.Config.Seed+1+uint64(unit[0])))
	}
	return b
}

// steps is the number of steps of all units.
func (b *blockTrainer) steps() int {
	n := 0
	for _, p := range b.plans {
		n += len(p)
	}
	return n
}

// run trains every unit.
func (b *blockTrainer) run(ctx context.Context, sink Sink) (out []BlockReport, err error) {
	g := b.Student.Graph
	if b.sx, err = newStream(b.Seqs, g.Hidden, b.Scratch, b.streamBytes()); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, b.sx.close()) }()
	if err := b.embed(); err != nil {
		return nil, err
	}
	for i, unit := range b.units {
		rep, err := b.unit(ctx, i)
		if err != nil {
			return out, fmt.Errorf("blocks %d to %d: %w", unit[0], unit[1]-1, err)
		}
		out = append(out, rep)
		for _, w := range blockWeights(g, unit[0], unit[1]) {
			b.s.all[w].rest()
			if b.keep {
				continue
			}
			if err := b.s.emitOne(w, sink); err != nil {
				return out, err
			}
		}
	}
	return out, nil
}

// embed fills both streams with the embeddings of all sequences.
func (b *blockTrainer) embed() error {
	if err := b.u.embed(b.all); err != nil {
		return err
	}
	embed := b.Student.Embed
	if err := b.s.load(embed, false); err != nil {
		return err
	}
	e := b.s.all[embed]
	e.wake()
	defer e.rest()
	b.s.each(b.Pool.Run, (*latent).round)
	return embedStream(b.Run, b.tape, b.sx, b.all)
}

func (b *blockTrainer) unitState(unit int) string { return fmt.Sprintf("%s.unit%d", b.State, unit) }

// unit trains a unit, or takes it from its state, and moves both streams past
// its blocks.
func (b *blockTrainer) unit(ctx context.Context, unit int) (BlockReport, error) {
	first, end := b.units[unit][0], b.units[unit][1]
	ids := blockWeights(b.Student.Graph, first, end)
	b.tape.Released()
	for _, i := range ids {
		if err := b.s.load(i, false); err != nil {
			return BlockReport{}, err
		}
		b.s.all[i].wake()
	}
	rep := BlockReport{First: first, Last: end - 1}
	found, err := b.take(unit, ids, &rep)
	if err != nil {
		return rep, err
	}
	// The teacher's outputs take the place of its inputs: they are the targets
	// now, and the inputs of the next unit.
	if err := b.u.advance(ctx, b.all, first, end); err != nil {
		return rep, err
	}
	if !found {
		if err := b.train(ctx, unit, ids, &rep); err != nil {
			return rep, err
		}
	}
	b.step += len(b.plans[unit])
	b.s.each(b.Pool.Run, (*latent).round)
	b.tape.Moved()
	last := unit == len(b.units)-1 // nobody reads what comes after
	if last {
		return rep, nil
	}
	return rep, advance(ctx, b.Run, b.Student.Graph, b.tape, b.sx, b.all, first, end, &b.in)
}

// take restores a finished unit.
func (b *blockTrainer) take(unit int, ids []int, rep *BlockReport) (found bool, err error) {
	if b.State == "" {
		return false, nil
	}
	s, found, err := readState(b.unitState(unit), b.arrays(ids))
	if err != nil || !found {
		return false, err
	}
	if len(s.losses) != 2 {
		return false, damagedState(b.unitState(unit), "%d losses, wanted 2", len(s.losses))
	}
	rep.Before, rep.After = s.losses[0], s.losses[1]
	return true, nil
}

func (b *blockTrainer) arrays(ids []int) [][]float32 {
	var out [][]float32
	for _, i := range ids {
		out = append(out, b.s.all[i].w, b.s.all[i].scales)
	}
	return out
}

// train makes all steps of a unit and keeps its state.
func (b *blockTrainer) train(ctx context.Context, unit int, ids []int, rep *BlockReport) error {
	var lengths []int
	for _, a := range b.arrays(ids) {
		lengths = append(lengths, len(a))
	}
	opt := train.NewAdamW(lengths)
	power, err := b.power(ctx)
	if err != nil {
		return err
	}
	batches, c := b.plans[unit], b.Config.Blocks
	begin, tokens, left := time.Now(), 0, 0
	for _, batch := range batches {
		left += b.tokens(batch)
	}
	for step, batch := range batches {
		if err := ctx.Err(); err != nil {
			return err
		}
		loss, err := b.gradients(batch, b.units[unit], power)
		if err != nil {
			return err
		}
		if step == 0 {
			rep.Before = loss
		}
		if math.IsNaN(loss) || math.IsInf(loss, 0) || loss > firstRise*rep.Before+firstRise {
			return fmt.Errorf("%w: the loss of step %d is %g, the first had %g; lower the learning rate", ErrDiverged, step, loss, rep.Before)
		}
		if n := len(batches) - step; n <= lossWindow {
			rep.After += loss / float64(min(lossWindow, len(batches)))
		}
		rate := train.Cosine(step, 0, len(batches), 1, blockLastLR)
		opt.Step()
		for k, i := range ids {
			l := b.s.all[i]
			opt.Update(2*k, l.w, l.grad, float32(rate*c.LR), b.Pool.Run)
			if l.format != nil {
				opt.Update(2*k+1, l.scales, l.dscales, float32(rate*c.ScaleLR), b.Pool.Run)
			}
		}
		n := b.tokens(batch)
		tokens, left = tokens+n, left-n
		phase := fmt.Sprintf("blocks %d to %d", rep.First, rep.Last)
		b.Progress(Progress{phase, b.step + step + 1, b.steps() + b.after, loss, tokens, left, time.Since(begin)})
	}
	if b.State == "" {
		return nil
	}
	return writeState(b.unitState(unit), state{losses: []float64{rep.Before, rep.After}, arrays: b.arrays(ids)})
}

// blockLastLR is the share of the learning rate at a unit's end (EfficientQAT's
// code, which has a twentieth).
const blockLastLR = 0.05

// power is the mean square of the teacher's outputs.
func (b *blockTrainer) power(ctx context.Context) (float64, error) {
	sum, n := 0.0, 0
	for _, part := range b.all {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		b.want = reshape(b.want, b.tokens(part), b.Teacher.Hidden)
		if err := b.u.x.get(b.want, part); err != nil {
			return 0, err
		}
		for _, v := range b.want.X {
			sum += float64(v) * float64(v)
		}
		n += len(b.want.X)
	}
	return max(sum/float64(n), 1e-30), nil
}

// gradients computes the gradients of one batch and returns its relative error.
func (b *blockTrainer) gradients(batch []int, unit [2]int, power float64) (float64, error) {
	b.s.each(b.Pool.Run, func(l *latent, lo, hi int) {
		l.round(lo, hi)
		clear(l.grad[lo*l.cols : hi*l.cols])
	})
	b.tape.Moved()
	total := float64(b.tokens(batch)) * float64(b.Teacher.Hidden) * power
	sum := 0.0
	for _, part := range b.parts(batch) {
		_, lengths := b.concat(part)
		b.in, b.want = reshape(b.in, b.tokens(part), b.sx.D), reshape(b.want, b.tokens(part), b.sx.D)
		if err := errors.Join(b.sx.get(b.in, part), b.u.x.get(b.want, part)); err != nil {
			return 0, err
		}
		b.tape.Start(lengths, true)
		x := b.tape.Input(b.in)
		y := (&pass{g: b.Student.Graph, tape: b.tape}).run(x, unit[0], unit[1])
		for i, v := range b.want.X {
			d := y.X[i] - v
			sum += float64(d) * float64(d)
			b.want.X[i] = d * float32(2/total)
		}
		b.tape.Backward(y, b.want)
	}
	b.s.each(b.Pool.Run, (*latent).back)
	return sum / total, nil
}
