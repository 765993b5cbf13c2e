package pipeline

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"

	"slmc/formats"
	"slmc/internal/exec"
	"slmc/internal/kernel"
	"slmc/model"
	"slmc/quant"
	"slmc/tensor"
)

// logitTokens is how many positions an export is run on.
const logitTokens = 8

// exactLogits bounds the difference of logits, relative to a row's largest, of an
// export whose values are the model's: frequencies that are made again may
// differ in their last bits.
const exactLogits = 1e-4

// compareLogits runs both models in float32 on the same few tokens and returns
// the largest difference of a logit, relative to the largest magnitude of its
// row. Weights are read 16 rows at a time and not kept.
func compareLogits(ctx context.Context, want, got *model.Model) (float64, error) {
	r := rand.New(rand.NewPCG(1, logitTokens))
	ids := make([]int32, min(logitTokens, want.Context))
	for i := range ids {
		ids[i] = int32(r.IntN(want.Vocab))
	}
	a, err := streamedLogits(ctx, want, ids)
	if err != nil {
		return 0, fmt.Errorf("logits of the model: %w", err)
	}
	b, err := streamedLogits(ctx, got, ids)
	if err != nil {
		return 0, fmt.Errorf("logits of the export: %w", err)
	}
	worst := 0.0
	for t := range ids {
		diff, most := 0.0, 0.0
		for i, z := range a.Row(t) {
			diff, most = max(diff, math.Abs(float64(z)-float64(b.Row(t)[i]))), max(most, math.Abs(float64(z)))
		}
		if diff > 0 {
			worst = max(worst, diff/most)
		}
	}
	return worst, nil
}

// checkLogits compares logits; an export that holds the model exactly must give
// its logits.
func checkLogits(ctx context.Context, want, got *model.Model, exact bool) (float64, error) {
	d, err := compareLogits(ctx, want, got)
	if err == nil && exact && !(d <= exactLogits) {
		err = formats.Corrupt("", "", -1, "logits differ by %.3g of a row's largest, though all values are the model's", d)
	}
	return d, err
}

// streamedLogits returns the logits [T V] of all ids.
func streamedLogits(ctx context.Context, m *model.Model, ids []int32) (*tensor.Mat, error) {
	k, err := kernel.Select("")
	if err != nil {
		return nil, err
	}
	// What Plain sees has matrices without rows, which it never reads, and an
	// embedding of zeros.
	outline := m.Graph.Clone()
	p := &exec.Params{Mats: make([]exec.Matrix, len(m.Weights)), Vecs: make([][]float32, len(m.Weights))}
	for i, w := range m.Weights {
		if w.Role.Matrix() {
			rows := 0
			if i == m.Embed {
				rows = kernel.Rows
			}
			outline.Weights[i].Shape = []int{rows, w.Shape[1]}
			p.Mats[i] = exec.Matrix{Format: quant.F32, Rows: rows, Cols: w.Shape[1], Panels: make([]byte, quant.MatrixBytes(quant.F32, rows, w.Shape[1]))}
			continue
		}
		if p.Vecs[i], err = m.Tensor(i); err != nil {
			return nil, err
		}
	}
	for _, r := range m.Ropes {
		cos, sin := r.Tables(len(ids))
		p.Cos, p.Sin = append(p.Cos, cos), append(p.Sin, sin)
	}
	pool := exec.NewPool(1)
	defer pool.Close()
	s := &streamed{Plain: exec.NewPlain(outline, p, k, pool, exec.NewCache(m.Graph, exec.KVF32, len(ids))), ctx: ctx, m: m, k: k, vecs: p.Vecs}
	return exec.Forward(m.Graph, s, exec.Batch{IDs: ids}, 0)
}

// streamed are the float operations on weights that are read as they are used.
type streamed struct {
	*exec.Plain
	ctx  context.Context
	m    *model.Model
	k    *kernel.Funcs
	vecs [][]float32
	err  error
}

// Err implements exec.Ops.
func (s *streamed) Err() error {
	if s.err != nil {
		return s.err
	}
	return s.Plain.Err()
}

func newMat(R, C int) *tensor.Mat {
	stride := quant.Panels(C) * kernel.Rows
	return &tensor.Mat{R: R, C: C, Stride: stride, X: make([]float32, R*stride)}
}

// Embed implements exec.Ops.
func (s *streamed) Embed(ids []int32, pos int) *tensor.Mat {
	x := s.Plain.Embed(make([]int32, len(ids)), pos)
	for t, id := range ids {
		s.read(s.m.Embed, int(id)*x.C, x.Row(t))
		for i := range x.Row(t) {
			x.Row(t)[i] *= s.m.EmbedScale
		}
	}
	return x
}

// Linear implements exec.Ops.
func (s *streamed) Linear(x *tensor.Mat, l model.Linear) *tensor.Mat {
	rows, cols := s.m.Weights[l.W].Shape[0], x.C
	y := newMat(x.R, rows)
	buf, panel := make([]float32, kernel.Rows*cols), make([]byte, quant.F32.PanelBytes(cols))
	for r := 0; r < rows; r += kernel.Rows {
		n := min(kernel.Rows, rows-r)
		s.read(l.W, r*cols, buf[:n*cols])
		clear(panel)
		for j := range n {
			for k, v := range buf[j*cols : (j+1)*cols] {
				binary.LittleEndian.PutUint32(panel[4*(k*kernel.Rows+j):], math.Float32bits(v))
			}
		}
		s.k.MatF32(y.X[r:], y.Stride, panel, x.X, x.Stride, x.R, cols, 0, 1)
	}
	if l.B != model.None {
		for r := range y.R {
			s.k.Add(y.Row(r), s.vecs[l.B])
		}
	}
	return y
}

func (s *streamed) read(w, off int, dst []float32) {
	if s.err == nil {
		s.err = s.ctx.Err()
	}
	if s.err == nil {
		s.err = s.m.Values.Read(w, off, dst)
	}
}
