package calibrate

import (
	"fmt"
	"math"

	"slmc/internal/exec"
	"slmc/internal/kernel"
	"slmc/quant"
)

// rowFloats bounds the weights that are held as rows at a time: 64 MiB.
const rowFloats = 1 << 24

// matrix quantizes, packs and emits weight i.
func (r *run) matrix(i int, in *Input) (exec.Matrix, error) {
	w, f, a := r.m.Weights[i], r.cfg.Formats[i], r.algorithm(i)
	rows, K := w.Shape[0], w.Shape[1]
	out := exec.Matrix{Format: f, Rows: rows, Cols: K, Panels: make([]byte, quant.MatrixBytes(f, rows, K))}
	step := max(rowFloats/K/kernel.Rows, 1) * kernel.Rows
	errSum, size := 0.0, 0.0
	for r0 := 0; r0 < rows; r0 += step {
		n := min(step, rows-r0)
		m := Matrix{Name: w.Name, Format: f, Rows: n, K: K, W: make([]float32, n*K), Input: in, Grid: r.cfg.Grid}
		if err := r.m.Values.Read(i, r0*K, m.W); err != nil {
			return out, fmt.Errorf("read %s: %w", w.Name, err)
		}
		if in != nil && in.Float != nil {
			u, _, err := inverseFactor(r.env.Pool, in.H, identity(K), compensationDamp)
			if err != nil {
				return out, fmt.Errorf("%s: %w", w.Name, err)
			}
			m.W = compensated(r.env, m, r0, r.added(i), u)
		}
		enc, err := a.Encode(r.ctx, r.env.Pool, m)
		if err != nil {
			return out, err
		}
		packRows(out.Panels[r0/kernel.Rows*f.PanelBytes(K):], f, enc, n, K)
		if in != nil && in.H != nil {
			e, s := proxy(r.env.Pool, m, enc)
			errSum, size = errSum+e, size+s
		}
	}
	report := WeightReport{Name: w.Name, Format: f.Name(), Algorithm: a.Name()}
	if size > 0 {
		loss := errSum / size
		report.Loss = &loss
		r.log.Debug("quantized", "weight", w.Name, "format", f.Name(), "algorithm", a.Name(), "proxy_loss", math.Round(loss*1e6)/1e6)
	}
	r.report.Weights = append(r.report.Weights, report)
	r.cfg.Progress(len(r.report.Weights), r.total)
	return out, r.cfg.Emit(i, out)
}

// packRows packs n row forms of K weights.
func packRows(panels []byte, f quant.Format, enc []byte, n, K int) {
	row, panel := f.RowBytes(K), f.PanelBytes(K)
	var rows [kernel.Rows][]byte
	for r := 0; r < n; r += kernel.Rows {
		k := min(kernel.Rows, n-r)
		for j := range k {
			rows[j] = enc[(r+j)*row : (r+j+1)*row]
		}
		f.Pack(panels[r/kernel.Rows*panel:][:panel], rows[:k], K)
	}
}
