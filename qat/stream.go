package qat

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"slmc/tensor"
)

// stream holds the residual stream of all training sequences between two
// blocks, [tokens D]: in memory, or beyond a bound in a scratch file.
type stream struct {
	D    int
	at   []int // first row of each sequence, and the end
	x    []float32
	file *os.File
	buf  []byte
}

// newStream makes room for the activations of seqs, in memory if they take at
// most limit bytes. It is not cleared.
func newStream(seqs [][]int32, D int, dir string, limit int64) (*stream, error) {
	s := &stream{D: D, at: make([]int, len(seqs)+1)}
	for i, q := range seqs {
		s.at[i+1] = s.at[i] + len(q)
	}
	n := s.at[len(seqs)] * D
	if 4*int64(n) <= limit {
		s.x = make([]float32, n)
		return s, nil
	}
	f, err := os.CreateTemp(dir, "slmc-activations-")
	if err != nil {
		return nil, fmt.Errorf("training activations: %w", err)
	}
	s.file = f
	_ = os.Remove(f.Name()) // where an open file can be removed, a kill leaves nothing; else close does it
	return s, nil
}

// close gives the memory or the file back.
func (s *stream) close() error {
	s.x = nil
	if s.file == nil {
		return nil
	}
	f := s.file
	s.file = nil
	err := f.Close()
	if e := os.Remove(f.Name()); e != nil && !errors.Is(e, os.ErrNotExist) {
		err = errors.Join(err, e)
	}
	return err
}

// get copies the rows of these sequences, one after another, to x [T D].
func (s *stream) get(x *tensor.Mat, part []int) error {
	row := 0
	for _, i := range part {
		n := s.at[i+1] - s.at[i]
		dst := x.X[row*s.D : (row+n)*s.D]
		row += n
		if s.file == nil {
			copy(dst, s.x[s.at[i]*s.D:])
			continue
		}
		b := s.bytes(4 * len(dst))
		if _, err := s.file.ReadAt(b, 4*int64(s.at[i])*int64(s.D)); err != nil {
			return fmt.Errorf("training activations: %w", err)
		}
		if _, err := binary.Decode(b, binary.LittleEndian, dst); err != nil {
			return fmt.Errorf("training activations: %w", err)
		}
	}
	return nil
}

// put is the opposite of get.
func (s *stream) put(x *tensor.Mat, part []int) error {
	row := 0
	for _, i := range part {
		n := s.at[i+1] - s.at[i]
		src := x.X[row*s.D : (row+n)*s.D]
		row += n
		if s.file == nil {
			copy(s.x[s.at[i]*s.D:], src)
			continue
		}
		b := s.bytes(4 * len(src))
		if _, err := binary.Encode(b, binary.LittleEndian, src); err != nil {
			return fmt.Errorf("training activations: %w", err)
		}
		if _, err := s.file.WriteAt(b, 4*int64(s.at[i])*int64(s.D)); err != nil {
			return fmt.Errorf("training activations: %w", err)
		}
	}
	return nil
}

func (s *stream) bytes(n int) []byte {
	if cap(s.buf) < n {
		s.buf = make([]byte, n)
	}
	return s.buf[:n]
}

// reshape makes m an [R C] matrix, keeping its memory if it fits.
func reshape(m *tensor.Mat, R, C int) *tensor.Mat {
	if m == nil || cap(m.X) < R*C {
		return &tensor.Mat{R: R, C: C, Stride: C, X: make([]float32, R*C)}
	}
	return &tensor.Mat{R: R, C: C, Stride: C, X: m.X[:R*C]}
}
