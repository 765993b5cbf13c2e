package slmrt_test

import (
	"context"
	"runtime"
	"testing"
	"time"

	slmrt "slmc/runtime"
)

// A generated token allocates nothing: not the step, not the sampler, not the
// text, whether it could begin a stop string or not.
func TestTokenAllocatesNothing(t *testing.T) {
	for _, threads := range []int{1, 2} {
		// The count is the process's: the runtime itself may allocate beside, where
		// threads park on a busy machine. What a token allocates is in every run.
		least, tokens := uint64(1<<63), 0
		for range 5 {
			n, out := allocations(t, threads)
			least, tokens = min(least, n), out
		}
		// The growing text may double once or twice on the way.
		if least > 4 {
			t.Errorf("%d threads: %d allocations in %d tokens, want none", threads, least, tokens)
		}
	}
}

// allocations counts those of a generation after its first pieces of text, and
// the pieces.
func allocations(t *testing.T, threads int) (n uint64, pieces int) {
	t.Helper()
	m := load(t)
	m.Stops = nil // go on after the answer
	s := session(t, m, slmrt.Options{Threads: threads, Context: 256})
	ids, err := m.EncodeUser("Set a timer for ten minutes", time.Time{})
	if err != nil {
		t.Fatal(err)
	}
	var before, after runtime.MemStats
	r := slmrt.Request{Prompt: ids, Stop: []string{"never in the text", "\n\n\n\n\n\n\n\n"}}
	_, err = s.Generate(context.Background(), r, func(string) error {
		// A piece costs the measurement nothing: MemStats are on the heap already.
		switch pieces++; {
		case pieces == 20:
			runtime.ReadMemStats(&before)
		case pieces > 20:
			runtime.ReadMemStats(&after)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if pieces < 100 {
		t.Fatalf("only %d pieces of text came out", pieces)
	}
	return after.Mallocs - before.Mallocs, pieces - 20
}

// A step that is fed by hand allocates nothing at all.
func TestFeedAllocatesNothing(t *testing.T) {
	m := load(t)
	for _, threads := range []int{1, 2} {
		s := session(t, m, slmrt.Options{Threads: threads, Context: 256})
		ids := story(t, m, 8)
		feed(t, s, ids)
		ctx, one := context.Background(), ids[:1]
		if n := testing.AllocsPerRun(100, func() {
			if _, err := s.Feed(ctx, one); err != nil {
				t.Fatal(err)
			}
		}); n != 0 {
			t.Errorf("%d threads: a step makes %g allocations, want none", threads, n)
		}
	}
}
