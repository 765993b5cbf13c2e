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

// Start gives a row of weight i as calibration has rounded it: the values that
// its codes stand for, and its scales.
type Start func(i, row int, values []float32, scales []tensor.Half) error

// Grid gives the scales of a row as they may be stored, where not every float16
// may: dst and scales have one for each group. Gradients pass straight through
// it.
type Grid func(dst []tensor.Half, f quant.Format, scales []float32)

// latent is one trained weight: for a matrix in a leveled format the float
// weights behind the codes and the scales, for others the numbers themselves.
type latent struct {
	format quant.Leveled // nil: trained as it is, stored as float
	rows   int
	cols   int
	groups int
	w      []float32 // [rows cols]; nil until loaded
	scales []float32 // [rows groups], what float16 scales are rounded from
	grid   Grid      // how they are; nil: to the nearest

	// What only training needs, nil while the weight is at rest.
	value   []float32 // what the forward pass uses
	levels  []float32 // of value
	grad    []float32 // of value, and after back of w
	dscales []float32
	frozen  bool // codes no longer move: only scales learn

	done bool // given to the sink
}

// wake makes room for training, rest gives it back.
func (l *latent) wake() {
	n := len(l.w)
	l.value, l.grad = make([]float32, n), make([]float32, n)
	if l.format != nil {
		l.levels, l.dscales = make([]float32, n), make([]float32, len(l.scales))
	}
}

func (l *latent) rest() { l.value, l.levels, l.grad, l.dscales = nil, nil, nil, nil }

// halves writes the scales of row r as they are stored.
func (l *latent) halves(dst []tensor.Half, r int) {
	scales := l.scales[r*l.groups:][:l.groups]
	if l.grid != nil {
		l.grid(dst, l.format, scales)
		return
	}
	for g, s := range scales {
		dst[g] = tensor.HalfFrom(s)
	}
}

// round makes value from w and scales, rows [lo, hi).
func (l *latent) round(lo, hi int) {
	if l.format == nil {
		copy(l.value[lo*l.cols:hi*l.cols], l.w[lo*l.cols:])
		return
	}
	G, half := l.format.Group(), make([]tensor.Half, l.groups)
	for r := lo; r < hi; r++ {
		l.halves(half, r)
		for g, s := range half {
			a, b := r*l.cols+g*G, r*l.cols+min((g+1)*G, l.cols)
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

// back turns the gradient of value into those of w, in its place, and scales,
// rows [lo, hi).
func (l *latent) back(lo, hi int) {
	if l.format == nil {
		return
	}
	G, half := l.format.Group(), make([]tensor.Half, l.groups)
	least, most := l.format.Levels()
	for r := lo; r < hi; r++ {
		l.halves(half, r)
		for g, s := range half {
			a, b := r*l.cols+g*G, r*l.cols+min((g+1)*G, l.cols)
			inv := quant.Inverse(s.Float32())
			l.dscales[r*l.groups+g] = backGroup(l.grad[a:b], l.levels[a:b], l.w[a:b], inv, least, most, l.frozen)
		}
	}
}

// backGroup is back for one group; it returns the gradient of its scale.
func backGroup(grad, levels, w []float32, inv, least, most float32, frozen bool) float32 {
	ds := float32(0)
	levels, w = levels[:len(grad)], w[:len(grad)]
	if frozen {
		for i, d := range grad {
			ds += float32(d * levels[i])
		}
		return ds
	}
	for i, d := range grad {
		x := float32(w[i] * inv)
		if x < least || x > most {
			grad[i], x = 0, 0
		}
		ds += float32(d * float32(levels[i]-x))
	}
	return ds
}

// student is the trained model: its weights as train.Tape wants them.
type student struct {
	m       *model.Model
	formats []quant.Format
	scales  Scales
	begin   Start // nil: codes follow from the first scales
	all     []*latent
}

// newStudent prepares the weights of m without reading any.
func newStudent(m *model.Model, formats []quant.Format, scales Scales) *student {
	s := &student{m: m, formats: formats, scales: scales, all: make([]*latent, len(m.Weights))}
	for i, w := range m.Weights {
		l := &latent{rows: 1, cols: w.Elems()}
		if w.Role.Matrix() {
			l.rows, l.cols = w.Shape[0], w.Shape[1]
			if f, ok := formats[i].(quant.Leveled); ok {
				l.format, l.groups = f, quant.Groups(f, l.cols)
			}
		}
		s.all[i] = l
	}
	return s
}

// load reads weight i, unless it is there, with the scales that training starts
// from; with empty it only makes room for what a state holds.
func (s *student) load(i int, empty bool) (err error) {
	l := s.all[i]
	if l.w != nil {
		return nil
	}
	if empty {
		l.w, l.scales = make([]float32, l.rows*l.cols), make([]float32, l.rows*l.groups)
		return nil
	}
	if l.w, err = s.m.Tensor(i); err != nil {
		return err
	}
	if l.format == nil {
		return nil
	}
	if s.begin != nil {
		err = l.startAt(func(row int, values []float32, scales []tensor.Half) error { return s.begin(i, row, values, scales) })
	} else {
		err = l.start(s.scales)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", s.m.Weights[i].Name, err)
	}
	return nil
}

// loadAll loads every weight.
func (s *student) loadAll(empty bool) error {
	for i := range s.all {
		if err := s.load(i, empty); err != nil {
			return err
		}
	}
	return nil
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

// startAt begins with codes and scales that were calibrated: a weight that rounds
// to its code stays, the others move to the middle of what does.
func (l *latent) startAt(row func(row int, values []float32, scales []tensor.Half) error) error {
	l.scales = make([]float32, l.rows*l.groups)
	half, values, levels := make([]tensor.Half, l.groups), make([]float32, l.cols), make([]float32, l.cols)
	G := l.format.Group()
	for r := range l.rows {
		if err := row(r, values, half); err != nil {
			return fmt.Errorf("row %d: %w", r, err)
		}
		w := l.w[r*l.cols : (r+1)*l.cols]
		for g, h := range half {
			s := h.Float32()
			l.scales[r*l.groups+g] = s
			a, b := g*G, min((g+1)*G, l.cols)
			l.format.RoundLevels(levels[a:b], w[a:b], h)
			for i := a; i < b; i++ {
				if float32(levels[i]*s) != values[i] {
					w[i] = values[i]
				}
			}
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

// emit gives what was trained: row forms of matrices, 16 rows at a time, and
// vectors as they are. Weights that nobody trained are read and rounded.
func (s *student) emit(sink Sink) error {
	for i := range s.all {
		if err := s.emitOne(i, sink); err != nil {
			return err
		}
	}
	return nil
}

// emitOne gives one weight, once, and drops it.
func (s *student) emitOne(i int, sink Sink) error {
	l := s.all[i]
	if l.done {
		return nil
	}
	if err := s.load(i, false); err != nil {
		return err
	}
	l.done = true
	defer func() { l.w, l.scales = nil, nil }()
	if !s.m.Weights[i].Role.Matrix() {
		return sink.Vector(i, l.w)
	}
	for r := 0; r < l.rows; r += kernel.Rows {
		var rows [][]byte
		for k := r; k < min(r+kernel.Rows, l.rows); k++ {
			enc, err := l.encode(s.formats[i], k)
			if err != nil {
				return fmt.Errorf("%s row %d: %w", s.m.Weights[i].Name, k, err)
			}
			rows = append(rows, enc)
		}
		if err := sink.Rows(i, r, rows); err != nil {
			return err
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
	l.halves(half, r)
	if l.frozen {
		// Levels times scales round to themselves, so frozen codes stay.
		row = make([]float32, l.cols)
		for k := range row {
			row[k] = float32(l.levels[r*l.cols+k] * half[k/l.format.Group()].Float32())
		}
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
	r := train.Rounding{Rounds: func(w int) bool { return s.all[w].format != nil }, Input: func(dst, row []float32) {
		x := scratch.Get().(*rounded)
		defer scratch.Put(x)
		x.fit((len(row) + kernel.Sub - 1) / kernel.Sub)
		if !f.QuantizeA8(x.codes, x.scales, x.sums, row) {
			dst[0] = nan
			return
		}
		for i, s := range x.scales {
			at := i * kernel.Sub
			part := dst[at:min(at+kernel.Sub, len(dst))]
			for k, c := range x.codes[at : at+len(part)] {
				part[k] = float32(c) * s
			}
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
