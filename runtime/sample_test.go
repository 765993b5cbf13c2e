package slmrt

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"slmc/internal/kernel"
)

// frequencies draws n tokens from z.
func frequencies(c Sampling, z []float32, n int) []float64 {
	s := NewSampler(c)
	out := make([]float64, len(z))
	for range n {
		out[s.Next(z, nil)] += 1 / float64(n)
	}
	return out
}

func softmaxOf(z []float32, temperature float64) []float64 {
	p, sum := make([]float64, len(z)), 0.0
	for i, v := range z {
		p[i] = math.Exp(float64(v) / temperature)
		sum += p[i]
	}
	for i := range p {
		p[i] /= sum
	}
	return p
}

// Without filters, tokens come as often as the softmax says.
func TestSamplerFollowsSoftmax(t *testing.T) {
	z := []float32{0.3, -1, 2, 1.5, -0.2, 0}
	for _, temperature := range []float32{0.5, 1, 2} {
		const n = 40000
		got := frequencies(Sampling{Temperature: temperature, Seed: 3}, z, n)
		for i, want := range softmaxOf(z, float64(temperature)) {
			if math.Abs(got[i]-want) > 4*math.Sqrt(want/n) {
				t.Errorf("temperature %g: token %d came %.4f of the time, want %.4f", temperature, i, got[i], want)
			}
		}
	}
}

// The filters keep exactly the tokens that their definitions keep.
func TestSamplerFilters(t *testing.T) {
	z := []float32{0, 3, 1, 3, 2, -4} // probabilities in order: tokens 1 and 3, 4, 2, 0, 5
	for _, c := range []struct {
		name string
		s    Sampling
		kept []int
	}{
		{"top-k 1 takes the first of equals", Sampling{TopK: 1}, []int{1}},
		{"top-k 3", Sampling{TopK: 3}, []int{1, 3, 4}},
		{"top-p 0.5 needs both", Sampling{TopP: 0.5}, []int{1, 3}},
		{"top-p 0.3 needs one", Sampling{TopP: 0.3}, []int{1}},
		{"min-p 0.3", Sampling{MinP: 0.3}, []int{1, 3, 4}},
		{"min-p 1", Sampling{MinP: 1}, []int{1, 3}},
		{"top-k then top-p", Sampling{TopK: 2, TopP: 0.99}, []int{1, 3}},
	} {
		c.s.Temperature, c.s.Seed = 1, 9
		kept := map[int]bool{}
		for i, f := range frequencies(c.s, z, 4000) {
			if f > 0 {
				kept[i] = true
			}
		}
		if len(kept) != len(c.kept) {
			t.Errorf("%s: kept %v, want %v", c.name, kept, c.kept)
		}
		for _, i := range c.kept {
			if !kept[i] {
				t.Errorf("%s: token %d never came", c.name, i)
			}
		}
	}
}

func TestSamplerRepetitionPenalty(t *testing.T) {
	z := []float32{2, 1.5, -1}
	s := NewSampler(Sampling{RepetitionPenalty: 2})
	if got := s.Next(z, nil); got != 0 {
		t.Errorf("greedy took %d", got)
	}
	if got := s.Next(z, []int32{0, 0}); got != 1 {
		t.Errorf("token 0 seen twice is penalised once, to 1; took %d", got)
	}
	if got := s.Next([]float32{-1, -1.5}, []int32{0}); got != 1 {
		t.Errorf("negative logits are multiplied; took %d", got)
	}
	if z[0] != 2 {
		t.Error("the logits were changed")
	}
}

func TestSamplerSeed(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	z := make([]float32, 500)
	for i := range z {
		z[i] = float32(r.NormFloat64())
	}
	draw := func(seed uint64) (ids []int32) {
		s := NewSampler(Sampling{Temperature: 1, TopP: 0.95, Seed: seed})
		for range 20 {
			ids = append(ids, s.Next(z, nil))
		}
		return ids
	}
	a, b, c := draw(1), draw(1), draw(2)
	same := true
	for i := range a {
		if a[i] != b[i] {
			t.Fatal("the same seed drew other tokens")
		}
		same = same && a[i] == c[i]
	}
	if same {
		t.Error("another seed drew the same tokens")
	}
	if got := NewSampler(Sampling{}).Next(z, nil); int(got) != kernel.ArgMax(z) {
		t.Error("the zero value is not greedy")
	}
}

func TestSamplingCheck(t *testing.T) {
	nan := float32(math.NaN())
	for _, bad := range []Sampling{{Temperature: -1}, {Temperature: nan}, {TopK: -1}, {TopP: 2}, {TopP: nan}, {MinP: -0.1}, {RepetitionPenalty: -1}, {RepetitionPenalty: nan}} {
		if bad.Check() == nil {
			t.Errorf("%+v accepted", bad)
		}
	}
	if err := (Sampling{Temperature: 0.7, TopK: 40, TopP: 0.9, MinP: 0.05, RepetitionPenalty: 1.1}).Check(); err != nil {
		t.Error(err)
	}
}

// What top-k keeps and the order of the candidates are those of a plain sort.
func TestSamplerOrder(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	for _, n := range []int{1, 2, 17, 1000} {
		z := make([]float32, n)
		for i := range z {
			z[i] = float32(r.IntN(n)-n/2) / 8 // with equals
			if z[i] == 0 && i%2 == 0 {
				z[i] = float32(math.Copysign(0, -1))
			}
		}
		want := make([]candidate, n)
		for i, v := range z {
			want[i] = candidate{int32(i), v}
		}
		slices.SortStableFunc(want, func(a, b candidate) int { return cmp.Compare(b.z, a.z) })
		for _, k := range []int{0, 1, n / 8, n / 2, n, n + 1} {
			w := want
			if k > 0 {
				w = want[:min(k, n)]
			}
			if got := NewSampler(Sampling{TopK: k}).largest(z); !slices.Equal(got, w) {
				t.Errorf("%d logits, top-k %d: order differs from a sort", n, k)
			}
		}
	}
}

func TestSamplerAllocatesNothing(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	z := make([]float32, 5000)
	for i := range z {
		z[i] = float32(r.NormFloat64())
	}
	for _, c := range []Sampling{{}, {Temperature: 1}, {Temperature: 1, TopK: 40}, {Temperature: 0.7, TopP: 0.9, RepetitionPenalty: 1.1}} {
		s := NewSampler(c)
		if n := testing.AllocsPerRun(20, func() { s.Next(z, []int32{1, 2, 3}) }); n != 0 {
			t.Errorf("%+v: %g allocations a token, want none", c, n)
		}
	}
}
