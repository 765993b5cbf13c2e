package calibrate

import (
	"context"
	"fmt"
	"slices"

	"slmc/internal/exec"
	"slmc/internal/kernel"
	"slmc/model"
	"slmc/quant"
	"slmc/tensor"
)

// Sensitivity of a model to the number format of a part of it: the mean over
// tokens of KL(float || one part rounded, the rest float), in nats. It is
// measured, not predicted from a Hessian's trace (HAWQ, arXiv 1911.03852), since
// a few hundred tokens of forward passes cost less; and in KL, which is what
// allocate.go may sum: around the float model it is quadratic in the logits, so
// that independent small errors add.

// Part is a set of weights that get one number format.
type Part struct {
	Name    string
	Weights []int // indices in the graph
}

// RoleParts are the matrices of g by role, in the order of model.Roles: as
// much as a recipe that is written by hand would tell apart. A tied embedding is
// one part, rounded for both of its uses.
func RoleParts(g *model.Graph) []Part {
	var out []Part
	for _, role := range model.Roles {
		p := Part{Name: string(role)}
		for i, w := range g.Weights {
			if w.Role == role && role.Matrix() {
				p.Weights = append(p.Weights, i)
			}
		}
		if len(p.Weights) > 0 {
			out = append(out, p)
		}
	}
	return out
}

// TensorParts are the matrices of g one by one.
func TensorParts(g *model.Graph) []Part {
	var out []Part
	for i, w := range g.Weights {
		if w.Role.Matrix() {
			out = append(out, Part{w.Name, []int{i}})
		}
	}
	return out
}

// Choice is a number format for a part: what it takes and what it costs.
type Choice struct {
	Format quant.Format
	Bytes  int64   // of the part in a bundle, each matrix padded to 64 bytes
	KL     float64 // nats a token
}

// Sensitivity is a part with its choices.
type Sensitivity struct {
	Part
	Choices []Choice
}

// align is the alignment of every weight in a bundle (convert.Align, which lies
// above this package).
const align = 64

// partBytes is the size of a part in format f.
func partBytes(g *model.Graph, p Part, f quant.Format) int64 {
	n := int64(0)
	for _, i := range p.Weights {
		shape := g.Weights[i].Shape
		n += (int64(quant.MatrixBytes(f, shape[0], shape[1])) + align - 1) / align * align
	}
	return n
}

// DefaultSensitivityTokens is how many tokens Measure is usually given:
// docs/experiments.md ("Where the bits go").
const DefaultSensitivityTokens = 512

// Measure rounds each part of a model alone to each of the formats with the
// algorithm a and measures the divergence from the float model on seqs. p are the
// float parameters; stats are needed as far as a needs them, nil for RTN. The
// rounded part runs on the packed kernels, its inputs in 8 bits; the cache stays
// float. All logits of seqs are held: keep seqs to some hundreds of tokens.
func Measure(ctx context.Context, env Env, m *model.Model, p *exec.Params, parts []Part, formats []quant.Format, a Algorithm, stats map[string]*Input, seqs Sequences, progress func(done, total int)) ([]Sensitivity, error) {
	if err := seqs.Check(m.Graph, longest(seqs), 2); err != nil {
		return nil, err
	}
	s := &sensing{ctx: ctx, env: env, m: m, seqs: seqs, scratch: make([]float32, m.Vocab)}
	if err := s.teacher(p); err != nil {
		return nil, err
	}
	var out []Sensitivity
	for n, part := range parts {
		one := Sensitivity{Part: part}
		for k, f := range formats {
			student, err := s.rounded(p, part, f, a, stats)
			if err != nil {
				return nil, err
			}
			kl, err := s.divergence(student)
			if err != nil {
				return nil, fmt.Errorf("%s in %s: %w", part.Name, f.Name(), err)
			}
			one.Choices = append(one.Choices, Choice{f, partBytes(m.Graph, part, f), kl})
			progress(n*len(formats)+k+1, len(parts)*len(formats))
		}
		out = append(out, one)
	}
	return out, nil
}

type sensing struct {
	ctx     context.Context
	env     Env
	m       *model.Model
	seqs    Sequences
	logits  []float32 // the teacher's, of all tokens
	scratch []float32
}

// run calls each with the logits of every sequence.
func (s *sensing) run(p *exec.Params, each func(z *tensor.Mat)) error {
	o := exec.NewPlain(s.m.Graph, p, s.env.Kernel, s.env.Pool, exec.NewCache(s.m.Graph, exec.KVF32, longest(s.seqs)))
	for i, q := range s.seqs {
		if err := s.ctx.Err(); err != nil {
			return err
		}
		if len(q) == 0 {
			continue
		}
		z, err := exec.Forward(s.m.Graph, o, exec.Batch{IDs: q}, 0)
		if err != nil {
			return fmt.Errorf("sequence %d: %w", i, err)
		}
		each(z)
	}
	return nil
}

func (s *sensing) teacher(p *exec.Params) error {
	return s.run(p, func(z *tensor.Mat) {
		for r := range z.R {
			s.logits = append(s.logits, z.Row(r)...)
		}
	})
}

// rounded returns p with a part in format f.
func (s *sensing) rounded(p *exec.Params, part Part, f quant.Format, a Algorithm, stats map[string]*Input) (*exec.Params, error) {
	student := *p
	student.Mats = slices.Clone(p.Mats)
	for _, i := range part.Weights {
		w := s.m.Weights[i]
		x, err := s.m.Tensor(i)
		if err != nil {
			return nil, err
		}
		rows, K := w.Shape[0], w.Shape[1]
		by := a
		if stats[w.Input] == nil && i == s.m.Embed {
			by = RTN{s.env.Kernel} // an embedding that is no head multiplies nothing
		}
		enc, err := by.Encode(s.ctx, s.env.Pool, Matrix{Name: w.Name, Format: f, Rows: rows, K: K, W: x, Input: stats[w.Input]})
		if err != nil {
			return nil, err
		}
		mat := exec.Matrix{Format: f, Rows: rows, Cols: K, Panels: make([]byte, quant.MatrixBytes(f, rows, K))}
		packRows(mat.Panels, f, enc, rows, K)
		student.Mats[i] = mat
	}
	return &student, nil
}

// divergence is the mean KL(teacher || student), never negative.
func (s *sensing) divergence(student *exec.Params) (float64, error) {
	sum, at, n := 0.0, 0, 0
	err := s.run(student, func(z *tensor.Mat) {
		for r := range z.R {
			t := s.logits[at : at+z.C]
			at, n = at+z.C, n+1
			sum += divergence(s.env.Kernel, t, z.Row(r), s.scratch)
		}
	})
	return max(sum/float64(n), 0), err
}

// divergence is KL(softmax(t) || softmax(z)) in nats; scratch has their length.
func divergence(k *kernel.Funcs, t, z, scratch []float32) float64 {
	lt, lz := k.LogSumExp(t, scratch), k.LogSumExp(z, scratch)
	sum := 0.0
	for i, x := range t {
		p := float64(kernel.Exp(x - lt))
		sum += float64(p * (float64(x-lt) - float64(z[i]-lz)))
	}
	return sum
}
