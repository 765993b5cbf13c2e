package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"slmc/calibrate"
	"slmc/formats"
	"slmc/internal/exec"
	"slmc/internal/kernel"
)

// Observed says what a file of statistics was made from.
type Observed struct {
	Output string `json:"output"`
	Bytes  int64  `json:"bytes"`
	Tokens int    `json:"tokens"`
	Inputs int    `json:"inputs"` // activations that linears read
	Model  string `json:"model"`  // digests
	Text   string `json:"text_sha256"`
}

// Observe runs about maxTokens tokens of the examples, 0 for all, through the
// float model and writes the statistics of every linear's input to path. The
// model is held whole, with a Hessian for each input.
func Observe(ctx context.Context, o *Opened, examples string, fields Fields, maxTokens int, path string, env Env) (Observed, error) {
	if o.Checkpoint == nil {
		return Observed{}, fmt.Errorf("%w: %s is a bundle; statistics are of a checkpoint's float weights", ErrUsage, o.Path)
	}
	rows, err := ReadRows(examples, fields)
	if err != nil {
		return Observed{}, err
	}
	m, err := o.Runtime(0)
	if err != nil {
		return Observed{}, err
	}
	seqs, _, err := Sequences(m, rows, m.Context)
	if err != nil {
		return Observed{}, fmt.Errorf("%s: %w", examples, err)
	}
	seqs = firstTokens(seqs, maxTokens)
	if err := enough(seqs, m.Context, examples); err != nil {
		return Observed{}, err
	}
	k, err := kernel.Select(env.Kernel)
	if err != nil {
		return Observed{}, err
	}
	pool := exec.NewPool(env.Threads)
	defer pool.Close()
	s := calibrate.Statistics{Text: calibrate.Sequences(seqs).Digest()}
	if s.Model, err = calibrate.ModelDigest(o.Checkpoint.Model); err != nil {
		return Observed{}, err
	}
	s.Inputs, err = calibrate.Observe(ctx, calibrate.Env{Kernel: k, Pool: pool}, m.Graph, m.Params, exec.KVF32, seqs, true)
	if err != nil {
		return Observed{}, err
	}
	err = formats.ReplaceFile(path, 0o644, func(f *os.File) error { return s.Write(f) })
	if err != nil {
		return Observed{}, err
	}
	st, err := os.Stat(path)
	if err != nil {
		return Observed{}, err
	}
	return Observed{path, st.Size(), calibrate.Sequences(seqs).Tokens(), len(s.Inputs), s.Model.String(), s.Text.String()}, nil
}

// enough refuses examples of less than one context.
func enough(seqs [][]int32, context int, file string) error {
	if tokens := calibrate.Sequences(seqs).Tokens(); tokens < context {
		return fmt.Errorf("%w: %s has %d tokens, less than one context of %d: too little to calibrate on", ErrUsage, file, tokens, context)
	}
	return nil
}

// isStatistics reports whether a file of examples is one of statistics.
func isStatistics(path string) (_ bool, err error) {
	f, err := os.Open(path)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	magic := make([]byte, len(calibrate.StatisticsMagic))
	n, err := io.ReadFull(f, magic)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = nil
	}
	return string(magic[:n]) == calibrate.StatisticsMagic, err
}

// statistics reads the file of statistics that stands in for examples, and
// refuses those of another model.
func (b *build) statistics() (_ map[string]*calibrate.Input, err error) {
	path := b.cfg.CalibrateFile
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	s, err := calibrate.ReadStatistics(path, f, st.Size())
	if err != nil {
		return nil, err
	}
	model, err := calibrate.ModelDigest(b.model)
	if err != nil {
		return nil, err
	}
	if err = s.Match(model, nil); err == nil {
		err = s.Fit(b.model.Graph)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", formats.ErrCorrupt, path, err)
	}
	return s.Inputs, nil
}

// givenOnly refuses what statistics can't serve.
func (b *build) givenOnly(r *Recipe) error {
	what := ""
	switch {
	case r.QAT != nil:
		what = "training"
	case r.Budget != nil:
		what = "a budget"
	case r.Share.examples():
		what = "sharing"
	default:
		return nil
	}
	return fmt.Errorf("%w: %s holds statistics; %s wants the examples themselves", ErrUsage, b.cfg.CalibrateFile, what)
}
