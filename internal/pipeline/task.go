package pipeline

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"

	slmrt "slmc/runtime"
)

// Task is the score of greedy answers by exact match.
type Task struct {
	N          int                  `json:"n"`
	ExactMatch float64              `json:"exact_match"` // 0 to 1
	BySource   map[string]TaskScore `json:"by_source"`
}

// TaskScore is the score of the rows of one source.
type TaskScore struct {
	N          int     `json:"n"`
	ExactMatch float64 `json:"exact_match"`
}

// EvalTask lets the model answer every row through its chat template, greedy,
// on as many sessions as threads; the result does not depend on them.
func EvalTask(ctx context.Context, m *slmrt.Model, rows []Row, o slmrt.Options, threads int, progress func(done int)) (Task, error) {
	for _, r := range rows {
		if !r.answered() {
			return Task{}, fmt.Errorf("%w: line %d has no prompt with an answer to score", ErrUsage, r.Line)
		}
	}
	right := make([]bool, len(rows))
	errs := make([]error, max(1, threads))
	var next, done atomic.Int64
	var wg sync.WaitGroup
	o.Threads = 1
	for w := range errs {
		wg.Go(func() { errs[w] = answerRows(ctx, m, o, rows, right, &next, func() { progress(int(done.Add(1))) }) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return Task{}, err
		}
	}
	t := Task{N: len(rows), BySource: map[string]TaskScore{}}
	sum := 0
	for i, r := range rows {
		s := t.BySource[r.Source]
		s.N++
		if right[i] {
			s.ExactMatch++
			sum++
		}
		t.BySource[r.Source] = s
	}
	for k, s := range t.BySource {
		s.ExactMatch /= float64(s.N)
		t.BySource[k] = s
	}
	t.ExactMatch = float64(sum) / float64(max(1, len(rows)))
	return t, nil
}

// answerRows takes rows from the shared counter until none is left.
func answerRows(ctx context.Context, m *slmrt.Model, o slmrt.Options, rows []Row, right []bool, next *atomic.Int64, done func()) error {
	s, err := m.NewSession(o)
	if err != nil {
		return err
	}
	defer s.Close()
	for {
		i := int(next.Add(1)) - 1
		if i >= len(rows) {
			return nil
		}
		ids, err := m.EncodeChat(rows[i].asked())
		if err != nil {
			return fmt.Errorf("line %d: %w", rows[i].Line, err)
		}
		s.Truncate(0)
		answer, err := s.Generate(ctx, slmrt.Request{Prompt: ids}, nil)
		if err != nil {
			return fmt.Errorf("line %d: %w", rows[i].Line, err)
		}
		right[i] = rows[i].right(answer.Text)
		done()
	}
}
