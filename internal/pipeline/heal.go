package pipeline

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"

	"slmc/calibrate"
	"slmc/convert"
	"slmc/formats"
	"slmc/internal/exec"
	"slmc/kvshare"
	"slmc/model"
	"slmc/qat"
	"slmc/quant"
)

// DefaultHeal is how a shared model is healed: docs/experiments.md, "Healing
// shared keys and values".
func DefaultHeal() qat.Config { return qat.DefaultConfig() }

// heal trains the shared model to do what the source does and puts the result
// in its place. It is kept as float32, one weight after another, and behind
// them what training told.
func (b *build) heal() error {
	// How the map was chosen does not change what is healed.
	s := *b.recipe.Share
	s.Plan, s.Search = "", nil
	key, err := Key("heal", healVersion, struct {
		Sources []convert.FileDigest
		Context int
		Share   Sharing
	}{b.digests, b.recipe.Context, s})
	if err != nil {
		return err
	}
	values := newHealed(b.model.Graph)
	size := values.size()
	path, err := b.stage("heal", key, func(path string) error { return b.runHeal(path, b.cache.Path(key+".state"), values) })
	if err != nil {
		return err
	}
	data, unmap, err := mapFile(path)
	if err != nil {
		return err
	}
	b.unmap = append(b.unmap, unmap)
	if int64(len(data)) < size {
		return fmt.Errorf("cache: %s has %d bytes, wanted at least %d", path, len(data), size)
	}
	values.data = data[:size]
	b.model = &model.Model{Graph: b.model.Graph, Values: values}
	b.told("heal", data[size:])
	return nil
}

// healReport is what healing told.
type healReport struct {
	Match []kvshare.MatchReport `json:"match,omitempty"`
	Train *qat.Report           `json:"train,omitempty"`
}

func (b *build) runHeal(path, state string, values healed) (err error) {
	s := b.recipe.Share
	seqs, err := b.examples(s.Fields)
	if err != nil {
		return err
	}
	values.file, err = os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, values.file.Close()) }()
	pool := exec.NewPool(b.cfg.Env.Threads)
	defer pool.Close()
	student, teacher := b.model, b.source.Checkpoint.Model
	var report healReport
	if s.Match != nil {
		student, report.Match, err = kvshare.Match{
			Teacher: teacher, Student: student, Seqs: seqs, Config: *s.Match, Kernel: b.kernel, Pool: pool,
			Progress: func(done, total int) { b.cfg.Progress("match", int64(done), int64(total)) },
		}.Run(b.ctx)
		if err != nil {
			return err
		}
		for _, r := range report.Match {
			b.log.Info("matched", "block", r.Block, "error before", fmt.Sprintf("%.4f", r.Before), "after", fmt.Sprintf("%.4f", r.After))
		}
	}
	if s.Heal == nil {
		err = values.writeModel(student)
	} else {
		report.Train = new(qat.Report)
		*report.Train, err = qat.Train(b.ctx, qat.Run{
			Teacher: teacher, Student: student, Formats: floats(student.Graph), Scales: calibrate.RTN{Kernel: b.kernel}.Scales,
			Seqs: seqs, Config: *s.Heal, Kernel: b.kernel, Pool: pool, State: state, Every: stateEvery,
			Scratch: b.cfg.Env.CacheDir, Log: b.log, Progress: b.training("heal"),
		}, qat.Sink{Rows: values.rows, Vector: values.vector})
	}
	if err != nil {
		return err
	}
	data, err := json.Marshal(report)
	if err != nil {
		return err
	}
	if _, err := values.file.WriteAt(data, values.size()); err != nil {
		return err
	}
	return qat.Clean(state)
}

// floats gives every weight the format that training leaves as it is.
func floats(g *model.Graph) []quant.Format {
	out := make([]quant.Format, len(g.Weights))
	for i := range out {
		out[i] = quant.F32
	}
	return out
}

// healed are float32 values in a file of the cache, little-endian, one weight
// after another: written to file, or read from data, where it is mapped.
type healed struct {
	g       *model.Graph
	offsets []int64 // of each weight, and the end
	file    *os.File
	data    []byte
}

func newHealed(g *model.Graph) healed {
	h := healed{g: g, offsets: make([]int64, len(g.Weights)+1)}
	for i, w := range g.Weights {
		h.offsets[i+1] = h.offsets[i] + 4*int64(w.Elems())
	}
	return h
}

func (h healed) size() int64 { return h.offsets[len(h.offsets)-1] }

// rows takes row forms as qat.Sink does: of F32 they are the numbers' bytes.
func (h healed) rows(i, first int, rows [][]byte) error {
	for k, raw := range rows {
		at := h.offsets[i] + 4*int64(first+k)*int64(h.g.Weights[i].Shape[1])
		if _, err := h.file.WriteAt(raw, at); err != nil {
			return err
		}
	}
	return nil
}

func (h healed) vector(i int, v []float32) error {
	raw, err := binary.Append(nil, binary.LittleEndian, v)
	if err != nil {
		return err
	}
	_, err = h.file.WriteAt(raw, h.offsets[i])
	return err
}

// writeModel writes the values of m.
func (h healed) writeModel(m *model.Model) error {
	for i := range m.Weights {
		v, err := m.Tensor(i)
		if err != nil {
			return err
		}
		if err := h.vector(i, v); err != nil {
			return err
		}
	}
	return nil
}

// Read implements model.Values.
func (h healed) Read(i, off int, dst []float32) error {
	w := &h.g.Weights[i]
	if err := formats.CheckRange("healed weights", w.Name, off, len(dst), w.Elems()); err != nil {
		return err
	}
	raw := h.data[h.offsets[i]+4*int64(off):]
	for k := range dst {
		dst[k] = math.Float32frombits(binary.LittleEndian.Uint32(raw[4*k:]))
		if x := dst[k]; x-x != 0 {
			return formats.Corrupt("healed weights", w.Name, -1, "element %d is %g: weights must be finite", off+k, x)
		}
	}
	return nil
}
