package exec

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"slmc/internal/kernel"
	"slmc/model"
	"slmc/quant"
	"slmc/tensor"
)

// builder makes a random graph with its parameters.
type builder struct {
	g   *model.Graph
	p   *Params
	r   *rand.Rand
	fmt quant.Format
	// mixed gives each matrix another format, in turn.
	mixed bool
	count int
}

func (b *builder) weight(role model.Role, shape ...int) int {
	n := 1
	for _, d := range shape {
		n *= d
	}
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(b.r.NormFloat64() / math.Sqrt(float64(shape[len(shape)-1])))
		if !role.Matrix() {
			v[i] = 1 + v[i]
		}
	}
	b.g.Weights = append(b.g.Weights, model.Weight{Name: fmt.Sprint("w", len(b.g.Weights)), Role: role, Shape: shape})
	b.p.Vecs = append(b.p.Vecs, nil)
	b.p.Mats = append(b.p.Mats, Matrix{})
	i := len(b.g.Weights) - 1
	if !role.Matrix() {
		b.p.Vecs[i] = v
		return i
	}
	rows, cols := shape[0], shape[1]
	f := b.fmt
	if b.mixed {
		all := []quant.Format{quant.W2{GroupSize: 64}, quant.W4{GroupSize: 32}, quant.W4{GroupSize: 64}, quant.F16, quant.W8{GroupSize: 32}}
		f = all[b.count%len(all)]
		b.count++
	}
	m := Matrix{Format: f, Rows: rows, Cols: cols, Panels: make([]byte, quant.MatrixBytes(f, rows, cols))}
	size := f.PanelBytes(cols)
	for r := 0; r < rows; r += kernel.Rows {
		var enc [][]byte
		for j := r; j < min(r+kernel.Rows, rows); j++ {
			row := v[j*cols : (j+1)*cols]
			scales := make([]tensor.Half, quant.Groups(f, cols))
			for s := range scales {
				_, hi := f.Levels()
				scales[s] = tensor.HalfFrom(2 / hi / float32(math.Sqrt(float64(cols))))
			}
			e, err := f.Encode(nil, row, scales)
			if err != nil {
				panic(err)
			}
			enc = append(enc, e)
		}
		f.Pack(m.Panels[r/kernel.Rows*size:][:size], enc, cols)
	}
	b.p.Mats[i] = m
	return i
}

func (b *builder) linear(role model.Role, bias bool, shape ...int) model.Linear {
	l := model.Linear{W: b.weight(role, shape...), B: model.None}
	if bias {
		l.B = b.weight(model.RoleBias, shape[0])
	}
	return l
}

// variant is one set of the options that a graph can have.
type variant struct {
	name                            string
	qkNorm, post, bias, cap, window bool
	tiled                           bool // heads that a prompt attends in blocks
	act                             model.Activation
	kvFrom                          []int
}

var variants = []variant{
	{name: "plain", act: model.SiLU},
	{name: "everything", qkNorm: true, post: true, bias: true, cap: true, window: true, act: model.GELUTanh},
	{name: "shared", act: model.SiLU, kvFrom: []int{0, 1, 1, 0}},
	{name: "tiled", act: model.SiLU, tiled: true},
	{name: "tiled window", act: model.SiLU, tiled: true, window: true, kvFrom: []int{0, 1, 0, 1}},
	{name: "shared window", act: model.SiLU, window: true, qkNorm: true, kvFrom: []int{0, 1, 0, 1}},
}

const testContext, testVocab = 1200, 70

func build(v variant, f quant.Format, seed uint64) (*model.Graph, *Params) {
	const D, F = 44, 52
	H, K, E := 4, 2, 12
	if v.tiled {
		H, K, E = 8, 1, 16
	}
	b := &builder{mixed: f == nil, g: &model.Graph{Hidden: D, Vocab: testVocab, Context: testContext, NormEps: 1e-5, EmbedScale: 1}, p: &Params{}, r: rand.New(rand.NewPCG(seed, 1)), fmt: f}
	g := b.g
	if v.cap {
		g.EmbedScale, g.LogitCap = 2.5, 30
	}
	g.Embed = b.weight(model.RoleEmbed, testVocab, D)
	g.Head = model.Linear{W: g.Embed, B: model.None}
	g.Norm = b.weight(model.RoleNorm, D)
	r := model.Rope{HeadDim: E}
	var cos, sin []float32
	for i := range E / 2 {
		r.InvFreq = append(r.InvFreq, float32(math.Pow(100, -float64(i)/float64(E/2))))
	}
	for t := range testContext {
		for _, f := range r.InvFreq {
			cos = append(cos, float32(math.Cos(float64(t)*float64(f))))
			sin = append(sin, float32(math.Sin(float64(t)*float64(f))))
		}
	}
	g.Ropes, b.p.Cos, b.p.Sin = []model.Rope{r}, [][]float32{cos}, [][]float32{sin}
	norm := func(on bool, n int) int {
		if !on {
			return model.None
		}
		return b.weight(model.RoleNorm, n)
	}
	for i := range 4 {
		blk := model.Block{Heads: H, KVHeads: K, HeadDim: E, FFN: F, Act: v.act, AttnScale: float32(1 / math.Sqrt(float64(E))), KVFrom: i}
		if v.kvFrom != nil {
			blk.KVFrom = v.kvFrom[i]
		}
		if v.window && i%2 == 0 {
			blk.Window = 5
		}
		if v.cap {
			blk.AttnCap = 5
		}
		blk.AttnNorm, blk.FFNNorm = norm(true, D), norm(true, D)
		blk.PostAttnNorm, blk.PostFFNNorm = norm(v.post, D), norm(v.post, D)
		blk.QNorm = norm(v.qkNorm, E)
		blk.Q = b.linear(model.RoleAttnQ, v.bias, H*E, D)
		blk.K, blk.V, blk.KNorm = model.Linear{W: model.None, B: model.None}, model.Linear{W: model.None, B: model.None}, model.None
		if blk.KVFrom == i {
			blk.K, blk.V = b.linear(model.RoleAttnK, v.bias, K*E, D), b.linear(model.RoleAttnV, v.bias, K*E, D)
			blk.KNorm = norm(v.qkNorm, E)
		}
		blk.O = b.linear(model.RoleAttnO, false, D, H*E)
		blk.Gate, blk.Up = b.linear(model.RoleGate, false, F, D), b.linear(model.RoleUp, false, F, D)
		blk.Down = b.linear(model.RoleDown, false, D, F)
		g.Blocks = append(g.Blocks, blk)
	}
	return g, b.p
}

// run feeds ids in batches of the given sizes, asking for the logits of all
// tokens, or of the very last only, and returns the logits of every position that was
// asked for.
func run(t *testing.T, g *model.Graph, p *Params, f *kernel.Funcs, kv KVFormat, threads int, ids []int32, sizes []int, all bool) map[int][]float32 {
	t.Helper()
	pool := NewPool(threads)
	defer pool.Close()
	return runOps(t, g, NewPlain(g, p, f, pool, NewCache(g, kv, testContext)), ids, sizes, all)
}

// oneByOne hides that Plain joins operations.
type oneByOne struct{ Ops }

func runOps(t *testing.T, g *model.Graph, ops Ops, ids []int32, sizes []int, all bool) map[int][]float32 {
	t.Helper()
	out := map[int][]float32{}
	pos := 0
	for _, n := range sizes {
		from := 0
		if !all {
			if from = n; pos+n == len(ids) {
				from--
			}
		}
		z, err := Forward(g, ops, Batch{ids[pos : pos+n], pos}, from)
		if err != nil {
			t.Fatal(err)
		}
		if z == nil {
			if from < n {
				t.Fatalf("no logits from %d on of %d", from, n)
			}
			pos += n
			continue
		}
		for r := range z.R {
			out[pos+from+r] = append([]float32(nil), z.Row(r)...)
		}
		pos += n
	}
	return out
}

func sameBits(a, b []float32) bool {
	for i := range a {
		if math.Float32bits(a[i]) != math.Float32bits(b[i]) {
			return false
		}
	}
	return len(a) == len(b)
}

func ones(n int) []int {
	s := make([]int, n)
	for i := range s {
		s[i] = 1
	}
	return s
}

// One token at a time with one operation after the other, any batch split, with or without the unneeded rows, any
// thread count, every kernel: the same bits.
func TestSameBits(t *testing.T) {
	const T = 33
	r := rand.New(rand.NewPCG(7, 8))
	ids := make([]int32, T)
	for i := range ids {
		ids[i] = int32(r.IntN(testVocab))
	}
	scalar, err := kernel.Select("scalar")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range variants {
		for _, f := range []quant.Format{quant.F32, quant.F16, quant.W8{GroupSize: 32}, quant.W4{GroupSize: 32}, quant.W2{GroupSize: 64}, nil} {
			g, p := build(v, f, 11)
			name := "mixed formats"
			if f != nil {
				name = f.Name()
			}
			for _, kv := range []KVFormat{KVF32, KVF16, KV8} {
				single := NewPlain(g, p, scalar, NewPool(1), NewCache(g, kv, testContext))
				want := runOps(t, g, oneByOne{single}, ids, ones(T), true)
				for _, im := range kernel.Impls() {
					if !im.OK {
						continue
					}
					for _, c := range []struct {
						threads int
						sizes   []int
						all     bool
					}{{1, []int{T}, true}, {2, []int{T}, true}, {3, []int{7, 1, 17, 8}, true}, {1, []int{T}, false}, {1, []int{20, 13}, false}, {2, []int{20, 13}, false}} {
						got := run(t, g, p, &im.Funcs, kv, c.threads, ids, c.sizes, c.all)
						for pos, z := range got {
							if !sameBits(z, want[pos]) {
								t.Fatalf("%s %s %s kernel %s threads %d batches %v all %v: logits at position %d differ from one token at a time", v.name, name, kv, im.Name, c.threads, c.sizes, c.all, pos)
							}
						}
					}
				}
			}
		}
	}
}

// Long prompts take the joined loops in several chunks.
func TestJoinedChunks(t *testing.T) {
	const T = 1100
	r := rand.New(rand.NewPCG(9, 10))
	ids := make([]int32, T)
	for i := range ids {
		ids[i] = int32(r.IntN(testVocab))
	}
	g, p := build(variants[0], quant.W2{GroupSize: 64}, 12)
	if n := quant.Panels(g.Blocks[0].FFN); n <= chunkPanels(T) {
		t.Fatalf("%d panels are one chunk", n)
	}
	f, err := kernel.Select("")
	if err != nil {
		t.Fatal(err)
	}
	want := runOps(t, g, oneByOne{NewPlain(g, p, f, NewPool(1), NewCache(g, KV8, testContext))}, ids, []int{T}, false)
	for _, threads := range []int{1, 3} {
		for pos, z := range run(t, g, p, f, KV8, threads, ids, []int{T}, false) {
			if !sameBits(z, want[pos]) {
				t.Errorf("%d threads: logits at position %d differ from those of the operations one by one", threads, pos)
			}
		}
	}
}

// TestWorkFloats holds that the buffer is as large as a batch needs, and no
// larger.
func TestWorkFloats(t *testing.T) {
	const T = 17
	ids := make([]int32, T)
	f, err := kernel.Select("")
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range variants {
		for _, w := range []quant.Format{quant.F16, quant.W2{GroupSize: 64}, nil} {
			g, p := build(v, w, 13)
			for _, rows := range []int{1, T} {
				o := NewPlain(g, p, f, NewPool(1), NewCache(g, KV8, testContext))
				n := workFloats(g, p.Format, T, rows)
				o.buf = make([]float32, n)
				for i := range o.buf {
					o.buf[i] = -7
				}
				if _, err := Forward(g, o, Batch{ids, 0}, T-rows); err != nil {
					t.Fatal(err)
				}
				if len(o.buf) != n || slices.Max(o.buf[n-kernel.Rows:]) == -7 {
					t.Errorf("%s, %d rows: %d floats were planned, %d are there, the last of them used: %v", v.name, rows, n, len(o.buf), slices.Max(o.buf[n-kernel.Rows:]) != -7)
				}
			}
		}
	}
}
