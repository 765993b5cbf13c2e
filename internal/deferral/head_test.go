package deferral

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"slmc/internal/kernel"
	"slmc/tensor"
)

// A head is compared with the same sums in float64.
func TestHeadAgainstFloat64(t *testing.T) {
	p := drawn(3)
	h := p.Heads[1]
	n := len(h.Inputs)
	r := rand.New(rand.NewPCG(5, 0))
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(3 * r.NormFloat64())
	}
	in, hidden := make([]float32, n), make([]float32, h.Hidden)
	var got [Outputs]float32
	h.Standardize(in, x)
	h.Logits(got[:], hidden, in)
	for o := range Outputs {
		want := float64(h.B2[o])
		for j := range h.Hidden {
			s := float64(h.B1[j])
			for i := range n {
				v := (float64(x[i]) - float64(h.Mean[i])) * float64(h.Inv[i])
				s += float64(h.W1[j*n+i]) * max(-farthest, min(farthest, v))
			}
			want += float64(h.W2[o*h.Hidden+j]) * max(0, s)
		}
		if math.Abs(want-float64(got[o])) > 1e-4*(1+math.Abs(want)) {
			t.Errorf("output %d is %g, want %g", o, got[o], want)
		}
	}
}

func TestCurve(t *testing.T) {
	c := Curve{[]float32{0.2, 0.4, 0.8}, []float32{0.1, 0.1, 0.9}}
	for x, want := range map[float32]float32{-1: 0.1, 0.2: 0.1, 0.3: 0.1, 0.4: 0.1, 0.6: 0.5, 0.8: 0.9, 2: 0.9} {
		if got := c.At(x); math.Abs(float64(got-want)) > 1e-6 {
			t.Errorf("At(%g) = %g, want %g", x, got, want)
		}
	}
	if got := (Curve{}).At(0.3); got != 0.3 {
		t.Errorf("an empty curve maps 0.3 to %g", got)
	}
}

func TestFixedSequenceStopsAtTheFirstFailure(t *testing.T) {
	row := func(c Checkpoint, rate, bound float64) Row {
		return Row{Checkpoint: c, DeferralRate: rate, Bound: bound, Delta: 0.05, N: 100}
	}
	table := Table{Checkpoint: Post, Bound: 0.02, Rows: []Row{
		row(Pre, 0.9, 0.03), row(Post, 0.9, 0.01), row(Post, 0.7, 0.02), row(Post, 0.5, 0.021), row(Post, 0.3, 0.005),
	}}
	// The row at 0.3 would do, but a row before it failed.
	if r, err := table.Default(); err != nil || r.DeferralRate != 0.7 {
		t.Errorf("default row %+v, %v", r, err)
	}
	var no *Infeasible
	if _, err := table.Pick(Pre, 0.02); !errors.Is(err, ErrInfeasible) || !errors.As(err, &no) || no.Nearest.Bound != 0.03 {
		t.Errorf("pre: %v", err)
	}
	if _, err := table.Pick(Mid, 0.02); !errors.As(err, &no) || no.Nearest != nil {
		t.Errorf("mid: %v", err)
	}
	if r, err := table.Pick(Pre, 0.03); err != nil || r.DeferralRate != 0.9 {
		t.Errorf("pre at 0.03: %+v, %v", r, err)
	}
}

func TestRowDefers(t *testing.T) {
	r := Row{Pre: Never, Mid: 0.5, Post: 0.3, OOD: 0.9}
	for _, c := range []struct {
		x    Reading
		want bool
	}{
		{Reading{Checkpoint: Pre, Score: 1}, false},
		{Reading{Checkpoint: Mid, Score: 0.4}, false},
		{Reading{Checkpoint: Mid, Score: 0.5}, true},
		{Reading{Checkpoint: Post, Score: 0.3}, true},
		{Reading{Checkpoint: Post, Score: 0.2999}, false},
		{Reading{Checkpoint: Pre, OOD: 0.9}, true},
	} {
		if got := r.Defers(c.x); got != c.want {
			t.Errorf("%+v deferred: %v", c.x, got)
		}
	}
}

// Every statistic of a distribution is compared with its definition.
func TestDistribution(t *testing.T) {
	f, err := kernel.Select("scalar")
	if err != nil {
		t.Fatal(err)
	}
	bare, err := New(Parts{Shape: Shape{Blocks: 1, Hidden: 4}})
	if err != nil {
		t.Fatal(err)
	}
	c := bare.NewCollector(f)
	r := rand.New(rand.NewPCG(1, 0))
	z := make([]float32, 100)
	for i := range z {
		z[i] = float32(4 * r.NormFloat64())
	}
	var sum, entropy float64
	for _, v := range z {
		sum += math.Exp(float64(v))
	}
	for _, v := range z {
		p := math.Exp(float64(v)) / sum
		entropy -= p * math.Log(p)
	}
	c.Start([]int32{1, 2})
	c.State(0, &tensor.Mat{R: 2, C: 4, Stride: 4, X: []float32{1, 2, 3, 4, 5, 6, 7, 8}})
	c.State(1, &tensor.Mat{R: 1, C: 4, Stride: 4, X: []float32{1, 0, 0, -1}})
	c.Prompt(z)
	d := c.First()
	if math.Abs(float64(d.Entropy)-entropy) > 1e-4 {
		t.Errorf("entropy %g, want %g", d.Entropy, entropy)
	}
	for i, x := range d.Top {
		if i > 0 && x.LogP > d.Top[i-1].LogP {
			t.Errorf("top tokens are not in order: %v", d.Top)
		}
		if want := float64(z[x.ID]) - math.Log(sum); math.Abs(float64(x.LogP)-want) > 1e-4 {
			t.Errorf("log-probability of %d is %g, want %g", x.ID, x.LogP, want)
		}
	}
	c.Token(z, 7)
	want := float64(z[7]) - math.Log(sum)
	if s := c.Signals(); math.Abs(float64(s.LogProb)-want) > 1e-4 || math.Abs(float64(s.Entropy)-entropy) > 1e-4 {
		t.Errorf("signals %+v, want %g and %g", s, want, entropy)
	}
	for _, at := range Checkpoints() {
		x := c.Features(nil, at, true)
		if n := bare.Shape().Layout(at, 0).Size(); len(x) != n {
			t.Errorf("%s: %d features, the layout has %d", at, len(x), n)
		}
		if !kernel.Finite(x) {
			t.Errorf("%s: features are not finite: %v", at, x)
		}
	}
}
