package routertrain

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"slmc/internal/deferral"
	"slmc/internal/kernel"
	slmrt "slmc/runtime"
)

// Example is what the runtime computes for one query: everything that a second
// opinion and the heads are trained on.
type Example struct {
	Prompt []int32
	First  deferral.First
	Answer []int32 // its first deferral.Prefix tokens
	Tokens int     // of the whole answer
	// Features without the second opinion's: at pre, at each mid, and at post.
	Pre  []float32
	Mid  [][]float32
	Post []float32
}

// extractor computes Examples on one session.
type extractor struct {
	m   *slmrt.Model
	s   *slmrt.Session
	c   *deferral.Collector
	max int
}

func newExtractor(m *slmrt.Model, o slmrt.Options, maxTokens int) (*extractor, error) {
	bare, err := deferral.New(deferral.Parts{Shape: slmrt.ShapeOf(m)})
	if err != nil {
		return nil, err
	}
	f, err := kernel.Select(o.Kernel)
	if err != nil {
		return nil, err
	}
	s, err := m.NewSession(o)
	if err != nil {
		return nil, err
	}
	return &extractor{m, s, bare.NewCollector(f), maxTokens}, nil
}

// run answers a prompt greedily, as slmrt.Generate does, and collects.
func (x *extractor) run(ctx context.Context, prompt []int32) (Example, error) {
	x.s.Truncate(0)
	x.s.Observe(x.c.State)
	defer x.s.Observe(nil)
	x.c.Start(prompt)
	e := Example{Prompt: prompt}
	z, err := x.s.Feed(ctx, prompt)
	if err != nil {
		return e, err
	}
	x.c.Prompt(z)
	e.First = x.c.First()
	e.Pre = x.c.Features(nil, deferral.Pre, false)
	for {
		id := int32(kernel.ArgMax(z))
		x.c.Token(z, id)
		e.Tokens++
		ended := slices.Contains(x.m.Stops, id)
		if ended || e.Tokens == x.max || x.s.Room() == 0 {
			e.Answer = slices.Clone(x.c.Answer())
			e.Post = x.c.Features(nil, deferral.Post, ended)
			return e, nil
		}
		if e.Tokens%deferral.MidEvery == 0 {
			e.Mid = append(e.Mid, x.c.Features(nil, deferral.Mid, false))
		}
		if z, err = x.s.Feed(ctx, []int32{id}); err != nil {
			return e, err
		}
	}
}

// Extract computes the Examples of queries on as many sessions as threads; the
// result does not depend on them.
func Extract(ctx context.Context, m *slmrt.Model, queries []string, o slmrt.Options, threads, maxTokens int, progress func(done int)) ([]Example, error) {
	out := make([]Example, len(queries))
	err := parallel(threads, len(queries), progress, func() (func(i int) error, func(), error) {
		o := o
		o.Threads = 1
		x, err := newExtractor(m, o, maxTokens)
		if err != nil {
			return nil, nil, err
		}
		return func(i int) error {
			ids, err := encodeQuery(m, queries[i])
			if err != nil {
				return fmt.Errorf("query %d: %w", i+1, err)
			}
			if out[i], err = x.run(ctx, ids); err != nil {
				return fmt.Errorf("query %d: %w", i+1, err)
			}
			return nil
		}, x.s.Close, nil
	})
	return out, err
}

// parallel calls work(i) for all i below n, in any order, on that many workers;
// start makes a worker and what ends it.
func parallel(workers, n int, progress func(done int), start func() (work func(i int) error, end func(), err error)) error {
	workers = max(1, min(workers, n))
	errs := make([]error, workers)
	var next, done atomic.Int64
	var failed atomic.Bool
	var mu sync.Mutex
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			work, end, err := start()
			if err != nil {
				errs[w] = err
				failed.Store(true)
				return
			}
			defer end()
			for !failed.Load() {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if errs[w] = work(i); errs[w] != nil {
					failed.Store(true)
					return
				}
				if progress != nil {
					mu.Lock()
					progress(int(done.Add(1)))
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// full joins an example's features of a checkpoint with the opinion's, in the
// order of deferral.Layout. bare are those without.
func full(shape deferral.Shape, at deferral.Checkpoint, bare []float32, v *deferral.View, e *Example) []float32 {
	n := shape.Layout(at, 0).Stats
	out := slices.Clone(bare[:n])
	out = v.Features(out, at, e.Answer)
	return append(out, bare[n:]...)
}
