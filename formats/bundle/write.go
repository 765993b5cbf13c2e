package bundle

import (
	"io"

	"slmc/quant"
)

// Spec is what Write makes a bundle of.
type Spec struct {
	// Manifest is what only the builder knows. Write itself fills Weights,
	// Parameters, BPW and Sections, and whatever they held is ignored.
	Manifest Manifest
	// Formats are those of Graph.Weights, by index; quant.F32 for vectors.
	Formats []quant.Format
	// Weight writes the stored form of weight i: quant.MatrixBytes of panels,
	// or the little-endian float32 of a vector. It is called once for each
	// weight, in order. Any other number of bytes is an error.
	Weight func(i int, dst io.Writer) error
	// Rope returns the tables of Graph.Ropes[r], each [Context E/2].
	Rope func(r int) (cos, sin []float32)
	// Sections follow the weights and the tables in this order; empty ones
	// are left out.
	Sections []Data
	// MinTool is the oldest version of slmc that reads the bundle, at most 24
	// printable ASCII characters. It is shown to a reader that is too old.
	MinTool string
	// Required and Optional are the feature bits; 0 in this version.
	Required, Optional uint64
}

// Data is the content of one section.
type Data struct {
	Name     string
	Required bool
	Bytes    []byte
}
