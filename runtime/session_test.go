package slmrt_test

import (
	"context"
	"errors"
	"math"
	goruntime "runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"slmc/internal/exec"
	slmrt "slmc/runtime"
)

// story is a prompt of some length, the requests one after the other.
func story(t testing.TB, m *slmrt.Model, n int) []int32 {
	t.Helper()
	var ids []int32
	for _, r := range requests(t) {
		more, err := m.EncodeUser(r.Query, time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		if ids = append(ids, more...); len(ids) >= n {
			return ids[:n]
		}
	}
	t.Fatalf("the requests have only %d tokens", len(ids))
	return nil
}

// allLogits returns the logits after each of ids.
func allLogits(t testing.TB, s *slmrt.Session, ids []int32) [][]float32 {
	t.Helper()
	var out [][]float32
	err := s.Logits(context.Background(), ids, func(i int, z []float32) error {
		if i != len(out) {
			t.Errorf("logits of token %d came as number %d", i, len(out))
		}
		out = append(out, slices.Clone(z))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func feed(t testing.TB, s *slmrt.Session, ids []int32) []float32 {
	t.Helper()
	z, err := s.Feed(context.Background(), ids)
	if err != nil {
		t.Fatal(err)
	}
	return slices.Clone(z)
}

func sameBits(a, b []float32) bool {
	return slices.EqualFunc(a, b, func(x, y float32) bool { return math.Float32bits(x) == math.Float32bits(y) })
}

// However a prompt is cut into batches and calls, on however many threads, the
// logits are those of one token at a time.
func TestBatchesGiveTheSameBits(t *testing.T) {
	m := load(t)
	ids := story(t, m, 150)
	for _, kv := range []exec.KVFormat{exec.KVF16, exec.KV8, exec.KVF32} {
		one := session(t, m, slmrt.Options{KV: kv, Batch: 1, Threads: 1})
		var want [][]float32
		for i := range ids {
			want = append(want, feed(t, one, ids[i:i+1]))
		}
		for _, o := range []slmrt.Options{
			{Batch: 2, Threads: 2}, {Batch: 7, Threads: 1}, {Batch: 64, Threads: 2}, {Batch: 150, Threads: 3}, {Context: 150, Threads: 2, Kernel: "scalar"},
		} {
			o.KV = kv
			s := session(t, m, o)
			for i, z := range allLogits(t, s, ids) {
				if !sameBits(z, want[i]) {
					t.Fatalf("%s %+v: logits at position %d differ from one token at a time", kv, o, i)
				}
			}
			// The last logits alone take a shorter way through the layers.
			s.Truncate(0)
			for at := 0; at < len(ids); {
				n := min(1+at%13*3, len(ids)-at)
				z := feed(t, s, ids[at:at+n])
				at += n
				if !sameBits(z, want[at-1]) {
					t.Fatalf("%s %+v: after %d tokens the logits differ from one token at a time", kv, o, at)
				}
			}
		}
	}
}

// A session that goes back and continues is one that never went there.
func TestTruncate(t *testing.T) {
	m := load(t)
	ids := story(t, m, 90)
	for _, kv := range []exec.KVFormat{exec.KVF16, exec.KV8} {
		o := slmrt.Options{KV: kv, Batch: 16}
		want := feed(t, session(t, m, o), append(slices.Clone(ids[:30]), ids[60:]...))
		s := session(t, m, o)
		feed(t, s, ids[:60])
		s.Truncate(30)
		if s.Pos() != 30 || s.Room() != m.Context-30 {
			t.Fatalf("position %d, room %d", s.Pos(), s.Room())
		}
		if got := feed(t, s, ids[60:]); !sameBits(got, want) {
			t.Errorf("%s: a truncated session continues with other logits than a fresh one", kv)
		}
		s.Truncate(1000)
		if s.Pos() != 60 {
			t.Errorf("truncating beyond the end moved to %d", s.Pos())
		}
		s.Truncate(-1)
		if s.Pos() != 0 {
			t.Errorf("truncating below zero moved to %d", s.Pos())
		}
	}
}

// What cannot be fed is refused before anything happens.
func TestRefusals(t *testing.T) {
	m := load(t)
	ctx := context.Background()
	s := session(t, m, slmrt.Options{Context: 10})
	ids := story(t, m, 11)
	want := feed(t, s, ids[:4])
	cancelled, cancel := context.WithCancel(ctx)
	cancel()
	for _, c := range []struct {
		name string
		ctx  context.Context
		ids  []int32
		kind error
	}{
		{"too many", ctx, ids[:7], slmrt.ErrContext},
		{"none", ctx, nil, slmrt.ErrToken},
		{"negative", ctx, []int32{3, -1}, slmrt.ErrToken},
		{"beyond the vocabulary", ctx, []int32{int32(m.Graph.Vocab)}, slmrt.ErrToken},
		{"cancelled", cancelled, ids[:1], context.Canceled},
	} {
		if _, err := s.Feed(c.ctx, c.ids); !errors.Is(err, c.kind) {
			t.Errorf("%s: error %v, wanted %v", c.name, err, c.kind)
		}
		if s.Pos() != 4 {
			t.Fatalf("%s: the session moved to %d", c.name, s.Pos())
		}
	}
	feed(t, s, ids[4:10])
	if s.Room() != 0 {
		t.Errorf("room for %d more", s.Room())
	}
	if _, err := s.Feed(ctx, ids[:1]); !errors.Is(err, slmrt.ErrContext) {
		t.Errorf("a full session: %v", err)
	}
	s.Truncate(0)
	if got := feed(t, s, ids[:4]); !sameBits(got, want) {
		t.Error("refusals changed what follows")
	}
	// A callback's error comes back, and the session stays where it was.
	boom := errors.New("boom")
	if err := s.Logits(ctx, ids[4:6], func(int, []float32) error { return boom }); !errors.Is(err, boom) || s.Pos() != 4 {
		t.Errorf("error %v at position %d", err, s.Pos())
	}
	for _, o := range []slmrt.Options{{Context: m.Context + 1}, {Context: -1}} {
		if _, err := m.NewSession(o); !errors.Is(err, slmrt.ErrContext) {
			t.Errorf("%+v: error %v", o, err)
		}
	}
	if _, err := m.NewSession(slmrt.Options{Kernel: "warp"}); err == nil {
		t.Error("a session with an unknown kernel")
	}
}

// The contract is what Memory says, to the byte, and holds before anything is
// allocated.
func TestBudget(t *testing.T) {
	m := load(t)
	for _, o := range []slmrt.Options{{}, {Context: 16}, {KV: exec.KV8}, {Batch: 1, Threads: 1}} {
		mem, err := m.Memory(o)
		if err != nil {
			t.Fatal(err)
		}
		if mem.Total != mem.Weights+mem.Cache+mem.Work || mem.Cache <= 0 || mem.Work <= 0 {
			t.Errorf("%+v: %+v does not add up", o, mem)
		}
		o.Budget = mem.Total
		s, err := m.NewSession(o)
		if err != nil {
			t.Fatalf("%+v: %v", o, err)
		}
		s.Close()
		o.Budget--
		if _, err := m.NewSession(o); !errors.Is(err, slmrt.ErrMemory) {
			t.Errorf("%+v: error %v, wanted ErrMemory", o, err)
		}
	}
	small, err := m.Memory(slmrt.Options{Context: 16, KV: exec.KV8})
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(16 * exec.KVBytesPerToken(m.Graph, exec.KV8)); small.Cache != want {
		t.Errorf("cache of 16 positions %d bytes, wanted %d", small.Cache, want)
	}
}

// A session takes no more memory than it said.
func TestMemoryIsWhatWasSaid(t *testing.T) {
	m := load(t)
	ids := story(t, m, 200)
	for _, o := range []slmrt.Options{{Threads: 2}, {Threads: 1, Batch: 1}, {Threads: 4, Batch: 200}} {
		mem, err := m.Memory(o)
		if err != nil {
			t.Fatal(err)
		}
		var before, after goruntime.MemStats
		goruntime.GC()
		goruntime.ReadMemStats(&before)
		s := session(t, m, o)
		feed(t, s, ids)
		allLogits(t, s, ids[:20])
		goruntime.GC()
		goruntime.ReadMemStats(&after)
		taken := int64(after.HeapAlloc) - int64(before.HeapAlloc)
		goruntime.KeepAlive(s)
		// The copies that this test makes of the logits are on top.
		if own := int64(4 * m.Graph.Vocab * 21); taken > mem.Cache+mem.Work+own+64<<10 {
			t.Errorf("%+v: the session takes %d bytes, it said cache %d and work %d", o, taken, mem.Cache, mem.Work)
		}
	}
}

// Close ends the threads of a session, and the model can go on.
func TestCloseEndsThreads(t *testing.T) {
	m := load(t)
	before := goruntime.NumGoroutine()
	for range 10 {
		s, err := m.NewSession(slmrt.Options{Threads: 4})
		if err != nil {
			t.Fatal(err)
		}
		feed(t, s, []int32{1})
		s.Close()
	}
	for i := 0; goruntime.NumGoroutine() > before; i++ {
		if i == 1000 {
			t.Fatalf("%d goroutines, %d before the sessions", goruntime.NumGoroutine(), before)
		}
		time.Sleep(time.Millisecond)
	}
}

// Sessions of one model do not see each other.
func TestConcurrentSessions(t *testing.T) {
	m := load(t)
	ids := story(t, m, 120)
	want := [][][]float32{
		allLogits(t, session(t, m, slmrt.Options{}), ids[:60]),
		allLogits(t, session(t, m, slmrt.Options{KV: exec.KV8}), ids[60:]),
	}
	var all sync.WaitGroup
	for n := range 4 {
		part, o := ids[n%2*60:][:60], slmrt.Options{Threads: 2, Batch: 5}
		if n%2 == 1 {
			o.KV = exec.KV8
		}
		s := session(t, m, o)
		all.Go(func() {
			for range 3 {
				s.Truncate(0)
				err := s.Logits(context.Background(), part, func(i int, z []float32) error {
					if !sameBits(z, want[n%2][i]) {
						t.Errorf("session %d: logits at position %d differ", n, i)
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	all.Wait()
}
