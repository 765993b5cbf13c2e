package routertrain

import (
	"errors"
	"math"

	"slmc/internal/deferral"
)

// Deferral is what a router does on labelled queries, at the bundle's default row.
type Deferral struct {
	Figures
	More Details `json:"details"`
}

// Figures are the ones that `slmc eval --large` promises.
type Figures struct {
	AUROCPre Figure `json:"auroc_pre"`
	// AUROCMid takes of each query the first reading during the answer, and the one
	// before it where the answer ends before that: it equals AUROCPre when no
	// answer has deferral.MidEvery tokens, or the router has no head for it.
	AUROCMid  Figure `json:"auroc_mid"`
	AUROCPost Figure `json:"auroc_post"`
	// AUROCEntropy is that of the mean token entropy of the answer, untrained;
	// undefined where it was not measured.
	AUROCEntropy Figure  `json:"auroc_entropy"`
	GapClosed    Figure  `json:"gap_closed"` // by the score of the row's checkpoint
	DeferralRate float64 `json:"deferral_rate"`
	Quality      float64 `json:"quality"` // of what the user gets
	Bound        float64 `json:"bound"`
	Delta        float64 `json:"delta"`
	// BoundViolated says that the loss's lower limit at level 1-delta exceeds the
	// bound.
	BoundViolated bool    `json:"bound_violated"`
	ECE           float64 `json:"ece"` // of P(wrong) at post
}

// Details are figures beside those.
type Details struct {
	N             int                `json:"n"`
	SmallQuality  float64            `json:"small_quality"`
	LargeQuality  float64            `json:"large_quality"`
	Loss          float64            `json:"loss"`
	LossLow       float64            `json:"loss_low"` // its lower limit
	Brier         float64            `json:"brier"`
	ECEGain       float64            `json:"ece_gain"`
	AURC          float64            `json:"aurc"`
	AURCEntropy   float64            `json:"aurc_entropy,omitempty"`
	AUROCSum      *Figure            `json:"auroc_log_probability,omitempty"` // the sum over the answer
	OverSum       *Interval          `json:"post_over_log_probability,omitempty"`
	OverEntropy   *Interval          `json:"post_over_entropy,omitempty"`
	APGR          map[string]Figure  `json:"apgr"` // router, random, oracle
	CPT50         map[string]float64 `json:"cpt50"`
	CPT80         map[string]float64 `json:"cpt80"`
	CPT95         map[string]float64 `json:"cpt95"`
	WithinPoint   map[string]float64 `json:"deferral_within_1_point"` // of the large model's quality
	WithoutLoss   map[string]float64 `json:"deferral_without_loss"`
	GapClosedPre  Figure             `json:"gap_closed_pre"`
	DropAt        map[string]float64 `json:"drop_at_sent_to_small"` // in points, at 10, 20, 40 %
	OODAboveKnown float64            `json:"ood_share"`             // of queries that the row calls strange
}

// ErrNothing is returned when there is nothing to evaluate.
var ErrNothing = errors.New("no labelled query")

// Signals are the untrained baselines of one query's answer.
type Signals struct {
	Entropy float64 // mean over tokens, nats
	LogProb float64 // summed
}

// Evaluate measures queries that nothing was fitted to against a table's default
// row, by the rule of the table's bounds; a table without a feasible one is an
// *deferral.Infeasible.
func Evaluate(rows []Scored, t *deferral.Table, limit Limit) (Deferral, error) {
	return EvaluateWith(rows, nil, t, limit)
}

// EvaluateWith also measures the untrained signals, one for each row.
func EvaluateWith(rows []Scored, signals []Signals, t *deferral.Table, limit Limit) (d Deferral, err error) {
	if len(rows) == 0 {
		return d, ErrNothing
	}
	row, err := t.Default()
	if err != nil {
		return d, err
	}
	v := newVectors(rows)
	got := Measure(row, rows, limit)
	d.Figures = Figures{
		AUROCPre: Figure(AUROC(v.at(deferral.Pre), v.wrong)), AUROCMid: Figure(AUROC(v.at(deferral.Mid), v.wrong)),
		AUROCPost: Figure(AUROC(v.at(deferral.Post), v.wrong)), AUROCEntropy: Figure(math.NaN()),
		GapClosed: Figure(GapClosed(v.score(row.Checkpoint), v.small, v.large)),
		Bound:     t.Bound, Delta: row.Delta, DeferralRate: got.DeferralRate, Quality: got.Quality,
		ECE: ECE(v.at(deferral.Post), v.wrong, ECEBins),
	}
	d.More = v.details(row, got, limit)
	d.BoundViolated = d.More.LossLow > t.Bound
	if signals != nil {
		v.signals(&d, signals)
	}
	return d, nil
}

// vectors are the columns of scored queries.
type vectors struct {
	rows                      []Scored
	small, large, wrong, gain []float64
}

func newVectors(rows []Scored) vectors {
	v := vectors{rows: rows}
	for i := range rows {
		s := &rows[i]
		v.small, v.large = append(v.small, s.Small), append(v.large, s.Large)
		v.wrong, v.gain = append(v.wrong, 1-s.Small), append(v.gain, s.Gain())
	}
	return v
}

// at are the probabilities of being wrong at a checkpoint.
func (v *vectors) at(c deferral.Checkpoint) []float64 {
	out := make([]float64, len(v.rows))
	for i := range v.rows {
		out[i] = float64(v.rows[i].At(c).Wrong)
	}
	return out
}

func (v *vectors) score(c deferral.Checkpoint) []float64 {
	out := make([]float64, len(v.rows))
	for i := range v.rows {
		out[i] = float64(v.rows[i].At(c).Score)
	}
	return out
}

func (v *vectors) details(row, got deferral.Row, limit Limit) Details {
	n := len(v.rows)
	curves := map[string]Curve{
		"router": NewCurve(v.score(row.Checkpoint), v.small, v.large), "random": Random(v.small, v.large), "oracle": Oracle(v.small, v.large),
	}
	each := func(f func(Curve) float64) map[string]float64 {
		out := map[string]float64{}
		for name, c := range curves {
			out[name] = f(c)
		}
		return out
	}
	apgr := map[string]Figure{}
	for name, x := range each(Curve.APGR) {
		apgr[name] = Figure(x)
	}
	large := curves["random"].Quality[n]
	at := v.at(deferral.Post)
	gain, loss := make([]float64, n), make([]float64, n)
	strange := 0
	for i := range v.rows {
		r := v.rows[i].At(deferral.Post)
		gain[i] = float64(r.Gain)
		if row.Strange(r) {
			strange++
		}
		if deferred, _ := v.rows[i].Apply(row); !deferred {
			loss[i] = v.gain[i]
		}
	}
	drop := map[string]float64{}
	for name, share := range map[string]float64{"10": 0.1, "20": 0.2, "40": 0.4} {
		drop[name] = 100 * (large - curves["router"].Quality[n-int(math.Round(share*float64(n)))])
	}
	return Details{
		N: n, SmallQuality: curves["random"].Quality[0], LargeQuality: large,
		Loss: got.Loss, LossLow: limit.Lower(loss, row.Delta),
		Brier: Brier(at, v.wrong), ECEGain: ECE(gain, v.gain, ECEBins), AURC: AURC(at, v.wrong),
		APGR:  apgr,
		CPT50: each(func(c Curve) float64 { return c.CPT(0.5) }), CPT80: each(func(c Curve) float64 { return c.CPT(0.8) }), CPT95: each(func(c Curve) float64 { return c.CPT(0.95) }),
		WithinPoint:  each(func(c Curve) float64 { return c.Reach(large - 0.01) }),
		WithoutLoss:  each(func(c Curve) float64 { return c.Reach(large) }),
		GapClosedPre: Figure(GapClosed(v.score(deferral.Pre), v.small, v.large)), DropAt: drop,
		OODAboveKnown: float64(strange) / float64(n),
	}
}

// signals adds the figures of what needs no training.
func (v *vectors) signals(d *Deferral, s []Signals) {
	entropy, sum := make([]float64, len(s)), make([]float64, len(s))
	for i := range s {
		entropy[i], sum[i] = s[i].Entropy, -s[i].LogProb
	}
	post := v.at(deferral.Post)
	d.AUROCEntropy = Figure(AUROC(entropy, v.wrong))
	logProb := Figure(AUROC(sum, v.wrong))
	d.More.AUROCSum = &logProb
	d.More.AURCEntropy = AURC(entropy, v.wrong)
	a := PairedBootstrap(sum, post, v.wrong, AUROC, bootstrapRounds, 1)
	b := PairedBootstrap(entropy, post, v.wrong, AUROC, bootstrapRounds, 1)
	d.More.OverSum, d.More.OverEntropy = &a, &b
}
