package slmrt_test

import (
	"context"
	"testing"

	slmrt "slmc/runtime"
)

// Memory stays flat over many short sessions, and no thread is left behind.
// `slmrt bench --soak 864000` is the long form.
func TestSoak(t *testing.T) {
	res, err := load(t).Soak(context.Background(), slmrt.Options{Threads: 2}, slmrt.SoakOptions{Steps: 6000, Session: 30})
	if err != nil {
		t.Fatal(err)
	}
	if res.Steps != 6000 || res.Sessions != 200 || len(res.Heap) != 10 {
		t.Errorf("%+v", res)
	}
	if res.Threads > 0 {
		t.Errorf("%d goroutines are left", res.Threads)
	}
	if first, last := res.Heap[2], res.Heap[9]; last > first+first/10+64<<10 {
		t.Errorf("live bytes grew from %d to %d", first, last)
	}
}
