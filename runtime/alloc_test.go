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
		m := load(t)
		m.Stops = nil // go on after the answer
		s := session(t, m, slmrt.Options{Threads: threads, Context: 256})
		ids, err := m.EncodeUser("Set a timer for ten minutes", time.Time{})
		if err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		r := slmrt.Request{Prompt: ids, Stop: []string{"never in the text", "\n\n\n\n\n\n\n\n"}}
		pieces := 0
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
		// The growing text may double once or twice on the way.
		if n := after.Mallocs - before.Mallocs; n > 4 {
			t.Errorf("%d threads: %d allocations in %d tokens, want none", threads, n, pieces-20)
		}
	}
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
