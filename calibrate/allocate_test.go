package calibrate

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"slmc/internal/exec"
	"slmc/quant"
)

var threeFormats = []quant.Format{quant.W2{GroupSize: 64}, quant.W4{GroupSize: 32}, quant.W8{GroupSize: 32}}

// randomParts are parts whose sizes have no common unit but 1 or 32.
func randomParts(r *rand.Rand, n int, unit int64) []Sensitivity {
	var out []Sensitivity
	for i := range n {
		s := Sensitivity{Part: Part{Name: fmt.Sprint("p", i)}}
		kl := 1 + r.Float64()
		size := unit * int64(50+r.IntN(100))
		for _, f := range threeFormats {
			s.Choices = append(s.Choices, Choice{f, size, kl})
			size += unit * int64(10+r.IntN(100))
			if r.IntN(8) > 0 { // sometimes more bits do not help
				kl *= r.Float64()
			}
		}
		out = append(out, s)
	}
	return out
}

// bruteAllocate tries all choices.
func bruteAllocate(parts []Sensitivity, budget int64) float64 {
	if budget < 0 {
		return math.Inf(1)
	}
	if len(parts) == 0 {
		return 0
	}
	least := math.Inf(1)
	for _, c := range parts[0].Choices {
		least = min(least, c.KL+bruteAllocate(parts[1:], budget-c.Bytes))
	}
	return least
}

func TestAllocateAgainstBruteForce(t *testing.T) {
	for seed := range uint64(20) {
		r := rand.New(rand.NewPCG(seed, 1))
		parts := randomParts(r, 1+r.IntN(6), []int64{1, 32}[seed%2])
		least, most := int64(0), int64(0)
		for _, p := range parts {
			least, most = least+p.Choices[0].Bytes, most+p.Choices[2].Bytes
		}
		last := math.Inf(1)
		for budget := least; budget <= most+10; budget += max(1, (most-least)/23) {
			a, err := Allocate(parts, budget)
			if err != nil {
				t.Fatal(err)
			}
			if want := bruteAllocate(parts, budget); math.Abs(a.KL-want) > 1e-12 || a.Bytes > budget {
				t.Errorf("seed %d, budget %d: KL %g in %d bytes, the least is %g", seed, budget, a.KL, a.Bytes, want)
			}
			if a.KL > last {
				t.Errorf("seed %d: KL rises to %g at budget %d", seed, a.KL, budget)
			}
			last = a.KL
		}
		if _, err := Allocate(parts, least-1); !errors.Is(err, ErrBudget) {
			t.Errorf("seed %d: %v", seed, err)
		}
	}
}

// Sizes of a large model are counted in coarser units: never over the budget,
// never worse with more of it, and close to the best.
func TestAllocateLarge(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	parts := randomParts(r, 7, 1_000_003)
	last := math.Inf(1)
	for budget := int64(900_000_000); budget < 2_500_000_000; budget += 70_000_001 {
		a, err := Allocate(parts, budget)
		if errors.Is(err, ErrBudget) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if a.Bytes > budget || a.KL > last {
			t.Errorf("budget %d: %d bytes, KL %g after %g", budget, a.Bytes, a.KL, last)
		}
		if want := bruteAllocate(parts, budget-budget/1000); a.KL > want+1e-12 {
			t.Errorf("budget %d: KL %g, with 0.1 %% less the least is %g", budget, a.KL, want)
		}
		last = a.KL
	}
}

func TestMeasureAndRecipe(t *testing.T) {
	m := load(t, tiny)
	p, err := exec.LoadParams(m, 64)
	if err != nil {
		t.Fatal(err)
	}
	seqs := randomSequences(4, m.Vocab, 40)
	measure := func(threads int, parts []Part) []Sensitivity {
		env := testEnv(t, threads)
		out, err := Measure(context.Background(), env, m, p, parts, threeFormats, RTN{env.Kernel}, nil, seqs, func(int, int) {})
		if err != nil {
			t.Fatal(err)
		}
		return out
	}
	roles := measure(1, RoleParts(m.Graph))
	if len(roles) != 8 || roles[0].Name != "embed" {
		t.Fatalf("%d roles, the first is %s", len(roles), roles[0].Name)
	}
	for i, s := range measure(3, RoleParts(m.Graph)) {
		for n, c := range s.Choices {
			if c != roles[i].Choices[n] {
				t.Errorf("%s %s: KL depends on the number of threads", s.Name, c.Format.Name())
			}
			if n > 0 && (c.KL >= s.Choices[n-1].KL || c.Bytes <= s.Choices[n-1].Bytes) {
				t.Errorf("%s: KL %g at %s, %g at %s", s.Name, c.KL, c.Format.Name(), s.Choices[n-1].KL, s.Choices[n-1].Format.Name())
			}
		}
	}
	// One by one, so that rules need blocks.
	tensors := measure(1, TensorParts(m.Graph))
	for _, parts := range [][]Sensitivity{roles, tensors} {
		for _, share := range []int64{30, 45, 60, 90} {
			budget := int64(m.Parameters()) * share / 100
			a, err := Allocate(parts, budget)
			if err != nil {
				t.Fatal(err)
			}
			recipe, err := a.Recipe(m.Graph, "test")
			if err != nil {
				t.Fatal(err)
			}
			formats, err := recipe.Formats(m.Graph)
			if err != nil {
				t.Fatal(err)
			}
			size := int64(0)
			for i, w := range m.Weights {
				if w.Role.Matrix() {
					size += partBytes(m.Graph, Part{Weights: []int{i}}, formats[i])
				}
			}
			if size != a.Bytes || size > budget {
				t.Errorf("budget %d: the recipe takes %d bytes, the allocation says %d", budget, size, a.Bytes)
			}
			var b bytes.Buffer
			if err := a.Table(&b); err != nil || strings.Count(b.String(), "[") != len(parts) {
				t.Errorf("table: %v\n%s", err, b.String())
			}
		}
	}
}
