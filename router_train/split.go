package routertrain

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
)

// Part is a side of the split of the labelled queries.
type Part string

// The parts. No query is in two of them, however often it occurs.
const (
	Train     Part = "train"
	Calibrate Part = "calibrate"
	Test      Part = "test"
)

// Split says how queries are divided: by a hash of the seed and the query's id,
// so that a query stays in its part whatever is added to the file.
type Split struct {
	Seed  uint64  `json:"seed,string"`
	Train float64 `json:"train"` // shares; the rest is for testing
	Cal   float64 `json:"calibrate"`
}

// DefaultSplit leaves a tenth for testing.
func DefaultSplit() Split { return Split{Seed: 1, Train: 0.5, Cal: 0.4} }

// Check reports shares that leave nothing to train or calibrate on.
func (s Split) Check() error {
	if !(s.Train > 0 && s.Cal > 0 && s.Train+s.Cal <= 1) {
		return fmt.Errorf("split of %g to train and %g to calibrate: want both above 0 and together at most 1", s.Train, s.Cal)
	}
	return nil
}

// Part is the part of a query.
func (s Split) Part(id string) Part {
	switch u := draw("split", s.Seed, id); {
	case u < s.Train:
		return Train
	case u < s.Train+s.Cal:
		return Calibrate
	}
	return Test
}

// fold is the cross-validation fold of a training query.
func (s Split) fold(id string, folds int) int { return int(draw("fold", s.Seed, id) * float64(folds)) }

// draw is a number in [0, 1) that purpose, seed and id determine.
func draw(purpose string, seed uint64, id string) float64 {
	h := sha256.New()
	io.WriteString(h, purpose)
	h.Write(binary.LittleEndian.AppendUint64([]byte{0}, seed))
	io.WriteString(h, id)
	return float64(binary.LittleEndian.Uint64(h.Sum(nil))>>11) * 0x1p-53
}
