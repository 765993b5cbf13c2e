package qat

import (
	"context"
	"errors"
	"fmt"
	"math"

	"slmc/internal/exec"
	"slmc/internal/train"
	"slmc/model"
	"slmc/tensor"
)

// Block-wise training (Block-AP of EfficientQAT, arXiv 2407.11062, section
// 3.2): block after block, weights, scales and norms learn to give the
// teacher's output of that block, in squared error, from the student's own
// input of it, so that later blocks make up for earlier ones. Memory holds one
// block's training state and the two streams of activations, whatever the
// model's depth.
//
// We differ: blocks that read another block's keys and values are trained
// together with it.

// BlockConfig is how blocks are trained.
type BlockConfig struct {
	Epochs      float64 `json:"epochs" yaml:"epochs"` // passes over the sequences, for each block
	BatchTokens int     `json:"batch_tokens" yaml:"batch_tokens"`
	LR          float64 `json:"lr" yaml:"lr"`
	ScaleLR     float64 `json:"scale_lr" yaml:"scale_lr"`
	Seed        uint64  `json:"seed" yaml:"seed"`
}

// BlockReport is what training one unit of blocks told.
type BlockReport struct {
	First, Last int     // blocks
	Before      float64 // mean squared error relative to the teacher's mean square, of the first batch
	After       float64 // of the last batches
}

// units lists runs of blocks [first, end) that share no cache with others.
func units(g *model.Graph) [][2]int {
	var out [][2]int
	for i, b := range g.Blocks {
		if b.KVFrom == i {
			out = append(out, [2]int{i, i + 1})
			continue
		}
		// A taker joins everything from its giver on.
		for len(out) > 0 && out[len(out)-1][0] > b.KVFrom {
			out = out[:len(out)-1]
		}
		out[len(out)-1][1] = i + 1
	}
	return out
}

// blockTrainer carries both streams from block to block.
type blockTrainer struct {
	Run
	c       BlockConfig
	s       *student
	t, u    *train.Tape // student's and teacher's
	tw      *window     // teacher's weights, one unit at a time
	seqs    []span      // where each sequence lies in the streams
	sx, tx  *tensor.Mat // student's and teacher's input of the next unit
	longest int
}

type span struct{ at, n int }

// BlockWise trains s block by block.
func (r Run) blockWise(ctx context.Context, s *student, c BlockConfig, progress func(unit, units int)) ([]BlockReport, error) {
	b := &blockTrainer{Run: r, c: c, s: s, tw: &window{m: r.Teacher, w: make([][]float32, len(r.Teacher.Weights))}}
	var err error
	if b.longest, err = r.longest(); err != nil {
		return nil, err
	}
	b.t = train.NewTape(r.Teacher.Graph, s, r.Kernel, r.Pool.Run, s.rounding(r.Kernel, r.KV8), b.longest)
	b.u = train.NewTape(r.Teacher.Graph, b.tw, r.Kernel, r.Pool.Run, train.Rounding{}, b.longest)
	if err := b.embed(); err != nil {
		return nil, err
	}
	var out []BlockReport
	all := units(r.Teacher.Graph)
	for i, u := range all {
		rep, err := b.unit(ctx, u[0], u[1])
		if err != nil {
			return out, fmt.Errorf("blocks %d to %d: %w", u[0], u[1]-1, err)
		}
		out = append(out, rep)
		progress(i+1, len(all))
	}
	return out, nil
}

// embed fills both streams with the embeddings of all sequences.
func (b *blockTrainer) embed() error {
	g, total := b.Teacher.Graph, 0
	for _, s := range b.Seqs {
		b.seqs = append(b.seqs, span{total, len(s)})
		total += len(s)
	}
	if err := b.tw.load([]int{g.Embed}); err != nil {
		return err
	}
	e := b.s.all[g.Embed]
	e.wake()
	defer e.rest()
	e.round(0, e.rows)
	b.sx, b.tx = newMat(total, g.Hidden), newMat(total, g.Hidden)
	for i, ids := range b.Seqs {
		for stream, tape := range map[*tensor.Mat]*train.Tape{b.sx: b.t, b.tx: b.u} {
			tape.Start([]int{len(ids)})
			x := tape.Embed(ids, 0)
			for r := range x.R {
				copy(stream.Row(b.seqs[i].at+r), x.Row(r))
			}
		}
	}
	return nil
}

func newMat(R, C int) *tensor.Mat {
	return &tensor.Mat{R: R, C: C, Stride: C, X: make([]float32, R*C)}
}

// unit trains the blocks [first, end) and moves both streams past them.
func (b *blockTrainer) unit(ctx context.Context, first, end int) (BlockReport, error) {
	g := b.Teacher.Graph
	ids := blockWeights(g, first, end)
	if err := b.tw.load(ids); err != nil {
		return BlockReport{}, err
	}
	var lengths []int
	for _, i := range ids {
		b.s.all[i].wake()
		lengths = append(lengths, len(b.s.all[i].w), len(b.s.all[i].scales))
	}
	defer func() {
		for _, i := range ids {
			b.s.all[i].rest()
		}
	}()
	// The teacher's outputs take the place of its inputs: they are the targets
	// now, and the inputs of the next unit.
	b.advance(b.u, b.tx, first, end)
	opt := train.NewAdamW(lengths)
	batches := plan(b.Seqs, b.c.Epochs, b.c.BatchTokens, b.c.Seed+uint64(first))
	rep := BlockReport{First: first, Last: end - 1}
	recent := 0.0
	for step, batch := range batches {
		if err := ctx.Err(); err != nil {
			return rep, err
		}
		loss := b.step(batch, first, end)
		if math.IsNaN(loss) || math.IsInf(loss, 0) {
			return rep, fmt.Errorf("%w: the loss of step %d is %g; lower the learning rate", ErrDiverged, step, loss)
		}
		if step == 0 {
			rep.Before = loss
		}
		if n := len(batches) - step; n <= lossWindow {
			recent += loss / float64(min(lossWindow, len(batches)))
		}
		rate := train.Cosine(step, 0, len(batches), 1, 0.05)
		opt.Step()
		for k, i := range ids {
			l := b.s.all[i]
			opt.Update(2*k, l.w, l.dw, float32(rate*b.c.LR), b.Pool.Run)
			if l.format != nil {
				opt.Update(2*k+1, l.scales, l.dscales, float32(rate*b.c.ScaleLR), b.Pool.Run)
			}
		}
	}
	rep.After = recent
	b.s.each(b.Pool.Run, (*latent).round)
	b.advance(b.t, b.sx, first, end)
	return rep, nil
}

// step computes the gradients of one batch and returns its relative error.
func (b *blockTrainer) step(batch []int, first, end int) float64 {
	b.s.each(b.Pool.Run, func(l *latent, lo, hi int) {
		l.round(lo, hi)
		clear(l.grad[lo*l.cols : hi*l.cols])
	})
	y := b.run(b.t, b.sx, batch, first, end)
	want := b.gather(b.tx, batch)
	size, err := 0.0, 0.0
	for i, v := range want.X {
		d := y.X[i] - v
		size += float64(v) * float64(v)
		err += float64(d) * float64(d)
		want.X[i] = d
	}
	// The gradient of the error relative to the teacher's mean square, so that
	// one learning rate serves all blocks.
	scale := float32(2 / max(size, 1e-30))
	for i := range want.X {
		want.X[i] *= scale
	}
	b.t.Backward(y, want)
	b.s.each(b.Pool.Run, (*latent).back)
	return err / max(size, 1e-30)
}

// gather copies the rows of a batch's sequences out of a stream.
func (b *blockTrainer) gather(stream *tensor.Mat, batch []int) *tensor.Mat {
	n := 0
	for _, i := range batch {
		n += b.seqs[i].n
	}
	x := newMat(n, stream.C)
	at := 0
	for _, i := range batch {
		s := b.seqs[i]
		copy(x.X[at*x.C:(at+s.n)*x.C], stream.X[s.at*x.C:])
		at += s.n
	}
	return x
}

// run executes the blocks on a batch of a stream.
func (b *blockTrainer) run(tape *train.Tape, stream *tensor.Mat, batch []int, first, end int) *tensor.Mat {
	var lengths []int
	for _, i := range batch {
		lengths = append(lengths, b.seqs[i].n)
	}
	tape.Start(lengths)
	x := tape.Input(b.gather(stream, batch))
	for i := first; i < end; i++ {
		x = exec.Block(b.Teacher.Graph, tape, i, x, 0)
	}
	return x
}

// advance replaces a stream by what the blocks make of it.
func (b *blockTrainer) advance(tape *train.Tape, stream *tensor.Mat, first, end int) {
	for _, batch := range plan(b.Seqs, 1, b.c.BatchTokens, 0) {
		y := b.run(tape, stream, batch, first, end)
		at := 0
		for _, i := range batch {
			s := b.seqs[i]
			copy(stream.X[s.at*y.C:(s.at+s.n)*y.C], y.X[at*y.C:])
			at += s.n
		}
	}
}

// blockWeights lists the weights of the blocks [first, end), each once.
func blockWeights(g *model.Graph, first, end int) []int {
	var out []int
	seen := map[int]bool{model.None: true}
	for i := first; i < end; i++ {
		b := &g.Blocks[i]
		for _, w := range []int{b.AttnNorm, b.Q.W, b.Q.B, b.K.W, b.K.B, b.V.W, b.V.B, b.O.W, b.O.B, b.QNorm, b.KNorm, b.PostAttnNorm,
			b.FFNNorm, b.Gate.W, b.Gate.B, b.Up.W, b.Up.B, b.Down.W, b.Down.B, b.PostFFNNorm} {
			if !seen[w] {
				seen[w] = true
				out = append(out, w)
			}
		}
	}
	return out
}

// window holds the teacher's weights of one unit.
type window struct {
	m *model.Model
	w [][]float32
}

// load replaces what is held by these weights.
func (w *window) load(ids []int) error {
	clear(w.w)
	var errs []error
	for _, i := range ids {
		x, err := w.m.Tensor(i)
		w.w[i] = x
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Value implements train.Weights.
func (w *window) Value(i int) []float32 { return w.w[i] }

// Grad implements train.Weights: none is wanted.
func (w *window) Grad(int) []float32 { return nil }
