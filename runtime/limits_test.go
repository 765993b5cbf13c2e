package slmrt

import (
	"errors"
	"testing"

	"slmc/formats"
)

// A temperature at which logits over it are infinite is greedy.
func TestSamplerTinyTemperature(t *testing.T) {
	z := []float32{-3, 8, 20, 19.5, -30}
	for _, temp := range []float32{1e-45, 1e-38, 1e-6} {
		s := NewSampler(Sampling{Temperature: temp, Seed: 1})
		for range 20 {
			if id := s.Next(z, nil); id != 2 {
				t.Fatalf("temperature %g: token %d, want 2", temp, id)
			}
		}
	}
}

func TestTextWithoutTokenizer(t *testing.T) {
	if _, err := new(Model).EncodeText("x"); !errors.Is(err, ErrNoTokenizer) || !errors.Is(err, formats.ErrUnsupported) {
		t.Errorf("%v", err)
	}
}
