// Package eval measures a model on text: perplexity, and divergence from a
// teacher. It sees models through the Scorer interface, so that float
// checkpoints and bundles are measured by the same lines.
package eval

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"slmc/internal/kernel"
)

// Scorer gives the logits [V] that follow each of ids, continuing from what it
// was given before; Reset starts a new sequence. slmrt.Session is one.
type Scorer interface {
	Logits(ctx context.Context, ids []int32, each func(i int, z []float32) error) error
	Truncate(n int)
}

// Windows cuts ids into sequences of at most size tokens, each starting with
// bos if that is not negative. Every id appears once. A size that leaves no
// token to predict, below 2, is the caller's mistake.
func Windows(ids []int32, size int, bos int32) [][]int32 {
	if size < 2 {
		panic("eval.Windows: size below 2")
	}
	step := size
	if bos >= 0 {
		step--
	}
	var out [][]int32
	for part := range slices.Chunk(ids, step) {
		w := make([]int32, 0, size)
		if bos >= 0 {
			w = append(w, bos)
		}
		out = append(out, append(w, part...))
	}
	return out
}

// Text is the score of a model on a text. NLL is in nats per predicted token:
// every token of a window but its first.
type Text struct {
	Tokens int     `json:"tokens"`
	NLL    float64 `json:"nll"`
	PPL    float64 `json:"ppl"`
	// Against a teacher: mean and 99th percentile over predicted tokens of
	// KL(teacher || model) in nats, and how often the largest logits agree.
	KLMean   *float64 `json:"kl_mean,omitempty"`
	KLP99    *float64 `json:"kl_p99,omitempty"`
	SameTop1 *float64 `json:"same_top1,omitempty"`
}

// ErrEmpty is returned when a text has no token to predict.
var ErrEmpty = errors.New("no token to predict")

// chunk bounds the teacher's logits that are kept: 16 MiB of them.
func chunk(vocab int) int { return max(1, 4<<20/max(vocab, 1)) }

// Score runs the windows through the model, and through the teacher if it is
// not nil. vocab is the number of logits that both have. progress is called
// with the tokens done.
func Score(ctx context.Context, f *kernel.Funcs, m, teacher Scorer, vocab int, windows [][]int32, progress func(done int)) (Text, error) {
	s := &scoring{f: f, scratch: make([]float32, vocab)}
	done := 0
	for _, w := range windows {
		m.Truncate(0)
		if teacher != nil {
			teacher.Truncate(0)
		}
		// The logits after the last token predict nothing.
		for i := 0; i < len(w)-1; i += chunk(vocab) {
			end := min(i+chunk(vocab), len(w)-1)
			if err := s.part(ctx, m, teacher, w[i:end], w[i+1:end+1]); err != nil {
				return Text{}, err
			}
			done += end - i
			progress(done)
		}
	}
	if s.n == 0 {
		return Text{}, fmt.Errorf("%w: want windows of at least two tokens, have %d windows of fewer", ErrEmpty, len(windows))
	}
	return s.result(teacher != nil), nil
}

type scoring struct {
	f       *kernel.Funcs
	scratch []float32
	rows    [][]float32 // teacher's logits of a part
	n, same int
	nll     float64
	kl      []float64
}

// part scores the tokens in, which are followed by want.
func (s *scoring) part(ctx context.Context, m, teacher Scorer, in, want []int32) error {
	if teacher != nil {
		for len(s.rows) < len(in) {
			s.rows = append(s.rows, make([]float32, len(s.scratch)))
		}
		err := teacher.Logits(ctx, in, func(i int, z []float32) error {
			if len(z) != len(s.scratch) {
				return fmt.Errorf("the teacher has %d logits, the model %d", len(z), len(s.scratch))
			}
			copy(s.rows[i], z)
			return nil
		})
		if err != nil {
			return fmt.Errorf("teacher: %w", err)
		}
	}
	return m.Logits(ctx, in, func(i int, z []float32) error {
		lse := s.f.LogSumExp(z, s.scratch)
		s.n++
		s.nll += float64(lse) - float64(z[want[i]])
		if teacher != nil {
			s.kl = append(s.kl, s.divergence(s.rows[i], z, lse))
			if kernel.ArgMax(s.rows[i]) == kernel.ArgMax(z) {
				s.same++
			}
		}
		return nil
	})
}

// divergence is KL(teacher || model) for one position, in nats.
func (s *scoring) divergence(t, z []float32, lse float32) float64 {
	tl := s.f.LogSumExp(t, s.scratch)
	sum := 0.0
	for i, x := range t {
		p := float64(kernel.Exp(x - tl))
		sum += float64(p * (float64(x-tl) - float64(z[i]-lse)))
	}
	return max(sum, 0)
}

func (s *scoring) result(teacher bool) Text {
	nll := s.nll / float64(s.n)
	out := Text{Tokens: s.n, NLL: nll, PPL: math.Exp(nll)}
	if teacher {
		slices.Sort(s.kl)
		mean := 0.0
		for _, k := range s.kl {
			mean += k
		}
		mean /= float64(s.n)
		p99 := s.kl[(99*s.n+99)/100-1]
		same := float64(s.same) / float64(s.n)
		out.KLMean, out.KLP99, out.SameTop1 = &mean, &p99, &same
	}
	return out
}
