package kvshare_test

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"slmc/calibrate"
	"slmc/convert"
	"slmc/internal/exec"
	"slmc/internal/kernel"
	"slmc/kvshare"
	"slmc/model"
	"slmc/quant"
	slmrt "slmc/runtime"
	"slmc/tensor"
)

// open opens a checkpoint of testdata.
func open(t *testing.T, path ...string) *model.Model {
	t.Helper()
	c, err := convert.Open(t.Context(), filepath.Join(append([]string{"..", "testdata"}, path...)...), convert.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c.Model
}

// archs lists the checkpoints of all architectures.
func archs(t *testing.T) []string {
	t.Helper()
	dirs, err := os.ReadDir("../testdata/arch")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, d := range dirs {
		out = append(out, d.Name())
	}
	if len(out) < 12 {
		t.Fatalf("%d checkpoints in testdata/arch, wanted at least 12", len(out))
	}
	return out
}

// plans are the fixed ones that fit g, and random maps of every size.
func plans(g *model.Graph) []kvshare.Plan {
	var out []kvshare.Plan
	add := func(p kvshare.Plan) {
		same := func(q kvshare.Plan) bool { return q.String() == p.String() }
		if p.Check(g) == nil && !slices.ContainsFunc(out, same) {
			out = append(out, p)
		}
	}
	for _, text := range []string{"5:3", "1:1", "cla2", "gemma3n:1", "gemma3n:2"} {
		s, err := kvshare.Parse(text)
		if err != nil {
			panic(err)
		}
		if p, err := s.Plan(g); err == nil {
			add(p)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 40 {
		p := kvshare.Plan{}
		for i := 1; i < len(g.Blocks); i++ {
			if r.IntN(2) == 0 {
				p[i] = r.IntN(i)
				if p.Check(g) != nil {
					delete(p, i)
				}
			}
		}
		add(p)
	}
	return out
}

// params loads m as float32, or rounded to W8.
func params(t *testing.T, m *model.Model, w8 bool) *exec.Params {
	t.Helper()
	p, err := exec.LoadParams(m, m.Context)
	if err != nil {
		t.Fatal(err)
	}
	if !w8 {
		return p
	}
	f, err := kernel.Select("")
	if err != nil {
		t.Fatal(err)
	}
	format := quant.W8{GroupSize: 32}
	for i, w := range m.Weights {
		if !w.Role.Matrix() {
			continue
		}
		scales := make([]tensor.Half, quant.Groups(format, w.Shape[1]))
		choose := func(row []float32) []tensor.Half {
			if err := (calibrate.RTN{Kernel: f}).Scales(scales, format, row); err != nil {
				t.Fatal(err)
			}
			return scales
		}
		if p.Mats[i], err = exec.PackMatrix(m, i, format, choose); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// logits feeds ids in batches of these sizes: the logits of every position, or
// of the last of each batch.
func logits(t *testing.T, m *slmrt.Model, ids []int32, sizes []int, all bool) map[int][]float32 {
	t.Helper()
	s, err := m.NewSession(slmrt.Options{Threads: 1, Context: len(ids)})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	out := map[int][]float32{}
	for _, n := range sizes {
		part, at := ids[s.Pos():s.Pos()+n], s.Pos()
		if all {
			err = s.Logits(context.Background(), part, func(i int, z []float32) error {
				out[at+i] = slices.Clone(z)
				return nil
			})
		} else {
			var z []float32
			z, err = s.Feed(context.Background(), part)
			out[at+n-1] = slices.Clone(z)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// For every plan on every architecture, in float and packed: a cache fed one
// token at a time, in batches, and all logits asked for at once give the same
// bits wherever logits are given at all.
func TestSameBits(t *testing.T) {
	const T = 21
	sizes := map[string][]int{"one batch": {T}, "batches": {9, 1, 11}}
	for _, name := range archs(t) {
		t.Run(name, func(t *testing.T) {
			m := open(t, "arch", name)
			r := rand.New(rand.NewPCG(3, 4))
			ids := make([]int32, T)
			for i := range ids {
				ids[i] = int32(r.IntN(m.Vocab))
			}
			all := plans(m.Graph)
			if len(all) == 0 {
				t.Fatal("no plan fits")
			}
			for _, p := range all {
				shared, err := kvshare.Rewrite(m, p)
				if err != nil {
					t.Fatal(err)
				}
				for _, c := range []struct {
					kv exec.KVFormat
					w8 bool
				}{{exec.KVF32, false}, {exec.KVF16, false}, {exec.KV8, true}} {
					rt := &slmrt.Model{Graph: shared.Graph, Params: params(t, shared, c.w8), Context: T, KV: c.kv, BOS: -1}
					want := logits(t, rt, ids, slices.Repeat([]int{1}, T), true)
					for how, sizes := range sizes {
						for _, every := range []bool{true, false} {
							got := logits(t, rt, ids, sizes, every)
							if n := len(sizes); every && len(got) != T || !every && len(got) != n {
								t.Fatalf("%s %s %s: logits of %d positions", p, c.kv, how, len(got))
							}
							for pos, z := range got {
								if !sameBits(z, want[pos]) {
									t.Fatalf("%s %s w8 %v, %s, all %v: logits at position %d differ from one token at a time", p, c.kv, c.w8, how, every, pos)
								}
							}
						}
					}
				}
			}
		})
	}
}

func sameBits(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) })
}

// watch notes for how many rows each block's attention was asked.
type watch struct {
	exec.Ops
	rows map[int]int
}

func (w *watch) Attend(block int, q, k, v *tensor.Mat) *tensor.Mat {
	w.rows[block] = q.R
	return w.Ops.Attend(block, q, k, v)
}

// Blocks behind the last giver run for the rows whose logits are given and for
// no other, so logits that were not computed can not be read: there is no row
// for them, and no block reads what a taker did at another position.
func TestOnlyComputedRows(t *testing.T) {
	m := open(t, "assistant-tiny")
	p := kvshare.Plan{4: 3, 5: 3}
	shared, err := kvshare.Rewrite(m, p)
	if err != nil {
		t.Fatal(err)
	}
	f, err := kernel.Select("")
	if err != nil {
		t.Fatal(err)
	}
	pool := exec.NewPool(1)
	defer pool.Close()
	par := params(t, shared, false)
	ids := []int32{5, 6, 7, 8, 9, 10, 11}
	for from := range ids {
		w := &watch{exec.NewPlain(shared.Graph, par, f, pool, exec.NewCache(shared.Graph, exec.KVF32, len(ids))), map[int]int{}}
		z, err := exec.Forward(shared.Graph, w, exec.Batch{IDs: ids}, from)
		if err != nil {
			t.Fatal(err)
		}
		want := len(ids) - from
		if z.R != want {
			t.Errorf("from %d: %d rows of logits", from, z.R)
		}
		for i, n := range w.rows {
			if i < 3 && n != len(ids) || i >= 3 && n != want {
				t.Errorf("from %d: block %d attends for %d rows", from, i, n)
			}
		}
	}
}

// Rewrite drops what no block computes any more and keeps the rest with its
// values.
func TestRewrite(t *testing.T) {
	m := open(t, "arch", "qwen3")
	before := m.Clone()
	p := kvshare.Plan{2: 1}
	if len(m.Blocks) < 3 {
		t.Fatalf("%d blocks", len(m.Blocks))
	}
	s, err := kvshare.Rewrite(m, p)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(before) != fmt.Sprint(m.Clone()) {
		t.Error("the source graph was changed")
	}
	dropped := map[string]bool{}
	for _, w := range m.Weights {
		dropped[w.Name] = s.Index(w.Name) == model.None
	}
	for name, gone := range dropped {
		want := name == "blk.2.attn_k.weight" || name == "blk.2.attn_v.weight" || name == "blk.2.attn_k_norm.weight"
		if gone != want {
			t.Errorf("%s dropped: %v", name, gone)
		}
	}
	b, old := s.Blocks[2], m.Blocks[2]
	if b.KVFrom != 1 || b.K.W != model.None || b.V.W != model.None || b.KNorm != model.None {
		t.Errorf("taker is %+v", b)
	}
	if s.Weights[b.QNorm].Name != m.Weights[old.QNorm].Name || b.Rope != old.Rope || b.AttnScale != old.AttnScale {
		t.Errorf("the taker's queries changed: %+v", b)
	}
	// Every weight that is left reads its own values.
	for i, w := range s.Weights {
		got, err := s.Tensor(i)
		if err != nil {
			t.Fatal(err)
		}
		want, err := m.Tensor(m.Index(w.Name))
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: values are of another weight", w.Name)
		}
	}
}

// substitute runs the unshared graph and hands each taker its giver's keys and
// values in place of its own.
type substitute struct {
	exec.Ops
	plan kvshare.Plan
	k, v map[int]*tensor.Mat
}

func (s *substitute) Attend(block int, q, k, v *tensor.Mat) *tensor.Mat {
	copied := func(x *tensor.Mat) *tensor.Mat {
		return &tensor.Mat{R: x.R, C: x.C, Stride: x.Stride, X: slices.Clone(x.X)}
	}
	s.k[block], s.v[block] = copied(k), copied(v)
	if giver, ok := s.plan[block]; ok {
		k, v = copied(s.k[giver]), copied(s.v[giver])
	}
	return s.Ops.Attend(block, q, k, v)
}

// A shared model computes what the unshared one does when each taker's keys and
// values are replaced by its giver's on the way into the cache.
func TestMeaning(t *testing.T) {
	f, err := kernel.Select("")
	if err != nil {
		t.Fatal(err)
	}
	pool := exec.NewPool(1)
	defer pool.Close()
	ids := []int32{3, 14, 15, 9, 2, 6, 5, 35, 8, 9}
	run := func(g *model.Graph, ops exec.Ops) *tensor.Mat {
		z, err := exec.Forward(g, ops, exec.Batch{IDs: ids}, 0)
		if err != nil {
			t.Fatal(err)
		}
		return z
	}
	for _, name := range archs(t) {
		m := open(t, "arch", name)
		whole := params(t, m, false)
		for _, p := range plans(m.Graph) {
			s, err := kvshare.Rewrite(m, p)
			if err != nil {
				t.Fatal(err)
			}
			got := run(s.Graph, exec.NewPlain(s.Graph, params(t, s, false), f, pool, exec.NewCache(s.Graph, exec.KVF32, len(ids))))
			plain := exec.NewPlain(m.Graph, whole, f, pool, exec.NewCache(m.Graph, exec.KVF32, len(ids)))
			want := run(m.Graph, &substitute{plain, p, map[int]*tensor.Mat{}, map[int]*tensor.Mat{}})
			for r := range want.R {
				if !sameBits(got.Row(r), want.Row(r)) {
					t.Fatalf("%s, %s: logits at position %d differ", name, p, r)
				}
			}
		}
	}
}

// Passes that share weights keep the keys and values that a giver still uses.
func TestLayerSharing(t *testing.T) {
	m := open(t, "arch", "mobilellm-ls")
	for _, c := range []struct {
		plan kvshare.Plan
		gone []string
	}{
		{kvshare.Plan{3: 2}, nil},
		{kvshare.Plan{2: 1, 3: 1}, []string{"blk.1.attn_k.weight", "blk.1.attn_v.weight"}},
	} {
		s, err := kvshare.Rewrite(m, c.plan)
		if err != nil {
			t.Fatal(err)
		}
		var gone []string
		for _, w := range m.Weights {
			if s.Index(w.Name) == model.None {
				gone = append(gone, w.Name)
			}
		}
		if !slices.Equal(gone, c.gone) {
			t.Errorf("%s drops %v, want %v", c.plan, gone, c.gone)
		}
	}
}

// Cost against numbers written out by hand for assistant-tiny: D 64, 2 heads of
// 32, 1 KV head, FFN 176, 6 blocks.
func TestCost(t *testing.T) {
	m := open(t, "assistant-tiny")
	s, err := kvshare.Rewrite(m, kvshare.Plan{4: 3, 5: 3})
	if err != nil {
		t.Fatal(err)
	}
	const T, D, V = 10, 64, 2048
	kv, rest := int64(2*32*D), int64(2*D*D+3*176*D)
	attend := int64(2 * 64 * (T * (T + 1) / 2))
	head := int64(V * D)
	// Before: five blocks whole, the last one keys and values, and one row.
	before := 5*(T*(kv+rest)+attend) + T*kv + rest + 2*64*T + head
	// After: three blocks whole, block 3 keys and values, blocks 3 to 5 a row.
	after := 3*(T*(kv+rest)+attend) + T*kv + 3*(rest+2*64*T) + head
	if got := kvshare.PrefillOps(m.Graph, T); got != before {
		t.Errorf("before: %d, want %d", got, before)
	}
	if got := kvshare.PrefillOps(s.Graph, T); got != after {
		t.Errorf("after: %d, want %d", got, after)
	}
	c := kvshare.CostOf(m.Graph, s.Graph, T)
	if c.CacheF16 != (kvshare.Change{Before: 6 * 2 * 32 * 2, After: 4 * 2 * 32 * 2}) || c.CacheKV8 != (kvshare.Change{Before: 6 * 2 * 34, After: 4 * 2 * 34}) {
		t.Errorf("cache: %+v", c)
	}
	if got := c.Parameters.Before - c.Parameters.After; got != 2*int(kv) || c.Takers != 2 || c.Layers != 6 {
		t.Errorf("parameters dropped %d, want %d; %+v", got, 2*kv, c)
	}
}
