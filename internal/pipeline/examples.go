package pipeline

import (
	"fmt"

	"slmc/calibrate"
	slmrt "slmc/runtime"
)

// checkExamples ties the recipe to the file of examples, which calibration and
// training want.
func (b *build) checkExamples() error {
	r := &b.cfg.Recipe
	if r.QAT == nil && r.Calibrate == nil && r.Budget == nil && !r.Share.examples() {
		if b.cfg.CalibrateFile != "" && b.cfg.Router == nil {
			return fmt.Errorf("%w: nothing uses the examples in %s", ErrUsage, b.cfg.CalibrateFile)
		}
		return nil
	}
	if b.cfg.CalibrateFile == "" || b.cfg.Bare {
		return fmt.Errorf("%w: calibration and training want a file of examples; give build --calibrate FILE", ErrUsage)
	}
	sum, err := fileDigest(b.ctx, b.cfg.CalibrateFile)
	if err != nil {
		return err
	}
	given, err := isStatistics(b.cfg.CalibrateFile)
	if err != nil {
		return err
	}
	if given {
		if err := b.givenOnly(r); err != nil {
			return err
		}
	}
	// A recipe that was resolved before names its examples.
	tie := func(part string, named *string) error {
		if *named != "" && *named != sum {
			return fmt.Errorf("%w: the recipe's %s was made with examples of SHA-256 %s, %s has %s; give that file, or take the line sha256 out of the recipe",
				ErrUsage, part, *named, b.cfg.CalibrateFile, sum)
		}
		*named = sum
		return nil
	}
	if r.Share.examples() { // shareKV has made a copy
		if err := tie("share", &r.Share.SHA256); err != nil {
			return err
		}
	}
	if r.QAT != nil {
		t := *r.QAT
		r.QAT = &t
		if err := tie("qat", &t.SHA256); err != nil {
			return err
		}
	}
	if r.Calibrate != nil {
		c := *r.Calibrate
		c.Statistics = given
		c.Compensate = c.Compensate && !given
		r.Calibrate = &c
		if err := tie("calibrate", &c.SHA256); err != nil {
			return err
		}
		_, err = b.algorithm(c.Algorithm)
	}
	return err
}

// examples reads the file of examples as token sequences.
func (b *build) examples(fields Fields) ([][]int32, error) {
	rows, err := ReadRows(b.cfg.CalibrateFile, fields)
	if err != nil {
		return nil, err
	}
	text := b.source.text
	m := &slmrt.Model{Graph: b.source.Graph(), Tokenizer: text.Tokenizer, Template: text.Template, Special: text.Special, BOS: text.BOS}
	seqs, cut, err := Sequences(m, rows, b.recipe.Context)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", b.cfg.CalibrateFile, err)
	}
	if err := enough(seqs, b.recipe.Context, b.cfg.CalibrateFile); err != nil {
		return nil, err
	}
	b.log.Info("examples", "sequences", len(seqs), "tokens", calibrate.Sequences(seqs).Tokens(), "cut to the context", cut)
	return seqs, nil
}

// firstTokens takes whole sequences until they have n tokens; all for 0.
func firstTokens(seqs [][]int32, n int) [][]int32 {
	if n == 0 {
		return seqs
	}
	total := 0
	for i, s := range seqs {
		if total += len(s); total >= n {
			return seqs[:i+1]
		}
	}
	return seqs
}
