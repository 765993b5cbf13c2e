package deferral

import (
	"errors"
	"fmt"
)

// Never is a threshold that no score reaches.
const Never = 2

// ErrInfeasible is the kind of Infeasible.
var ErrInfeasible = errors.New("no certified row keeps the bound")

// Row is an operating point: a rule, and what the calibration split says of it.
// The rule defers a query at the first reading whose score reaches the
// checkpoint's threshold, or whose OOD reaches the row's.
type Row struct {
	// Checkpoint is the latest one at which the rule decides.
	Checkpoint Checkpoint `json:"checkpoint"`
	// Thresholds of the score at each checkpoint; Never where it does not decide.
	Pre  float32 `json:"pre"`
	Mid  float32 `json:"mid"`
	Post float32 `json:"post"`
	OOD  float32 `json:"ood"` // at every checkpoint

	DeferralRate float64 `json:"deferral_rate"` // share of queries sent on
	EarlyRate    float64 `json:"early_rate"`    // share sent on before a token was generated
	Quality      float64 `json:"quality"`       // mean score of what the user gets
	LargeQuality float64 `json:"large_quality"` // the same if every query were sent on
	// Loss is the mean of 1[answered here, small wrong, large right] over the N
	// queries of the calibration split, or of max(0, large-small) for graded
	// scores. Bound is its upper confidence limit at level 1-Delta.
	Loss  float64 `json:"loss"`
	Bound float64 `json:"bound"`
	Delta float64 `json:"delta"`
	N     int     `json:"n"`
}

// Threshold is that of the score at a checkpoint.
func (r Row) Threshold(c Checkpoint) float32 {
	switch c {
	case Pre:
		return r.Pre
	case Mid:
		return r.Mid
	}
	return r.Post
}

// Defers reports whether the rule sends the query on at this reading.
func (r Row) Defers(x Reading) bool { return r.Scored(x) || r.Strange(x) }

// Scored reports whether the score alone sends the query on.
func (r Row) Scored(x Reading) bool { return x.Score >= r.Threshold(x.Checkpoint) }

// Strange reports whether the query is too far from what the router knows. The
// certificate says nothing about such queries.
func (r Row) Strange(x Reading) bool { return x.OOD >= r.OOD }

// Table is the certified table of a router: for each checkpoint a sequence of
// rows that was fixed before the calibration split was looked at, from the rule
// that defers most to the one that defers least.
type Table struct {
	Rows []Row `json:"rows"`
	// Bound is what Default keeps, in the unit of Row.Loss.
	Bound      float64    `json:"bound"`
	Checkpoint Checkpoint `json:"checkpoint"`
	// Split names how the certificate's queries were chosen, for people: its
	// seed and the digests of the label file and of its part.
	Split string `json:"split"`
}

// Infeasible says why a request for a bound is refused.
type Infeasible struct {
	Checkpoint Checkpoint
	Want       float64
	// Nearest is the row with the smallest bound that can be certified; nil
	// when the table has none for the checkpoint.
	Nearest *Row
}

// Error implements error.
func (e *Infeasible) Error() string {
	if e.Nearest == nil {
		return fmt.Sprintf("%v of %.4g: the table has no row for checkpoint %q", ErrInfeasible, e.Want, e.Checkpoint)
	}
	return fmt.Sprintf("%v of %.4g at checkpoint %q: even deferring %.1f %% leaves an upper limit of %.4g at delta %.3g from %d queries; the nearest feasible bound is %g",
		ErrInfeasible, e.Want, e.Checkpoint, 100*e.Nearest.DeferralRate, e.Nearest.Bound, e.Nearest.Delta, e.Nearest.N, e.Nearest.Bound)
}

// Is makes errors.Is(err, ErrInfeasible) true.
func (e *Infeasible) Is(kind error) bool { return kind == ErrInfeasible }

// Pick returns the row that defers least and is certified to keep the loss
// within bound: fixed-sequence testing (Angelopoulos et al., arXiv 2110.01052,
// section 3.1) walks a checkpoint's rows in their order and stops before the
// first whose upper limit is above the bound. The error is an *Infeasible.
func (t *Table) Pick(c Checkpoint, bound float64) (Row, error) {
	var best, nearest *Row
	for i := range t.Rows {
		r := &t.Rows[i]
		if r.Checkpoint != c {
			continue
		}
		if nearest == nil || r.Bound < nearest.Bound {
			nearest = r
		}
		if r.Bound > bound {
			break
		}
		best = r
	}
	if best == nil {
		return Row{}, &Infeasible{c, bound, nearest}
	}
	return *best, nil
}

// Default is the row that the router's maker chose.
func (t *Table) Default() (Row, error) { return t.Pick(t.Checkpoint, t.Bound) }
