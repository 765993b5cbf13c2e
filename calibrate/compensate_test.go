package calibrate

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"slmc/internal/exec"
	"slmc/quant"
	"slmc/tensor"
)

// At the weights found the gradient of what they minimize is zero:
// sum (V x - W f - (p - r)) x^T + d (V - W) = 0, summed token by token.
func TestCompensatedIsTheMinimum(t *testing.T) {
	env := testEnv(t, 2)
	r := rand.New(rand.NewPCG(1, 5))
	const K, D, tokens = 21, 18, 150
	random := func(n int) []float32 {
		out := make([]float32, n)
		for i := range out {
			out[i] = float32(r.NormFloat64())
		}
		return out
	}
	a := newAccumulator(env, "x", K, true)
	a.compare(D)
	x, f, p, res := random(tokens*K), random(tokens*K), random(tokens*D), random(tokens*D)
	for i := range f {
		f[i] = x[i] + 0.3*f[i]
	}
	for at := 0; at < tokens; at += 50 { // sequences
		rows := func(m []float32, C int) *tensor.Mat { return matOf(m[at*C:(at+50)*C], 50, C) }
		a.expect(rows(f, K), rows(p, D))
		a.add(rows(x, K), rows(res, D))
	}
	in, err := a.finish()
	if err != nil {
		t.Fatal(err)
	}
	m := Matrix{Name: "w", Format: quant.F32, Rows: D, K: K, W: random(D * K), Input: in}
	u, damp, err := inverseFactor(env.Pool, in.H, identity(K), DefaultDamp)
	if err != nil {
		t.Fatal(err)
	}
	for _, lag := range []bool{false, true} {
		v := compensated(env, m, 0, lag, u)
		for i := range D {
			grad, scale := make([]float64, K), 0.0
			for n := range tokens {
				e := 0.0
				if lag {
					e -= float64(p[n*D+i] - res[n*D+i])
				}
				for k := range K {
					e += float64(v[i*K+k])*float64(x[n*K+k]) - float64(m.W[i*K+k])*float64(f[n*K+k])
				}
				for k := range K {
					grad[k] += e * float64(x[n*K+k])
					scale += math.Abs(e*float64(x[n*K+k])) / K
				}
			}
			for k := range K {
				if g := grad[k] + damp*float64(v[i*K+k]-m.W[i*K+k]); math.Abs(g) > 1e-4*scale {
					t.Fatalf("lag %v: gradient [%d %d] is %g of %g", lag, i, k, g, scale)
				}
			}
		}
	}
}

// A model whose matrices answer for what those before them lost ends nearer to
// the float model, on text that it has not seen; threads change no byte; and
// shared weights, far takers and an own head are no obstacle.
func TestCompensationHelps(t *testing.T) {
	m := load(t, tiny)
	seqs, unseen := randomSequences(8, m.Vocab, slices.Repeat([]int{100}, 30)...), randomSequences(9, m.Vocab, 100)
	env := testEnv(t, 2)
	p, err := exec.LoadParams(m, 100)
	if err != nil {
		t.Fatal(err)
	}
	s := &sensing{ctx: context.Background(), env: env, m: m, seqs: unseen, scratch: make([]float32, m.Vocab)}
	if err := s.teacher(p); err != nil {
		t.Fatal(err)
	}
	cfg := Config{Formats: formatsOf(t, m.Graph, "w2"), Algorithm: GPTQ{Kernel: env.Kernel, Refine: DefaultRefine}, MinTokens: 1}
	divergence := func(c Config) float64 {
		q, _ := collect(t, env, m, seqs, c)
		kl, err := s.divergence(q)
		if err != nil {
			t.Fatal(err)
		}
		return kl
	}
	without := divergence(cfg)
	cfg.Compensate = true
	with := divergence(cfg)
	t.Logf("KL %.4f, compensated %.4f", without, with)
	if with > 0.95*without {
		t.Errorf("KL %g without compensation, %g with it", without, with)
	}
	odd := twisted(t)
	cfg.Formats = formatsOf(t, odd.Graph, "w2")
	one, _ := collect(t, testEnv(t, 1), odd, seqs[:1], cfg)
	three, _ := collect(t, testEnv(t, 3), odd, seqs[:1], cfg)
	for i := range one.Mats {
		if string(one.Mats[i].Panels) != string(three.Mats[i].Panels) {
			t.Errorf("%s depends on the number of threads", odd.Weights[i].Name)
		}
	}
}
