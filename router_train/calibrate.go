package routertrain

import (
	"cmp"
	"math"
	"slices"

	"slmc/internal/deferral"
)

// curvePoints bounds the points of a calibration curve.
const curvePoints = 48

// isotonic fits the non-decreasing map with the least squared error by pooling
// adjacent violators (Ayer et al. 1955), and joins the middles of its steps by
// lines, so that it keeps the order of what it maps. Score and outcome lie in
// 0..1; out-of-sample scores, or it learns the training's confidence.
func isotonic(score, outcome []float64) deferral.Curve {
	idx := order(score)
	slices.Reverse(idx)
	type step struct{ x, y, n float64 }
	var steps []step
	// Smallest steps of at least this many, so that an end is no single query.
	least := float64(max(1, len(score)/curvePoints))
	cur := step{}
	for k, i := range idx {
		cur.x, cur.y, cur.n = cur.x+score[i], cur.y+outcome[i], cur.n+1
		if cur.n < least || k+1 < len(idx) && score[idx[k+1]] == score[i] {
			continue
		}
		steps, cur = append(steps, cur), step{}
		for n := len(steps); n > 1 && steps[n-2].y*steps[n-1].n >= steps[n-1].y*steps[n-2].n; n = len(steps) {
			a, b := steps[n-2], steps[n-1]
			steps = append(steps[:n-2], step{a.x + b.x, a.y + b.y, a.n + b.n})
		}
	}
	var c deferral.Curve
	for _, s := range steps {
		x, y := float32(s.x/s.n), float32(s.y/s.n)
		if n := len(c.X); n == 0 || x > c.X[n-1] {
			c.X, c.Y = append(c.X, x), append(c.Y, max(0, min(1, y)))
		}
	}
	return c
}

// platt fits sigmoid(a*logit(score)+b) by Newton's method with Platt's targets
// (Platt 1999; Lin, Lin and Weng 2007) and returns it as a curve.
func platt(score, outcome []float64) deferral.Curve {
	pos := 0.0
	for _, y := range outcome {
		pos += y
	}
	neg := float64(len(outcome)) - pos
	high, low := (pos+1)/(pos+2), 1/(neg+2)
	a, b := 1.0, 0.0
	for range 50 {
		var ga, gb, haa, hab, hbb float64
		for i, s := range score {
			x := logit(s)
			p := 1 / (1 + math.Exp(-(a*x + b)))
			d, w := p-(outcome[i]*high+(1-outcome[i])*low), p*(1-p)
			ga, gb = ga+d*x, gb+d
			haa, hab, hbb = haa+w*x*x, hab+w*x, hbb+w
		}
		haa, hbb = haa+1e-9, hbb+1e-9
		det := haa*hbb - hab*hab
		da, db := (hbb*ga-hab*gb)/det, (haa*gb-hab*ga)/det
		a, b = a-da, b-db
		if math.Abs(da)+math.Abs(db) < 1e-9 {
			break
		}
	}
	a = max(a, 0) // a falling map would turn the order round
	var c deferral.Curve
	for k := range curvePoints {
		s := (float64(k) + 0.5) / curvePoints
		c.X, c.Y = append(c.X, float32(s)), append(c.Y, float32(1/(1+math.Exp(-(a*logit(s)+b)))))
	}
	return c
}

func logit(p float64) float64 {
	p = max(1e-6, min(1-1e-6, p))
	return math.Log(p / (1 - p))
}

// chooseCurve returns the calibration with the smaller log loss on the other
// half of the scores, refitted on all of them, and its name.
func chooseCurve(score, outcome []float64) (deferral.Curve, string) {
	half := func(odd int, x []float64) (out []float64) {
		for i := odd; i < len(x); i += 2 {
			out = append(out, x[i])
		}
		return out
	}
	fits := []struct {
		name string
		fit  func(score, outcome []float64) deferral.Curve
	}{{"platt", platt}, {"isotonic", isotonic}}
	losses := make([]float64, len(fits))
	for k, f := range fits {
		for odd := range 2 {
			s, y := half(1-odd, score), half(1-odd, outcome)
			c := f.fit(half(odd, score), half(odd, outcome))
			for i := range s {
				p := max(1e-3, min(1-1e-3, float64(c.At(float32(s[i])))))
				losses[k] -= y[i]*math.Log(p) + (1-y[i])*math.Log(1-p)
			}
		}
	}
	best := 0
	if cmp.Less(losses[1], losses[0]) {
		best = 1
	}
	return fits[best].fit(score, outcome), fits[best].name
}
