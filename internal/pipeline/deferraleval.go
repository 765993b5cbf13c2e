package pipeline

import (
	"context"
	"fmt"

	routertrain "slmc/router_train"
	slmrt "slmc/runtime"
)

// EvalDeferral measures a model's router on rows, whose scores by exact match it
// also returns: the model answers every row, the large model too. A row without
// a right answer can't be scored.
func EvalDeferral(ctx context.Context, m *slmrt.Model, rows []Row, large *OpenedLarge, maxTokens, threads int, o slmrt.Options, progress func(done int)) (Task, *routertrain.Deferral, error) {
	r := m.Router()
	if r == nil {
		return Task{}, nil, fmt.Errorf("%w: --large measures a router, and the bundle has none; train one with train-router", ErrUsage)
	}
	t := Task{N: len(rows), BySource: map[string]TaskScore{}}
	var queries []routertrain.Query
	for _, row := range rows {
		if !row.answered() {
			return t, nil, fmt.Errorf("%w: line %d has no prompt with an answer to score", ErrUsage, row.Line)
		}
		queries = append(queries, routertrain.Query{Source: row.Source, Text: row.Prompt, Reference: row.Answer})
	}
	scorer, err := routertrain.ScorerByName("exact_match")
	if err != nil {
		return t, nil, err
	}
	answered, err := routertrain.Answer(ctx, m, queries, routertrain.LabelConfig{
		Header: routertrain.Header{MaxTokens: maxTokens}, Score: routertrain.ByRule(scorer), Large: large,
		Threads: threads, Parallel: large.Parallel, Session: o, Progress: progress,
	})
	if err != nil {
		return t, nil, err
	}
	var scored []routertrain.Scored
	var signals []routertrain.Signals
	for i := range answered {
		a := &answered[i]
		scored = append(scored, routertrain.NewScored(&a.Label, a.Readings))
		signals = append(signals, a.Signals)
		s := t.BySource[a.Label.Source]
		s.N++
		s.ExactMatch += a.Label.Small.Score
		t.BySource[a.Label.Source] = s
		t.ExactMatch += a.Label.Small.Score
	}
	for k, s := range t.BySource {
		s.ExactMatch /= float64(s.N)
		t.BySource[k] = s
	}
	t.ExactMatch /= float64(max(1, len(rows)))
	d, err := routertrain.EvaluateWith(scored, signals, r.Table(), routertrain.LimitExact)
	return t, &d, err
}
