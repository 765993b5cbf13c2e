package routertrain

import (
	"context"
	"fmt"
	"strings"

	"slmc/internal/deferral"
	slmrt "slmc/runtime"
)

// Answered is a query as the shipping runtime answers and reads it.
type Answered struct {
	Label    Label
	Readings []deferral.Reading
	Signals  Signals
	Result   slmrt.Result
}

// Answer runs queries through slmrt.Generate with the model's own router, and
// through the large model if there is one, and scores both.
func Answer(ctx context.Context, m *slmrt.Model, queries []Query, c LabelConfig) ([]Answered, error) {
	out := make([]Answered, len(queries))
	err := parallel(max(1, c.Threads), len(queries), c.Progress, func() (func(int) error, func(), error) {
		o := c.Session
		o.Threads = 1
		s, err := m.NewSession(o)
		if err != nil {
			return nil, nil, err
		}
		return func(i int) error {
			if err := answerOne(ctx, m, s, queries[i], c, &out[i]); err != nil {
				return fmt.Errorf("query %d: %w", i+1, err)
			}
			return nil
		}, s.Close, nil
	})
	if err != nil || c.Large == nil {
		return out, err
	}
	l := &labeller{ctx: ctx, m: m, c: c}
	err = parallel(max(1, c.Parallel), len(queries), nil, func() (func(int) error, func(), error) {
		return func(i int) error {
			if err := l.large(queries[i], &out[i].Label); err != nil {
				return fmt.Errorf("query %d: large model: %w", i+1, err)
			}
			return nil
		}, func() {}, nil
	})
	return out, err
}

func answerOne(ctx context.Context, m *slmrt.Model, s *slmrt.Session, q Query, c LabelConfig, a *Answered) error {
	ids, err := encodeQuery(m, q.Text)
	if err != nil {
		return err
	}
	s.Truncate(0)
	r := slmrt.Request{Prompt: ids, MaxTokens: c.MaxTokens, OnReading: func(x deferral.Reading) bool {
		a.Readings = append(a.Readings, x)
		return false
	}}
	if a.Result, err = s.Generate(ctx, r, nil); err != nil {
		return err
	}
	text := strings.TrimSpace(a.Result.Text)
	score, err := c.Score(ctx, q.Text, text, q.Reference)
	a.Label = Label{ID: QueryID(q.Text), Source: q.Source, Query: q.Text, Small: Outcome{Answer: text, Score: score, Tokens: a.Result.Tokens}}
	a.Signals = Signals{Entropy: float64(a.Result.Signals.Entropy), LogProb: float64(a.Result.Signals.LogProb)}
	return err
}
