// Package oracle compares the gradients of internal/train with those of GoMLX,
// an independent framework, on whole models: its graph is written here from the
// formulas in model.Block, differentiated by GoMLX and run in float64 by its
// pure Go backend. A module of its own keeps GoMLX out of slmc's.
package oracle

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/gomlx/gomlx/backends"
	"github.com/gomlx/gomlx/backends/simplego"
	"github.com/gomlx/gomlx/pkg/core/graph"
	"github.com/gomlx/gomlx/pkg/core/tensors"

	"slmc/internal/exec"
	"slmc/internal/kernel"
	"slmc/internal/train"
	"slmc/model"
	"slmc/tensor"
)

// features are what a model has beside the plain Llama block.
type features struct {
	act                                      model.Activation
	biases, qkNorm, postNorms, untied, taker bool
	attnCap, logitCap                        float32
	window                                   int
	heads, kvHeads                           int
}

var cases = map[string]features{
	"llama":               {act: model.SiLU, heads: 4, kvHeads: 4},
	"grouped queries":     {act: model.SiLU, heads: 6, kvHeads: 2},
	"one KV head, untied": {act: model.SiLU, heads: 4, kvHeads: 1, untied: true},
	"qwen2: biases":       {act: model.SiLU, heads: 4, kvHeads: 2, biases: true},
	"qwen3: QK-norm":      {act: model.SiLU, heads: 4, kvHeads: 2, qkNorm: true},
	"gemma2":              {act: model.GELUTanh, heads: 4, kvHeads: 2, postNorms: true, attnCap: 3, logitCap: 4, window: 3},
	"gemma3":              {act: model.GELUTanh, heads: 4, kvHeads: 1, postNorms: true, qkNorm: true, window: 4},
	"taker":               {act: model.SiLU, heads: 4, kvHeads: 2, taker: true},
	"everything":          {act: model.SiLU, heads: 4, kvHeads: 2, biases: true, qkNorm: true, postNorms: true, untied: true, taker: true, attnCap: 3, logitCap: 4, window: 3},
}

const hidden, headDim, ffn, vocab = 24, 8, 36, 29

// weights are random, with room for their gradients.
type weights struct{ w, g [][]float32 }

func (w *weights) Value(i int) []float32 { return w.w[i] }
func (w *weights) Grad(i int) []float32  { return w.g[i] }

func (w *weights) add(g *model.Graph, r *rand.Rand, role model.Role, shape ...int) int {
	g.Weights = append(g.Weights, model.Weight{Name: fmt.Sprintf("%s.%d", role, len(w.w)), Role: role, Shape: shape})
	n := g.Weights[len(w.w)].Elems()
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(r.NormFloat64() / math.Sqrt(float64(shape[len(shape)-1])))
		if role == model.RoleNorm {
			v[i]++
		}
	}
	w.w, w.g = append(w.w, v), append(w.g, make([]float32, n))
	return len(w.w) - 1
}

// build makes a model of three blocks.
func build(f features) (*model.Graph, *weights) {
	r := rand.New(rand.NewPCG(1, 2))
	w := &weights{}
	g := &model.Graph{Hidden: hidden, Vocab: vocab, Context: 16, NormEps: 1e-5, EmbedScale: 1.3, LogitCap: f.logitCap}
	lin := func(role model.Role, out, in int) model.Linear {
		l := model.Linear{W: w.add(g, r, role, out, in), B: model.None}
		if f.biases {
			l.B = w.add(g, r, model.RoleBias, out)
		}
		return l
	}
	norm := func(want bool, n int) int {
		if !want {
			return model.None
		}
		return w.add(g, r, model.RoleNorm, n)
	}
	g.Embed, g.Norm = w.add(g, r, model.RoleEmbed, vocab, hidden), norm(true, hidden)
	g.Head = model.Linear{W: g.Embed, B: model.None}
	if f.untied {
		g.Head = lin(model.RoleHead, vocab, hidden)
	}
	g.Ropes = []model.Rope{{HeadDim: headDim, InvFreq: []float32{1, 0.3, 0.1, 0.02}}}
	for i := range 3 {
		b := model.Block{
			Heads: f.heads, KVHeads: f.kvHeads, HeadDim: headDim, FFN: ffn, Act: f.act, AttnScale: 0.6, AttnCap: f.attnCap, KVFrom: i,
			AttnNorm: norm(true, hidden), FFNNorm: norm(true, hidden), QNorm: norm(f.qkNorm, headDim),
			PostAttnNorm: norm(f.postNorms, hidden), PostFFNNorm: norm(f.postNorms, hidden), KNorm: model.None,
			Q: lin(model.RoleAttnQ, f.heads*headDim, hidden), O: lin(model.RoleAttnO, hidden, f.heads*headDim),
			Gate: lin(model.RoleGate, ffn, hidden), Up: lin(model.RoleUp, ffn, hidden), Down: lin(model.RoleDown, hidden, ffn),
		}
		if i == 0 {
			b.Window = f.window
		}
		if i == 2 && f.taker {
			b.KVFrom, b.K.W, b.V.W = 1, model.None, model.None
		} else {
			b.KNorm = norm(f.qkNorm, headDim)
			b.K, b.V = lin(model.RoleAttnK, f.kvHeads*headDim, hidden), lin(model.RoleAttnV, f.kvHeads*headDim, hidden)
		}
		g.Blocks = append(g.Blocks, b)
	}
	return g, w
}

// A batch of two sequences with the targets of cross-entropy, and random
// logits of a teacher.
var (
	seqs    = []int{7, 5}
	ids     = []int32{3, 7, 1, 20, 5, 5, 28, 2, 9, 11, 9, 0}
	targets = []int32{7, 1, 20, 5, 5, 28, -1, 9, 11, 9, 0, 4}
)

func teacher() []float32 {
	r := rand.New(rand.NewPCG(5, 6))
	z := make([]float32, len(ids)*vocab)
	for i := range z {
		z[i] = float32(2 * r.NormFloat64())
	}
	return z
}

// ours is the loss, cross-entropy plus KL, and the gradients of internal/train.
func ours(t *testing.T, g *model.Graph, w *weights) float64 {
	t.Helper()
	f, err := kernel.Select("")
	if err != nil {
		t.Fatal(err)
	}
	pool := exec.NewPool(2)
	defer pool.Close()
	tape := train.NewTape(g, w, f, pool.Run, train.Rounding{}, g.Context)
	tape.Start(seqs, true)
	z, err := exec.Forward(g, tape, exec.Batch{IDs: ids}, 0)
	if err != nil {
		t.Fatal(err)
	}
	seed := &tensor.Mat{R: z.R, C: z.C, Stride: z.C, X: make([]float32, z.R*z.C)}
	sum, n := train.CrossEntropy(f, seed, z, targets)
	loss := sum / float64(n)
	kl, scratch, want := make([]float32, vocab), make([]float32, vocab), teacher()
	for r := range z.R {
		loss += train.DistillRow(f, kl, z.Row(r), want[r*vocab:(r+1)*vocab], scratch, float32(z.R)) / float64(z.R)
		for i, v := range kl {
			seed.Row(r)[i] += v
		}
	}
	tape.Backward(z, seed)
	return loss
}

// TestGradientsAgree compares every weight's gradient, relative to its norm.
func TestGradientsAgree(t *testing.T) {
	// One operation after another: its products wait for workers that waiting
	// products hold otherwise.
	backend, err := simplego.New("ops_sequential")
	if err != nil {
		t.Fatal(err)
	}
	defer backend.Finalize()
	for name, f := range cases {
		t.Run(name, func(t *testing.T) {
			g, w := build(f)
			loss := ours(t, g, w)
			want, grads := theirs(backend, g, w)
			if math.Abs(loss-want) > 1e-5*want {
				t.Errorf("loss is %.7f, GoMLX's %.7f", loss, want)
			}
			for i, d := range grads {
				if e := distance(w.g[i], d); e > 2e-5 {
					t.Errorf("gradient of %s differs from GoMLX's by %.2g of its norm", g.Weights[i].Name, e)
				}
			}
		})
	}
}

func distance(got []float32, want []float64) float64 {
	diff, norm := 0.0, 0.0
	for i, v := range want {
		diff += (float64(got[i]) - v) * (float64(got[i]) - v)
		norm += v * v
	}
	return math.Sqrt(diff / max(norm, 1e-12))
}

// theirs is the same loss and gradients from GoMLX.
func theirs(backend backends.Backend, g *model.Graph, w *weights) (loss float64, grads [][]float64) {
	var args []any
	for i, v := range w.w {
		wide := make([]float64, len(v))
		for k, x := range v {
			wide[k] = float64(x)
		}
		args = append(args, tensors.FromFlatDataAndDimensions(wide, g.Weights[i].Shape...))
	}
	outputs := graph.MustExecOnceN(backend, func(w []*graph.Node) []*graph.Node {
		loss := lossOf(g, w)
		return append([]*graph.Node{loss}, graph.Gradient(loss, w...)...)
	}, args...)
	for _, o := range outputs {
		grads = append(grads, tensors.MustCopyFlatData[float64](o))
	}
	return grads[0][0], grads[1:]
}

// lossOf is cross-entropy over the counted targets plus the mean divergence
// from the teacher.
func lossOf(g *model.Graph, w []*graph.Node) *graph.Node {
	var parts []*graph.Node
	at := 0
	for _, n := range seqs {
		parts = append(parts, (&oracle{g: g, w: w, kv: map[int][2]*graph.Node{}}).logits(ids[at:at+n]))
		at += n
	}
	logq := graph.LogSoftmax(graph.Concatenate(parts, 0), -1)
	chosen, counted := make([]float64, len(ids)*vocab), 0.0
	for r, c := range targets {
		if c >= 0 {
			chosen[r*vocab+int(c)] = 1
			counted++
		}
	}
	wide := make([]float64, len(chosen))
	for i, v := range teacher() {
		wide[i] = float64(v)
	}
	o := &oracle{w: w}
	constant := func(x []float64) *graph.Node { return o.constant(x, len(ids), vocab) }
	ce := graph.MulScalar(graph.ReduceAllSum(graph.Mul(constant(chosen), logq)), -1/counted)
	logp := graph.LogSoftmax(constant(wide), -1)
	kl := graph.ReduceAllSum(graph.Mul(graph.Exp(logp), graph.Sub(logp, logq)))
	return graph.Add(ce, graph.MulScalar(kl, 1/float64(len(ids))))
}

// oracle is the forward pass of one sequence as GoMLX nodes.
type oracle struct {
	g  *model.Graph
	w  []*graph.Node
	kv map[int][2]*graph.Node
}

func (o *oracle) logits(ids []int32) *graph.Node {
	g := o.g
	hot := make([]float64, len(ids)*g.Vocab)
	for t, id := range ids {
		hot[t*g.Vocab+int(id)] = 1
	}
	x := graph.MulScalar(graph.MatMul(o.constant(hot, len(ids), g.Vocab), o.w[g.Embed]), float64(g.EmbedScale))
	for i := range g.Blocks {
		x = o.block(i, x)
	}
	return o.cap(o.linear(o.norm(x, g.Norm, g.Hidden), g.Head), float64(g.LogitCap))
}

func (o *oracle) block(i int, x *graph.Node) *graph.Node {
	b := &o.g.Blocks[i]
	h := o.norm(x, b.AttnNorm, o.g.Hidden)
	q := o.rope(o.norm(o.linear(h, b.Q), b.QNorm, b.HeadDim), b)
	if b.KVFrom == i {
		o.kv[i] = [2]*graph.Node{o.rope(o.norm(o.linear(h, b.K), b.KNorm, b.HeadDim), b), o.linear(h, b.V)}
	}
	a := o.linear(o.attend(b, q, o.kv[b.KVFrom][0], o.kv[b.KVFrom][1]), b.O)
	x = graph.Add(x, o.norm(a, b.PostAttnNorm, o.g.Hidden))
	h = o.norm(x, b.FFNNorm, o.g.Hidden)
	f := o.linear(graph.Mul(activation(b.Act, o.linear(h, b.Gate)), o.linear(h, b.Up)), b.Down)
	return graph.Add(x, o.norm(f, b.PostFFNNorm, o.g.Hidden))
}

func activation(act model.Activation, x *graph.Node) *graph.Node {
	if act == model.SiLU {
		return graph.Mul(x, graph.Logistic(x))
	}
	inner := graph.MulScalar(graph.Add(x, graph.MulScalar(graph.Mul(graph.Mul(x, x), x), 0.044715)), math.Sqrt(2/math.Pi))
	return graph.Mul(graph.MulScalar(x, 0.5), graph.AddScalar(graph.Tanh(inner), 1.0))
}

// norm is RMSNorm over each width columns; the identity for an absent weight.
func (o *oracle) norm(x *graph.Node, w, width int) *graph.Node {
	if w == model.None {
		return x
	}
	T, C := x.Shape().Dimensions[0], x.Shape().Dimensions[1]
	y := graph.Reshape(x, T, C/width, width)
	mean := graph.MulScalar(graph.ReduceAndKeep(graph.Mul(y, y), graph.ReduceSum, -1), 1/float64(width))
	y = graph.Div(y, graph.Sqrt(graph.AddScalar(mean, float64(o.g.NormEps))))
	return graph.Reshape(graph.Mul(y, graph.Reshape(o.w[w], 1, 1, width)), T, C)
}

func (o *oracle) linear(x *graph.Node, l model.Linear) *graph.Node {
	y := graph.MatMul(x, graph.Transpose(o.w[l.W], 0, 1))
	if l.B != model.None {
		y = graph.Add(y, graph.Reshape(o.w[l.B], 1, -1))
	}
	return y
}

// constant is a float64 matrix.
func (o *oracle) constant(x []float64, dims ...int) *graph.Node {
	return graph.ConstTensor(o.w[0].Graph(), tensors.FromFlatDataAndDimensions(x, dims...))
}

// rope rotates each head's halves by the angle of the position: x*cos + (x
// R)*sin, where R swaps the halves of a head and negates the second.
func (o *oracle) rope(x *graph.Node, b *model.Block) *graph.Node {
	T, C := x.Shape().Dimensions[0], x.Shape().Dimensions[1]
	half := b.HeadDim / 2
	cos, sin, swap := make([]float64, T*C), make([]float64, T*C), make([]float64, C*C)
	for i := range cos {
		angle := float64(i/C) * float64(o.g.Ropes[b.Rope].InvFreq[i%C%half])
		cos[i], sin[i] = math.Cos(angle), math.Sin(angle)
	}
	for c := range C {
		if c%b.HeadDim < half {
			swap[(c+half)*C+c] = -1
		} else {
			swap[(c-half)*C+c] = 1
		}
	}
	return graph.Add(graph.Mul(x, o.constant(cos, T, C)), graph.Mul(graph.MatMul(x, o.constant(swap, C, C)), o.constant(sin, T, C)))
}

// column is one head of x: a product with ones, since the backend lacks the
// gradient of a slice.
func (o *oracle) column(x *graph.Node, h, width int) *graph.Node {
	C := x.Shape().Dimensions[1]
	ones := make([]float64, C*width)
	for i := range width {
		ones[(h*width+i)*width+i] = 1
	}
	return graph.MatMul(x, o.constant(ones, C, width))
}

func (o *oracle) attend(b *model.Block, q, k, v *graph.Node) *graph.Node {
	T := q.Shape().Dimensions[0]
	mask := make([]float64, T*T)
	for i := range T {
		for j := range T {
			if j > i || b.Window > 0 && i-j >= b.Window {
				mask[i*T+j] = -1e30
			}
		}
	}
	hidden := o.constant(mask, T, T)
	column := func(x *graph.Node, h int) *graph.Node { return o.column(x, h, b.HeadDim) }
	var heads []*graph.Node
	for h := range b.Heads {
		kv := h / (b.Heads / b.KVHeads)
		s := graph.MulScalar(graph.MatMul(column(q, h), graph.Transpose(column(k, kv), 0, 1)), float64(b.AttnScale))
		p := graph.Softmax(graph.Add(o.cap(s, float64(b.AttnCap)), hidden), -1)
		heads = append(heads, graph.MatMul(p, column(v, kv)))
	}
	return graph.Concatenate(heads, -1)
}

// cap is the soft-cap; the identity for 0.
func (o *oracle) cap(x *graph.Node, limit float64) *graph.Node {
	if limit == 0 {
		return x
	}
	return graph.MulScalar(graph.Tanh(graph.MulScalar(x, 1/limit)), limit)
}
