package routertrain

import (
	"context"
	"math"
	"math/rand/v2"
	"testing"

	"slmc/internal/deferral"
)

func near(t *testing.T, what string, got, want, tol float64) {
	t.Helper()
	if !(math.Abs(got-want) <= tol) {
		t.Errorf("%s is %.10g, want %.10g", what, got, want)
	}
}

// AUROC is compared with its definition over all pairs, ties included.
func TestAUROCAgainstAllPairs(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 0))
	for range 20 {
		n := 5 + r.IntN(60)
		score, y := make([]float64, n), make([]float64, n)
		for i := range n {
			score[i], y[i] = float64(r.IntN(9)), float64(r.IntN(2))
		}
		won, pairs := 0.0, 0.0
		for i := range n {
			for j := range n {
				if y[i] == 1 && y[j] == 0 {
					pairs++
					switch {
					case score[i] > score[j]:
						won++
					case score[i] == score[j]:
						won += 0.5
					}
				}
			}
		}
		if pairs == 0 {
			continue
		}
		near(t, "AUROC", AUROC(score, y), won/pairs, 1e-12)
	}
	if !math.IsNaN(AUROC([]float64{1, 2}, []float64{1, 1})) {
		t.Error("AUROC without negatives is a number")
	}
}

func TestCurvesByHand(t *testing.T) {
	// Deferring the third query gains, the first loses, the rest change nothing.
	small, large := []float64{1, 0, 0, 1}, []float64{0, 0, 1, 1}
	c := NewCurve([]float64{0.1, 0.2, 0.9, 0.3}, small, large)
	for k, want := range []float64{0.5, 0.75, 0.75, 0.75, 0.5} {
		near(t, "quality", c.Quality[k], want, 1e-12)
	}
	if o := Oracle(small, large); o.Quality[1] != 0.75 || o.Quality[3] != 0.75 {
		t.Errorf("oracle %v", o.Quality)
	}
	small, large = []float64{0, 0, 1, 1}, []float64{1, 1, 1, 1}
	c = NewCurve([]float64{0.9, 0.1, 0.5, 0.2}, small, large) // 0.5, 0.75, 0.75, 0.75, 1
	near(t, "APGR", c.APGR(), (0+0.5+0.5+0.5+1)/5, 1e-12)
	near(t, "CPT 50 %", c.CPT(0.5), 0.25, 1e-12)
	near(t, "CPT 80 %", c.CPT(0.8), 1, 1e-12)
	near(t, "reach", c.Reach(0.75), 0.25, 1e-12)
	near(t, "random APGR", Random(small, large).APGR(), 0.5, 1e-12)
	near(t, "oracle APGR", Oracle(small, large).APGR(), (0+0.5+1+1+1)/5, 1e-12)
	near(t, "gap closed", GapClosed([]float64{3, 2, 1, 0}, small, large), 1, 1e-12)
	near(t, "AURC", AURC([]float64{0.9, 0.1}, []float64{1, 0}), (0+0.5)/2, 1e-12)
	near(t, "Brier", Brier([]float64{0.5, 1}, []float64{0, 1}), 0.125, 1e-12)
	near(t, "ECE", ECE([]float64{0.1, 0.1, 0.9}, []float64{0, 1, 1}, 2), (0.8+0.1)/3, 1e-12)
}

// Limits of R's binom.test(k, n, alternative = "less", conf.level = 1-delta)
// and of the closed forms at the ends.
func TestClopperPearson(t *testing.T) {
	near(t, "0 of 59", clopperPearson(0, 59, 0.05), 1-math.Pow(0.05, 1.0/59), 1e-9)
	near(t, "3 of 10", clopperPearson(3, 10, 0.05), 0.6066242, 1e-6)
	near(t, "10 of 1000", clopperPearson(10, 1000, 0.05), 0.0169, 1e-4)
	near(t, "10 of 10", clopperPearson(10, 10, 0.05), 1, 0)
	near(t, "low, 10 of 10", clopperPearsonLow(10, 10, 0.05), math.Pow(0.05, 0.1), 1e-9)
	near(t, "low, 0 of 10", clopperPearsonLow(0, 10, 0.05), 0, 0)
	// The limit is the p for which k or fewer of n has probability delta.
	for _, c := range [][2]int{{1, 20}, {7, 300}, {40, 2000}} {
		p, sum := clopperPearson(c[0], c[1], 0.05), 0.0
		for k := range c[0] + 1 {
			a, _ := math.Lgamma(float64(c[1] + 1))
			b, _ := math.Lgamma(float64(k + 1))
			d, _ := math.Lgamma(float64(c[1] - k + 1))
			sum += math.Exp(a - b - d + float64(k)*math.Log(p) + float64(c[1]-k)*math.Log1p(-p))
		}
		near(t, "tail", sum, 0.05, 1e-6)
	}
}

func TestUpperOfGradedLosses(t *testing.T) {
	loss := make([]float64, 1000)
	for i := range loss {
		loss[i] = 0.5 * float64(i%2)
	}
	// Mean 0.25, variance 0.0625*1000/999; equation of theorem 4.
	l := math.Log(40)
	want := 0.25 + math.Sqrt(2*0.0625*1000/999*l/1000) + 7*l/(3*999)
	near(t, "empirical Bernstein", LimitGraded.Upper(loss, 0.05), want, 2e-6)
	near(t, "its lower limit", LimitGraded.Lower(loss, 0.05), 0.5-want, 2e-6)
	near(t, "above 0 counted", LimitExact.Upper(loss, 0.05), clopperPearson(500, 1000, 0.05), 2e-6)
	near(t, "1 counted", LimitExact.Lower(loss, 0.05), 0, 0)
}

// The rule does not follow the sample that is certified on: graded losses that happen
// to be 0 and 1 there are bounded as graded ones are. A choice after the fact
// fails with a probability of up to two deltas.
func TestLimitIsFixedBeforeTheSample(t *testing.T) {
	lucky := make([]float64, 500)
	lucky[0] = 1
	if exact, graded := LimitExact.Upper(lucky, 0.05), LimitGraded.Upper(lucky, 0.05); !(graded > exact) {
		t.Errorf("graded %g, exact %g: the sample chose the rule", graded, exact)
	}
	row := func(score float64) Label { return Label{Small: Outcome{Score: score}, Large: &Outcome{Score: 1}} }
	if l := limitFor(&Labels{Rows: []Label{row(0), row(1)}}); l != LimitExact {
		t.Errorf("scores of 0 and 1: %s", l)
	}
	if l := limitFor(&Labels{Rows: []Label{row(0), row(0.3)}}); l != LimitGraded {
		t.Errorf("graded scores: %s", l)
	}
	if Limit("best").Check() == nil {
		t.Error("an unknown rule is taken")
	}
}

// Fixed-sequence testing keeps its promise: over draws from a known population
// the row that it picks loses more than the bound in at most a share delta.
func TestCertificateHoldsInSimulation(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 0))
	var population []Scored
	for range 4000 {
		p := r.Float64()
		s := Scored{Small: 1, Large: 1, Readings: []deferral.Reading{{Checkpoint: deferral.Post, Score: float32(p)}}}
		if r.Float64() < p*p*0.4 {
			s.Small = 0
		}
		population = append(population, s)
	}
	c := DefaultCertify()
	c.Known = 1
	grid := make([]float64, 1000)
	for i := range grid {
		grid[i] = float64(i) / 1000
	}
	table := NewTable(c, map[deferral.Checkpoint][]float32{deferral.Post: Grid(c, grid)}, population, "")
	got := Resplit(population, &table, c.Limit, deferral.Post, 0.02, 400, 1)
	// 400 rounds at 5 %: more than 32 has a probability below 0.5 %.
	if got.Feasible < 390 || got.Violated > 32 {
		t.Errorf("%+v", got)
	}
	if got.MeanDeferral > 0.9 {
		t.Errorf("%+v: the rule defers nearly everything, so the bound says nothing", got)
	}
	// A test that can't fail is none: twice the loss breaks the promise.
	for i := range population {
		if population[i].Small == 1 && i%3 == 0 {
			population[i].Small = 0
		}
	}
	if row, err := table.Pick(deferral.Post, 0.02); err != nil || Measure(row, population, c.Limit).Loss < 0.02 {
		t.Errorf("%+v, %v: three times the wrong answers do not show", row, err)
	}
}

func TestIsotonicIsTheBestIncreasingFit(t *testing.T) {
	// Pooling by hand: 0, (1, 0) -> 0.5, 1.
	c := isotonic([]float64{0.1, 0.2, 0.3, 0.4}, []float64{0, 1, 0, 1})
	if len(c.X) != 3 || c.Y[0] != 0 || c.Y[1] != 0.5 || c.Y[2] != 1 {
		t.Fatalf("curve %+v", c)
	}
	near(t, "middle of the pool", float64(c.X[1]), 0.25, 1e-6)
	r := rand.New(rand.NewPCG(3, 0))
	var s, y []float64
	for range 5000 {
		p := r.Float64()
		s, y = append(s, p*p), append(y, truth(r.Float64() < p))
	}
	for name, fit := range map[string]func(a, b []float64) deferral.Curve{"isotonic": isotonic, "platt": platt} {
		c := fit(s, y)
		for _, x := range []float64{0.04, 0.25, 0.64} {
			tol := 0.06
			if name == "platt" {
				tol = 0.12 // the truth is no sigmoid of a logit
			}
			near(t, name, float64(c.At(float32(x))), math.Sqrt(x), tol)
		}
		for i := 1; i < len(c.X); i++ {
			if c.X[i] <= c.X[i-1] || c.Y[i] < c.Y[i-1] {
				t.Fatalf("%s falls at %d: %+v", name, i, c)
			}
		}
	}
}

// Soft labels against their definition over all pairs, equation 1 to 3 of
// arXiv 2404.14618.
func TestHybridTargets(t *testing.T) {
	row := func(small, large float64, s, l []float64) Label {
		return Label{Small: Outcome{Score: small, Samples: s}, Large: &Outcome{Score: large, Samples: l}}
	}
	l := &Labels{Rows: []Label{
		row(0, 1, []float64{0, 1}, []float64{1, 1}), row(1, 1, []float64{1, 1}, []float64{1, 0}), row(0, 0, []float64{0, 0}, []float64{0, 1}),
	}}
	parts := []Part{Train, Train, Calibrate}
	for name, want := range map[string][]float32{TargetDet: {1, 0, 0}, TargetProb: {0.5, 0, 0.5}} {
		got, err := targetsOf(name, l, parts)
		if err != nil {
			t.Fatal(err)
		}
		for i := range want {
			if got[i].train[deferral.OutGain] != want[i] {
				t.Errorf("%s: query %d is taught %g, want %g", name, i, got[i].train[deferral.OutGain], want[i])
			}
		}
	}
	y := []float64{0.2, 0.9, 0.4, 0.4}
	sum := 0.0
	for _, a := range y {
		for _, b := range y {
			sum += math.Abs(a - b)
		}
	}
	near(t, "mean distance", meanDistance(append([]float64{}, y...)), sum/16, 1e-12)
	l.Rows[1].Large.Samples = nil
	if _, err := targetsOf(TargetTrans, l, parts); err == nil {
		t.Error("trans without samples is accepted")
	}
}

func TestScorers(t *testing.T) {
	for _, c := range []struct {
		rule, answer, reference string
		want                    float64
	}{
		{"exact_match", " f(x) ", "f(x)", 1}, {"exact_match", "f(X)", "f(x)", 0},
		{"multiple_choice", "The answer is (B).", "B", 1}, {"multiple_choice", "B. because A is wrong", "B", 1}, {"multiple_choice", "none", "B", 0},
		{"numeric", "so 1,234 in all", "#### 1234", 1}, {"numeric", "12 or 13", "12", 0}, {"numeric", "-0.5", "-.5", 0}, {"numeric", "no number", "3", 0},
		{"token_f1", "the cat sat", "a cat sat down", 0.8}, {"token_f1", "", "x", 0}, {"token_f1", "", "", 1},
		{"rouge_l", "police killed the gunman", "police kill the gunman", 2.0 / 3}, {"rouge_l", "a b", "c d", 0},
	} {
		s, err := ScorerByName(c.rule)
		if err != nil {
			t.Fatal(err)
		}
		near(t, c.rule+" of "+c.answer, s.Score(c.answer, c.reference), c.want, 1e-9)
	}
	judge := Judge(fixed{"0.75"})
	if s, err := judge(context.Background(), "q", "a", "r"); err != nil || s != 0.75 {
		t.Errorf("judge: %g, %v", s, err)
	}
	if _, err := Judge(fixed{"seven"})(context.Background(), "q", "a", "r"); err == nil {
		t.Error("a judge that gives no number is believed")
	}
}

type fixed struct{ text string }

func (f fixed) Name() string { return "fixed" }
func (f fixed) Answer(context.Context, string, int) (Reply, error) {
	return Reply{Text: f.text}, nil
}
