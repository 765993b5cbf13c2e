package kvshare

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"slmc/internal/exec"
	"slmc/internal/kernel"
	"slmc/internal/train"
	"slmc/model"
	"slmc/tensor"
)

// maxLogits bounds the teacher's logits that are kept while plans are measured:
// 256 MiB of them.
const maxLogits = 64 << 20

// meter measures plans of one model by KL(unshared || shared) over every
// position of some examples, in float with a float32 cache.
type meter struct {
	g       *model.Graph
	params  *exec.Params
	f       *kernel.Funcs
	threads int
	seqs    [][]int32
	tokens  int
	longest int
	teacher [][]float32 // logits of all positions of all sequences, in order
	tick    func()      // called for each plan measured
}

// newMeter loads the model and runs it unshared. Of seqs, in an order drawn
// from seed, as many are used as hold about tokens tokens, and at least one.
func newMeter(ctx context.Context, m *model.Model, seqs [][]int32, tokens int, seed uint64, f *kernel.Funcs, threads int) (*meter, error) {
	t := &meter{g: m.Graph, f: f, threads: max(1, threads), tick: func() {}}
	tokens = min(tokens, maxLogits/m.Vocab)
	for _, i := range rand.New(rand.NewPCG(seed, 0)).Perm(len(seqs)) {
		q := seqs[i]
		if len(q) == 0 || len(q) > m.Context {
			return nil, fmt.Errorf("example %d has %d tokens, the model has %d positions", i, len(q), m.Context)
		}
		if t.tokens > 0 && t.tokens+len(q) > tokens {
			continue
		}
		t.seqs = append(t.seqs, q)
		t.tokens += len(q)
		t.longest = max(t.longest, len(q))
	}
	if t.tokens == 0 {
		return nil, fmt.Errorf("%w: a search wants examples, there are none", ErrPlan)
	}
	var err error
	if t.params, err = exec.LoadParams(m, t.longest); err != nil {
		return nil, err
	}
	t.teacher = make([][]float32, 0, t.tokens)
	return t, t.run(ctx, m.Graph, nil, func(_ int, z *tensor.Mat) {
		for r := range z.R {
			t.teacher = append(t.teacher, append([]float32(nil), z.Row(r)...))
		}
	})
}

// run gives the logits of each sequence, the first of whose positions is at.
// wrap may put itself between the pass and its operations.
func (t *meter) run(ctx context.Context, g *model.Graph, wrap func(seq int, ops exec.Ops) exec.Ops, each func(at int, z *tensor.Mat)) error {
	pool := exec.NewPool(1)
	defer pool.Close()
	plain := exec.NewPlain(g, t.params, t.f, pool, exec.NewCache(g, exec.KVF32, t.longest))
	at := 0
	for i, ids := range t.seqs {
		if err := ctx.Err(); err != nil {
			return err
		}
		ops := exec.Ops(plain)
		if wrap != nil {
			ops = wrap(i, plain)
		}
		z, err := exec.Forward(g, ops, exec.Batch{IDs: ids}, 0)
		if err != nil {
			return err
		}
		each(at, z)
		at += len(ids)
	}
	return nil
}

// kl is the mean divergence of p, in nats a position.
func (t *meter) kl(ctx context.Context, p Plan) (float64, error) {
	sum := 0.0
	seed, scratch := make([]float32, t.g.Vocab), make([]float32, t.g.Vocab)
	err := t.run(ctx, t.g.LinkKV(p), nil, func(at int, z *tensor.Mat) {
		for r := range z.R {
			sum += train.DistillRow(t.f, seed, z.Row(r), t.teacher[at+r], scratch, 1)
		}
	})
	return sum / float64(t.tokens), err
}

// all measures plans, several at a time. The result does not depend on how
// many: each plan is measured by one thread.
func (t *meter) all(ctx context.Context, plans []Plan) ([]Candidate, error) {
	out := make([]Candidate, len(plans))
	errs := make([]error, t.threads)
	var next atomic.Int64
	var wg sync.WaitGroup
	var mu sync.Mutex
	for w := range errs {
		wg.Go(func() {
			for i := int(next.Add(1)) - 1; i < len(plans) && errs[w] == nil; i = int(next.Add(1)) - 1 {
				out[i].Plan = plans[i]
				out[i].KL, errs[w] = t.kl(ctx, plans[i])
				mu.Lock()
				t.tick()
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return nil, err
		}
	}
	return out, nil
}

// distances are the distances of the blocks' caches, as KVSharer has them
// (arXiv 2410.18517, section 3.1): keys and values are averaged over the
// examples position by position, and compared as one vector, Euclidean. Blocks
// whose caches have other shapes are at distance 0.
func (t *meter) distances(ctx context.Context) ([][]float64, error) {
	L := len(t.g.Blocks)
	s := &sums{at: make([][]float64, L), longest: t.longest}
	count := make([]float64, t.longest)
	err := t.run(ctx, t.g, func(seq int, ops exec.Ops) exec.Ops {
		for pos := range t.seqs[seq] {
			count[pos]++
		}
		s.Ops = ops
		return s
	}, func(int, *tensor.Mat) {})
	if err != nil {
		return nil, err
	}
	out := make([][]float64, L)
	for i := range out {
		out[i] = make([]float64, L)
		for j := range i {
			if len(s.at[i]) != len(s.at[j]) {
				continue
			}
			width := len(s.at[i]) / t.longest
			for k, x := range s.at[i] {
				d := (x - s.at[j][k]) / max(1, count[k/max(1, width)])
				out[i][j] += d * d
			}
		}
	}
	return out, nil
}

// sums adds up keys and values by block: at[block] is [longest 2*K*E].
type sums struct {
	exec.Ops
	at      [][]float64
	longest int
}

// Attend implements exec.Ops.
func (s *sums) Attend(block int, q, k, v *tensor.Mat) *tensor.Mat {
	if k != nil {
		w := k.C + v.C
		if s.at[block] == nil {
			s.at[block] = make([]float64, s.longest*w)
		}
		for r := range k.R {
			dst := s.at[block][r*w:]
			for c, x := range k.Row(r) {
				dst[c] += float64(x)
			}
			for c, x := range v.Row(r) {
				dst[k.C+c] += float64(x)
			}
		}
	}
	return s.Ops.Attend(block, q, k, v)
}
