package slmrt_test

import (
	"context"
	"slices"
	"testing"

	slmrt "slmc/runtime"
)

// A trace is the golden replay seen from inside: its logits are the bundle's,
// and it is the same in any batches, threads and kernels. Every change is found
// in the place where it was made.
func TestTrace(t *testing.T) {
	m, b, err := slmrt.Load(bundlePath(t), slmrt.LoadOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	g, err := b.Golden()
	if err != nil {
		t.Fatal(err)
	}
	trace := func(o slmrt.Options) []slmrt.TraceStep {
		t.Helper()
		steps, err := m.Trace(context.Background(), g, 1, o)
		if err != nil {
			t.Fatal(err)
		}
		return steps
	}
	want := trace(slmrt.Options{})
	p := g.Prompts[1]
	for i, d := range slices.Concat(p.Logits, p.GreedyLogits) {
		if want[i].Logits != d {
			t.Fatalf("position %d: logits %s, the bundle has %s", i, want[i].Logits, d)
		}
		if len(want[i].States) != len(m.Graph.Blocks)+1 || want[i].ID != slices.Concat(p.IDs, p.Greedy)[i] {
			t.Fatalf("position %d: %+v", i, want[i])
		}
	}
	if place, differ := slmrt.FirstDifference(trace(slmrt.Options{Batch: 3, Threads: 1, Kernel: "scalar"}), want); differ {
		t.Errorf("scalar kernels in other batches differ at %+v", place)
	}
	for _, c := range []struct {
		layer  string
		block  int
		change func(s []slmrt.TraceStep)
	}{
		{"embedding", -1, func(s []slmrt.TraceStep) { s[2].States[0][0]++ }},
		{"block 0", 0, func(s []slmrt.TraceStep) { s[2].States[1][3]++; s[2].States[2][3]++ }},
		{"head", len(m.Graph.Blocks), func(s []slmrt.TraceStep) { s[2].Logits[0]++; s[3].States[0][0]++ }},
		{"token", -1, func(s []slmrt.TraceStep) { s[2].ID++ }},
	} {
		got := trace(slmrt.Options{})
		c.change(got)
		place, differ := slmrt.FirstDifference(got, want)
		if !differ || place.Position != 2 || place.Layer != c.layer || place.Block != c.block {
			t.Errorf("%s of position 2: found %+v", c.layer, place)
		}
	}
	if place, differ := slmrt.FirstDifference(want[:4], want); !differ || place.Position != 4 {
		t.Errorf("a shorter trace: %+v", place)
	}
	if _, err := m.Trace(context.Background(), g, len(g.Prompts), slmrt.Options{}); err == nil {
		t.Error("a prompt beyond the last")
	}
}
