package exec

import (
	"fmt"
	"unsafe"

	"slmc/internal/kernel"
	"slmc/model"
	"slmc/quant"
	"slmc/tensor"
)

// LoadParams reads every weight of m as float32 panels: the teacher, or any
// checkpoint that is run as it is. context positions of rotary tables are
// computed.
func LoadParams(m *model.Model, context int) (*Params, error) {
	p := &Params{Mats: make([]Matrix, len(m.Weights)), Vecs: make([][]float32, len(m.Weights))}
	for i, w := range m.Weights {
		if !w.Role.Matrix() {
			v, err := m.Tensor(i)
			if err != nil {
				return nil, err
			}
			p.Vecs[i] = v
			continue
		}
		mat, err := loadMatrix(m, i)
		if err != nil {
			return nil, err
		}
		p.Mats[i] = mat
	}
	for _, r := range m.Ropes {
		cos, sin := r.Tables(context)
		p.Cos, p.Sin = append(p.Cos, cos), append(p.Sin, sin)
	}
	return p, nil
}

// loadMatrix reads weight i, 16 rows at a time, into F32 panels.
func loadMatrix(m *model.Model, i int) (Matrix, error) {
	w := m.Weights[i]
	rows, cols := w.Shape[0], w.Shape[1]
	mat := Matrix{Format: quant.F32, Rows: rows, Cols: cols}
	// A float32 slice, so that the panels are aligned.
	panels := make([]float32, quant.Panels(rows)*kernel.Rows*cols)
	buf := make([]float32, kernel.Rows*cols)
	for r := 0; r < rows; r += kernel.Rows {
		n := min(kernel.Rows, rows-r)
		if err := m.Values.Read(i, r*cols, buf[:n*cols]); err != nil {
			return mat, fmt.Errorf("read %s: %w", w.Name, err)
		}
		panel := panels[r*cols:]
		for j := range n {
			for k, x := range buf[j*cols : (j+1)*cols] {
				panel[k*kernel.Rows+j] = x
			}
		}
	}
	mat.Panels = floatBytes(panels)
	return mat, nil
}

// floatBytes views float32 as their bytes. Kernels read panels as
// little-endian; slmc builds for little-endian machines only.
func floatBytes(x []float32) []byte {
	if len(x) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(x))), 4*len(x))
}

// PackMatrix rounds weight i of m to format f under the scales that choose
// gives for each row (nil for floats), and packs it.
func PackMatrix(m *model.Model, i int, f quant.Format, choose func(row []float32) []tensor.Half) (Matrix, error) {
	w := m.Weights[i]
	rows, cols := w.Shape[0], w.Shape[1]
	mat := Matrix{Format: f, Rows: rows, Cols: cols, Panels: make([]byte, quant.MatrixBytes(f, rows, cols))}
	buf := make([]float32, kernel.Rows*cols)
	size := f.PanelBytes(cols)
	for r := 0; r < rows; r += kernel.Rows {
		n := min(kernel.Rows, rows-r)
		if err := m.Values.Read(i, r*cols, buf[:n*cols]); err != nil {
			return mat, fmt.Errorf("read %s: %w", w.Name, err)
		}
		enc := make([][]byte, n)
		for j := range enc {
			row := buf[j*cols : (j+1)*cols]
			var scales []tensor.Half
			if f.Group() != 0 {
				scales = choose(row)
			}
			var err error
			if enc[j], err = f.Encode(nil, row, scales); err != nil {
				return mat, fmt.Errorf("%s row %d: %w", w.Name, r+j, err)
			}
		}
		f.Pack(mat.Panels[r/kernel.Rows*size:][:size], enc, cols)
	}
	return mat, nil
}
