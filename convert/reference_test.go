package convert

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"testing"

	"slmc/internal/exec"
	"slmc/internal/kernel"
	"slmc/model"
)

// session runs a checkpoint in float32.
type session struct {
	g   *model.Graph
	ops exec.Ops
	pos int
}

func start(t testing.TB, m *model.Model, context int) *session {
	t.Helper()
	k, err := kernel.Select("")
	if err != nil {
		t.Fatal(err)
	}
	p, err := exec.LoadParams(m, context)
	if err != nil {
		t.Fatal(err)
	}
	pool := exec.NewPool(2)
	t.Cleanup(pool.Close)
	return &session{g: m.Graph, ops: exec.NewPlain(m.Graph, p, k, pool, exec.NewCache(m.Graph, exec.KVF32, context))}
}

// feed runs ids and returns the logits of those from index from on.
func (s *session) feed(t testing.TB, ids []int32, from int) [][]float32 {
	t.Helper()
	z, err := exec.Forward(s.g, s.ops, exec.Batch{IDs: ids, Pos: s.pos}, from)
	if err != nil {
		t.Fatal(err)
	}
	s.pos += len(ids)
	var out [][]float32
	for r := range z.R {
		out = append(out, append([]float32(nil), z.Row(r)...))
	}
	return out
}

func readJSON(t testing.TB, path string, v any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// worst returns the largest difference of a row, relative to the row's largest
// magnitude.
func worst(got []float32, want []float64) float64 {
	diff, size := 0.0, 0.0
	for i, w := range want {
		diff, size = max(diff, math.Abs(float64(got[i])-w)), max(size, math.Abs(w))
	}
	return diff / size
}

// The logits of every architecture's tiny checkpoint, at every position, are
// those of the independent forward passes in testdata/gen/arch_forward.py.
func TestArchReferences(t *testing.T) {
	dirs, err := filepath.Glob(testdata("arch", "*"))
	if err != nil || len(dirs) == 0 {
		t.Fatal("no checkpoints in testdata/arch", err)
	}
	seen := map[string]bool{}
	for _, dir := range dirs {
		var ref struct {
			IDs    []int32
			Logits [][]float64
		}
		readJSON(t, filepath.Join(dir, "logits.json"), &ref)
		c := open(t, dir, Options{})
		seen[c.Model.Arch] = true
		s := start(t, c.Model, len(ref.IDs))
		bad := 0.0
		for pos, z := range s.feed(t, ref.IDs, 0) {
			bad = max(bad, worst(z, ref.Logits[pos]))
		}
		t.Logf("%-14s %-10s largest difference %.1e", filepath.Base(dir), c.Model.Arch, bad)
		if !(bad <= 1e-5) {
			t.Errorf("%s: logits differ from the reference by %.2g of the row's largest", filepath.Base(dir), bad)
		}
	}
	for _, a := range model.Archs() {
		if !seen[a.Name] {
			t.Errorf("%s has no reference checkpoint", a.Name)
		}
	}
}

// golden is one model of golden.json: greedy_ids begin with the prompt.
type golden struct {
	PromptIDs  []int32   `json:"prompt_ids"`
	LastLogits []float64 `json:"last_logits"`
	GreedyIDs  []int32   `json:"greedy_ids"`
	StoryIDs   []int32   `json:"story_ids"`
	StoryNLL   []float64 `json:"story_nll"`
	MeanNLL    float64   `json:"mean_nll"`
}

// Real checkpoints against golden.json: logits, greedy tokens and losses.
func TestGolden(t *testing.T) {
	var all map[string]golden
	readJSON(t, shared(t, "models", "golden.json"), &all)
	for _, c := range []struct{ model, path string }{
		{"stories260K", "stories260K"},
		{"stories260K", "stories260K/stories260K.bin"},
		{"llama2xs", "llama2xs/ckpt.pt"},
		{"llama2xs", "llama2xs/model.bin"},
	} {
		want := all[c.model]
		m := open(t, shared(t, "models", c.path), Options{}).Model
		s := start(t, m, m.Context)
		z := s.feed(t, want.PromptIDs, len(want.PromptIDs)-1)[0]
		diff := 0.0
		for i, w := range want.LastLogits {
			diff = max(diff, math.Abs(float64(z[i])-w))
		}
		if diff > 1e-4 {
			t.Errorf("%s: logits differ by %.2g", c.path, diff)
		}
		for i, id := range want.GreedyIDs[len(want.PromptIDs):] {
			if got := int32(kernel.ArgMax(z)); got != id {
				t.Errorf("%s: greedy token %d is %d, want %d", c.path, i, got, id)
				break
			}
			z = s.feed(t, []int32{id}, 0)[0]
		}
		s = start(t, m, m.Context)
		rows := s.feed(t, want.StoryIDs[:len(want.StoryIDs)-1], 0)
		mean := 0.0
		for i, row := range rows {
			sum, top := 0.0, float64(row[kernel.ArgMax(row)])
			for _, v := range row {
				sum += math.Exp(float64(v) - top)
			}
			nll := math.Log(sum) + top - float64(row[want.StoryIDs[i+1]])
			if math.Abs(nll-want.StoryNLL[i]) > 1e-4 {
				t.Errorf("%s: NLL of token %d is %.6f, want %.6f", c.path, i, nll, want.StoryNLL[i])
			}
			mean += nll
		}
		mean /= float64(len(rows))
		t.Logf("%-28s logits within %.1e, %d greedy tokens, mean NLL %.6f (want %.6f)", c.path, diff, len(want.GreedyIDs)-len(want.PromptIDs), mean, want.MeanNLL)
		if math.Abs(mean-want.MeanNLL) > 1e-4 {
			t.Errorf("%s: mean NLL %.6f, want %.6f", c.path, mean, want.MeanNLL)
		}
	}
}
