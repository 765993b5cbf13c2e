package pipeline

import (
	"context"
	"fmt"

	"slmc/internal/deferral"
	routertrain "slmc/router_train"
	slmrt "slmc/runtime"
)

// CertifyResult is what certifying a router anew tells.
type CertifyResult struct {
	Queries   int                        `json:"queries"`
	Delta     float64                    `json:"delta"`
	Limit     routertrain.Limit          `json:"limit"`
	Certified []routertrain.CertifiedRow `json:"certified"`
	Resplits  []routertrain.Resplits     `json:"resplits,omitempty"`
}

// Certified is a router with a new table.
type Certified struct {
	Router *deferral.Router
	Report routertrain.Report
	Result CertifyResult
}

// Recertify makes a new table for the router of a bundle: on the calibration part
// of the labels that it was trained on; of other labels, on all that are fresh, and
// else on those that its split can't have trained on, as a query is known by
// its text alone and the same query may have been labelled again.
func Recertify(ctx context.Context, in RouterInput, report *routertrain.Report, fresh bool, resplits int, seed uint64) (*Certified, error) {
	if err := in.checkWeights(); err != nil {
		return nil, err
	}
	m, err := slmrt.FromBundle(in.Bundle)
	if err != nil {
		return nil, err
	}
	r := m.Router()
	if r == nil {
		return nil, fmt.Errorf("%w: %s has no router", ErrUsage, in.Bundle.Name())
	}
	own := in.Labels.Digest.String() == report.Labels
	if own && fresh {
		return nil, fmt.Errorf("%w: the labels are not fresh: the router of %s was trained on them", ErrUsage, in.Bundle.Name())
	}
	if !fresh {
		labels := *in.Labels
		labels.Rows = nil
		for _, row := range in.Labels.Rows {
			if part := report.Config.Split.Part(row.ID); part == routertrain.Calibrate || !own && part == routertrain.Test {
				labels.Rows = append(labels.Rows, row)
			}
		}
		in.Labels = &labels
	}
	if len(in.Labels.Rows) == 0 {
		return nil, fmt.Errorf("%w: no labelled query that the router can't have been trained on", ErrUsage)
	}
	if in.Config.Certify.Limit == "" { // a router that was trained before the rule was kept
		in.Config.Certify.Limit = routertrain.LimitExact
	}
	scored, err := scoreLabels(ctx, m, in)
	if err != nil {
		return nil, err
	}
	p := r.Parts()
	name := fmt.Sprintf("labels %.16s", in.Labels.Digest)
	switch {
	case own:
		name = p.Table.Split
	case fresh:
		name += ", all"
	default:
		name += fmt.Sprintf(", without the part to train of seed %d, train %g", report.Config.Split.Seed, report.Config.Split.Train)
	}
	p.Table = routertrain.Recertify(in.Config.Certify, &p.Table, scored, name)
	out := &Certified{Report: *report, Result: CertifyResult{Queries: len(scored), Delta: in.Config.Certify.Delta, Limit: in.Config.Certify.Limit}}
	if out.Router, err = deferral.New(p); err != nil {
		return nil, err
	}
	out.Result.Certified = routertrain.Bounds(&p.Table, in.Config.Certify)
	out.Report.Config.Certify, out.Report.Certified = in.Config.Certify, out.Result.Certified
	out.Report.Default, out.Report.Infeasible, out.Report.Test = nil, "", nil
	if row, err := p.Table.Default(); err == nil {
		out.Report.Default = &row
	}
	if resplits > 0 {
		for _, b := range out.Result.Certified {
			out.Result.Resplits = append(out.Result.Resplits, routertrain.Resplit(scored, &p.Table, in.Config.Certify.Limit, b.Checkpoint, b.Bound, resplits, seed))
		}
	}
	return out, nil
}

// scoreLabels lets a model's router read labelled queries.
func scoreLabels(ctx context.Context, m *slmrt.Model, in RouterInput) ([]routertrain.Scored, error) {
	texts, err := labelTexts(in.Labels, in.Queries)
	if err != nil {
		return nil, err
	}
	examples, err := routertrain.Extract(ctx, m, texts, slmrt.Options{Kernel: in.Kernel}, threadsOr(in.Threads), in.Config.MaxTokens, in.Progress)
	if err != nil {
		return nil, err
	}
	var scored []routertrain.Scored
	for i, readings := range routertrain.ScoreAll(m.Router(), examples) {
		scored = append(scored, routertrain.NewScored(&in.Labels.Rows[i], readings))
	}
	return scored, nil
}
