package audit

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"slmc/internal/deferral"
	slmrt "slmc/runtime"
)

// Options of a summary.
type Options struct {
	Router *deferral.Router // of the bundle that answered; nil: no drift
	Row    deferral.Row     // that it served with
	Bound  float64          // promise to watch, 0: none
	Alpha  float64          // chance of a false alarm
	// Verdicts says of audited answers whether this model was wrong and the large
	// one right, by id. Without one, answers that agree are no loss, and those that
	// differ are open.
	Verdicts map[string]bool
}

// Summary is what a log says.
type Summary struct {
	Answers int `json:"answers"`
	Audits  int `json:"audits"`
	Bad     Bad `json:"bad"`

	From time.Time `json:"from,omitzero"`
	To   time.Time `json:"to,omitzero"`

	Outcomes map[slmrt.Outcome]int `json:"outcomes"` // of auto
	Reasons  map[slmrt.Reason]int  `json:"reasons"`
	Served   map[string]int        `json:"served"`
	// DeferralRate is the share of auto's requests that were handed off, and
	// CertifiedRate the same of those that the certificate speaks of.
	DeferralRate  float64        `json:"deferral_rate"`
	Certified     int            `json:"certified"`
	CertifiedRate float64        `json:"certified_rate"`
	RemoteErrors  map[string]int `json:"remote_errors"`
	Tokens        int            `json:"tokens"`        // generated here
	RemoteTokens  int            `json:"remote_tokens"` // by the large model
	MedianMS      float64        `json:"median_ms"`

	Drift []DriftFigure `json:"drift,omitempty"`
	Audit *AuditFigure  `json:"audit,omitempty"`
}

// DriftFigure is the drift at one checkpoint.
type DriftFigure struct {
	At    string  `json:"at"`
	N     int     `json:"n"`
	PSI   float64 `json:"psi"`
	Alarm bool    `json:"alarm"`
}

// AuditFigure is the state of a certificate's promise.
type AuditFigure struct {
	Bound  float64 `json:"bound"`
	Alpha  float64 `json:"alpha"`
	N      int     `json:"n"`      // audited queries, handed-off ones included
	Losses int     `json:"losses"` // known ones
	Open   int     `json:"open"`   // answers that differ and that nobody judged
	// EValue is the evidence against the promise from known losses, as ln; at
	// -ln alpha it is broken. EValueOpen counts open answers as losses, which is true
	// if the large model is always right where they differ.
	EValue     float64    `json:"ln_e"`
	EValueOpen float64    `json:"ln_e_open"`
	Alarm      bool       `json:"alarm"`    // EValue reached -ln alpha at some time
	Interval   [2]float64 `json:"interval"` // of the mean loss: open ones are no losses below, losses above
}

// Points are the drifts to watch for a router that serves with a row: at the
// first checkpoint that is read, and at a later one only if no query left before
// it, since the reference has the scores of all queries; and that of how far
// queries lie from the known ones.
func Points(r *deferral.Router, row deferral.Row) map[deferral.Checkpoint]*Drift {
	out := map[deferral.Checkpoint]*Drift{}
	if r == nil {
		return out
	}
	for _, c := range deferral.Checkpoints() {
		ref, ok := r.Reference(c)
		// Mid has as many readings as an answer is long.
		if ok && c != deferral.Mid && len(ref.Share) == len(ref.Edges)+1 {
			out[c] = NewDrift(ref)
		}
		if row.Threshold(c) < deferral.Never {
			break
		}
	}
	if ref, ok := r.ReferenceOOD(); ok && len(ref.Share) == len(ref.Edges)+1 {
		out[deferral.OODReference] = NewDrift(ref)
	}
	return out
}

// Watch gives the readings of one query to the drifts that Points chose.
func Watch(at map[deferral.Checkpoint]*Drift, readings []deferral.Reading) {
	for i, x := range readings {
		if d := at[x.Checkpoint]; d != nil {
			d.Add(x.Score)
		}
		if d := at[deferral.OODReference]; d != nil && i == 0 {
			d.Add(x.OOD) // later readings repeat it
		}
	}
}

// Summarize reads a log.
func Summarize(r io.Reader, o Options) (Summary, error) {
	s := Summary{Outcomes: map[slmrt.Outcome]int{}, Reasons: map[slmrt.Reason]int{}, Served: map[string]int{}, RemoteErrors: map[string]int{}}
	drifts := Points(o.Router, o.Row)
	var known, open *EProcess
	if o.Bound > 0 && o.Bound < 1 {
		known, open = NewEProcess(o.Bound), NewEProcess(o.Bound)
		s.Audit = &AuditFigure{Bound: o.Bound, Alpha: o.Alpha}
	}
	var times []float64
	auto, deferred, certifiedDeferred := 0, 0, 0
	var err error
	s.Bad, err = Read(r, func(e Entry) error {
		if s.From.IsZero() || e.Time.Before(s.From) {
			s.From = e.Time
		}
		if e.Time.After(s.To) {
			s.To = e.Time
		}
		if e.Kind == KindAudit {
			s.Audits++
			if known != nil && e.Agree != nil {
				loss, judged := o.Verdicts[e.ID]
				undecided := !judged && !*e.Agree
				known.Add(loss)
				open.Add(loss || undecided)
				if undecided {
					s.Audit.Open++
				}
			}
			return nil
		}
		s.Answers++
		s.Served[e.Served]++
		s.Tokens += e.Tokens
		s.RemoteTokens += e.RemoteTokens
		times = append(times, e.MS)
		if e.RemoteError != "" {
			s.RemoteErrors[e.RemoteError]++
		}
		if e.Model != "auto" {
			return nil
		}
		auto++
		s.Outcomes[e.Outcome]++
		s.Reasons[e.Reason]++
		if e.Outcome == slmrt.Defer {
			deferred++
		}
		if e.Covered {
			Watch(drifts, e.Readings)
		}
		if !e.Certified {
			return nil
		}
		s.Certified++
		if e.Outcome == slmrt.Defer {
			certifiedDeferred++
			if known != nil && e.Sampled {
				known.Add(false) // a query that is handed off loses nothing
				open.Add(false)
			}
		}
		return nil
	})
	if err != nil {
		return s, err
	}
	s.DeferralRate, s.CertifiedRate = share(deferred, auto), share(certifiedDeferred, s.Certified)
	if len(times) > 0 {
		slices.Sort(times)
		s.MedianMS = times[len(times)/2]
	}
	for _, c := range slices.Sorted(maps.Keys(drifts)) {
		d := drifts[c]
		psi := d.PSI()
		s.Drift = append(s.Drift, DriftFigure{string(c), d.N(), psi, psi >= PSIAlarm && d.N() >= MinDrift})
	}
	if known != nil {
		a := s.Audit
		a.N, a.Losses = known.N(), known.Losses()
		a.EValue, a.EValueOpen = known.LogWealth(), open.LogWealth()
		a.Alarm = Broken(known, o.Alpha)
		low, _ := known.Interval(o.Alpha)
		_, high := open.Interval(o.Alpha)
		a.Interval = [2]float64{low, high}
	}
	return s, nil
}

// MinDrift is the number of scores below which the index is noise.
const MinDrift = 200

func share(n, of int) float64 {
	if of == 0 {
		return 0
	}
	return float64(n) / float64(of)
}

// ReadVerdicts reads JSONL rows {"id", "loss"}: loss says whether this model was
// wrong and the large one right.
func ReadVerdicts(r io.Reader) (map[string]bool, error) {
	out := map[string]bool{}
	in := bufio.NewScanner(r)
	in.Buffer(nil, maxLine)
	for n := 1; in.Scan(); n++ {
		if len(in.Bytes()) == 0 {
			continue
		}
		var v struct {
			ID   string `json:"id"`
			Loss *bool  `json:"loss"`
		}
		err := json.Unmarshal(in.Bytes(), &v)
		if err == nil && (v.ID == "" || v.Loss == nil) {
			err = errors.New(`want {"id": TEXT, "loss": true or false}`)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		out[v.ID] = *v.Loss
	}
	return out, in.Err()
}
