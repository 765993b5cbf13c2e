package routertrain

import (
	"fmt"
	"math"
	"slices"

	"slmc/internal/deferral"
)

// What heads learn. TargetRisk is the default: is the greedy answer wrong, and
// is it wrong where the large model's is right. The others are the labels of
// Hybrid LLM (Ding et al., arXiv 2404.14618, section 3): the probability that
// the small model does as well as the large one, H = q(small) - q(large) >= 0.
const (
	TargetRisk  = "risk"
	TargetDet   = "det"   // from one answer of each
	TargetProb  = "prob"  // from samples of each
	TargetTrans = "trans" // H >= -t, t chosen to spread the labels
)

// Targets lists them.
func Targets() []string { return []string{TargetRisk, TargetDet, TargetProb, TargetTrans} }

// targets are those of one query.
type targets struct {
	wrong, gain float64                   // as they came out, for calibration and figures
	train       [deferral.Outputs]float32 // what the head is taught
}

// targetsOf computes a query's targets. trans chooses its t on the training
// part.
func targetsOf(name string, l *Labels, parts []Part) ([]targets, error) {
	if !slices.Contains(Targets(), name) {
		return nil, fmt.Errorf("targets %q are unknown; have %v", name, Targets())
	}
	out := make([]targets, len(l.Rows))
	for i := range l.Rows {
		r := &l.Rows[i]
		out[i] = targets{wrong: r.Wrong(), gain: r.Gain()}
		out[i].train = [deferral.Outputs]float32{float32(out[i].wrong), float32(out[i].gain)}
	}
	if name == TargetRisk {
		return out, nil
	}
	shift := 0.0
	if name == TargetTrans {
		var train []*Label
		for i := range l.Rows {
			if parts[i] == Train {
				train = append(train, &l.Rows[i])
			}
		}
		shift = transShift(train)
	}
	for i := range l.Rows {
		r := &l.Rows[i]
		y := 0.0 // that the small model does
		switch name {
		case TargetDet:
			if r.Small.Score >= r.large() {
				y = 1
			}
		default:
			if len(r.Small.Samples) == 0 || r.Large == nil || len(r.Large.Samples) == 0 {
				return nil, fmt.Errorf("%w: targets %q want samples of both models, query %s has none", ErrLabels, name, r.ID)
			}
			y = doesAsWell(r, shift)
		}
		out[i].train[deferral.OutGain] = float32(1 - y)
	}
	return out, nil
}

// doesAsWell is Pr[q(small) - q(large) >= -t] over all pairs of samples.
func doesAsWell(r *Label, t float64) float64 {
	n := 0
	for _, s := range r.Small.Samples {
		for _, l := range r.Large.Samples {
			if s-l >= -t-1e-9 {
				n++
			}
		}
	}
	return float64(n) / float64(len(r.Small.Samples)*len(r.Large.Samples))
}

// transShift is the t of a grid over 0..1 for which labels differ most between
// queries: the largest mean |y_i(t) - y_j(t)| (equation 3). At t = 1 all are 1.
func transShift(rows []*Label) float64 {
	best, spread := 0.0, math.Inf(-1)
	for k := range 20 {
		t := float64(k) / 20
		y := make([]float64, 0, len(rows))
		for _, r := range rows {
			if r.Large != nil && len(r.Small.Samples) > 0 && len(r.Large.Samples) > 0 {
				y = append(y, doesAsWell(r, t))
			}
		}
		if d := meanDistance(y); d > spread+1e-12 {
			best, spread = t, d
		}
	}
	return best
}

// meanDistance is the mean |y_i - y_j| over all pairs.
func meanDistance(y []float64) float64 {
	slices.Sort(y)
	sum, n := 0.0, float64(len(y))
	for i, v := range y {
		sum += v * (2*float64(i) - n + 1)
	}
	return 2 * sum / max(1, n*n)
}
