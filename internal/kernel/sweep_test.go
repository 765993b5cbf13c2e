package kernel

import (
	"math"
	"math/rand/v2"
	"testing"
)

// TestActivationsOverAllExponents runs exp and tanh, as the activations use
// them, over every sign, exponent and leading 7 bits of a float32 with random
// bits behind, and over the neighbours of each constant where a branch changes.
func TestActivationsOverAllExponents(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	x := make([]float32, 1<<16)
	for i := range x {
		x[i] = math.Float32frombits(uint32(i)<<16 | r.Uint32()&0xffff)
	}
	for _, c := range []float32{expMax, expMin, -expMax, -expMin, expMax / 2, tanhSmall, -tanhSmall, 1, 0} {
		for d := range uint32(9) {
			x = append(x, math.Float32frombits(math.Float32bits(c)+d-4))
		}
	}
	one, want, got := make([]float32, len(x)), make([]float32, len(x)), make([]float32, len(x))
	for i := range one {
		one[i] = 1
	}
	for _, im := range Impls() {
		if !im.OK || im.Name == scalar.Name {
			continue
		}
		for _, op := range []struct {
			name string
			run  func(f *Funcs, dst []float32)
		}{
			{"SiluMul", func(f *Funcs, dst []float32) { f.SiluMul(dst, x, one) }},
			{"GeluMul", func(f *Funcs, dst []float32) { f.GeluMul(dst, x, one) }},
			{"SoftCap", func(f *Funcs, dst []float32) { copy(dst, x); f.SoftCap(dst, 1) }},
		} {
			op.run(&scalar, want)
			op.run(&im.Funcs, got)
			for i := range x {
				if math.Float32bits(got[i]) != math.Float32bits(want[i]) && (got[i] == got[i] || want[i] == want[i]) {
					t.Errorf("%s %s(%b): %b, scalar %b", im.Name, op.name, x[i], got[i], want[i])
					break
				}
			}
		}
	}
}
