package routertrain

import (
	"encoding/json"
	"strings"
	"testing"

	"slmc/internal/deferral"
)

// queriesWith makes queries with these scores, all read alike before the answer and
// differently after it.
func queriesWith(small, large []float64) (rows []Scored) {
	for i := range small {
		score := float32(i+1) / float32(len(small)+1)
		rows = append(rows, Scored{Small: small[i], Large: large[i], Readings: []deferral.Reading{
			{Checkpoint: deferral.Pre, Wrong: 0.5, Score: 0.5}, {Checkpoint: deferral.Post, Tokens: 3, Wrong: score, Score: score},
		}})
	}
	return rows
}

// A figure that the rows leave undefined is null, and says why; zero would be a
// router that is always wrong.
func TestUndefinedFigures(t *testing.T) {
	table := &deferral.Table{Bound: 0.5, Checkpoint: deferral.Post, Rows: []deferral.Row{
		{Checkpoint: deferral.Post, Pre: deferral.Never, Mid: deferral.Never, Post: 0.5, OOD: deferral.Never, Bound: 0.1, Delta: 0.05, N: 4},
	}}
	for _, c := range []struct {
		name         string
		small, large []float64
		null         []string
		why          string
	}{
		{"defined", []float64{1, 1, 0, 0}, []float64{1, 1, 1, 0}, []string{"auroc_entropy"}, ""},
		{"all right", []float64{1, 1, 1}, []float64{1, 1, 0}, []string{"auroc_pre", "auroc_mid", "auroc_post", "auroc_entropy"}, "none is wrong"},
		{"all wrong", []float64{0, 0, 0}, []float64{1, 1, 0}, []string{"auroc_pre", "auroc_mid", "auroc_post", "auroc_entropy"}, "none is right"},
		{"no gap", []float64{1, 0}, []float64{1, 0}, []string{"auroc_entropy", "gap_closed"}, "equally good"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d, err := Evaluate(queriesWith(c.small, c.large), table, LimitExact)
			if err != nil {
				t.Fatal(err)
			}
			text, err := json.Marshal(d.Figures)
			if err != nil {
				t.Fatal(err)
			}
			var got map[string]any
			if err := json.Unmarshal(text, &got); err != nil {
				t.Fatal(err)
			}
			for _, key := range []string{"auroc_pre", "auroc_mid", "auroc_post", "auroc_entropy", "gap_closed"} {
				null := false
				for _, k := range c.null {
					null = null || k == key
				}
				if v, ok := got[key]; !ok || (v == nil) != null {
					t.Errorf("%s is %v, want null: %v", key, v, null)
				}
			}
			if why := d.Undefined(); (why == "") != (c.why == "") || !strings.Contains(why, c.why) {
				t.Errorf("the reason is %q, want %q", why, c.why)
			}
			var back Figures
			if err := json.Unmarshal(text, &back); err != nil || back.AUROCPre.Defined() != d.AUROCPre.Defined() || back.GapClosed.String() != d.GapClosed.String() {
				t.Errorf("read back: %+v, %v", back, err)
			}
			if _, err := json.Marshal(d); err != nil {
				t.Errorf("the details: %v", err)
			}
		})
	}
}

// Answers that end before the first reading during them have the one before
// them, so that the two figures are equal; a longer answer's own counts.
func TestMidOfShortAnswers(t *testing.T) {
	rows := queriesWith([]float64{1, 0}, []float64{1, 1})
	v := newVectors(rows)
	if pre, mid := v.at(deferral.Pre), v.at(deferral.Mid); pre[0] != mid[0] || pre[1] != mid[1] {
		t.Errorf("before %v, during %v", pre, mid)
	}
	r := rows[0].Readings
	rows[0].Readings = []deferral.Reading{r[0], {Checkpoint: deferral.Mid, Tokens: deferral.MidEvery, Wrong: 0.25}, {Checkpoint: deferral.Mid, Tokens: 2 * deferral.MidEvery, Wrong: 0.75}, r[1]}
	if mid := v.at(deferral.Mid); mid[0] != 0.25 {
		t.Errorf("during the longer answer %v, want its first reading", mid[0])
	}
}
