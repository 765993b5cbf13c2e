package quant

import (
	"slmc/internal/kernel"
	"slmc/tensor"
)

// Searched is a format whose scales are worth a search: calibration asks for
// the error of a candidate without encoding.
type Searched interface {
	Format
	// SquaredError is the sum of the squared differences between the weights
	// of one group and what Encode and Decode under scale make of them, each
	// difference in float32, the sum in float64. Weights and scale are finite.
	SquaredError(group []float32, scale tensor.Half) float64
}

var _ = []Searched{W8{}, W4{}, W2{}}

// SquaredError implements Searched.
func (f W8) SquaredError(group []float32, scale tensor.Half) float64 {
	return f.packed().squaredError(group, scale, 1)
}

// SquaredError implements Searched.
func (f W4) SquaredError(group []float32, scale tensor.Half) float64 {
	return f.packed().squaredError(group, scale, 0)
}

// SquaredError implements Searched.
func (f W2) SquaredError(group []float32, scale tensor.Half) float64 {
	return f.packed().squaredError(group, scale, 0)
}

// squaredError repeats code and decode with what does not depend on the weight
// taken out of the loop.
func (p packed) squaredError(group []float32, scale tensor.Half, lo int) float64 {
	s := scale.Float32()
	inv := Inverse(s)
	zero := p.zero2 >> 1
	least, most := float32(lo-zero), float32(1<<p.bits-1-zero)
	half := float32(p.zero2&1) / 2
	sum := 0.0
	for _, x := range group {
		v := float32(x*inv) + half
		level := kernel.RoundEven(min(max(v, least), most)) - half
		e := x - float32(level*s)
		sum += float64(float64(e) * float64(e))
	}
	return sum
}
