package routertrain

import (
	"errors"

	"slmc/internal/deferral"
)

// Report is what a training run tells: deterministic facts only.
type Report struct {
	Config     Config       `json:"config"`
	Labels     string       `json:"labels"` // digest of the label file
	Queries    map[Part]int `json:"queries"`
	Known      int          `json:"queries_among_examples,omitempty"`
	Classes    int          `json:"classes"` // of the second opinion; 0: none
	Parameters int          `json:"parameters"`
	MACs       int          `json:"macs"` // of a pre and a post reading together
	// CrossValidated are the heads as cross-validation within the training part
	// sees them.
	CrossValidated []CheckpointReport `json:"cross_validated"`
	// Certified are the rows that keep the usual bounds, on the calibration part.
	Certified  []CertifiedRow `json:"certified"`
	Default    *deferral.Row  `json:"default,omitempty"`
	Infeasible string         `json:"infeasible,omitempty"` // why there is no default row
	Test       *Deferral      `json:"test,omitempty"`       // on the test part
}

// CertifiedRow is what a checkpoint's rows offer for a bound.
type CertifiedRow struct {
	Checkpoint deferral.Checkpoint `json:"checkpoint"`
	Bound      float64             `json:"bound"`
	Row        *deferral.Row       `json:"row,omitempty"`
	Infeasible string              `json:"infeasible,omitempty"`
}

// Bounds picks rows for one, two and five points and the config's own bound.
func Bounds(t *deferral.Table, c Certify) (out []CertifiedRow) {
	bounds := []float64{0.01, 0.02, 0.05}
	if c.Bound != 0.01 && c.Bound != 0.02 && c.Bound != 0.05 {
		bounds = append(bounds, c.Bound)
	}
	for _, at := range []deferral.Checkpoint{deferral.Pre, deferral.Post} {
		for _, b := range bounds {
			r := CertifiedRow{Checkpoint: at, Bound: b}
			row, err := t.Pick(at, b)
			var no *deferral.Infeasible
			switch {
			case errors.As(err, &no) && no.Nearest == nil:
				continue
			case err != nil:
				r.Infeasible = err.Error()
			default:
				r.Row = &row
			}
			out = append(out, r)
		}
	}
	return out
}
