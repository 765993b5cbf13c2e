package calibrate

import (
	"context"
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"slmc/internal/exec"
	"slmc/internal/kernel"
	"slmc/quant"
	"slmc/tensor"
)

func testEnv(t testing.TB, threads int) Env {
	t.Helper()
	k, err := kernel.Select("")
	if err != nil {
		t.Fatal(err)
	}
	p := exec.NewPool(threads)
	t.Cleanup(p.Close)
	return Env{Kernel: k, Pool: p}
}

// correlated returns the statistics of tokens whose columns share factors, as
// activations do, with a few columns far larger than the rest.
func correlated(t testing.TB, env Env, r *rand.Rand, K, tokens int) *Input {
	t.Helper()
	mix := make([]float64, K*K/2)
	for i := range mix {
		mix[i] = r.NormFloat64()
	}
	a := newAccumulator(env, "x", K, true)
	x := &tensor.Mat{R: 1, C: K, Stride: K, X: make([]float32, K)}
	factors := make([]float64, K/2)
	for range tokens {
		for i := range factors {
			factors[i] = r.NormFloat64() / (1 + float64(i))
		}
		for k := range K {
			v := 0.3 * r.NormFloat64()
			for i, f := range factors {
				v += f * mix[k*K/2+i]
			}
			if k%7 == 3 {
				v *= 4
			}
			x.X[k] = float32(v)
		}
		a.add(x, nil)
	}
	in, err := a.finish()
	if err != nil {
		t.Fatal(err)
	}
	return in
}

func randomMatrix(r *rand.Rand, f quant.Format, rows int, in *Input) Matrix {
	m := Matrix{Name: "w", Format: f, Rows: rows, K: in.K, W: make([]float32, rows*in.K), Input: in}
	for i := range m.W {
		m.W[i] = float32(0.05 * r.NormFloat64())
	}
	return m
}

func encodeWith(t testing.TB, env Env, a Algorithm, m Matrix) []byte {
	t.Helper()
	rows, err := a.Encode(context.Background(), env.Pool, m)
	if err != nil {
		t.Fatal(err)
	}
	if want := m.Rows * m.Format.RowBytes(m.K); len(rows) != want {
		t.Fatalf("%s gave %d bytes, wanted %d", a.Name(), len(rows), want)
	}
	return rows
}

// With scales fixed, all 4^8 codes of a row can be tried: the best is what GPTQ
// approximates. A slice bound that is one off, in the block or beyond it, shows
// here at once; block sizes of 2 and 3 put every kind of boundary into 8 columns.
func TestGPTQAgainstBruteForce(t *testing.T) {
	env := testEnv(t, 1)
	const K, seeds = 8, 40
	f := quant.W2{GroupSize: 64}
	for _, a := range []GPTQ{
		{Kernel: env.Kernel, block: 2}, {Kernel: env.Kernel, block: 3}, {Kernel: env.Kernel},
		{Kernel: env.Kernel, ActOrder: true, block: 3}, {Kernel: env.Kernel, Refine: 4, block: 3},
	} {
		nearest, found, best := 0.0, 0.0, 0.0
		for seed := range uint64(seeds) {
			r := rand.New(rand.NewPCG(seed, 8))
			in := correlated(t, env, r, K, 64)
			m := randomMatrix(r, f, 1, in)
			row := encodeWith(t, env, a, m)
			scale := tensor.Half(binary.LittleEndian.Uint16(row))
			plain, err := f.Encode(nil, m.W, []tensor.Half{scale})
			if err != nil {
				t.Fatal(err)
			}
			// Each seed counts by its share of the optimum.
			least := bruteForce(m, scale.Float32())
			nearest += loss(m, plain) / least
			found += loss(m, row) / least
			best++
			if loss(m, row) < least*(1-1e-6) {
				t.Fatalf("seed %d: loss %g below the optimum %g", seed, loss(m, row), least)
			}
		}
		limit := 1.8
		if a.ActOrder {
			limit = 1.35
		} else if a.Refine > 0 {
			limit = 1.15
		}
		t.Logf("%s, block %d: nearest codes %.3f, found %.3f of the optimum", a.Name(), a.block, nearest/best, found/best)
		if found > limit*best || found > nearest/2 {
			t.Errorf("%s, block %d: loss is %.3f of the optimum on average, nearest codes give %.3f", a.Name(), a.block, found/best, nearest/best)
		}
	}
}

func loss(m Matrix, rows []byte) float64 {
	d := make([]float32, m.K)
	sum, size := 0.0, m.Format.RowBytes(m.K)
	for r := range m.Rows {
		m.Format.Decode(d, rows[r*size:(r+1)*size])
		for k := range d {
			d[k] = m.W[r*m.K+k] - d[k]
		}
		sum += quadratic(m.Input.H, d)
	}
	return sum
}

// bruteForce is the least loss of any codes of a row of 8.
func bruteForce(m Matrix, scale float32) float64 {
	least := math.Inf(1)
	d := make([]float32, m.K)
	for c := range 1 << (2 * m.K) {
		for k := range d {
			d[k] = m.W[k] - (float32(c>>(2*k)&3)-1.5)*scale
		}
		least = min(least, quadratic(m.Input.H, d))
	}
	return least
}

// GPTQ's recursion has a meaning that needs no Cholesky factor: when columns up
// to k are rounded, the real values of the rest are those of least loss. Solving
// for them from scratch at every column gives the same codes.
func TestGPTQAgainstLeastSquares(t *testing.T) {
	env := testEnv(t, 1)
	const K = 12
	f := quant.W2{GroupSize: 64}
	for seed := range uint64(30) {
		r := rand.New(rand.NewPCG(seed, 3))
		in := correlated(t, env, r, K, 200)
		m := randomMatrix(r, f, 1, in)
		for _, block := range []int{1, 2, 5, 128} {
			row := encodeWith(t, env, GPTQ{Kernel: env.Kernel, block: block}, m)
			scale := tensor.Half(binary.LittleEndian.Uint16(row)).Float32()
			got, want := make([]float32, K), leastSquares(m, float64(scale))
			f.Decode(got, row)
			for k := range want {
				if got[k] != want[k]*scale {
					t.Fatalf("seed %d, block %d: column %d has level %g, wanted %g", seed, block, k, got[k]/scale, want[k])
				}
			}
		}
	}
}

// leastSquares returns the levels of a row by the definition of GPTQ.
func leastSquares(m Matrix, scale float64) []float32 {
	K, h := m.K, slices.Clone(m.Input.H)
	mean := 0.0
	for k := range K {
		mean += h[k*K+k] / float64(K)
	}
	for k := range K {
		h[k*K+k] += DefaultDamp * mean
	}
	levels, d := make([]float32, K), make([]float64, K) // d = w - q of the columns done
	for k := range K {
		// Errors e of the rest with H_rr e = -H_rq d: Gaussian elimination.
		n := K - k
		a := make([][]float64, n)
		for i := range a {
			a[i] = append(slices.Clone(h[(k+i)*K+k:(k+i)*K+K]), 0)
			for j := range k {
				a[i][n] -= h[(k+i)*K+j] * d[j]
			}
		}
		for i := range n {
			for j := i + 1; j < n; j++ {
				c := a[j][i] / a[i][i]
				for x := i; x <= n; x++ {
					a[j][x] -= c * a[i][x]
				}
			}
		}
		for i := n - 1; i >= 0; i-- {
			for j := i + 1; j < n; j++ {
				a[i][n] -= a[i][j] * a[j][n]
			}
			a[i][n] /= a[i][i]
		}
		w := float64(m.W[k]) - a[0][n]
		levels[k] = gridOf(m.Format).nearest(float32(w / scale))
		d[k] = float64(m.W[k]) - float64(levels[k])*scale
	}
	return levels
}

// The lazy update in blocks is a way to compute, not another algorithm.
func TestGPTQBlocksAgree(t *testing.T) {
	env := testEnv(t, 2)
	r := rand.New(rand.NewPCG(5, 6))
	for _, f := range []quant.Format{quant.W2{GroupSize: 32}, quant.W4{GroupSize: 32}} {
		in := correlated(t, env, r, 172, 400)
		m := randomMatrix(r, f, 40, in)
		whole := encodeWith(t, env, GPTQ{Kernel: env.Kernel, block: 1024}, m)
		for _, block := range []int{32, 64, 128} {
			rows := encodeWith(t, env, GPTQ{Kernel: env.Kernel, block: block}, m)
			same := 0
			for i := range rows {
				if rows[i] == whole[i] {
					same++
				}
			}
			// Rounding to float32 differs, and a tie that falls the other way
			// changes what follows it in its row.
			if a, b := ProxyLoss(env.Pool, m, rows), ProxyLoss(env.Pool, m, whole); math.Abs(a-b) > 0.002*b || same < len(rows)*9/10 {
				t.Errorf("%s, block %d: proxy loss %g, unblocked %g; %d of %d bytes equal", f.Name(), block, a, b, same, len(rows))
			}
		}
	}
}

// U^T U is the inverse of the damped Hessian.
func TestInverseFactor(t *testing.T) {
	env := testEnv(t, 2)
	const K = 37
	in := correlated(t, env, rand.New(rand.NewPCG(1, 1)), K, 20) // singular: 20 tokens
	perm := rand.New(rand.NewPCG(2, 2)).Perm(K)
	u, damp, err := inverseFactor(env.Pool, in.H, perm, DefaultDamp)
	if err != nil {
		t.Fatal(err)
	}
	for i := range K {
		for j := range K {
			// (U^T U)(H + d I) = I, column j.
			sum := 0.0
			for n := range K {
				inv := 0.0
				for k := range min(i, n) + 1 {
					inv += float64(u[k*K+i]) * float64(u[k*K+n])
				}
				h := in.H[perm[n]*K+perm[j]]
				if n == j {
					h += damp
				}
				sum += inv * h
			}
			want := 0.0
			if i == j {
				want = 1
			}
			if math.Abs(sum-want) > 2e-4 {
				t.Fatalf("(U^T U H)[%d %d] = %g, wanted %g", i, j, sum, want)
			}
		}
	}
}

// A Hessian whose rounding made it indefinite is damped until it factors.
func TestDampingEscalates(t *testing.T) {
	env := testEnv(t, 1)
	h := []float64{1, 2, 0, 2, 1, 0, 0, 0, 1} // eigenvalues 3, 1, -1
	_, damp, err := inverseFactor(env.Pool, h, []int{0, 1, 2}, DefaultDamp)
	if err != nil || math.Abs(damp-10) > 1e-9 {
		t.Errorf("damping %g, error %v; wanted the first of 0.01, 0.1, ... above 1", damp, err)
	}
	if _, _, err := inverseFactor(env.Pool, []float64{math.NaN()}, []int{0}, DefaultDamp); err == nil {
		t.Error("a NaN was factored")
	}
}

// An input that is never active carries no error: any codes do, none fail.
func TestGPTQDeadColumns(t *testing.T) {
	env := testEnv(t, 1)
	r := rand.New(rand.NewPCG(9, 9))
	in := correlated(t, env, r, 64, 100)
	for k := range 64 {
		in.H[5*64+k], in.H[k*64+5] = 0, 0
	}
	in.Square[5] = 0
	m := randomMatrix(r, quant.W2{GroupSize: 32}, 4, in)
	encodeWith(t, env, GPTQ{Kernel: env.Kernel, Refine: 2}, m)
	clear(in.H)
	clear(in.Square)
	// All dead: RTN's codes, up to the finer search for the scale.
	if a, b := weightError(m, encodeWith(t, env, GPTQ{Kernel: env.Kernel}, m)), weightError(m, encodeWith(t, env, RTN{env.Kernel}, m)); a > b*1.0001 {
		t.Errorf("without activations the squared error of the weights is %g, RTN's %g", a, b)
	}
}

func weightError(m Matrix, rows []byte) float64 {
	d := make([]float32, m.K)
	sum, size := 0.0, m.Format.RowBytes(m.K)
	for r := range m.Rows {
		m.Format.Decode(d, rows[r*size:(r+1)*size])
		for k, q := range d {
			sum += float64(m.W[r*m.K+k]-q) * float64(m.W[r*m.K+k]-q)
		}
	}
	return sum
}

// Every algorithm lowers the loss of the one before, on inputs with shared
// factors, in every format that leaves a choice; threads change no byte; and
// bad weights are named.
func TestAlgorithms(t *testing.T) {
	one, two := testEnv(t, 1), testEnv(t, 3)
	r := rand.New(rand.NewPCG(7, 7))
	in := correlated(t, one, r, 172, 600)
	for _, f := range []quant.Format{quant.W2{GroupSize: 64}, quant.W4{GroupSize: 32}, quant.W8{GroupSize: 32}, quant.F16} {
		m := randomMatrix(r, f, 70, in)
		last := math.Inf(1)
		for _, a := range Algorithms(one.Kernel) {
			rows := encodeWith(t, one, a, m)
			if string(rows) != string(encodeWith(t, two, a, m)) {
				t.Errorf("%s, %s: bytes depend on the number of threads", f.Name(), a.Name())
			}
			now := ProxyLoss(one.Pool, m, rows)
			t.Logf("%s %s: %.5g", f.Name(), a.Name(), now)
			if now > last || now == last && f.Group() == 64 {
				t.Errorf("%s: %s has proxy loss %g, the algorithm before %g", f.Name(), a.Name(), now, last)
			}
			last = now
			bad := m
			bad.W = append([]float32(nil), m.W...)
			bad.W[3*m.K+100] = float32(math.Inf(1))
			if _, err := a.Encode(context.Background(), one.Pool, bad); err == nil {
				t.Errorf("%s, %s: a weight of Inf gave no error", f.Name(), a.Name())
			}
		}
	}
}

// Codes that calibration chose are the codes that quant stores.
func TestEncodeLevels(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	for _, f := range []quant.Format{quant.W2{GroupSize: 32}, quant.W4{GroupSize: 32}, quant.W8{GroupSize: 32}} {
		lo, hi := f.Levels()
		for range 2000 {
			K := 1 + r.IntN(70)
			levels, want, got := make([]float32, K), make([]float32, K), make([]float32, K)
			scales := make([]tensor.Half, quant.Groups(f, K))
			for i := range scales {
				for scales[i] == 0 || scales[i]&0x7c00 == 0x7c00 {
					scales[i] = tensor.Half(r.Uint32()) & 0x7fff
				}
			}
			for k := range levels {
				levels[k] = lo + float32(r.IntN(int(hi-lo)+1))
				want[k] = levels[k] * scales[k/32].Float32()
			}
			row, err := encodeLevels(nil, f, levels, scales, got)
			if err != nil {
				t.Fatal(err)
			}
			f.Decode(got, row)
			for k := range got {
				if got[k] != want[k] {
					t.Fatalf("%s: level %g of scale %g is stored as %g", f.Name(), levels[k], scales[k/32].Float32(), got[k])
				}
			}
		}
	}
}
