package qat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"slmc/internal/exec"
	"slmc/internal/kernel"
	"slmc/model"
	"slmc/quant"
	"slmc/tensor"
)

// values are a model's weights in memory.
type values [][]float32

func (v values) Read(i, off int, dst []float32) error { copy(dst, v[i][off:]); return nil }

// llama makes a random model of these dimensions, head tied.
func llama(L, D, H, K, E, F, V int) *model.Model {
	r := rand.New(rand.NewPCG(1, 2))
	g := &model.Graph{Hidden: D, Vocab: V, Context: 64, NormEps: 1e-5, EmbedScale: 1}
	var v values
	add := func(role model.Role, shape ...int) int {
		g.Weights = append(g.Weights, model.Weight{Name: fmt.Sprintf("%s.%d", role, len(v)), Role: role, Shape: shape})
		x := make([]float32, g.Weights[len(v)].Elems())
		for i := range x {
			x[i] = 1
			if role.Matrix() {
				x[i] = float32(r.NormFloat64() * 2 / math.Sqrt(float64(shape[1])))
			}
		}
		v = append(v, x)
		return len(v) - 1
	}
	lin := func(role model.Role, out, in int) model.Linear {
		return model.Linear{W: add(role, out, in), B: model.None}
	}
	g.Embed, g.Norm = add(model.RoleEmbed, V, D), add(model.RoleNorm, D)
	g.Head = model.Linear{W: g.Embed, B: model.None}
	rope := model.Rope{HeadDim: E}
	for i := range E / 2 {
		rope.InvFreq = append(rope.InvFreq, float32(math.Pow(1e4, -2*float64(i)/float64(E))))
	}
	g.Ropes = []model.Rope{rope}
	for i := range L {
		g.Blocks = append(g.Blocks, model.Block{
			Heads: H, KVHeads: K, HeadDim: E, FFN: F, Act: model.SiLU, AttnScale: float32(1 / math.Sqrt(float64(E))), KVFrom: i,
			AttnNorm: add(model.RoleNorm, D), FFNNorm: add(model.RoleNorm, D), QNorm: model.None, KNorm: model.None, PostAttnNorm: model.None, PostFFNNorm: model.None,
			Q: lin(model.RoleAttnQ, H*E, D), K: lin(model.RoleAttnK, K*E, D), V: lin(model.RoleAttnV, K*E, D), O: lin(model.RoleAttnO, D, H*E),
			Gate: lin(model.RoleGate, F, D), Up: lin(model.RoleUp, F, D), Down: lin(model.RoleDown, D, F),
		})
	}
	return &model.Model{Graph: g, Values: v}
}

// maxScales is a plain choice of scales: the largest weight of a group.
func maxScales(dst []tensor.Half, f quant.Format, row []float32) error {
	_, hi := f.Levels()
	for g := range dst {
		m := float32(0)
		for _, x := range row[g*f.Group() : min((g+1)*f.Group(), len(row))] {
			m = max(m, float32(math.Abs(float64(x))))
		}
		dst[g] = tensor.HalfFrom(0.6 * m / hi)
	}
	return nil
}

// sequences are random tokens of a language with few words, so that there is
// something to learn.
func sequences(n, length, vocab int) [][]int32 {
	r := rand.New(rand.NewPCG(3, 4))
	out := make([][]int32, n)
	for i := range out {
		for range 1 + r.IntN(length) {
			out[i] = append(out[i], int32(r.IntN(vocab)))
		}
	}
	return out
}

func newRun(t testing.TB, m *model.Model, seqs [][]int32, threads int) Run {
	t.Helper()
	f, err := kernel.Select("")
	if err != nil {
		t.Fatal(err)
	}
	pool := exec.NewPool(threads)
	t.Cleanup(pool.Close)
	formats := make([]quant.Format, len(m.Weights))
	for i, w := range m.Weights {
		switch {
		case !w.Role.Matrix():
			formats[i] = quant.F32
		case w.Role == model.RoleEmbed:
			formats[i] = quant.W4{GroupSize: 32}
		default:
			formats[i] = quant.W2{GroupSize: 64}
		}
	}
	c := DefaultConfig()
	c.Epochs, c.BatchTokens, c.Warmup = 2, 64, 3
	return Run{Teacher: m, Formats: formats, KV8: true, Scales: maxScales, Seqs: seqs, Config: c, Kernel: f, Pool: pool}
}

// collect is a sink that keeps everything.
func collect(out *bytes.Buffer) Sink {
	return Sink{
		Rows: func(w, first int, rows [][]byte) error {
			fmt.Fprint(out, w, first)
			for _, r := range rows {
				out.Write(r)
			}
			return nil
		},
		Vector: func(w int, v []float32) error {
			fmt.Fprint(out, w)
			for _, x := range v {
				fmt.Fprint(out, math.Float32bits(x), " ")
			}
			return nil
		},
	}
}

// Training lowers the divergence from the teacher, and threads do not change a
// byte.
func TestEndToEndLearnsAndIsDeterministic(t *testing.T) {
	m := llama(2, 32, 2, 1, 16, 48, 40)
	seqs := sequences(120, 20, 40)
	var want []byte
	for _, threads := range []int{1, 2, 3} {
		var out bytes.Buffer
		r := newRun(t, m, seqs, threads)
		r.Config.Epochs, r.Config.LR, r.Config.ScaleLR = 6, 5e-3, 2e-3
		rep, err := EndToEnd(context.Background(), r, collect(&out))
		if err != nil {
			t.Fatal(err)
		}
		if rep.LastLoss > 0.7*rep.FirstLoss {
			t.Errorf("KL went from %.4f to %.4f only", rep.FirstLoss, rep.LastLoss)
		}
		if want == nil {
			want = out.Bytes()
		} else if !bytes.Equal(want, out.Bytes()) {
			t.Errorf("%d threads gave other bytes", threads)
		}
	}
}

// A run that is stopped at any step goes on from its state to the same bytes.
func TestResume(t *testing.T) {
	m := llama(2, 32, 2, 1, 16, 48, 40)
	seqs := sequences(60, 20, 40)
	var want bytes.Buffer
	if _, err := EndToEnd(context.Background(), newRun(t, m, seqs, 1), collect(&want)); err != nil {
		t.Fatal(err)
	}
	for _, stop := range []int{1, 5, 9} {
		state := filepath.Join(t.TempDir(), "state")
		ctx, cancel := context.WithCancel(context.Background())
		r := newRun(t, m, seqs, 2)
		r.State, r.Every = state, 2
		r.Progress = func(p Progress) {
			if p.Step == stop {
				cancel()
			}
		}
		var got bytes.Buffer
		if _, err := EndToEnd(ctx, r, collect(&got)); !errors.Is(err, context.Canceled) {
			t.Fatalf("stopped run gave %v", err)
		}
		r.Progress = nil
		if _, err := EndToEnd(context.Background(), r, collect(&got)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(want.Bytes(), got.Bytes()) {
			t.Errorf("stopped after step %d: the result differs from an undisturbed run", stop)
		}
		damage(t, state)
		if _, err := EndToEnd(context.Background(), r, collect(&got)); err == nil {
			t.Error("a damaged state was used")
		}
	}
}

func damage(t *testing.T, path string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
}

// The gradients of weights and scales through the rounding are LSQ's.
func TestBackIsLSQ(t *testing.T) {
	f := quant.W2{GroupSize: 64}
	l := &latent{format: f, rows: 1, cols: 4, groups: 1, w: []float32{0.3, -5, 0.9, 2.9}, scales: []float32{1},
		value: make([]float32, 4), levels: make([]float32, 4), grad: []float32{1, 2, 3, 4}, dw: make([]float32, 4), dscales: make([]float32, 1)}
	l.round(0, 1)
	if fmt.Sprint(l.value) != "[0.5 -1.5 0.5 1.5]" {
		t.Errorf("values are %v", l.value)
	}
	l.back(0, 1)
	if fmt.Sprint(l.dw) != "[1 0 3 0]" {
		t.Errorf("dw is %v: it passes inside the clip range only", l.dw)
	}
	// inside: 1*(0.5-0.3) + 3*(0.5-0.9); outside: 2*(-1.5) + 4*1.5
	if want := 0.2 - 1.2 - 3 + 6; math.Abs(float64(l.dscales[0])-want) > 1e-6 {
		t.Errorf("dscale is %g, want %g", l.dscales[0], want)
	}
}

func TestDivergenceStops(t *testing.T) {
	m := llama(1, 32, 2, 1, 16, 48, 40)
	r := newRun(t, m, sequences(200, 20, 40), 1)
	r.Config.LR, r.Config.ScaleLR, r.Config.Clip = 50, 50, 1e9
	if _, err := EndToEnd(context.Background(), r, collect(new(bytes.Buffer))); !errors.Is(err, ErrDiverged) {
		t.Errorf("got %v", err)
	}
}

// BenchmarkStep is one step on the shape of a 2M-parameter assistant.
func BenchmarkStep(b *testing.B) {
	m := llama(10, 128, 4, 2, 32, 352, 2048)
	r := newRun(b, m, sequences(400, 60, 2048), 1)
	r.Config.BatchTokens, r.Config.Epochs = 3072, 1000
	t, err := newTrainer(r)
	if err != nil {
		b.Fatal(err)
	}
	tokens := 0
	for b.Loop() {
		_, n := t.train()
		t.step++
		tokens += n
	}
	b.ReportMetric(float64(tokens)/b.Elapsed().Seconds(), "tokens/s")
	b.ReportMetric(8*float64(m.Parameters())*float64(tokens)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
}
