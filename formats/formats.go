// Package formats defines what every checkpoint reader offers and how it
// reports damage. The readers themselves are its subfolders.
package formats

import (
	"errors"
	"fmt"
	"strings"

	"slmc/tensor"
)

// The kinds of failure that callers tell apart with errors.Is. They map to
// the exit codes of the command: ErrUnsupported to 3, ErrCorrupt to 4,
// ErrVersion to 7.
var (
	ErrCorrupt     = errors.New("corrupt")
	ErrUnsupported = errors.New("unsupported")
	ErrVersion     = errors.New("version")
)

// Error is a failure at a place in a file.
type Error struct {
	File   string // base name or path as the user gave it
	Tensor string // empty when the failure is not about one tensor
	Offset int64  // byte offset in File; negative when unknown
	Kind   error  // ErrCorrupt, ErrUnsupported, ErrVersion
	Msg    string // what was found, what was wanted
	Err    error  // underlying error, may be nil
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Tensor != "" {
		fmt.Fprintf(&b, ": tensor %q", e.Tensor)
	}
	if e.Offset >= 0 {
		fmt.Fprintf(&b, " at byte %d", e.Offset)
	}
	if e.Kind != nil {
		fmt.Fprintf(&b, ": %v", e.Kind)
	}
	fmt.Fprintf(&b, ": %s", e.Msg)
	if e.Err != nil {
		fmt.Fprintf(&b, ": %v", e.Err)
	}
	return b.String()
}

// Unwrap makes errors.Is answer for the kind and for the underlying error.
func (e *Error) Unwrap() []error {
	var out []error
	if e.Kind != nil {
		out = append(out, e.Kind)
	}
	if e.Err != nil {
		out = append(out, e.Err)
	}
	return out
}

// Corrupt returns an *Error of kind ErrCorrupt; offset is negative when unknown.
func Corrupt(file, tensor string, offset int64, format string, args ...any) error {
	return &Error{File: file, Tensor: tensor, Offset: offset, Kind: ErrCorrupt, Msg: fmt.Sprintf(format, args...)}
}

// Unsupported returns an *Error of kind ErrUnsupported; offset is negative when unknown.
func Unsupported(file, tensor string, offset int64, format string, args ...any) error {
	return &Error{File: file, Tensor: tensor, Offset: offset, Kind: ErrUnsupported, Msg: fmt.Sprintf(format, args...)}
}

// TensorInfo describes one stored tensor. Shape is row-major, outermost
// dimension first ([out in] for a matrix), whatever the file's own order is.
type TensorInfo struct {
	Name  string
	Shape []int
	Type  string // the file's own name of the element or block type: "BF16", "Q4_K"
	File  string // the file that holds it
	// Offset and Bytes locate the data inside File.
	Offset, Bytes int64
}

// Source is an opened checkpoint: tensors by name, read lazily and in pieces.
// Implementations read with ReadAt and never hold a tensor in memory, so that
// peak memory is the caller's buffer. They are safe for concurrent use.
type Source interface {
	// Tensors lists what is stored, in the order of the files. The slice
	// must not be changed.
	Tensors() []TensorInfo
	// ReadF32 fills dst with the elements [off, off+len(dst)) of a tensor in
	// row-major order, converted to float32. Values are not checked: NaN and
	// Inf are passed on.
	ReadF32(name string, off int, dst []float32) error
	Close() error
}

// FloatType returns the element type that holds every value of a stored type
// exactly, for the types that are plain floats.
func FloatType(name string) (tensor.DType, bool) {
	for _, d := range []tensor.DType{tensor.F32, tensor.F16, tensor.BF16, tensor.F64} {
		if d.String() == name {
			return d, true
		}
	}
	return 0, false
}
