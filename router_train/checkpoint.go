package routertrain

import (
	"fmt"
	"math"

	"slmc/internal/deferral"
)

// The kinds of heads, simplest first. kNN is measured beside them and never
// shipped: it would carry the training queries onto the phone.
const (
	KindEntropy  = "entropy"  // one input: mean entropy of the tokens
	KindLogistic = "logistic" // all inputs, no hidden layer
	KindMLP      = "mlp"
	KindKNN      = "knn"
)

// CheckpointReport is what cross-validation within the training part says of
// the heads of one checkpoint.
type CheckpointReport struct {
	Checkpoint deferral.Checkpoint `json:"checkpoint"`
	Queries    int                 `json:"queries"`
	// AUROC of "the answer is wrong", by kind of head; undefined when all answers
	// are right, or all are wrong.
	AUROC map[string]Figure `json:"auroc"`
	// Over is the 95 % interval of the AUROC that each kind gains over the one
	// before it, by a paired bootstrap.
	Over        map[string]Interval `json:"over"`
	Shipped     string              `json:"shipped"` // the simplest that no other beats
	Calibration [2]string           `json:"calibration"`
	Parameters  int                 `json:"parameters"`
	// scores of the shipped kind, out of fold: they fix the grid of thresholds.
	scores []float64
}

// bootstrapRounds is the number of resamples of every interval.
const bootstrapRounds = 400

// checkpoint trains the heads of one checkpoint; nil when too few queries reach
// it.
func (t *trainer) checkpoint(at deferral.Checkpoint) (*deferral.Head, CheckpointReport, error) {
	r := CheckpointReport{Checkpoint: at, AUROC: map[string]Figure{}, Over: map[string]Interval{}}
	var data []sample
	var query []int
	for i := range t.d.Examples {
		if t.parts[i] != Train {
			continue
		}
		for _, x := range t.bare(i, at) {
			data = append(data, sample{full(t.shape, at, x, &t.views[i], &t.d.Examples[i]), t.targets[i].train})
			query = append(query, i)
		}
	}
	r.Queries = len(data)
	if len(data) < minTrain {
		return nil, r, nil
	}
	var wrong, gain []float64
	for _, i := range query {
		wrong, gain = append(wrong, t.targets[i].wrong), append(gain, t.targets[i].gain)
	}
	kinds := []string{KindEntropy, KindLogistic, KindMLP}
	out := map[string][][deferral.Outputs]float64{}
	for _, k := range kinds {
		s, err := t.outOfFold(k, at, data, query)
		if err != nil {
			return nil, r, err
		}
		out[k], r.AUROC[k] = s, Figure(AUROC(column(s, deferral.OutWrong), wrong))
	}
	r.AUROC[KindKNN] = Figure(AUROC(t.neighbours(data, query, wrong), wrong))
	r.Shipped = kinds[0]
	for _, k := range kinds[1:] {
		d := PairedBootstrap(column(out[r.Shipped], deferral.OutWrong), column(out[k], deferral.OutWrong), wrong, AUROC, bootstrapRounds, t.c.Seed)
		r.Over[k] = d
		if d.Low > 0 {
			r.Shipped = k
		}
	}
	h := fitHead(t.kind(r.Shipped), at, inputsOf(r.Shipped, at, len(data[0].x)), data, t.c.Seed)
	s := out[r.Shipped]
	h.Wrong, r.Calibration[0] = chooseCurve(column(s, deferral.OutWrong), wrong)
	h.Gain, r.Calibration[1] = chooseCurve(column(s, deferral.OutGain), gain)
	r.Parameters, r.scores = h.Parameters(), column(s, deferral.OutGain)
	return &h, r, nil
}

// bare are the feature vectors of query i at a checkpoint, without the opinion's.
func (t *trainer) bare(i int, at deferral.Checkpoint) [][]float32 {
	e := &t.d.Examples[i]
	switch at {
	case deferral.Pre:
		return [][]float32{e.Pre}
	case deferral.Mid:
		return e.Mid
	}
	return [][]float32{e.Post}
}

func (t *trainer) kind(k string) HeadConfig {
	c := t.c.Head
	if k != KindMLP {
		c.Hidden = 0
	}
	return c
}

// inputsOf are the features that a kind of head reads.
func inputsOf(kind string, at deferral.Checkpoint, size int) []int32 {
	if kind == KindEntropy {
		if at == deferral.Pre {
			return []int32{deferral.FirstEntropy}
		}
		return []int32{deferral.MeanEntropy}
	}
	out := make([]int32, size)
	for i := range out {
		out[i] = int32(i)
	}
	return out
}

// outOfFold scores every row by a head that was trained without its fold.
func (t *trainer) outOfFold(kind string, at deferral.Checkpoint, data []sample, query []int) ([][deferral.Outputs]float64, error) {
	out := make([][deferral.Outputs]float64, len(data))
	err := parallel(t.threads, t.c.Folds, nil, func() (func(int) error, func(), error) {
		return func(fold int) error {
			if err := t.ctx.Err(); err != nil {
				return err
			}
			var rest []sample
			for k, s := range data {
				if t.folds[query[k]] != fold {
					rest = append(rest, s)
				}
			}
			if len(rest) == 0 {
				return fmt.Errorf("%w: fold %d holds all queries", ErrLabels, fold)
			}
			h := fitHead(t.kind(kind), at, inputsOf(kind, at, len(data[0].x)), rest, t.c.Seed+uint64(fold)+1)
			for k, s := range data {
				if t.folds[query[k]] == fold {
					for o, v := range scores(&h, s.x) {
						out[k][o] = float64(v)
					}
				}
			}
			return nil
		}, func() {}, nil
	})
	return out, err
}

func column(s [][deferral.Outputs]float64, o int) []float64 {
	out := make([]float64, len(s))
	for i := range s {
		out[i] = s[i][o]
	}
	return out
}

// nearest is the k of the kNN baseline (arXiv 2505.12601 finds it hard to beat).
const nearest = 25

// neighbours scores each row by the share of wrong answers among the nearest
// rows of other folds, by the cosine of standardized features.
func (t *trainer) neighbours(data []sample, query []int, wrong []float64) []float64 {
	h := deferral.Head{Inputs: inputsOf(KindKNN, deferral.Post, len(data[0].x))}
	standardize(&h, data)
	x := make([][]float32, len(data))
	for i, s := range data {
		x[i] = make([]float32, len(s.x))
		h.Standardize(x[i], s.x)
		unit(x[i])
	}
	out := make([]float64, len(data))
	// No error can occur.
	_ = parallel(t.threads, len(data), nil, func() (func(int) error, func(), error) {
		return func(i int) error {
			var best [nearest]struct{ near, wrong float64 }
			for k := range best {
				best[k].near = -2
			}
			for j := range x {
				if t.folds[query[j]] == t.folds[query[i]] {
					continue
				}
				d := float64(dot(x[i], x[j]))
				if d <= best[nearest-1].near {
					continue
				}
				k := nearest - 1
				for ; k > 0 && best[k-1].near < d; k-- {
					best[k] = best[k-1]
				}
				best[k].near, best[k].wrong = d, wrong[j]
			}
			for _, b := range best {
				out[i] += b.wrong / nearest
			}
			return nil
		}, func() {}, nil
	})
	return out
}

func unit(x []float32) {
	if n := dot(x, x); n > 0 {
		n = float32(1 / math.Sqrt(float64(n)))
		for i := range x {
			x[i] *= n
		}
	}
}

// dot sums in four lanes.
func dot(x, y []float32) float32 {
	var s [4]float32
	y = y[:len(x)]
	n := len(x) &^ 3
	for i := 0; i < n; i += 4 {
		s[0] += float32(x[i] * y[i])
		s[1] += float32(x[i+1] * y[i+1])
		s[2] += float32(x[i+2] * y[i+2])
		s[3] += float32(x[i+3] * y[i+3])
	}
	for i := n; i < len(x); i++ {
		s[0] += float32(x[i] * y[i])
	}
	return s[0] + s[1] + s[2] + s[3]
}
