package pipeline

import (
	"errors"
	"fmt"
)

// checkStages reports a setting of a stage that is outside its range.
func (r Recipe) checkStages() error {
	if b := r.Budget; b != nil {
		switch {
		case (b.BPW != 0) == (b.MaxBytes != 0):
			return errors.New("budget: want one of bpw and max_bytes")
		case b.MaxBytes < 0, b.BPW < 0, !(b.BPW <= maxBPW):
			return fmt.Errorf("budget: %g bits per weight, %d bytes: want more than 0, and at most %d bits", b.BPW, b.MaxBytes, maxBPW)
		}
	}
	if c := r.Calibrate; c != nil && c.MaxTokens < 0 {
		return fmt.Errorf("calibrate: max_tokens is %d, want 1 or more, or 0 for all", c.MaxTokens)
	}
	if r.QAT != nil {
		if err := r.QAT.Check(); err != nil {
			return err
		}
	}
	if r.Share == nil {
		return nil
	}
	if c := r.Share.Search; c != nil {
		if err := c.Check(); err != nil {
			return err
		}
	}
	if c := r.Share.Match; c != nil {
		if err := c.Check(); err != nil {
			return err
		}
	}
	if c := r.Share.Heal; c != nil {
		if err := c.Check(); err != nil {
			return fmt.Errorf("heal: %w", err)
		}
	}
	return nil
}

// maxBPW is what a float32 takes.
const maxBPW = 32
