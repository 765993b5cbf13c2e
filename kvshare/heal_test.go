package kvshare_test

import (
	"context"
	"math"
	"reflect"
	"slices"
	"testing"

	"slmc/internal/exec"
	"slmc/internal/kernel"
	"slmc/kvshare"
	"slmc/model"
)

func match(t *testing.T, teacher, student *model.Model, threads int, c kvshare.MatchConfig) (*model.Model, []kvshare.MatchReport) {
	t.Helper()
	f, err := kernel.Select("")
	if err != nil {
		t.Fatal(err)
	}
	pool := exec.NewPool(threads)
	defer pool.Close()
	steps := 0
	m, r, err := kvshare.Match{Teacher: teacher, Student: student, Seqs: examples(teacher.Vocab), Config: c, Kernel: f, Pool: pool,
		Progress: func(done, total int) {
			if steps++; done != steps || done > total {
				t.Errorf("step %d is told as %d of %d", steps, done, total)
			}
		}}.Run(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return m, r
}

// Matching brings the takers' outputs closer to the unshared model's, changes
// nothing but their queries and outputs, and threads change no bit.
func TestMatch(t *testing.T) {
	for _, c := range []struct {
		name string
		plan kvshare.Plan
	}{{"assistant-tiny", kvshare.Plan{3: 2, 5: 1}}, {"arch/qwen3", kvshare.Plan{2: 0}}, {"arch/gemma2", kvshare.Plan{3: 1}}} {
		teacher := open(t, c.name)
		student, err := kvshare.Rewrite(teacher, c.plan)
		if err != nil {
			t.Fatal(err)
		}
		config := kvshare.MatchConfig{Epochs: 30, BatchTokens: 40, LR: 3e-3, Seed: 1}
		m, rep := match(t, teacher, student, 1, config)
		if len(rep) != len(c.plan) {
			t.Fatalf("%s: %+v", c.name, rep)
		}
		for k, r := range rep {
			if r.Block != c.plan.Takers()[k] || !(r.Before > 0) || r.After > 0.9*r.Before {
				t.Errorf("%s: %+v", c.name, r)
			}
		}
		again, rep2 := match(t, teacher, student, 2, config)
		if !reflect.DeepEqual(rep, rep2) {
			t.Errorf("%s: 2 threads give %+v, 1 gives %+v", c.name, rep2, rep)
		}
		for i, w := range m.Weights {
			got, err := m.Tensor(i)
			if err != nil {
				t.Fatal(err)
			}
			want, err := student.Tensor(i)
			if err != nil {
				t.Fatal(err)
			}
			twice, err := again.Tensor(i)
			if err != nil {
				t.Fatal(err)
			}
			if !sameBits(got, twice) {
				t.Errorf("%s: %s differs with 2 threads", c.name, w.Name)
			}
			learns := false
			for _, taker := range c.plan.Takers() {
				b := m.Blocks[taker]
				learns = learns || slices.Contains([]int{b.Q.W, b.Q.B, b.QNorm, b.O.W, b.O.B}, i)
			}
			if changed := !slices.Equal(got, want); changed != learns {
				t.Errorf("%s: %s changed: %v, wanted %v", c.name, w.Name, changed, learns)
			}
		}
	}
}

func TestMatchRefusals(t *testing.T) {
	teacher := open(t, "assistant-tiny")
	student, err := kvshare.Rewrite(teacher, kvshare.Plan{5: 1})
	if err != nil {
		t.Fatal(err)
	}
	f, err := kernel.Select("")
	if err != nil {
		t.Fatal(err)
	}
	pool := exec.NewPool(1)
	defer pool.Close()
	good := kvshare.Match{Teacher: teacher, Student: student, Seqs: examples(teacher.Vocab), Config: kvshare.DefaultMatch(), Kernel: f, Pool: pool}
	for what, change := range map[string]func(m *kvshare.Match){
		"no examples":     func(m *kvshare.Match) { m.Seqs = nil },
		"no epochs":       func(m *kvshare.Match) { m.Config.Epochs = 0 },
		"no batches":      func(m *kvshare.Match) { m.Config.BatchTokens = 0 },
		"a rate of NaN":   func(m *kvshare.Match) { m.Config.LR = math.NaN() },
		"a shared model":  func(m *kvshare.Match) { m.Teacher = student },
		"beyond context":  func(m *kvshare.Match) { m.Seqs = [][]int32{make([]int32, teacher.Context+1)} },
		"a rate too high": func(m *kvshare.Match) { m.Config.LR = 1e38 },
	} {
		m := good
		change(&m)
		if _, _, err := m.Run(t.Context()); err == nil {
			t.Errorf("%s: no error", what)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := good.Run(ctx); err == nil {
		t.Error("a cancelled run gives no error")
	}
}
