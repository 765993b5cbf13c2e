package eval

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"slmc/internal/kernel"
)

// Every id appears once and in order, each window starts with BOS where there
// is one, and none is longer than the context.
func TestWindows(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		ids := rapid.SliceOfN(rapid.Int32Range(0, 1<<20), 0, 200).Draw(t, "ids")
		size := rapid.IntRange(2, 70).Draw(t, "size")
		bos := rapid.SampledFrom([]int32{-1, 0, 7}).Draw(t, "bos")
		var got []int32
		windows := Windows(ids, size, bos)
		for i, w := range windows {
			if len(w) > size || i < len(windows)-1 && len(w) < size {
				t.Fatalf("window %d of %d has %d tokens, wanted %d", i, len(windows), len(w), size)
			}
			if bos >= 0 {
				if w[0] != bos {
					t.Fatalf("window %d starts with %d, wanted BOS %d", i, w[0], bos)
				}
				w = w[1:]
			}
			if len(w) == 0 {
				t.Fatalf("window %d holds nothing of the text", i)
			}
			got = append(got, w...)
		}
		if !slices.Equal(got, ids) {
			t.Fatalf("windows hold %v of %v", got, ids)
		}
	})
}

// fake is a model whose logits are drawn from everything that it was fed since
// it was reset.
type fake struct {
	vocab  int
	seed   uint64
	fed    []int32
	resets int
	parts  int
}

func (m *fake) Truncate(n int) { m.fed, m.resets = m.fed[:n], m.resets+1 }

func (m *fake) Logits(_ context.Context, ids []int32, each func(i int, z []float32) error) error {
	m.parts++
	for i, id := range ids {
		m.fed = append(m.fed, id)
		if err := each(i, m.after(m.fed)); err != nil {
			return err
		}
	}
	return nil
}

// after gives the logits that follow a sequence.
func (m *fake) after(fed []int32) []float32 {
	h := m.seed
	for _, id := range fed {
		h = h*0x9e3779b97f4a7c15 + uint64(id) + 1
	}
	r := rand.New(rand.NewPCG(h, 0))
	z := make([]float32, m.vocab)
	for i := range z {
		z[i] = r.Float32()*12 - 4
	}
	return z
}

// logProbs are the natural log probabilities, in float64 by the textbook.
func logProbs(z []float32) []float64 {
	top := float64(slices.Max(z))
	sum := 0.0
	for _, x := range z {
		sum += math.Exp(float64(x) - top)
	}
	out := make([]float64, len(z))
	for i, x := range z {
		out[i] = float64(x) - top - math.Log(sum)
	}
	return out
}

func argMax(z []float32) int { return slices.Index(z, slices.Max(z)) }

func near(got, want, tolerance float64) bool {
	return math.Abs(got-want) <= tolerance*(1+math.Abs(want))
}

// Score agrees with the formulas computed in float64, for a vocabulary so large
// that windows are scored in parts too.
func TestScore(t *testing.T) {
	f, err := kernel.Select("")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		vocab, tokens, size int
		tolerance           float64 // the kernel adds up the vocabulary in float32
	}{{50, 230, 17, 2e-6}, {50, 3, 17, 2e-6}, {450_000, 13, 12, 1e-4}} {
		ids := make([]int32, c.tokens)
		r := rand.New(rand.NewPCG(1, 2))
		for i := range ids {
			ids[i] = int32(r.IntN(c.vocab))
		}
		windows := Windows(ids, c.size, 1)
		m, teacher := &fake{vocab: c.vocab, seed: 3}, &fake{vocab: c.vocab, seed: 4}

		var nll, same float64
		var kl []float64
		for _, w := range windows {
			for i := 1; i < len(w); i++ {
				z, tz := m.after(w[:i]), teacher.after(w[:i])
				p, q := logProbs(tz), logProbs(z)
				nll -= q[w[i]]
				sum := 0.0
				for j := range p {
					sum += math.Exp(p[j]) * (p[j] - q[j])
				}
				kl = append(kl, sum)
				if argMax(z) == argMax(tz) {
					same++
				}
			}
		}
		n := float64(len(kl))
		mean := 0.0
		for _, k := range kl {
			mean += k / n
		}
		slices.Sort(kl)
		p99 := kl[int(math.Ceil(0.99*n))-1]

		last := 0
		got, err := Score(context.Background(), f, m, teacher, c.vocab, windows, func(done int) {
			if done <= last {
				t.Errorf("progress went from %d to %d", last, done)
			}
			last = done
		})
		if err != nil {
			t.Fatal(err)
		}
		if got.Tokens != len(kl) || got.Tokens != c.tokens || last != got.Tokens {
			t.Errorf("%+v: %d tokens, %d at the end of the progress, wanted %d", c, got.Tokens, last, len(kl))
		}
		if !near(got.NLL, nll/n, c.tolerance) || !near(got.PPL, math.Exp(nll/n), c.tolerance) {
			t.Errorf("%+v: nll %g and ppl %g, wanted %g and %g", c, got.NLL, got.PPL, nll/n, math.Exp(nll/n))
		}
		if !near(*got.KLMean, mean, c.tolerance) || !near(*got.KLP99, p99, c.tolerance) || !near(*got.SameTop1, same/n, c.tolerance) {
			t.Errorf("%+v: kl %g, p99 %g, same %g, wanted %g, %g, %g", c, *got.KLMean, *got.KLP99, *got.SameTop1, mean, p99, same/n)
		}
		if m.resets != len(windows) || teacher.resets != len(windows) {
			t.Errorf("%+v: %d and %d resets for %d windows", c, m.resets, teacher.resets, len(windows))
		}
		if many := c.vocab > 100_000; many != (m.parts > len(windows)) {
			t.Errorf("%+v: %d parts for %d windows", c, m.parts, len(windows))
		}

		// Without a teacher: the same loss, and no distance.
		alone, err := Score(context.Background(), f, &fake{vocab: c.vocab, seed: 3}, nil, c.vocab, windows, func(int) {})
		if err != nil {
			t.Fatal(err)
		}
		if alone.NLL != got.NLL || alone.KLMean != nil || alone.KLP99 != nil || alone.SameTop1 != nil {
			t.Errorf("%+v: alone %+v, with a teacher %+v", c, alone, got)
		}
	}
}

// A model is no distance from itself, not even by rounding.
func TestScoreOfItself(t *testing.T) {
	f, err := kernel.Select("scalar")
	if err != nil {
		t.Fatal(err)
	}
	got, err := Score(context.Background(), f, &fake{vocab: 300, seed: 3}, &fake{vocab: 300, seed: 3}, 300, [][]int32{{1, 2, 3, 4, 5}}, func(int) {})
	if err != nil {
		t.Fatal(err)
	}
	if *got.KLMean != 0 || *got.KLP99 != 0 || *got.SameTop1 != 1 {
		t.Errorf("kl %g, p99 %g, same %g", *got.KLMean, *got.KLP99, *got.SameTop1)
	}
}

func TestScoreRefuses(t *testing.T) {
	f, err := kernel.Select("")
	if err != nil {
		t.Fatal(err)
	}
	ctx := context.Background()
	for _, windows := range [][][]int32{nil, {}, {{1}}, {{1}, {2}}} {
		if _, err := Score(ctx, f, &fake{vocab: 9}, nil, 9, windows, func(int) {}); !errors.Is(err, ErrEmpty) {
			t.Errorf("%v: error %v, wanted ErrEmpty", windows, err)
		}
	}
	if _, err := Score(ctx, f, &fake{vocab: 9}, &fake{vocab: 8}, 9, [][]int32{{1, 2}}, func(int) {}); err == nil {
		t.Error("a teacher with another vocabulary was taken")
	}
}
