package qat

import (
	"context"
	"errors"

	"slmc/internal/exec"
	"slmc/internal/train"
	"slmc/model"
	"slmc/tensor"
)

// teacher runs the float model unit by unit over the training sequences, so
// that one unit's weights are in memory at a time. Its last residual stream is
// kept: a step then needs the head alone of it.
type teacher struct {
	*Run
	w    *window
	tape *train.Tape
	x    *stream
	out  *tensor.Mat
}

func newTeacher(r *Run, longest int) (*teacher, error) {
	t := &teacher{Run: r, w: &window{m: r.Teacher, w: make([][]float32, len(r.Teacher.Weights))}}
	t.tape = train.NewTape(r.Teacher.Graph, t.w, r.Kernel, r.Pool.Run, train.Rounding{}, longest)
	var err error
	t.x, err = newStream(r.Seqs, r.Teacher.Hidden, r.Scratch, r.streamBytes())
	return t, err
}

func (r *Run) streamBytes() int64 {
	if r.StreamBytes == 0 {
		return 1 << 28
	}
	return r.StreamBytes
}

// embed fills the stream of the listed parts with the embeddings.
func (t *teacher) embed(parts [][]int) error {
	if err := t.w.load(t.tape, []int{t.Teacher.Embed}); err != nil {
		return err
	}
	return embedStream(t.Run, t.tape, t.x, parts)
}

// embedStream fills a stream with what a tape embeds.
func embedStream(r *Run, tape *train.Tape, x *stream, parts [][]int) error {
	for _, part := range parts {
		ids, lengths := r.concat(part)
		tape.Start(lengths, false)
		if err := x.put(tape.Embed(ids, 0), part); err != nil {
			return err
		}
	}
	return nil
}

// advance moves the stream of the listed parts past the blocks [first, end).
func (t *teacher) advance(ctx context.Context, parts [][]int, first, end int) error {
	if err := t.w.load(t.tape, blockWeights(t.Teacher.Graph, first, end)); err != nil {
		return err
	}
	return advance(ctx, t.Run, t.Teacher.Graph, t.tape, t.x, parts, first, end, &t.out)
}

// advance replaces a stream by what the blocks [first, end) of g make of it.
func advance(ctx context.Context, r *Run, g *model.Graph, tape *train.Tape, s *stream, parts [][]int, first, end int, buf **tensor.Mat) error {
	for _, part := range parts {
		if err := ctx.Err(); err != nil {
			return err
		}
		*buf = reshape(*buf, r.tokens(part), s.D)
		if err := s.get(*buf, part); err != nil {
			return err
		}
		_, lengths := r.concat(part)
		tape.Start(lengths, false)
		x := tape.Input(*buf)
		for i := first; i < end; i++ {
			x = exec.Block(g, tape, i, x, 0)
		}
		if err := s.put(x, part); err != nil {
			return err
		}
	}
	return nil
}

// all fills the stream of the listed parts with the teacher's last.
func (t *teacher) all(ctx context.Context, parts [][]int) error {
	if err := t.embed(parts); err != nil {
		return err
	}
	for _, u := range units(t.Teacher.Graph) {
		if err := t.advance(ctx, parts, u[0], u[1]); err != nil {
			return err
		}
	}
	return nil
}

// headOnly keeps nothing of the teacher but what its logits need.
func (t *teacher) headOnly() error {
	g := t.Teacher.Graph
	ids := []int{g.Norm, g.Head.W}
	if g.Head.B != model.None {
		ids = append(ids, g.Head.B)
	}
	t.out = nil
	return t.w.load(t.tape, ids)
}

// logits are the teacher's for rows x of its last stream, valid until the next
// use of its tape.
func (t *teacher) logits(x *tensor.Mat) *tensor.Mat {
	t.tape.Start([]int{x.R}, false)
	return exec.Head(t.Teacher.Graph, t.tape, t.tape.Input(x))
}

// window holds the teacher's weights of one unit.
type window struct {
	m *model.Model
	w [][]float32
}

// load replaces what is held, and what tape has packed of it, by these weights.
func (w *window) load(tape *train.Tape, ids []int) error {
	clear(w.w)
	tape.Released()
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
