package audit

import (
	"math"

	"slmc/internal/deferral"
)

// Window is how many scores drift is measured on: the latest.
const Window = 2000

// Levels of the population stability index by the usual rule of thumb: below
// PSIWatch nothing has moved, from PSIAlarm on the population is another one.
const (
	PSIWatch = 0.1
	PSIAlarm = 0.25
)

// Drift compares the latest scores at one checkpoint with those of the
// certificate's queries. It is not safe for concurrent use.
type Drift struct {
	ref    deferral.Reference
	counts []int
	ring   []int // bins of the latest scores
	next   int
}

// NewDrift starts from a reference; Share must have one entry more than Edges.
func NewDrift(ref deferral.Reference) *Drift {
	return &Drift{ref: ref, counts: make([]int, len(ref.Edges)+1)}
}

// Add takes a score. One that is no number lies in the last bin.
func (d *Drift) Add(score float32) {
	bin := 0
	for bin < len(d.ref.Edges) && !(score < d.ref.Edges[bin]) {
		bin++
	}
	if len(d.ring) < Window {
		d.ring = append(d.ring, bin)
	} else {
		d.counts[d.ring[d.next]]--
		d.ring[d.next] = bin
		d.next = (d.next + 1) % Window
	}
	d.counts[bin]++
}

// N is the number of scores in the window.
func (d *Drift) N() int { return len(d.ring) }

// PSI is the population stability index, the symmetrised Kullback-Leibler
// divergence sum (q-p) ln(q/p) of the window's shares q from the reference's p,
// with half a query added to every bin so that an empty one stays finite. Without
// drift it is about (bins-1)/N. 0 without scores.
func (d *Drift) PSI() float64 {
	n, k := float64(len(d.ring)), float64(len(d.counts))
	if n == 0 || len(d.ref.Share) != len(d.counts) {
		return 0
	}
	sum := 0.0
	for i, c := range d.counts {
		q := (float64(c) + 0.5) / (n + 0.5*k)
		p := (float64(d.ref.Share[i])*n + 0.5) / (n + 0.5*k)
		sum += (q - p) * math.Log(q/p)
	}
	return sum
}
