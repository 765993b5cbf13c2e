package qat

import (
	"errors"
	"fmt"
	"os"
	"slices"
)

// arrays lists everything that learns, in the order of the state's file.
func (t *trainer) arrays() [][]float32 {
	var out [][]float32
	for _, l := range t.s.all {
		out = append(out, l.w, l.scales, l.levels)
	}
	for _, a := range t.average {
		out = append(out, a.w, a.scales)
	}
	_, m, v := t.opt.State()
	return append(append(out, m...), v...)
}

// save writes the state; at regular steps also as the best, if it is.
func (t *trainer) save(regular bool) error {
	if t.State == "" {
		return nil
	}
	steps, _, _ := t.opt.State()
	s := state{
		numbers: []uint64{uint64(t.step), uint64(t.report.Tokens), uint64(steps)},
		losses:  append([]float64{t.report.FirstLoss, t.lowest}, t.recent...), arrays: t.arrays(),
	}
	for _, b := range t.report.Blocks {
		s.numbers, s.losses = append(s.numbers, uint64(b.First), uint64(b.Last)), append(s.losses, b.Before, b.After)
	}
	s.numbers = append(s.numbers, uint64(len(t.report.Blocks)))
	if err := writeState(t.State, s); err != nil {
		return err
	}
	if !regular || len(t.recent) < lossWindow || t.report.LastLoss > t.lowest {
		return nil
	}
	return t.keepBest(s)
}

func (t *trainer) best() string { return t.State + ".best" }

// keepBest makes the state just written the best too, without writing it again
// where a file may have two names.
func (t *trainer) keepBest(s state) error {
	part := t.best() + ".part"
	if err := os.Remove(part); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("save training state: %w", err)
	}
	if os.Link(t.State, part) != nil {
		return writeState(t.best(), s)
	}
	if err := os.Rename(part, t.best()); err != nil {
		return fmt.Errorf("save training state: %w", err)
	}
	return nil
}

// resume goes on from the state file, if there is one.
func (t *trainer) resume() (found bool, err error) {
	if t.State == "" || len(t.batches) == 0 {
		return false, nil
	}
	if _, err := os.Stat(t.State); errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err := t.prepare(true); err != nil {
		return false, err
	}
	if err := t.restore(t.State); err != nil {
		return false, err
	}
	t.Log.Info("training goes on", "step", t.step, "steps", len(t.batches))
	return true, nil
}

// restore takes everything from a state file.
func (t *trainer) restore(path string) error {
	s, found, err := readState(path, t.arrays())
	if err != nil {
		return err
	}
	n := len(s.numbers)
	if !found || n < 4 || len(s.losses) < 2 {
		return damagedState(path, "%d numbers and %d losses", n, len(s.losses))
	}
	blocks := int(min(s.numbers[n-1], uint64(n)))
	if n != 4+2*blocks || len(s.losses) < 2+2*blocks || s.numbers[0] > uint64(len(t.batches)) {
		return damagedState(path, "%d numbers and %d losses, step %d", n, len(s.losses), s.numbers[0])
	}
	t.step, t.report.Tokens = int(s.numbers[0]), int(s.numbers[1])
	t.report.FirstLoss, t.lowest = s.losses[0], s.losses[1]
	rest := len(s.losses) - 2*blocks
	t.recent, t.report.Blocks = slices.Clone(s.losses[2:rest]), nil
	for i := range blocks {
		t.report.Blocks = append(t.report.Blocks, BlockReport{int(s.numbers[3+2*i]), int(s.numbers[4+2*i]), s.losses[rest+2*i], s.losses[rest+2*i+1]})
	}
	_, m, v := t.opt.State()
	t.opt.Restore(int(s.numbers[2]), m, v)
	t.freeze(t.step - 1)
	t.report.LastLoss = mean(t.recent)
	return nil
}

// fallBack returns to the best state after a divergence, or gives the reason
// back when there is none.
func (t *trainer) fallBack(reason error) error {
	if !errors.Is(reason, ErrDiverged) || t.State == "" {
		return reason
	}
	if _, err := os.Stat(t.best()); err != nil {
		return reason
	}
	if err := t.restore(t.best()); err != nil {
		return errors.Join(reason, err)
	}
	t.report.Stopped = reason.Error()
	t.Log.Warn("training stopped; the best state is kept", "reason", reason, "step", t.step)
	return nil
}
