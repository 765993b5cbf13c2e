package qat

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"testing"

	"slmc/tensor"
)

// Training starts from the codes and scales that it is given: without a rate
// they are the result.
func TestStart(t *testing.T) {
	m := taker()
	r := newRun(t, m, sequences(20, 20, 40), 2)
	r.Config.LR, r.Config.ScaleLR = 0, 0
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
