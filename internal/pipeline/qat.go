package pipeline

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"slmc/convert"
	"slmc/internal/exec"
	"slmc/internal/kernel"
	"slmc/qat"
	"slmc/tensor"
)

// qatVersion is the version of the qat stage.
const qatVersion = 3

// stateEvery is the number of steps between two states of a training run.
const stateEvery = 25

// Training is the training part of a recipe.
type Training struct {
	qat.Config `yaml:",inline"`
	// SHA256 is the digest of the file of examples; Fields where a row has
	// them.
	SHA256 string `json:"sha256" yaml:"sha256"`
	Fields Fields `json:"fields" yaml:"fields"`
}

// trained is the qat stage: weights trained through their rounding, packed. It
// takes the place of pack.
func (b *build) trained() (string, error) {
	key, err := Key("qat", qatVersion, struct {
		Sources []convert.FileDigest
		Formats any
		KV      string
		QAT     *Training
		Share   *Sharing `json:",omitempty"`
		Target  string   `json:",omitempty"`
		// What training starts from.
		Calibrate *Calibration `json:",omitempty"`
	}{b.digests, b.recipe.Formats, b.recipe.KV, b.recipe.QAT, b.recipe.Share, b.recipe.Target, b.recipe.Calibrate})
	if err != nil {
		return "", err
	}
	return b.stage("qat", key, func(path string) error { return b.train(path, b.cache.Path(key+".state")) })
}

// starts gives the codes and scales of the calibrate stage, which training
// starts from where the recipe has one; nil where it has not.
func (b *build) starts() (start qat.Start, unmap func() error, err error) {
	if b.recipe.Calibrate == nil {
		return nil, func() error { return nil }, nil
	}
	path, err := b.calibrated()
	if err != nil {
		return nil, nil, err
	}
	packed, unmap, err := mapFile(path)
	if err != nil {
		return nil, nil, err
	}
	if int64(len(packed)) < b.plan.Bytes {
		return nil, nil, errors.Join(fmt.Errorf("cache: %s has %d bytes, wanted at least %d", path, len(packed), b.plan.Bytes), unmap())
	}
	return func(i, row int, values []float32, scales []tensor.Half) error {
		s, cols := b.plan.Stored[i], len(values)
		size := s.Format.PanelBytes(cols)
		form := make([]byte, s.Format.RowBytes(cols))
		s.Format.Unpack(form, packed[s.Offset+int64(row/kernel.Rows*size):][:size], row%kernel.Rows, cols)
		s.Format.Decode(values, form)
		rowScales(scales, s.Format, form)
		return nil
	}, unmap, nil
}

func (b *build) train(path, state string) (err error) {
	start, unmap, err := b.starts()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmap()) }()
	seqs, err := b.examples(b.recipe.QAT.Fields)
	if err != nil {
		return err
	}
	f, err := b.packedFile(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	pool := exec.NewPool(b.cfg.Env.Threads)
	defer pool.Close()
	report, err := qat.Train(b.ctx, qat.Run{
		Teacher: b.source.Checkpoint.Model, Student: b.model, Formats: b.formats, KV8: exec.KVFormat(b.recipe.KV) == exec.KV8,
		Scales: qat.Scales(b.scales()), Start: start, Grid: b.grid(), Seqs: seqs, Config: b.recipe.QAT.Config,
		Kernel: b.kernel, Pool: pool, State: state, Every: stateEvery, Scratch: b.cfg.Env.CacheDir, Log: b.log,
		Progress: b.training("qat"),
	}, b.sink(f))
	if err != nil {
		return err
	}
	if err := b.appendReport(f, report); err != nil {
		return err
	}
	return qat.Clean(state)
}

// training reports the progress of a stage that trains.
func (b *build) training(stage string) func(qat.Progress) {
	return func(p qat.Progress) {
		b.cfg.Progress(stage, int64(p.Step), int64(p.Steps))
		if p.Step%stateEvery == 0 || p.Step == p.Steps {
			b.log.Info("training", "phase", p.Phase, "step", p.Step, "of", p.Steps, "loss", fmt.Sprintf("%.4f", p.Loss), "tokens/s", int(p.Rate()), "left", p.TimeLeft())
		}
	}
}

// sink packs trained weights at the places of the plan.
func (b *build) sink(w io.WriterAt) qat.Sink {
	g := b.model.Graph
	return qat.Sink{
		Rows: func(weight, first int, rows [][]byte) error {
			s, cols := b.plan.Stored[weight], g.Weights[weight].Shape[1]
			panel := make([]byte, s.Format.PanelBytes(cols))
			s.Format.Pack(panel, rows, cols)
			_, err := w.WriteAt(panel, s.Offset+int64(first/16*len(panel)))
			return err
		},
		Vector: func(weight int, v []float32) error {
			data := make([]byte, 4*len(v))
			for i, x := range v {
				binary.LittleEndian.PutUint32(data[4*i:], math.Float32bits(x))
			}
			_, err := w.WriteAt(data, b.plan.Stored[weight].Offset)
			return err
		},
	}
}
