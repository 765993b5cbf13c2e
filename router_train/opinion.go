package routertrain

import (
	"cmp"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"

	"slmc/internal/deferral"
	"slmc/internal/kernel"
	"slmc/internal/train"
)

// OpinionConfig says how the second opinion is trained: a linear classifier of
// averaged hashed tokens (arXiv 1607.01759), by AdamW with tokens dropped at
// random.
type OpinionConfig struct {
	Unigrams int     `json:"unigrams"` // rows of the table for tokens
	Bigrams  int     `json:"bigrams"`  // and for pairs of neighbours
	Dim      int     `json:"dim"`
	Classes  int     `json:"classes"`   // at most this many beginnings of answers
	MinCount int     `json:"min_count"` // each seen at least so often
	Coverage float64 `json:"coverage"`  // share of answers that they must cover; else no opinion
	Epochs   int     `json:"epochs"`
	Batch    int     `json:"batch"`
	LR       float64 `json:"lr"`
	Drop     float64 `json:"drop"`
}

// DefaultOpinion is what docs/experiments.md, "Deferral: a second opinion",
// settles on.
func DefaultOpinion() OpinionConfig {
	return OpinionConfig{
		Unigrams: 2048, Bigrams: 2048, Dim: 12, Classes: 512, MinCount: 5, Coverage: 0.3,
		Epochs: 20, Batch: 128, LR: 2e-2, Drop: 0.1,
	}
}

// lesson is a prompt with the beginning of its right answer.
type lesson struct {
	prompt []int32
	answer []int32
}

// trainOpinion returns nil without an error when answers share too few
// beginnings to learn from.
func trainOpinion(c OpinionConfig, f *kernel.Funcs, lessons []lesson, vocab int, seed uint64) *deferral.Opinion {
	o := &deferral.Opinion{Unigrams: min(c.Unigrams, vocab), Bigrams: c.Bigrams, Dim: c.Dim}
	var covered int
	if o.Classes, covered = beginnings(lessons, c); len(o.Classes) < 2 || float64(covered) < c.Coverage*float64(len(lessons)) {
		return nil
	}
	o.Index()
	t := &opinionTrainer{c: c, f: f, o: o, r: rand.New(rand.NewPCG(seed, 3))}
	t.start()
	for _, l := range lessons {
		if k := o.Class(l.answer); k >= 0 {
			t.bags, t.class = append(t.bags, o.Buckets(nil, l.prompt)), append(t.class, k)
		}
	}
	t.run()
	return o
}

// beginnings lists the classes, ascending, and how many answers they cover.
func beginnings(lessons []lesson, c OpinionConfig) (out [][]int32, covered int) {
	count, ids := map[string]int{}, map[string][]int32{}
	for _, l := range lessons {
		p := l.answer[:min(deferral.Prefix, len(l.answer))]
		if len(p) > 0 {
			key := fmt.Sprint(p)
			count[key]++
			ids[key] = p
		}
	}
	keys := slices.SortedFunc(maps.Keys(count), func(a, b string) int {
		return cmp.Or(cmp.Compare(count[b], count[a]), slices.Compare(ids[a], ids[b]))
	})
	for _, k := range keys {
		if count[k] >= c.MinCount && len(out) < c.Classes {
			out = append(out, ids[k])
			covered += count[k]
		}
	}
	slices.SortFunc(out, slices.Compare)
	return out, covered
}

type opinionTrainer struct {
	c     OpinionConfig
	f     *kernel.Funcs
	o     *deferral.Opinion
	r     *rand.Rand
	bags  [][]int32
	class []int

	table, out, bias []float32 // gradients
}

// start draws the table; the output begins at zero.
func (t *opinionTrainer) start() {
	o := t.o
	o.Table = make([]float32, (o.Unigrams+o.Bigrams)*o.Dim)
	for i := range o.Table {
		o.Table[i] = float32(0.1 * t.r.NormFloat64())
	}
	o.Out, o.Bias = make([]float32, len(o.Classes)*o.Dim), make([]float32, len(o.Classes))
	t.table, t.out, t.bias = make([]float32, len(o.Table)), make([]float32, len(o.Out)), make([]float32, len(o.Bias))
}

func (t *opinionTrainer) run() {
	o := t.o
	adam := train.NewAdamW([]int{len(o.Table), len(o.Out), len(o.Bias)})
	adam.Beta2 = 0.999
	steps := (len(t.bags) + t.c.Batch - 1) / t.c.Batch
	total := steps * t.c.Epochs
	for epoch := range t.c.Epochs {
		perm := t.r.Perm(len(t.bags))
		for s := range steps {
			part := perm[s*t.c.Batch : min(len(perm), (s+1)*t.c.Batch)]
			clear(t.table)
			clear(t.out)
			clear(t.bias)
			for _, i := range part {
				t.example(t.bags[i], t.class[i], 1/float32(len(part)))
			}
			step := epoch*steps + s
			lr := float32(train.Cosine(step, total/10, total, t.c.LR, 0.01))
			adam.Step()
			adam.Update(0, o.Table, t.table, lr, whole)
			adam.Update(1, o.Out, t.out, lr, whole)
			adam.Update(2, o.Bias, t.bias, lr, whole)
		}
	}
}

// whole is a train.Split on one goroutine.
func whole(n, _ int, f func(lo, hi int)) { f(0, n) }

// example adds the gradient of weight times the cross-entropy of one bag.
func (t *opinionTrainer) example(bag []int32, class int, weight float32) {
	o := t.o
	kept := make([]int32, 0, len(bag))
	for _, b := range bag {
		if t.r.Float64() >= t.c.Drop {
			kept = append(kept, b)
		}
	}
	if len(kept) == 0 {
		kept = bag
	}
	h, z, dh := make([]float32, o.Dim), make([]float32, len(o.Classes)), make([]float32, o.Dim)
	o.Hidden(h, kept)
	for k := range z {
		s := o.Bias[k]
		for i, w := range o.Out[k*o.Dim:][:o.Dim] {
			s += float32(w * h[i])
		}
		z[k] = s
	}
	sum := t.f.Softmax(z, 0)
	for k := range z {
		g := z[k] / sum
		if k == class {
			g--
		}
		g *= weight
		t.bias[k] += g
		w, dw := o.Out[k*o.Dim:][:o.Dim], t.out[k*o.Dim:][:o.Dim]
		for i := range w {
			dw[i] += float32(g * h[i])
			dh[i] += float32(g * w[i])
		}
	}
	n := float32(len(kept))
	for i := range dh {
		dh[i] /= n
	}
	for _, b := range kept {
		row := t.table[int(b)*o.Dim:][:o.Dim]
		for i, g := range dh {
			row[i] += g
		}
	}
}
