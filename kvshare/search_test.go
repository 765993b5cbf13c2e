package kvshare_test

import (
	"context"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"slmc/internal/kernel"
	"slmc/kvshare"
	"slmc/model"
)

// examples are sequences that a model of V tokens may meet.
func examples(V int) [][]int32 {
	r := rand.New(rand.NewPCG(9, 9))
	var out [][]int32
	for range 12 {
		ids := make([]int32, 6+r.IntN(8))
		for i := range ids {
			ids[i] = int32(r.IntN(V))
		}
		out = append(out, ids)
	}
	return out
}

func search(t *testing.T, m *model.Model, takers, threads int, c kvshare.SearchConfig) kvshare.SearchReport {
	t.Helper()
	f, err := kernel.Select("")
	if err != nil {
		t.Fatal(err)
	}
	steps := 0
	r, err := kvshare.SearchRun{Model: m, Takers: takers, Seqs: examples(m.Vocab), Config: c, Kernel: f, Threads: threads,
		Progress: func(done, total int) { steps++ }}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if steps == 0 {
		t.Error("no progress was reported")
	}
	return r
}

// On assistant-tiny every map of two takers can be measured: the search finds
// one that is the best or close to it, no candidate of the same size is better
// than its first, and threads change nothing.
func TestSearch(t *testing.T) {
	m := open(t, "assistant-tiny")
	c := kvshare.DefaultSearch()
	c.Tokens = 100
	got := search(t, m, 2, 1, c)
	if again := search(t, m, 2, 3, c); !reflect.DeepEqual(got, again) {
		t.Errorf("3 threads give %+v, 1 gives %+v", again, got)
	}
	if !slices.IsSortedFunc(got.Candidates, func(a, b kvshare.Candidate) int {
		if a.KL < b.KL {
			return -1
		}
		return 1
	}) {
		t.Errorf("candidates are not in order: %+v", got.Candidates)
	}
	names := map[string]bool{}
	for _, c := range got.Candidates {
		names[c.Name] = true
		if len(c.Plan) != 2 || c.Plan.Check(m.Graph) != nil || c.KL <= 0 {
			t.Errorf("candidate %+v", c)
		}
	}
	if !names["tail"] || !names["cla2"] || !names["kvsharer"] {
		t.Errorf("a fixed plan is missing: %+v", got.Candidates)
	}
	// A beam that holds every pair, and goes on from every map, is exhaustive.
	c.Beam, c.Wide = 1000, 1000
	if all := search(t, m, 2, 2, c); got.Candidates[0].KL > all.Candidates[0].KL {
		t.Errorf("found %+v, the best of all is %+v", got.Candidates[0], all.Candidates[0])
	}
}

// A search keeps attention types apart and goes on when not all pairs are
// measured.
func TestSearchMixed(t *testing.T) {
	for _, name := range []string{"gemma3", "gemma2", "mobilellm-ls"} {
		m := open(t, "arch", name)
		c := kvshare.SearchConfig{Tokens: 50, Beam: 1, Pairs: 2, Wide: 3}
		for _, got := range search(t, m, 1, 1, c).Candidates {
			if err := got.Plan.Check(m.Graph); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestSearchRefusals(t *testing.T) {
	m := open(t, "assistant-tiny")
	f, err := kernel.Select("")
	if err != nil {
		t.Fatal(err)
	}
	good := kvshare.SearchRun{Model: m, Takers: 2, Seqs: examples(m.Vocab), Config: kvshare.DefaultSearch(), Kernel: f}
	for what, change := range map[string]func(r *kvshare.SearchRun){
		"no examples":    func(r *kvshare.SearchRun) { r.Seqs = nil },
		"empty example":  func(r *kvshare.SearchRun) { r.Seqs = [][]int32{{}} },
		"all take":       func(r *kvshare.SearchRun) { r.Takers = len(m.Blocks) },
		"no beam":        func(r *kvshare.SearchRun) { r.Config.Beam = 0 },
		"beyond context": func(r *kvshare.SearchRun) { r.Seqs = [][]int32{make([]int32, m.Context+1)} },
	} {
		r := good
		change(&r)
		if _, err := r.Run(t.Context()); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := good.Run(ctx); err == nil {
		t.Error("a cancelled search gives no error")
	}
}
