package calibrate

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"slmc/formats/safetensors"
	"slmc/internal/exec"
	"slmc/model"
	"slmc/quant"
	"slmc/tensor"
)

// memory gives the weights of a model from slices.
type memory [][]float32

func (v memory) Read(i, off int, dst []float32) error {
	if copy(dst, v[i][off:]) != len(dst) {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// load reads a checkpoint folder of one safetensors file.
func load(t testing.TB, folder string) *model.Model {
	t.Helper()
	f, err := os.Open(filepath.Join(folder, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c, err := model.ParseConfig("config.json", f, 1<<16)
	if err != nil {
		t.Fatal(err)
	}
	g, err := model.Build(c)
	if err != nil {
		t.Fatal(err)
	}
	s, err := safetensors.Open(filepath.Join(folder, "model.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	v := memory{}
	for _, w := range g.Weights {
		x := make([]float32, w.Elems())
		if err := s.ReadF32(w.Source, 0, x); err != nil {
			t.Fatal(err)
		}
		v = append(v, x)
	}
	return &model.Model{Graph: g, Values: v}
}

const tiny = "../testdata/assistant-tiny"

// twisted is assistant-tiny with an own head, blocks that run twice, and blocks
// that read the keys and values of earlier ones.
func twisted(t testing.TB) *model.Model {
	m := load(t, tiny)
	g, v := m.Graph, m.Values.(memory)
	g.Weights = append(g.Weights, model.Weight{Name: "output.weight", Role: model.RoleHead, Shape: slices.Clone(g.Weights[g.Embed].Shape), Input: "output"})
	g.Weights[g.Embed].Input = ""
	g.Head.W = len(g.Weights) - 1
	m.Values = append(v, v[g.Embed])
	var blocks []model.Block
	for i, b := range g.Blocks[:5] {
		b.KVFrom = len(blocks)
		blocks = append(blocks, b)
		if i == 1 || i == 2 {
			b.KVFrom = len(blocks)
			blocks = append(blocks, b)
		}
	}
	// 0, 1, 1', 2, 2', 3, 4: block 2' is read from afar, so are 0 and 1.
	none := model.Linear{W: model.None, B: model.None}
	for taker, giver := range map[int]int{5: 4, 6: 1} {
		blocks[taker].KVFrom, blocks[taker].K, blocks[taker].V = giver, none, none
		blocks[taker].KNorm = model.None
	}
	// Weights that no block reads any more must not be in the graph.
	g.Blocks = blocks
	return unused(m)
}

// unused drops the weights that a graph does not refer to.
func unused(m *model.Model) *model.Model {
	var all []int
	for i := range m.Blocks {
		all = append(all, i)
	}
	live := append(weightsOf(m.Graph, all), m.Embed, m.Norm, m.Head.W)
	at, v := map[int]int{model.None: model.None}, memory{}
	var weights []model.Weight
	for i, w := range m.Weights {
		if slices.Contains(live, i) {
			at[i] = len(weights)
			weights, v = append(weights, w), append(v, m.Values.(memory)[i])
		}
	}
	g := m.Graph
	g.Weights, g.Embed, g.Norm, g.Head.W = weights, at[g.Embed], at[g.Norm], at[g.Head.W]
	for i := range g.Blocks {
		b := &g.Blocks[i]
		for _, p := range []*int{&b.AttnNorm, &b.Q.W, &b.K.W, &b.V.W, &b.O.W, &b.Gate.W, &b.Up.W, &b.Down.W, &b.QNorm, &b.KNorm, &b.PostAttnNorm, &b.FFNNorm, &b.PostFFNNorm} {
			*p = at[*p]
		}
	}
	return &model.Model{Graph: g, Values: v}
}

func randomSequences(seed uint64, vocab int, lengths ...int) Sequences {
	r := rand.New(rand.NewPCG(seed, 1))
	var out Sequences
	for _, n := range lengths {
		q := make([]int32, n)
		for i := range q {
			q[i] = int32(r.IntN(vocab))
		}
		out = append(out, q)
	}
	return out
}

func formatsOf(t testing.TB, g *model.Graph, weights string) []quant.Format {
	t.Helper()
	recipe, err := model.Preset(weights, "")
	if err != nil {
		t.Fatal(err)
	}
	f, err := recipe.Formats(g)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// spy notes what an algorithm was given.
type spy struct {
	Algorithm
	need   Needs
	inputs map[string]*Input
}

func (s spy) Needs() Needs { return max(s.need, s.Algorithm.Needs()) }

func (s spy) Encode(ctx context.Context, p *exec.Pool, m Matrix) ([]byte, error) {
	if m.Input != nil {
		s.inputs[m.Input.Label] = m.Input
	}
	return s.Algorithm.Encode(ctx, p, m)
}

// collect runs the calibration and returns the quantized model's parameters.
func collect(t testing.TB, env Env, m *model.Model, seqs Sequences, cfg Config) (*exec.Params, Report) {
	t.Helper()
	p, err := exec.LoadParams(m, longest(seqs))
	if err != nil {
		t.Fatal(err)
	}
	cfg.Emit = func(i int, mat exec.Matrix) error {
		p.Mats[i] = mat
		return nil
	}
	report, err := Run(context.Background(), env, m, seqs, cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return p, report
}

func sameInput(t *testing.T, a, b *Input) {
	t.Helper()
	if a == nil || b == nil || a.Label != b.Label || a.Tokens != b.Tokens || !slices.Equal(a.Mean, b.Mean) || !slices.Equal(a.Square, b.Square) || !slices.Equal(a.Max, b.Max) || !slices.Equal(a.H, b.H) {
		t.Fatalf("statistics differ: %v and %v", brief(a), brief(b))
	}
}

// Block by block, with activations in memory or in a file and any number of
// threads, gives the statistics of the whole float model, bit for bit.
func TestRunObservesWhatTheModelDoes(t *testing.T) {
	for name, m := range map[string]*model.Model{"tiny": load(t, tiny), "twisted": twisted(t)} {
		seqs := randomSequences(1, m.Vocab, 40, 1, 7, 0, 90, 33)
		one := testEnv(t, 1)
		p, err := exec.LoadParams(m, 90)
		if err != nil {
			t.Fatal(err)
		}
		want, err := Observe(context.Background(), one, m.Graph, p, exec.KVF32, seqs, true)
		if err != nil {
			t.Fatal(err)
		}
		for _, bound := range []int64{0, 1} {
			s := spy{RTN{one.Kernel}, Hessian, map[string]*Input{}}
			folder := t.TempDir()
			collect(t, testEnv(t, 3), m, seqs, Config{Formats: formatsOf(t, m.Graph, "w2"), Algorithm: s, Inputs: Float, MinTokens: 1, ActivationBytes: bound, ScratchFolder: folder})
			if m.Tied() {
				s.inputs["output"] = want["output"]
			}
			if len(s.inputs) != len(want) {
				t.Errorf("%s: %d inputs, wanted %d", name, len(s.inputs), len(want))
			}
			for label, in := range want {
				sameInput(t, s.inputs[label], in)
			}
			if left, _ := os.ReadDir(folder); len(left) != 0 {
				t.Errorf("%s: %d scratch files are left", name, len(left))
			}
		}
	}
}

// What enters the head after all blocks were quantized is what the quantized
// model computes by itself, packed kernels and 8-bit cache included.
func TestRunFollowsTheQuantizedModel(t *testing.T) {
	m := twisted(t)
	env := testEnv(t, 2)
	seqs := randomSequences(2, m.Vocab, 60, 5, 80)
	for _, inputs := range []Inputs{Blocks, Linears} {
		s := spy{IMatrix{env.Kernel}, Squares, map[string]*Input{}}
		cfg := Config{Formats: formatsOf(t, m.Graph, "w4"), Algorithm: s, Inputs: inputs, MinTokens: 1}
		p, _ := collect(t, env, m, seqs, cfg)
		got, err := Observe(context.Background(), env, m.Graph, p, exec.KV8, seqs, false)
		if err != nil {
			t.Fatal(err)
		}
		labels := []string{"output"}
		if inputs == Linears {
			// Blocks that run twice see, at the first matrices, a group whose
			// later ones are still float: only single blocks are exact.
			labels = append(labels, "blk.0.attn_in", "blk.0.attn_out", "blk.0.ffn_mid", "blk.4.ffn_mid")
		}
		for _, label := range labels {
			sameInput(t, s.inputs[label], got[label])
		}
	}
}

// On a real model each algorithm leaves less error in the layers' outputs than
// the one before, and those that know all of H in each layer (IMatrix lowers
// the diagonal part alone, which need not lower the whole); and the same
// calibration gives the same bytes on one thread and on three.
func TestLadderOnRealLayers(t *testing.T) {
	m := load(t, tiny)
	seqs := randomSequences(3, m.Vocab, 128, 128, 128, 128)
	env := testEnv(t, 1)
	p, err := exec.LoadParams(m, 128)
	if err != nil {
		t.Fatal(err)
	}
	stats, err := Observe(context.Background(), env, m.Graph, p, exec.KVF32, seqs, true)
	if err != nil {
		t.Fatal(err)
	}
	last := map[string]float64{}
	for _, a := range Algorithms(env.Kernel) {
		now, worse, total, before := map[string]float64{}, 0, 0.0, 0.0
		cfg := Config{Formats: formatsOf(t, m.Graph, "w2"), Algorithm: a, Inputs: Float, Statistics: stats}
		p1, report := collect(t, env, m, seqs, cfg)
		p3, _ := collect(t, testEnv(t, 3), m, seqs, cfg)
		for i := range p1.Mats {
			if string(p1.Mats[i].Panels) != string(p3.Mats[i].Panels) {
				t.Fatalf("%s: %s depends on the number of threads", a.Name(), m.Weights[i].Name)
			}
		}
		for _, w := range report.Weights[1:] {
			now[w.Name] = *w.Loss
			total, before = total+*w.Loss, before+last[w.Name]
			if *w.Loss >= last[w.Name] {
				worse++
			}
		}
		t.Logf("%s: mean proxy loss %.4f", a.Name(), total/float64(len(now)))
		if len(last) > 0 && (total >= before || worse > 0 && a.Needs() == Hessian) {
			t.Errorf("%s: mean proxy loss %g, before %g; %d of %d layers got worse", a.Name(), total/float64(len(now)), before/float64(len(now)), worse, len(now))
		}
		last = now
	}
}

func TestRunRefusesText(t *testing.T) {
	m := load(t, tiny)
	env := testEnv(t, 1)
	for _, c := range []struct {
		name string
		seqs Sequences
		kind error
	}{
		{"none", nil, ErrNoText},
		{"empty sequences", Sequences{{}, {}}, ErrNoText},
		{"shorter than the context", randomSequences(1, m.Vocab, 100, 100), ErrTooShort},
		{"an id outside", Sequences{{1, 2, int32(m.Vocab)}}, nil},
		{"a negative id", Sequences{{-1}}, nil},
		{"too long", randomSequences(1, m.Vocab, m.Context+1), nil},
	} {
		cfg := Config{Formats: formatsOf(t, m.Graph, "w2"), Algorithm: IMatrix{env.Kernel}, Emit: func(int, exec.Matrix) error { return nil }}
		_, err := Run(context.Background(), env, m, c.seqs, cfg, slog.New(slog.DiscardHandler))
		if err == nil || c.kind != nil && !errors.Is(err, c.kind) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestRunCancelled(t *testing.T) {
	m := load(t, tiny)
	env := testEnv(t, 1)
	ctx, cancel := context.WithCancel(context.Background())
	cfg := Config{Formats: formatsOf(t, m.Graph, "w2"), Algorithm: GPTQ{Kernel: env.Kernel}, MinTokens: 1, ScratchFolder: t.TempDir(), ActivationBytes: 1,
		Emit: func(int, exec.Matrix) error { cancel(); return nil }}
	if _, err := Run(ctx, env, m, randomSequences(1, m.Vocab, 50), cfg, slog.New(slog.DiscardHandler)); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	if left, _ := os.ReadDir(cfg.ScratchFolder); len(left) != 0 {
		t.Errorf("%d scratch files are left", len(left))
	}
}

// The digest tells models and texts apart.
func TestDigests(t *testing.T) {
	m := load(t, tiny)
	a, err := ModelDigest(m)
	if err != nil {
		t.Fatal(err)
	}
	m.Values.(memory)[3][5] += 1e-3
	b, err := ModelDigest(m)
	if err != nil || a == b {
		t.Errorf("digest %s after a change, %s before; %v", b, a, err)
	}
	seen := map[Digest]string{}
	for _, s := range []Sequences{{{1, 2}, {3}}, {{1}, {2, 3}}, {{1, 2, 3}}, {{1, 2, 4}}, {}, {{}}} {
		d := s.Digest()
		if text := fmt.Sprint(s); seen[d] != "" {
			t.Errorf("%s and %s have one digest", seen[d], text)
		} else {
			seen[d] = text
		}
	}
}

// H is x x^T summed, as a plain loop in float64 has it.
func TestHessianAgainstLoop(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	const K, T = 37, 300
	x := randomMatrix(r, quant.F32, T, &Input{K: K})
	a := newAccumulator(testEnv(t, 2), "x", K, true)
	for t := range T {
		a.add(matOf(x.W[t*K:(t+1)*K], 1, K), nil)
	}
	in, err := a.finish()
	if err != nil {
		t.Fatal(err)
	}
	for i := range K {
		mean, most := 0.0, float32(0)
		for t := range T {
			mean += float64(x.W[t*K+i]) / T
			most = max(most, x.W[t*K+i], -x.W[t*K+i])
		}
		if math.Abs(mean-in.Mean[i]) > 1e-12 || most != in.Max[i] {
			t.Errorf("column %d: mean %g, largest %g; wanted %g, %g", i, in.Mean[i], in.Max[i], mean, most)
		}
		for j := range K {
			sum := 0.0
			for t := range T {
				sum += float64(x.W[t*K+i]) * float64(x.W[t*K+j])
			}
			if e := math.Abs(sum - in.H[i*K+j]); e > 2e-6*math.Sqrt(in.Square[i]*in.Square[j])*T {
				t.Errorf("H[%d %d] = %g, wanted %g", i, j, in.H[i*K+j], sum)
			}
		}
	}
}

func matOf(x []float32, R, C int) *tensor.Mat {
	return &tensor.Mat{R: R, C: C, Stride: C, X: x}
}

// The first input of the model, by hand: normed embedding rows, each token
// counted once although three matrices read it.
func TestObserveFirstInput(t *testing.T) {
	m := load(t, tiny)
	env := testEnv(t, 1)
	seqs := randomSequences(5, m.Vocab, 30, 12)
	p, err := exec.LoadParams(m, 30)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Observe(context.Background(), env, m.Graph, p, exec.KVF32, seqs, false)
	if err != nil {
		t.Fatal(err)
	}
	D, v := m.Hidden, m.Values.(memory)
	want := make([]float64, D)
	for _, q := range seqs {
		for _, id := range q {
			row, norm := v[m.Embed][int(id)*D:][:D], 0.0
			for _, x := range row {
				norm += float64(x) * float64(x) / float64(D)
			}
			for k, x := range row {
				y := float64(x) / math.Sqrt(norm+float64(m.NormEps)) * float64(v[m.Blocks[0].AttnNorm][k])
				want[k] += y * y / float64(seqs.Tokens())
			}
		}
	}
	in := got["blk.0.attn_in"]
	for k := range D {
		if math.Abs(in.Square[k]-want[k]) > 1e-5*want[k] {
			t.Fatalf("column %d: E[x^2] is %g, wanted %g", k, in.Square[k], want[k])
		}
	}
	for label, in := range got {
		if in.Tokens != seqs.Tokens() {
			t.Errorf("%s: %d tokens, wanted %d", label, in.Tokens, seqs.Tokens())
		}
	}
}

func brief(in *Input) string {
	if in == nil {
		return "none"
	}
	return fmt.Sprintf("%s: %d tokens, first E[x^2] %g", in.Label, in.Tokens, in.Square[0])
}
