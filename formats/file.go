package formats

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"slmc/tensor"
)

// scratchBytes is the size of a read: large enough that the system call costs
// nothing beside the copy, small enough that a dozen readers stay in cache.
const scratchBytes = 256 << 10

// File is a checkpoint file that is read with ReadAt, in pieces and never
// mapped: a file that shrinks while it is open gives an error, not a signal
// (docs/decisions/0004-read-not-map.md). It is safe for concurrent use.
type File struct {
	name    string
	r       io.ReaderAt
	size    int64
	close   func() error
	scratch sync.Pool // of *[]byte, scratchBytes long
}

// OpenFile opens a regular file, following symbolic links. Anything else (a
// folder, a pipe that would block for ever) is ErrUnsupported.
func OpenFile(path string) (*File, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !st.Mode().IsRegular() {
		return nil, Unsupported(path, "", -1, "not a regular file (%s)", st.Mode().Type())
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	if st, err = f.Stat(); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	out := NewFile(filepath.Base(path), f, st.Size())
	out.close = f.Close
	return out, nil
}

// NewFile wraps size bytes of r; name is what errors call it.
func NewFile(name string, r io.ReaderAt, size int64) *File {
	f := &File{name: name, r: r, size: size, close: func() error { return nil }}
	f.scratch.New = func() any { b := make([]byte, scratchBytes); return &b }
	return f
}

// Name returns the base name of the file.
func (f *File) Name() string { return f.name }

// Size returns the length in bytes that the file had when it was opened.
func (f *File) Size() int64 { return f.size }

// Close closes the file. Reads after it fail.
func (f *File) Close() error { return f.close() }

// Section returns a reader of [off, off+n).
func (f *File) Section(off, n int64) *io.SectionReader { return io.NewSectionReader(f.r, off, n) }

// ReadFull fills p from byte off. A file that ends before that is ErrCorrupt;
// tensor names what was being read and may be empty.
func (f *File) ReadFull(tensor string, off int64, p []byte) error {
	n, err := f.r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return Corrupt(f.name, tensor, off, "the file ends at byte %d, wanted %d bytes (it had %d bytes when it was opened)",
			off+int64(n), len(p), f.size)
	}
	return &Error{File: f.name, Tensor: tensor, Offset: off, Msg: fmt.Sprintf("cannot read %d bytes", len(p)), Err: err}
}

// ReadFloats fills dst with the little-endian elements of type d that start at
// byte off. It allocates nothing beyond a fixed scratch.
func (f *File) ReadFloats(name string, off int64, d tensor.DType, dst []float32) error {
	return f.ReadStrided(name, off, d, 1, dst, 1, len(dst))
}

// ReadStrided reads n elements of type d, the first at byte off and each
// stride elements after the one before, into dst[0], dst[step], and so on.
// stride and step are at least 1.
func (f *File) ReadStrided(name string, off int64, d tensor.DType, stride int, dst []float32, step, n int) error {
	buf := f.scratch.Get().(*[]byte)
	defer f.scratch.Put(buf)
	var vals [512]float32
	perRead := max((len(*buf)/d.Size()-1)/stride+1, 1)
	for i := 0; i < n; {
		m := min(n-i, perRead)
		raw := (*buf)[:((m-1)*stride+1)*d.Size()]
		if err := f.ReadFull(name, off, raw); err != nil {
			return err
		}
		if stride == 1 && step == 1 {
			if err := tensor.Decode(dst[i:i+m], raw, d); err != nil {
				return err
			}
		} else if err := scatter(dst[i*step:], step, raw, stride, d, m, vals[:]); err != nil {
			return err
		}
		off += int64(m) * int64(stride) * int64(d.Size())
		i += m
	}
	return nil
}

// scatter decodes m elements that lie stride apart in raw to every step-th
// place of dst; vals is scratch.
func scatter(dst []float32, step int, raw []byte, stride int, d tensor.DType, m int, vals []float32) error {
	if stride == 1 {
		for i := 0; i < m; i += len(vals) {
			part := vals[:min(len(vals), m-i)]
			if err := tensor.Decode(part, raw[i*d.Size():(i+len(part))*d.Size()], d); err != nil {
				return err
			}
			for j, v := range part {
				dst[(i+j)*step] = v
			}
		}
		return nil
	}
	for i := range m {
		at := i * stride * d.Size()
		if err := tensor.Decode(vals[:1], raw[at:at+d.Size()], d); err != nil {
			return err
		}
		dst[i*step] = vals[0]
	}
	return nil
}

// CheckRange reports whether elements [off, off+n) lie inside a tensor of
// elems elements; a range outside is the caller's mistake, not the file's.
func CheckRange(file, name string, off, n, elems int) error {
	if off < 0 || n > elems || off > elems-n {
		return fmt.Errorf("%s: tensor %q: elements %d to %d wanted, it has %d", file, name, off, off+n, elems)
	}
	return nil
}
