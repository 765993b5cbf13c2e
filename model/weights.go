package model

import "fmt"

// Values gives the numbers of a graph's weights, read lazily: elements
// [off, off+len(dst)) of weight i of the graph, row-major, as the forward pass
// uses them (rows in Hugging Face order, Gemma's one added). A NaN or Inf in
// what was read is an error that names the tensor and the index.
type Values interface {
	Read(i int, off int, dst []float32) error
}

// Model is a graph with its values.
type Model struct {
	*Graph
	Values Values
}

// Tensor reads weight i whole.
func (m *Model) Tensor(i int) ([]float32, error) {
	dst := make([]float32, m.Weights[i].Elems())
	if err := m.Values.Read(i, 0, dst); err != nil {
		return nil, fmt.Errorf("read %s: %w", m.Weights[i].Name, err)
	}
	return dst, nil
}
