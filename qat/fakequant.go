// Package qat trains a model through its own rounding, so that it lives with 2
// bits: quantization-aware training with a float teacher.
//
// The forward pass uses the weights as the bundle will store them, codes and
// float16 scales and all (quant rounds; nothing is simulated), activations in 8
// bits and cached keys and values as the runtime rounds them. Gradients pass
// straight through (Bengio et al., arXiv 1308.3432) inside the clip range, and
// scales learn by LSQ's gradient (Esser et al., arXiv 1902.08153, equation 3):
//
//	dL/dw = dL/dw~        where w/s lies between the outermost levels, else 0
//	dL/ds = sum dL/dw~ * (level - w/s)  inside, dL/dw~ * level  outside
//
// We differ from LSQ: a scale a group of 32 to 128 weights instead of a tensor,
// no gradient scale (Adam normalises), and the balanced 2-bit levels of ParetoQ
// (arXiv 2502.02631).
package qat

import (
	"fmt"
	"math"
	"sync"

	"slmc/internal/kernel"
	"slmc/internal/train"
	"slmc/model"
	"slmc/quant"
	"slmc/tensor"
)

// Scales chooses the scales that training starts from: one a group of row.
type Scales func(dst []tensor.Half, f quant.Format, row []float32) error

// latent is one trained weight: for a matrix in a leveled format the float
// weights behind the codes and the scales, for others the numbers themselves.
type latent struct {
	format quant.Leveled // nil: trained as it is, stored as float
	rows   int
	cols   int
	groups int
	w      []float32 // [rows cols]
	scales []float32 // [rows groups], what float16 scales are rounded from

	// What only training needs, nil while the weight is at rest.
	value       []float32 // what the forward pass uses
	levels      []float32 // of value
	grad        []float32 // of value
	dw, dscales []float32
	frozen      bool // codes no longer move: only scales learn
}

// wake makes room for training, rest gives it back.
func (l *latent) wake() {
	n := len(l.w)
	l.value, l.grad, l.dw = make([]float32, n), make([]float32, n), make([]float32, n)
	if l.format != nil {
		l.levels, l.dscales = make([]float32, n), make([]float32, len(l.scales))
	}
}

func (l *latent) rest() { l.value, l.levels, l.grad, l.dw, l.dscales = nil, nil, nil, nil, nil }

func (l *latent) half(g int) tensor.Half { return tensor.HalfFrom(l.scales[g]) }

// round makes value from w and scales, rows [lo, hi).
func (l *latent) round(lo, hi int) {
	if l.format == nil {
		copy(l.value[lo*l.cols:hi*l.cols], l.w[lo*l.cols:])
		return
	}
	G := l.format.Group()
	for r := lo; r < hi; r++ {
		for g := range l.groups {
			a, b := r*l.cols+g*G, r*l.cols+min((g+1)*G, l.cols)
			s := l.half(r*l.groups + g)
			if !l.frozen {
				l.format.RoundLevels(l.levels[a:b], l.w[a:b], s)
			}
			scale := s.Float32()
			for i := a; i < b; i++ {
				l.value[i] = l.levels[i] * scale
			}
		}
	}
}

// back turns the gradient of value into those of w and scales, rows [lo, hi).
func (l *latent) back(lo, hi int) {
	if l.format == nil {
		copy(l.dw[lo*l.cols:hi*l.cols], l.grad[lo*l.cols:])
		return
	}
	G := l.format.Group()
	least, most := l.format.Levels()
	for r := lo; r < hi; r++ {
		for g := range l.groups {
			a, b := r*l.cols+g*G, r*l.cols+min((g+1)*G, l.cols)
			inv := quant.Inverse(l.half(r*l.groups + g).Float32())
			ds := float32(0)
			for i := a; i < b; i++ {
				x, d := float32(l.w[i]*inv), l.grad[i]
				switch {
				case l.frozen:
					ds += float32(d * l.levels[i])
				case x < least || x > most:
					l.dw[i] = 0
					ds += float32(d * l.levels[i])
				default:
					l.dw[i] = d
					ds += float32(d * float32(l.levels[i]-x))
				}
			}
			l.dscales[r*l.groups+g] = ds
		}
	}
}

// student is the trained model: its weights as train.Tape wants them.
type student struct {
	g   *model.Graph
	all []*latent
}

// newStudent reads the weights of m and chooses the first scales.
func newStudent(m *model.Model, formats []quant.Format, scales Scales) (*student, error) {
	s := &student{g: m.Graph, all: make([]*latent, len(m.Weights))}
	for i, w := range m.Weights {
		data, err := m.Tensor(i)
		if err != nil {
			return nil, err
		}
		l := &latent{rows: 1, cols: len(data), w: data}
		if w.Role.Matrix() {
			l.rows, l.cols = w.Shape[0], w.Shape[1]
		}
		if f, ok := formats[i].(quant.Leveled); ok && w.Role.Matrix() {
			l.format, l.groups = f, quant.Groups(f, l.cols)
			if err := l.start(scales); err != nil {
				return nil, fmt.Errorf("%s: %w", w.Name, err)
			}
		}
		s.all[i] = l
	}
	return s, nil
}

// start chooses the scales that training begins with.
func (l *latent) start(scales Scales) error {
	l.scales = make([]float32, l.rows*l.groups)
	half := make([]tensor.Half, l.groups)
	for r := range l.rows {
		if err := scales(half, l.format, l.w[r*l.cols:(r+1)*l.cols]); err != nil {
			return fmt.Errorf("row %d: %w", r, err)
		}
		for g, h := range half {
			l.scales[r*l.groups+g] = h.Float32()
		}
	}
	return nil
}

// Value implements train.Weights.
func (s *student) Value(i int) []float32 { return s.all[i].value }

// Grad implements train.Weights.
func (s *student) Grad(i int) []float32 { return s.all[i].grad }

// each runs f over the rows of the weights that are being trained, split over
// threads.
func (s *student) each(split train.Split, f func(l *latent, lo, hi int)) {
	for _, l := range s.all {
		if l.value == nil {
			continue
		}
		split(l.rows, 1+(1<<14)/l.cols, func(lo, hi int) { f(l, lo, hi) })
	}
}

// emit gives the final weights: row forms of matrices, 16 rows at a time, and
// vectors as they are.
func (s *student) emit(formats []quant.Format, sink Sink) error {
	for i, l := range s.all {
		if !s.g.Weights[i].Role.Matrix() {
			if err := sink.Vector(i, l.w); err != nil {
				return err
			}
			continue
		}
		for r := 0; r < l.rows; r += kernel.Rows {
			var rows [][]byte
			for k := r; k < min(r+kernel.Rows, l.rows); k++ {
				enc, err := l.encode(formats[i], k)
				if err != nil {
					return fmt.Errorf("%s row %d: %w", s.g.Weights[i].Name, k, err)
				}
				rows = append(rows, enc)
			}
			if err := sink.Rows(i, r, rows); err != nil {
				return err
			}
		}
	}
	return nil
}

// encode is the row form of row r.
func (l *latent) encode(f quant.Format, r int) ([]byte, error) {
	row := l.w[r*l.cols : (r+1)*l.cols]
	if l.format == nil {
		return f.Encode(nil, row, nil)
	}
	half := make([]tensor.Half, l.groups)
	for g := range half {
		half[g] = l.half(r*l.groups + g)
	}
	if l.frozen {
		// Levels times scales round to themselves, so frozen codes stay.
		row = l.value[r*l.cols : (r+1)*l.cols]
	}
	return f.Encode(nil, row, half)
}

// Sink takes the trained weights, in the order of the graph's weights.
type Sink struct {
	// Rows takes the row forms of up to 16 rows of a matrix, from row first on.
	Rows func(weight, first int, rows [][]byte) error
	// Vector takes a norm or a bias.
	Vector func(weight int, v []float32) error
}

// rounding is what the runtime does to the inputs of packed matrices and to the
// cache. What it can not round becomes NaN, which shows in the loss.
func (s *student) rounding(f *kernel.Funcs, kv8 bool) train.Rounding {
	nan := float32(math.NaN())
	scratch := sync.Pool{New: func() any { return new(rounded) }}
	r := train.Rounding{Input: func(w int, row []float32) {
		if s.all[w].format == nil {
			return
		}
		x := scratch.Get().(*rounded)
		defer scratch.Put(x)
		n := (len(row) + kernel.Sub - 1) / kernel.Sub
		x.fit(n)
		if !f.QuantizeA8(x.codes, x.scales, x.sums, row) {
			row[0] = nan
			return
		}
		for i := range row {
			row[i] = float32(x.codes[i]) * x.scales[i/kernel.Sub]
		}
	}}
	if !kv8 {
		return r
	}
	r.Cached = func(v []float32) {
		x := scratch.Get().(*rounded)
		defer scratch.Put(x)
		x.fit((len(v) + kernel.Sub - 1) / kernel.Sub)
		scale, ok := quant.KV8(f, x.codes[:len(v)], v)
		if !ok {
			v[0] = nan
			return
		}
		for i := range v {
			v[i] = float32(x.codes[i]) * scale.Float32()
		}
	}
	return r
}

// rounded is scratch space for n sub-groups.
type rounded struct {
	codes  []int8
	scales []float32
	sums   []int32
}

func (x *rounded) fit(n int) {
	if cap(x.scales) < n {
		x.codes, x.scales, x.sums = make([]int8, n*kernel.Sub), make([]float32, n), make([]int32, n)
	}
	x.codes, x.scales, x.sums = x.codes[:n*kernel.Sub], x.scales[:n], x.sums[:n]
}
