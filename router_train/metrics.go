package routertrain

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
)

// order returns the indices of score by descending value; equal ones in the
// order in which they stand.
func order(score []float64) []int {
	idx := make([]int, len(score))
	for i := range idx {
		idx[i] = i
	}
	slices.SortStableFunc(idx, func(a, b int) int { return cmp.Compare(score[b], score[a]) })
	return idx
}

// AUROC is the probability that a positive scores higher than a negative, ties
// counted half (Mann and Whitney); positive holds weights in 0..1. NaN when
// there are no two sides.
func AUROC(score, positive []float64) float64 {
	idx := order(score)
	var above, area, neg float64 // positives so far, pairs won, negatives
	for i := 0; i < len(idx); {
		j, p, n := i, 0.0, 0.0
		for ; j < len(idx) && score[idx[j]] == score[idx[i]]; j++ {
			p += positive[idx[j]]
			n += 1 - positive[idx[j]]
		}
		area += n * (above + p/2)
		above += p
		neg += n
		i = j
	}
	if above == 0 || neg == 0 {
		return math.NaN()
	}
	return area / (above * neg)
}

// AURC is the area under the risk-coverage curve: the mean over coverages of the
// error among the queries kept, those with the lowest scores first (Geifman et
// al., arXiv 1805.08206). Lower is better. Ties are kept in order.
func AURC(score, wrong []float64) float64 {
	idx := order(score)
	slices.Reverse(idx)
	sum, total := 0.0, 0.0
	for i, k := range idx {
		sum += wrong[k]
		total += sum / float64(i+1)
	}
	return total / float64(len(idx))
}

// ECE is the expected calibration error over equal-width bins: the mean distance
// between the probability said and the share observed (Guo et al., arXiv
// 1706.04599, equation 3).
func ECE(prob, outcome []float64, bins int) float64 {
	said, seen, n := make([]float64, bins), make([]float64, bins), make([]float64, bins)
	for i, p := range prob {
		b := min(bins-1, max(0, int(p*float64(bins))))
		said[b] += p
		seen[b] += outcome[i]
		n[b]++
	}
	sum := 0.0
	for b := range n {
		sum += math.Abs(said[b] - seen[b])
	}
	return sum / float64(max(1, len(prob)))
}

// ECEBins is the number of bins of every ECE that slmc reports.
const ECEBins = 15

// Brier is the mean squared distance of probability and outcome.
func Brier(prob, outcome []float64) float64 {
	sum := 0.0
	for i, p := range prob {
		sum += (p - outcome[i]) * (p - outcome[i])
	}
	return sum / float64(max(1, len(prob)))
}

// Curve is quality against calls: Quality[k] is the mean score when the k
// queries with the highest scores go to the large model.
type Curve struct {
	Quality []float64
}

// NewCurve orders queries by score. small and large are the models' scores.
func NewCurve(score, small, large []float64) Curve {
	q, n := 0.0, float64(len(score))
	for _, s := range small {
		q += s
	}
	out := make([]float64, 1, len(score)+1)
	out[0] = q / n
	for _, i := range order(score) {
		q += large[i] - small[i]
		out = append(out, q/n)
	}
	return Curve{out}
}

// Oracle is the curve of who knows both scores.
func Oracle(small, large []float64) Curve {
	gain := make([]float64, len(small))
	for i := range gain {
		gain[i] = large[i] - small[i]
	}
	return NewCurve(gain, small, large)
}

// Random is the straight line between the two models.
func Random(small, large []float64) Curve {
	c := NewCurve(make([]float64, len(small)), small, large)
	n, first, last := len(small), c.Quality[0], c.Quality[len(small)]
	for k := range c.Quality {
		c.Quality[k] = first + (last-first)*float64(k)/float64(n)
	}
	return c
}

// APGR is the average performance gap recovered: the mean over all shares of
// calls of (quality - small)/(large - small) (RouteLLM, arXiv 2406.18665,
// section 3). NaN when both models are equally good.
func (c Curve) APGR() float64 {
	n := len(c.Quality) - 1
	gap := c.Quality[n] - c.Quality[0]
	if gap == 0 {
		return math.NaN()
	}
	sum := 0.0
	for _, q := range c.Quality {
		sum += (q - c.Quality[0]) / gap
	}
	return sum / float64(n+1)
}

// CPT is the call-performance threshold: the smallest share of calls that
// recovers that share of the gap (RouteLLM, section 3).
func (c Curve) CPT(share float64) float64 {
	n := len(c.Quality) - 1
	return c.Reach(c.Quality[0] + share*(c.Quality[n]-c.Quality[0]))
}

// Reach is the smallest share of calls that gives at least that quality, 1 when
// none does.
func (c Curve) Reach(quality float64) float64 {
	n := len(c.Quality) - 1
	for k, q := range c.Quality {
		if q >= quality-1e-12 {
			return float64(k) / float64(n)
		}
	}
	return 1
}

// GapClosed is (APGR - random)/(oracle - random).
func GapClosed(score, small, large []float64) float64 {
	random := Random(small, large).APGR()
	return (NewCurve(score, small, large).APGR() - random) / (Oracle(small, large).APGR() - random)
}

// Interval is a 95 % interval.
type Interval struct {
	Low  float64 `json:"low"`
	High float64 `json:"high"`
}

// PairedBootstrap is the percentile interval of a statistic's difference between
// two scores over resampled queries (Efron 1979), b minus a.
func PairedBootstrap(a, b, positive []float64, stat func(score, positive []float64) float64, rounds int, seed uint64) Interval {
	r := rand.New(rand.NewPCG(seed, 2))
	n := len(a)
	x, y, p := make([]float64, n), make([]float64, n), make([]float64, n)
	var diffs []float64
	for range rounds {
		for i := range n {
			k := r.IntN(n)
			x[i], y[i], p[i] = a[k], b[k], positive[k]
		}
		if d := stat(y, p) - stat(x, p); !math.IsNaN(d) {
			diffs = append(diffs, d)
		}
	}
	if len(diffs) == 0 {
		return Interval{-1, 1} // nothing is known
	}
	slices.Sort(diffs)
	return Interval{diffs[len(diffs)*25/1000], diffs[min(len(diffs)-1, len(diffs)*975/1000)]}
}
