// Package quant defines the number formats: what the bits of a stored weight
// mean and how a real number is rounded to them. It is the only place that
// rounds weights: calibrate chooses scales, qat trains through these codes,
// the bundle stores them, the export reads them back.
//
// A format has a row form, which is convenient to encode and to train with,
// and a panel form of 16 interleaved rows, which the kernels use in place (see
// internal/kernel/panel.go for the byte order of a panel).
package quant

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"slmc/internal/kernel"
	"slmc/tensor"
)

// ErrNotFinite is returned when a weight or scale is NaN or Inf.
var ErrNotFinite = errors.New("not finite")

// Format is a number format for the rows of a matrix.
type Format interface {
	// Name is the format's name with its GroupSize: "w8g32", "f16".
	Name() string
	// Group is the number of weights that share a scale; 0 for floats.
	Group() int
	// Levels returns the smallest and largest level; 0, 0 for floats.
	Levels() (lo, hi float32)
	// RowBytes is the size of the row form of K weights.
	RowBytes(K int) int
	// PanelBytes is the size of a panel of 16 rows of K weights.
	PanelBytes(K int) int
	// Encode rounds row to the nearest levels under scales, one a group (nil
	// for floats), and appends the row form to dst. A NaN or Inf in row is an
	// error that names its index, because no scale can represent it.
	Encode(dst []byte, row []float32, scales []tensor.Half) ([]byte, error)
	// Decode writes the real values of a row form to dst, one a weight.
	Decode(dst []float32, row []byte)
	// Pack interleaves the row forms of up to 16 rows of K weights into a
	// panel of PanelBytes(K) bytes. Missing rows get scale 0.
	Pack(panel []byte, rows [][]byte, K int)
	// Unpack writes the row form of row r of a panel to row.
	Unpack(row, panel []byte, r, K int)
}

// Formats lists every format at its default GroupSize, for help texts and for
// tests that range over all of them.
func Formats() []Format {
	return []Format{F32, F16, BF16, W8{32}, W4{32}, W2{64}}
}

// Parse returns the format of that name: a name of Formats, or the quantized
// ones with another GroupSize (32, 64 or 128), for example "w2g128" or "w4".
func Parse(name string) (Format, error) {
	var names []string
	for _, f := range Formats() {
		kind, _, _ := strings.Cut(f.Name(), "g")
		names = append(names, kind)
		if name == kind || name == f.Name() {
			return f, nil
		}
		if digits, ok := strings.CutPrefix(name, kind+"g"); ok && f.Group() != 0 {
			g, err := strconv.Atoi(digits)
			if err != nil || !slices.Contains([]int{32, 64, 128}, g) || strconv.Itoa(g) != digits {
				return nil, fmt.Errorf("number format %q: GroupSize must be 32, 64 or 128", name)
			}
			switch f.(type) {
			case W8:
				return W8{g}, nil
			case W4:
				return W4{g}, nil
			case W2:
				return W2{g}, nil
			}
		}
	}
	return nil, fmt.Errorf("number format %q is unknown; have %s", name, strings.Join(names, ", "))
}

// Groups is the number of scales of a row of K weights.
func Groups(f Format, K int) int {
	if f.Group() == 0 {
		return 0
	}
	return (K + f.Group() - 1) / f.Group()
}

// Panels is the number of panels of a matrix of that many rows.
func Panels(rows int) int { return (rows + kernel.Rows - 1) / kernel.Rows }

// MatrixBytes is the size of a matrix of [rows K] weights in panel form.
func MatrixBytes(f Format, rows, K int) int { return Panels(rows) * f.PanelBytes(K) }

// notFinite reports the index and value of the first NaN or Inf in row.
func notFinite(row []float32) error {
	for i, v := range row {
		if math.Float32bits(v)&0x7f800000 == 0x7f800000 {
			return fmt.Errorf("index %d is %g: %w", i, v, ErrNotFinite)
		}
	}
	return nil
}

// ceil returns n/d rounded up.
func ceil(n, d int) int { return (n + d - 1) / d }
