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
	"reflect"
	"strings"
	"testing"

	"slmc/formats"
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

// taker is a model of three blocks whose last reads the second's cache.
func taker() *model.Model {
	m := llama(3, 32, 2, 1, 16, 48, 40)
	b := &m.Graph.Blocks[2]
	b.KVFrom, b.K.W, b.V.W = 1, model.None, model.None
	return m
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
	return Run{Teacher: m, Student: m, Formats: formats, KV8: true, Scales: maxScales, Seqs: seqs, Config: c, Kernel: f, Pool: pool}
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
		rep, err := Train(context.Background(), r, collect(&out))
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

// phases are the ways to train that a config can ask for.
var phases = map[string]func(c *Config){
	"end to end":           func(*Config) {},
	"frozen":               func(c *Config) { c.Frozen = 0.5 },
	"average":              func(c *Config) { c.EMA = 0.8 },
	"block-wise":           func(c *Config) { c.Blocks, c.Epochs = BlockConfig{2, 64, 2e-3, 1e-3}, 0 },
	"block-wise, then all": func(c *Config) { c.Blocks = BlockConfig{2, 64, 2e-3, 1e-3} },
	"then scales":          func(c *Config) { c.Blocks, c.Frozen = BlockConfig{2, 64, 2e-3, 1e-3}, 1 },
}

// A run that is stopped at any step goes on from its state to the same bytes,
// on another number of threads.
func TestResume(t *testing.T) {
	m := taker()
	seqs := sequences(60, 20, 40)
	for name, set := range phases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			steps := 0
			first := newRun(t, m, seqs, 1)
			set(&first.Config)
			first.Progress = func(p Progress) { steps = p.Steps }
			var want bytes.Buffer
			report, err := Train(context.Background(), first, collect(&want))
			if err != nil {
				t.Fatal(err)
			}
			for _, stop := range []int{1, steps / 3, steps / 2, steps - 1, steps} {
				got, again := stopped(t, m, seqs, set, stop, stop%2 == 0)
				if !bytes.Equal(want.Bytes(), got) {
					t.Errorf("stopped after step %d of %d: the result differs from an undisturbed run", stop, steps)
				}
				if !reflect.DeepEqual(report, again) {
					t.Errorf("stopped after step %d of %d: the report is %+v, undisturbed %+v", stop, steps, again, report)
				}
			}
		})
	}
}

// stopped stops a run after a step and lets it go on: by its context, or like a
// kill, which gives it no time to save anything.
func stopped(t *testing.T, m *model.Model, seqs [][]int32, set func(*Config), stop int, kill bool) ([]byte, Report) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	r := newRun(t, m, seqs, 2)
	set(&r.Config)
	r.State, r.Every, r.Scratch = filepath.Join(t.TempDir(), "state"), 2, t.TempDir()
	r.StreamBytes = 1 // the streams in a file
	r.Progress = func(p Progress) {
		if p.Step == stop && kill {
			panic(killed{})
		} else if p.Step == stop {
			cancel()
		}
	}
	var got bytes.Buffer
	err := func() (err error) {
		defer func() {
			if v := recover(); v != nil && v != (killed{}) {
				panic(v)
			}
		}()
		_, err = Train(ctx, r, collect(&got))
		return err
	}()
	r.Progress = nil
	report := Report{}
	if err == nil || errors.Is(err, context.Canceled) {
		got.Reset()
		report, err = Train(context.Background(), r, collect(&got))
	}
	if err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(r.Scratch); err != nil || len(left) != 0 {
		t.Errorf("scratch files are left: %v %v", left, err)
	}
	return got.Bytes(), report
}

type killed struct{}

// Damage to a state is an error that names it, and Clean removes all of them.
func TestDamagedState(t *testing.T) {
	m := taker()
	r := newRun(t, m, sequences(60, 20, 40), 1)
	r.Config.Blocks = BlockConfig{1, 64, 2e-3, 1e-3}
	r.State, r.Every = filepath.Join(t.TempDir(), "state"), 2
	if _, err := Train(context.Background(), r, collect(new(bytes.Buffer))); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"state", "state.unit1"} {
		path := filepath.Join(filepath.Dir(r.State), name)
		damage(t, path)
		_, err := Train(context.Background(), r, collect(new(bytes.Buffer)))
		if !errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(), name) {
			t.Errorf("damaged %s: got %v", name, err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if err := Clean(r.State); err != nil {
		t.Fatal(err)
	}
	if left, err := os.ReadDir(filepath.Dir(r.State)); err != nil || len(left) != 0 {
		t.Errorf("Clean leaves %v %v", left, err)
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

// Checkpoints change no bit, of models with takers too.
func TestCheckpointsChangeNothing(t *testing.T) {
	m := taker()
	var want []byte
	for _, checkpoint := range []bool{false, true} {
		var out bytes.Buffer
		r := newRun(t, m, sequences(40, 20, 40), 2)
		tr, err := newTrainer(&r, newStudent(m, r.Formats, r.Scales), 20)
		if err != nil {
			t.Fatal(err)
		}
		tr.pass.checkpoint = checkpoint
		if _, err := tr.run(context.Background(), collect(&out)); err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = out.Bytes()
		} else if !bytes.Equal(want, out.Bytes()) {
			t.Error("the result depends on checkpoints")
		}
	}
}

// Each unit of blocks comes closer to the teacher's outputs, and threads do
// not change a byte.
func TestBlockWiseLearnsAndIsDeterministic(t *testing.T) {
	m := taker()
	var want []byte
	for _, threads := range []int{1, 2, 3} {
		var out bytes.Buffer
		r := newRun(t, m, sequences(200, 20, 40), threads)
		r.Config.Epochs, r.Config.Blocks = 0, BlockConfig{6, 64, 3e-3, 1e-3}
		rep, err := Train(context.Background(), r, collect(&out))
		if err != nil {
			t.Fatal(err)
		}
		if len(rep.Blocks) != 2 || rep.Blocks[1].Last != 2 {
			t.Fatalf("units are %+v: the taker belongs to its giver", rep.Blocks)
		}
		for _, b := range rep.Blocks {
			if b.After > 0.8*b.Before {
				t.Errorf("blocks %d to %d: error went from %.4f to %.4f only", b.First, b.Last, b.Before, b.After)
			}
		}
		if want == nil {
			want = out.Bytes()
		} else if !bytes.Equal(want, out.Bytes()) {
			t.Errorf("%d threads gave other bytes", threads)
		}
	}
}

func TestUnits(t *testing.T) {
	block := func(q, from int) model.Block {
		return model.Block{KVFrom: from, Q: model.Linear{W: q}, Gate: model.Linear{W: 100 + q}}
	}
	g := &model.Graph{Blocks: []model.Block{block(0, 0), block(1, 1), block(2, 2), block(3, 1), block(4, 4), block(5, 5), block(5, 6), block(7, 7)}}
	if got := fmt.Sprint(units(g)); got != "[[0 1] [1 4] [4 5] [5 7] [7 8]]" {
		t.Errorf("units are %s: takers join their giver, shared weights each other", got)
	}
}

// The gradients of weights and scales through the rounding are LSQ's.
func TestBackIsLSQ(t *testing.T) {
	f := quant.W2{GroupSize: 64}
	l := &latent{format: f, rows: 1, cols: 4, groups: 1, w: []float32{0.3, -5, 0.9, 2.9}, scales: []float32{1},
		value: make([]float32, 4), levels: make([]float32, 4), grad: []float32{1, 2, 3, 4}, dscales: make([]float32, 1)}
	l.round(0, 1)
	if fmt.Sprint(l.value) != "[0.5 -1.5 0.5 1.5]" {
		t.Errorf("values are %v", l.value)
	}
	l.back(0, 1)
	if fmt.Sprint(l.grad) != "[1 0 3 0]" {
		t.Errorf("dw is %v: it passes inside the clip range only", l.grad)
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
	if _, err := Train(context.Background(), r, collect(new(bytes.Buffer))); !errors.Is(err, ErrDiverged) {
		t.Errorf("got %v", err)
	}
}

// BenchmarkStep is one step on the shape of a 2M-parameter assistant.
func BenchmarkStep(b *testing.B) {
	m := llama(10, 128, 4, 2, 32, 352, 2048)
	r := newRun(b, m, sequences(400, 60, 2048), 1)
	r.Config.BatchTokens, r.Config.Epochs = 3072, 1000
	t, err := newTrainer(&r, newStudent(m, r.Formats, r.Scales), 60)
	if err != nil {
		b.Fatal(err)
	}
	if err := errors.Join(t.prepare(false), t.teach(context.Background())); err != nil {
		b.Fatal(err)
	}
	tokens := 0
	for b.Loop() {
		_, n, err := t.train()
		if err != nil {
			b.Fatal(err)
		}
		t.step++
		tokens += n
	}
	b.ReportMetric(float64(tokens)/b.Elapsed().Seconds(), "tokens/s")
	b.ReportMetric(6*float64(m.Parameters())*float64(tokens)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
}

// Scales of a grid stay on it through training, and codes follow them.
func TestGrid(t *testing.T) {
	m := llama(1, 32, 2, 1, 16, 48, 40)
	r := newRun(t, m, sequences(4, 12, 40), 1)
	r.Grid = func(dst []tensor.Half, _ quant.Format, scales []float32) {
		for g, s := range scales {
			dst[g] = tensor.HalfFrom(s) & 0xfc00 // powers of two
		}
	}
	seen := 0
	_, err := Train(t.Context(), r, Sink{
		Vector: func(int, []float32) error { return nil },
		Rows: func(w, first int, rows [][]byte) error {
			for _, row := range rows {
				if s := tensor.Half(uint16(row[0]) | uint16(row[1])<<8); s == 0 || s&0x3ff != 0 {
					t.Errorf("weight %d, row %d: scale %g", w, first, s.Float32())
				}
				seen++
			}
			return nil
		},
	})
	if err != nil || seen == 0 {
		t.Errorf("%d rows, %v", seen, err)
	}
}

// BenchmarkBlock is the gradients of one sequence in block-wise training, on
// the shapes of a block of MobileLLM-125M and 350M. bench/qat.md has figures.
func BenchmarkBlock(b *testing.B) {
	for _, shape := range []struct {
		name    string
		D, H, F int
	}{{"125m", 576, 9, 1536}, {"350m", 960, 15, 2560}} {
		for _, length := range []int{256, 2048} {
			b.Run(fmt.Sprintf("%s/%d", shape.name, length), func(b *testing.B) {
				m := llama(1, shape.D, shape.H, shape.H/3, 64, shape.F, 64)
				m.Graph.Context = length
				benchBlock(b, newRun(b, m, [][]int32{make([]int32, length)}, 1))
			})
		}
	}
}

func benchBlock(b *testing.B, r Run) {
	r.Config.Blocks = BlockConfig{1, 4096, 1e-4, 1e-4}
	u, err := newTeacher(&r, len(r.Seqs[0]))
	if err != nil {
		b.Fatal(err)
	}
	s := newStudent(r.Student, r.Formats, r.Scales)
	t := newBlockTrainer(&r, s, u, len(r.Seqs[0]), 0)
	if t.sx, err = newStream(r.Seqs, r.Student.Hidden, "", 1<<30); err != nil {
		b.Fatal(err)
	}
	if err := t.embed(); err != nil {
		b.Fatal(err)
	}
	for _, i := range blockWeights(r.Student.Graph, 0, 1) {
		if err := s.load(i, false); err != nil {
			b.Fatal(err)
		}
		s.all[i].wake()
	}
	for b.Loop() {
		if _, err := t.gradients(t.all[0], [2]int{0, 1}, 1); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(r.Seqs[0])*b.N)/b.Elapsed().Seconds(), "tokens/s")
}
