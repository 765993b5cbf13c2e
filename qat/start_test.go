package qat

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"testing"

	"slmc/tensor"
)

// Training starts from the codes and scales that it is given: without a rate
// they are the result.
func TestStart(t *testing.T) {
	m := taker()
	r := newRun(t, m, sequences(20, 20, 40), 2)
	r.Config.LR, r.Config.ScaleLR = 0, 1e-30 // nothing moves
	rng := rand.New(rand.NewPCG(5, 6))
	forms := map[string][]byte{}
	r.Start = func(i, row int, values []float32, scales []tensor.Half) error {
		f := r.Formats[i]
		for k := range values {
			values[k] = float32(rng.NormFloat64())
		}
		for g := range scales {
			scales[g] = tensor.HalfFrom(0.2 + rng.Float32())
		}
		form, err := f.Encode(nil, values, scales)
		if err != nil {
			return err
		}
		f.Decode(values, form)
		forms[fmt.Sprint(i, row)] = form
		return nil
	}
	sink := collect(new(bytes.Buffer))
	given := 0
	sink.Rows = func(w, first int, rows [][]byte) error {
		for k, row := range rows {
			if !bytes.Equal(row, forms[fmt.Sprint(w, first+k)]) {
				t.Errorf("weight %d row %d is not what training started from", w, first+k)
			}
			given++
		}
		return nil
	}
	if _, err := Train(context.Background(), r, sink); err != nil {
		t.Fatal(err)
	}
	if given == 0 || given != len(forms) {
		t.Errorf("%d rows were given, started from %d", given, len(forms))
	}
}

// A run that diverges after a while gives the best state it had, and says why
// it stopped.
func TestDivergenceKeepsTheBest(t *testing.T) {
	m := llama(1, 32, 2, 1, 16, 48, 40)
	r := newRun(t, m, sequences(400, 20, 40), 1)
	r.State, r.Every = filepath.Join(t.TempDir(), "state"), 5
	r.Config.Epochs, r.Config.Warmup, r.Config.LR, r.Config.ScaleLR, r.Config.Clip = 4, 400, 20, 20, 1e9
	lowest := math.Inf(1)
	var losses []float64
	r.Progress = func(p Progress) {
		losses = append(losses, p.Loss)
		if p.Step >= lossWindow && p.Step%r.Every == 0 {
			lowest = min(lowest, mean(losses[p.Step-lossWindow:]))
		}
	}
	var out bytes.Buffer
	rep, err := Train(context.Background(), r, collect(&out))
	if err != nil {
		t.Fatal(err)
	}
	if rep.Stopped == "" || rep.Steps == 0 || rep.Steps%r.Every != 0 || out.Len() == 0 {
		t.Errorf("report is %+v with %d bytes: want the reason and the best state", rep, out.Len())
	}
	if math.Abs(rep.LastLoss-lowest) > 1e-12 {
		t.Errorf("kept a mean loss of %g, the best was %g", rep.LastLoss, lowest)
	}
}
