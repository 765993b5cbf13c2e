package quant

import (
	"slmc/internal/kernel"
	"slmc/tensor"
)

// Leveled is a format of levels times scales: what fake quantization trains.
type Leveled interface {
	Format
	// RoundLevels writes the level that Encode under scale would choose for
	// each weight of one group. Weights and scale are finite.
	RoundLevels(levels, group []float32, scale tensor.Half)
}

var _ = []Leveled{W8{}, W4{}, W2{}}

// RoundLevels implements Leveled.
func (f W8) RoundLevels(levels, group []float32, scale tensor.Half) {
	f.packed().roundLevels(levels, group, scale, 1)
}

// RoundLevels implements Leveled.
func (f W4) RoundLevels(levels, group []float32, scale tensor.Half) {
	f.packed().roundLevels(levels, group, scale, 0)
}

// RoundLevels implements Leveled.
func (f W2) RoundLevels(levels, group []float32, scale tensor.Half) {
	f.packed().roundLevels(levels, group, scale, 0)
}

// roundLevels is code minus the zero point, with what does not depend on the
// weight taken out of the loop.
func (p packed) roundLevels(levels, group []float32, scale tensor.Half, lo int) {
	inv := Inverse(scale.Float32())
	zero := p.zero2 >> 1
	least, most := float32(lo-zero), float32(1<<p.bits-1-zero)
	half := float32(p.zero2&1) / 2
	for i, x := range group {
		v := float32(x * inv)
		if half != 0 {
			v += half
		}
		levels[i] = kernel.RoundEven(min(max(v, least), most)) - half
	}
}
