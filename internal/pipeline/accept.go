package pipeline

import (
	"fmt"

	"slmc/internal/eval"
	slmrt "slmc/runtime"
)

// Acceptance measures a model before its bundle is written.
type Acceptance struct {
	// File holds examples that training has not seen, and Fields where a row
	// has them.
	File   string
	Fields Fields
	// Answers: exact match is judged, so every row must have an answer.
	Answers bool
	// Judge takes the figures; its error stops the build.
	Judge func(Figures) error
}

// Figures are what a model does on the examples, against its source: the loss
// on them as they stand, and greedy answers where every row has one.
type Figures struct {
	eval.Text
	ExactMatch *float64 `json:"exact_match,omitempty"` // 0 to 1
}

// rows reads the examples.
func (a *Acceptance) rows() ([]Row, error) {
	rows, err := ReadRows(a.File, a.Fields)
	if err != nil {
		return nil, err
	}
	for _, r := range rows {
		if a.Answers && !r.answered() {
			return nil, fmt.Errorf("%w: %s: line %d has no prompt with an answer, which exact_match is measured on", ErrUsage, a.File, r.Line)
		}
	}
	return rows, nil
}

// accept measures the packed model and asks for the judgement.
func (b *build) accept(weights []byte) error {
	a, rows := b.cfg.Accept, b.accepted
	student := b.student(weights)
	seqs, _, err := Sequences(student, rows, b.recipe.Context)
	if err != nil {
		return fmt.Errorf("%s: %w", a.File, err)
	}
	teacher, err := b.source.Runtime(b.recipe.Context)
	if err != nil {
		return fmt.Errorf("teacher: %w", err)
	}
	o := slmrt.Options{Threads: b.cfg.Env.Threads, Kernel: b.cfg.Env.Kernel}
	var f Figures
	if f.Text, err = b.score(student, teacher, o, seqs); err != nil {
		return err
	}
	answered := true
	for _, r := range rows {
		answered = answered && r.answered()
	}
	if answered {
		t, err := EvalTask(b.ctx, student, rows, o, b.cfg.Env.Threads, func(done int) { b.cfg.Progress("answers", int64(done), int64(len(rows))) })
		if err != nil {
			return err
		}
		f.ExactMatch = &t.ExactMatch
	}
	b.report.Figures = &f
	return a.Judge(f)
}

func (b *build) score(student, teacher *slmrt.Model, o slmrt.Options, seqs [][]int32) (eval.Text, error) {
	s, err := student.NewSession(o)
	if err != nil {
		return eval.Text{}, err
	}
	defer s.Close()
	t, err := teacher.NewSession(o)
	if err != nil {
		return eval.Text{}, fmt.Errorf("teacher: %w", err)
	}
	defer t.Close()
	total := 0
	for _, q := range seqs {
		total += len(q) - 1
	}
	return eval.Score(b.ctx, b.kernel, s, t, student.Graph.Vocab, seqs, func(done int) { b.cfg.Progress("accept", int64(done), int64(total)) })
}
