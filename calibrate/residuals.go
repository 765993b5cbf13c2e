package calibrate

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"

	"slmc/tensor"
)

// residuals holds the residual stream of all calibration tokens at one place of
// the graph: [tokens D], in memory or, beyond a bound, in a scratch file.
type residuals struct {
	D    int
	at   []int // sequence i is rows [at[i], at[i+1])
	mem  []float32
	file *os.File
	buf  []byte
	row  tensor.Mat
}

// newResiduals makes room for the sequences; folder is where a scratch file
// goes, "" for the system's.
func newResiduals(seqs Sequences, D int, bound int64, folder string) (*residuals, error) {
	r := &residuals{D: D, at: []int{0}}
	for _, q := range seqs {
		r.at = append(r.at, r.at[len(r.at)-1]+len(q))
	}
	n := r.at[len(seqs)] * D
	if int64(n)*4 <= bound {
		r.mem = make([]float32, n)
		return r, nil
	}
	f, err := os.CreateTemp(folder, ".calibrate.*.partial")
	if err != nil {
		return nil, fmt.Errorf("scratch file for %d bytes of activations: %w", 4*n, err)
	}
	r.file = f
	r.buf = make([]byte, 4*longest(seqs)*D)
	r.row.X = make([]float32, longest(seqs)*D)
	return r, nil
}

// close removes the scratch file.
func (r *residuals) close() error {
	if r.file == nil {
		return nil
	}
	return errors.Join(r.file.Close(), os.Remove(r.file.Name()))
}

// load returns the rows of sequence i [T D], valid until the next call.
func (r *residuals) load(i int) (*tensor.Mat, error) {
	T, off := r.at[i+1]-r.at[i], r.at[i]*r.D
	if r.file == nil {
		return &tensor.Mat{R: T, C: r.D, Stride: r.D, X: r.mem[off:][:T*r.D]}, nil
	}
	buf := r.buf[:4*T*r.D]
	if _, err := r.file.ReadAt(buf, 4*int64(off)); err != nil {
		return nil, fmt.Errorf("scratch file %s at byte %d: %w", r.file.Name(), 4*off, err)
	}
	r.row = tensor.Mat{R: T, C: r.D, Stride: r.D, X: r.row.X}
	for j := range T * r.D {
		r.row.X[j] = math.Float32frombits(binary.LittleEndian.Uint32(buf[4*j:]))
	}
	return &r.row, nil
}

// store replaces the rows of sequence i by x [T D].
func (r *residuals) store(i int, x *tensor.Mat) error {
	off := r.at[i] * r.D
	if r.file == nil {
		for t := range x.R {
			copy(r.mem[off+t*r.D:][:r.D], x.Row(t))
		}
		return nil
	}
	for t := range x.R {
		putFloats(r.buf[4*t*r.D:], x.Row(t))
	}
	if _, err := r.file.WriteAt(r.buf[:4*x.R*r.D], 4*int64(off)); err != nil {
		return fmt.Errorf("scratch file %s at byte %d: %w", r.file.Name(), 4*off, err)
	}
	return nil
}
