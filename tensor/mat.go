package tensor

// Mat is a row-major matrix of activations [R C]; row r starts at X[r*Stride].
type Mat struct {
	R, C, Stride int
	X            []float32
}

// Row returns row r, C values.
func (m *Mat) Row(r int) []float32 { return m.X[r*m.Stride:][:m.C:m.C] }

// From returns the rows from r on, sharing memory.
func (m *Mat) From(r int) *Mat {
	return &Mat{R: m.R - r, C: m.C, Stride: m.Stride, X: m.X[r*m.Stride:]}
}
