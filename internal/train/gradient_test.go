package train_test

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"slmc/internal/exec"
	"slmc/internal/kernel"
	"slmc/internal/train"
	"slmc/model"
	"slmc/tensor"
)

// weights holds plain float weights with gradients.
type weights struct{ w, g [][]float32 }

func (w *weights) Value(i int) []float32 { return w.w[i] }
func (w *weights) Grad(i int) []float32  { return w.g[i] }

func (w *weights) add(g *model.Graph, r *rand.Rand, role model.Role, shape ...int) int {
	g.Weights = append(g.Weights, model.Weight{Name: fmt.Sprint("w", len(w.w)), Role: role, Shape: shape})
	n := g.Weights[len(w.w)].Elems()
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(r.NormFloat64() / math.Sqrt(float64(shape[len(shape)-1])))
		if !role.Matrix() {
			v[i] = 1 + 0.3*v[i]
		}
	}
	w.w, w.g = append(w.w, v), append(w.g, make([]float32, n))
	return len(w.w) - 1
}

// everything builds a graph of three blocks that uses every operation: biases,
// QK-norm, post-norms, soft-caps, a window, an untied head, a taker.
func everything(act model.Activation) (*model.Graph, *weights) {
	const D, H, K, E, F, V = 20, 4, 2, 6, 28, 23
	r := rand.New(rand.NewPCG(1, 2))
	g, w := &model.Graph{Hidden: D, Vocab: V, Context: 16, NormEps: 1e-5, EmbedScale: 1.7, LogitCap: 4}, &weights{}
	lin := func(role model.Role, out, in int) model.Linear {
		return model.Linear{W: w.add(g, r, role, out, in), B: w.add(g, r, model.RoleBias, out)}
	}
	g.Embed, g.Norm = w.add(g, r, model.RoleEmbed, V, D), w.add(g, r, model.RoleNorm, D)
	g.Head = lin(model.RoleHead, V, D)
	g.Ropes = []model.Rope{{HeadDim: E, InvFreq: []float32{1, 0.3, 0.05}}}
	for i := range 3 {
		b := model.Block{Heads: H, KVHeads: K, HeadDim: E, FFN: F, Act: act, AttnScale: 0.7, AttnCap: 3, KVFrom: i}
		norm := func(n int) int { return w.add(g, r, model.RoleNorm, n) }
		b.AttnNorm, b.FFNNorm, b.PostAttnNorm, b.PostFFNNorm, b.QNorm = norm(D), norm(D), norm(D), norm(D), norm(E)
		none := model.Linear{W: model.None, B: model.None}
		b.Q, b.K, b.V, b.KNorm = lin(model.RoleAttnQ, H*E, D), none, none, model.None
		if i == 2 {
			b.KVFrom = 1
		} else {
			b.K, b.V, b.KNorm = lin(model.RoleAttnK, K*E, D), lin(model.RoleAttnV, K*E, D), norm(E)
		}
		if i == 0 {
			b.Window = 3
		}
		b.O, b.Gate, b.Up, b.Down = lin(model.RoleAttnO, D, H*E), lin(model.RoleGate, F, D), lin(model.RoleUp, F, D), lin(model.RoleDown, D, F)
		g.Blocks = append(g.Blocks, b)
	}
	return g, w
}

var ids, targets, seqs = []int32{3, 7, 1, 20, 5, 5, 2, 9, 11}, []int32{7, 1, 20, 5, -1, 2, 9, 11, 0}, []int{5, 4}

func tape(t *testing.T, g *model.Graph, w train.Weights, threads int) (*train.Tape, *kernel.Funcs) {
	t.Helper()
	f, err := kernel.Select("")
	if err != nil {
		t.Fatal(err)
	}
	pool := exec.NewPool(threads)
	t.Cleanup(pool.Close)
	return train.NewTape(g, w, f, pool.Run, train.Rounding{}, 16), f
}

// loss runs forward and, with back, backward; the mean loss in nats.
func loss(t *testing.T, g *model.Graph, tp *train.Tape, f *kernel.Funcs, back bool) float64 {
	t.Helper()
	tp.Moved()
	tp.Start(seqs, true)
	z, err := exec.Forward(g, tp, exec.Batch{IDs: ids}, 0)
	if err != nil {
		t.Fatal(err)
	}
	seed := &tensor.Mat{R: z.R, C: z.C, Stride: z.C, X: make([]float32, z.R*z.C)}
	sum, n := train.CrossEntropy(f, seed, z, targets)
	if back {
		tp.Backward(z, seed)
	}
	return sum / float64(n)
}

// The gradient of every weight agrees with central differences.
func TestGradients(t *testing.T) {
	for _, act := range []model.Activation{model.SiLU, model.GELUTanh} {
		g, w := everything(act)
		tp, f := tape(t, g, w, 2)
		loss(t, g, tp, f, true)
		r := rand.New(rand.NewPCG(3, 4))
		for i := range w.w {
			// A direction through all elements of the weight averages the
			// float32 noise that single elements suffer from.
			d := make([]float64, len(w.w[i]))
			want, norm := 0.0, 0.0
			for k := range d {
				d[k] = r.NormFloat64()
				norm += d[k] * d[k]
			}
			const h = 2e-3
			at := append([]float32(nil), w.w[i]...)
			move := func(s float64) float64 {
				for k := range d {
					w.w[i][k] = at[k] + float32(s*d[k]/math.Sqrt(norm))
				}
				defer copy(w.w[i], at)
				return loss(t, g, tp, f, false)
			}
			for k := range d {
				want += float64(w.g[i][k]) * d[k] / math.Sqrt(norm)
			}
			got := (8*(move(h)-move(-h)) - (move(2*h) - move(-2*h))) / (12 * h)
			if math.Abs(got-want) > 2e-3*math.Abs(want)+3e-4 {
				t.Errorf("%s %s %v: differences say %.6f, backward %.6f", act, g.Weights[i].Role, g.Weights[i].Shape, got, want)
			}
		}
	}
}

// Forward on the tape is the forward pass of the runtime on the same floats,
// sequence by sequence.
func TestTapeMatchesPlain(t *testing.T) {
	g, w := everything(model.SiLU)
	tp, f := tape(t, g, w, 1)
	tp.Start(seqs, true)
	z, err := exec.Forward(g, tp, exec.Batch{IDs: ids}, 0)
	if err != nil {
		t.Fatal(err)
	}
	p, err := exec.LoadParams(&model.Model{Graph: g, Values: values(w.w)}, 16)
	if err != nil {
		t.Fatal(err)
	}
	pool := exec.NewPool(1)
	defer pool.Close()
	row := 0
	for _, n := range seqs {
		plain := exec.NewPlain(g, p, f, pool, exec.NewCache(g, exec.KVF32, 16))
		want, err := exec.Forward(g, plain, exec.Batch{IDs: ids[row : row+n]}, 0)
		if err != nil {
			t.Fatal(err)
		}
		for r := range n {
			for c, v := range want.Row(r) {
				if got := z.Row(row + r)[c]; math.Abs(float64(got-v)) > 1e-5 {
					t.Fatalf("row %d logit %d: tape %g, plain %g", row+r, c, got, v)
				}
			}
		}
		row += n
	}
}

type values [][]float32

func (v values) Read(i, off int, dst []float32) error { copy(dst, v[i][off:]); return nil }

// Any number of threads gives the same gradients, bit for bit.
func TestThreadsSameGradients(t *testing.T) {
	var want [][]float32
	for _, threads := range []int{1, 2, 5} {
		g, w := everything(model.SiLU)
		tp, f := tape(t, g, w, threads)
		loss(t, g, tp, f, true)
		if want == nil {
			want = w.g
			continue
		}
		for i := range want {
			for k := range want[i] {
				if math.Float32bits(want[i][k]) != math.Float32bits(w.g[i][k]) {
					t.Fatalf("%d threads: gradient %d of weight %d differs", threads, k, i)
				}
			}
		}
	}
}

// KL to oneself is zero with a zero gradient, and its gradient agrees with
// differences.
func TestDistill(t *testing.T) {
	f, err := kernel.Select("")
	if err != nil {
		t.Fatal(err)
	}
	r := rand.New(rand.NewPCG(5, 6))
	random := func() []float32 {
		x := make([]float32, 17)
		for i := range x {
			x[i] = float32(r.NormFloat64())
		}
		return x
	}
	const n = 3
	z, teacher, seed, scratch := random(), random(), random(), random()
	kl := func() float64 { return train.DistillRow(f, random(), z, teacher, scratch, n) / n }
	train.DistillRow(f, seed, z, teacher, scratch, n)
	for i := range z {
		const h = 1e-2
		old := z[i]
		z[i] = old + h
		up := kl()
		z[i] = old - h
		down := kl()
		z[i] = old
		if got := (up - down) / (2 * h); math.Abs(got-float64(seed[i])) > 1e-4 {
			t.Errorf("logit %d: differences say %g, gradient is %g", i, got, seed[i])
		}
	}
	if s := train.DistillRow(f, seed, z, z, scratch, n); math.Abs(s) > 1e-6 {
		t.Errorf("KL to oneself is %g", s)
	}
}

// AdamW against a float64 transcription of the paper's algorithm 2.
func TestAdamW(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	a := train.NewAdamW([]int{4})
	a.Decay = 0.1
	w, g := []float32{1, -2, 0.5, 0}, make([]float32, 4)
	want, m, v := []float64{1, -2, 0.5, 0}, make([]float64, 4), make([]float64, 4)
	for step := 1; step <= 50; step++ {
		a.Step()
		for i := range g {
			g[i] = float32(r.NormFloat64())
			x := float64(g[i])
			m[i], v[i] = 0.9*m[i]+0.1*x, 0.95*v[i]+0.05*x*x
			mh, vh := m[i]/(1-math.Pow(0.9, float64(step))), v[i]/(1-math.Pow(0.95, float64(step)))
			want[i] -= 1e-2 * (mh/(math.Sqrt(vh)+1e-8) + 0.1*want[i])
		}
		a.Update(0, w, g, 1e-2, func(n, _ int, f func(lo, hi int)) { f(0, n) })
	}
	for i := range w {
		if math.Abs(float64(w[i])-want[i]) > 1e-5 {
			t.Errorf("parameter %d is %g, want %g", i, w[i], want[i])
		}
	}
}
