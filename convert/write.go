package convert

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"

	"slmc/internal/kernel"
	"slmc/model"
	"slmc/quant"
	"slmc/tensor"
)

// Scales chooses the scales of one row for a format with groups: dst has one
// for each. calibrate.RTN is one.
type Scales func(dst []tensor.Half, f quant.Format, row []float32) error

// WriteOptions are how Write works; none of them changes a byte of the result
// but Scales.
type WriteOptions struct {
	Threads  int // at least 1
	Kernel   *kernel.Funcs
	Scales   Scales
	Progress func(done, total int64) // bytes written; may be nil
}

// Write packs the weights of m as p places them and writes p.Bytes bytes to w,
// from the first offset to the last, with zeros between. It decides nothing: the
// bytes depend on m, p and the scales alone, whatever the number of threads. It
// holds a few chunks of 256 KiB (Plan.WorkBytes) and reads every weight once.
func Write(ctx context.Context, w io.Writer, m *model.Model, p *Plan, o WriteOptions) error {
	ctx, cancel := context.WithCancel(ctx)
	threads := max(1, o.Threads)
	work, order := make(chan *chunk), make(chan *chunk, 2*threads)
	free := make(chan []byte, 2*threads)
	for range 2 * threads {
		free <- nil
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() { // lists the chunks in order; a free buffer for each
		defer close(work)
		defer close(order)
		for c := range p.chunks() {
			select {
			case c.buf = <-free:
			case <-ctx.Done():
				return
			}
			order <- c // has room: there are as many buffers
			select {
			case work <- c:
			case <-ctx.Done():
				return
			}
		}
	})
	for range threads {
		wg.Go(func() {
			pk := packer{m: m, o: o}
			for c := range work {
				c.err = pk.pack(c)
				close(c.done)
			}
		})
	}
	out := orderedWriter{w: w, total: p.Bytes, progress: o.Progress}
	for c := range order {
		select {
		case <-c.done:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := errors.Join(c.err, ctx.Err()); err != nil {
			return err
		}
		if err := out.write(c); err != nil {
			return err
		}
		free <- c.buf
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	return out.pad(p.Bytes)
}

// chunk is a run of panels of one matrix, or a whole vector.
type chunk struct {
	s      Stored
	p0, p1 int // panels
	offset int64
	buf    []byte
	err    error
	done   chan struct{}
}

// chunks yields the chunks of the plan in the order of their offsets.
func (p *Plan) chunks() func(yield func(*chunk) bool) {
	return func(yield func(*chunk) bool) {
		for _, s := range p.Stored {
			w := p.Graph.Weights[s.Weight]
			if !w.Role.Matrix() {
				if !yield(&chunk{s: s, offset: s.Offset, done: make(chan struct{})}) {
					return
				}
				continue
			}
			rows, cols := w.Shape[0], w.Shape[1]
			step := s.chunkPanels(cols)
			for p0 := 0; p0 < quant.Panels(rows); p0 += step {
				p1 := min(p0+step, quant.Panels(rows))
				c := &chunk{s: s, p0: p0, p1: p1, offset: s.Offset + int64(p0*s.Format.PanelBytes(cols)), done: make(chan struct{})}
				if !yield(c) {
					return
				}
			}
		}
	}
}

// packer is what one worker holds.
type packer struct {
	m      *model.Model
	o      WriteOptions
	x      []float32
	scales []tensor.Half
	rows   [kernel.Rows][]byte
}

// grow returns s with n elements, the contents lost.
func grow[T any](s []T, n int) []T {
	if cap(s) < n {
		return make([]T, n)
	}
	return s[:n]
}

// pack fills the chunk's buffer.
func (pk *packer) pack(c *chunk) error {
	w := pk.m.Weights[c.s.Weight]
	if !w.Role.Matrix() {
		pk.x = grow(pk.x, w.Elems())
		if err := pk.m.Values.Read(c.s.Weight, 0, pk.x); err != nil {
			return err
		}
		c.buf = grow(c.buf, 4*len(pk.x))
		for i, v := range pk.x {
			binary.LittleEndian.PutUint32(c.buf[4*i:], math.Float32bits(v))
		}
		return nil
	}
	rows, cols := w.Shape[0], w.Shape[1]
	size := c.s.Format.PanelBytes(cols)
	c.buf = grow(c.buf, (c.p1-c.p0)*size)
	for p := c.p0; p < c.p1; p++ {
		r := p * kernel.Rows
		n := min(kernel.Rows, rows-r)
		pk.x = grow(pk.x, n*cols)
		if err := pk.m.Values.Read(c.s.Weight, r*cols, pk.x); err != nil {
			return err
		}
		if err := pk.panel(c.s.Format, c.buf[(p-c.p0)*size:][:size], n, cols); err != nil {
			return fmt.Errorf("%s, rows %d to %d: %w", w.Name, r, r+n-1, err)
		}
	}
	return nil
}

// panel rounds the n rows in pk.x and packs them.
func (pk *packer) panel(f quant.Format, panel []byte, n, cols int) error {
	groups := quant.Groups(f, cols)
	pk.scales = grow(pk.scales, n*groups)
	if groups > 0 {
		for r := range n {
			if err := pk.o.Scales(pk.scales[r*groups:][:groups], f, pk.x[r*cols:][:cols]); err != nil {
				return err
			}
		}
	}
	if w8, ok := f.(quant.W8); ok {
		return w8.EncodePanel(pk.o.Kernel, panel, pk.x, cols, pk.scales)
	}
	for r := range n {
		var err error
		if pk.rows[r], err = f.Encode(pk.rows[r][:0], pk.x[r*cols:][:cols], pk.scales[r*groups:][:groups]); err != nil {
			return err
		}
	}
	f.Pack(panel, pk.rows[:n], cols)
	return nil
}

// orderedWriter writes chunks at ascending offsets, zeros between them.
type orderedWriter struct {
	w         io.Writer
	at, total int64
	progress  func(done, total int64)
}

func (o *orderedWriter) write(c *chunk) error {
	if err := o.pad(c.offset); err != nil {
		return err
	}
	n, err := o.w.Write(c.buf)
	o.at += int64(n)
	if o.progress != nil {
		o.progress(o.at, o.total)
	}
	return err
}

// pad writes zeros up to offset.
func (o *orderedWriter) pad(offset int64) error {
	var zero [Align]byte
	for o.at < offset {
		n, err := o.w.Write(zero[:min(int64(Align), offset-o.at)])
		o.at += int64(n)
		if err != nil {
			return err
		}
	}
	return nil
}
