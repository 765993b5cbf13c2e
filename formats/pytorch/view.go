package pytorch

import (
	"slices"

	"slmc/formats"
	"slmc/tensor"
)

// axis is one dimension of a strided view, in elements.
type axis struct{ len, stride int }

// view returns the dimensions of a tensor, outermost first, without those of
// length 1 and with those joined that follow each other in memory. A
// contiguous tensor has at most one axis, of stride 1.
func view(shape, stride []int) []axis {
	var out []axis
	for i, n := range shape {
		if n == 1 {
			continue
		}
		a := axis{n, stride[i]}
		if k := len(out) - 1; k >= 0 && out[k].stride == a.len*a.stride {
			out[k] = axis{out[k].len * a.len, a.stride}
			continue
		}
		out = append(out, a)
	}
	return out
}

// viewReader reads the elements of a view whose first one lies at byte base.
type viewReader struct {
	file *formats.File
	name string
	base int64
	elem tensor.DType
}

// read fills dst with the elements [off, off+len(dst)), in row-major order, of
// the view axes that begins at element start. It cuts the range into a part of
// the first row, whole rows, and a part of the last.
func (r *viewReader) read(axes []axis, start, off int, dst []float32) error {
	if len(axes) <= 1 {
		stride := 1
		if len(axes) == 1 {
			stride = axes[0].stride
		}
		return r.run(start+off*stride, stride, dst, 1, len(dst))
	}
	row := 1
	for _, a := range axes[1:] {
		row *= a.len
	}
	for len(dst) > 0 {
		i, rest := off/row, off%row
		if n := len(dst) / row; rest == 0 && n > 0 {
			box := slices.Clone(axes)
			box[0].len = n
			if err := r.box(box, start+i*axes[0].stride, dst[:n*row]); err != nil {
				return err
			}
			off, dst = off+n*row, dst[n*row:]
			continue
		}
		n := min(row-rest, len(dst))
		if err := r.read(axes[1:], start+i*axes[0].stride, rest, dst[:n]); err != nil {
			return err
		}
		off, dst = off+n, dst[n:]
	}
	return nil
}

// box fills dst with a whole view. It walks the axes from the largest stride
// to the smallest, whatever their order in dst, so that reads are as long as
// the file allows.
func (r *viewReader) box(axes []axis, start int, dst []float32) error {
	type placed struct {
		axis
		step int // between neighbours in dst
	}
	order := make([]placed, len(axes))
	step := 1
	for i := len(axes) - 1; i >= 0; i-- {
		order[i] = placed{axes[i], step}
		step *= axes[i].len
	}
	slices.SortStableFunc(order, func(a, b placed) int { return b.stride - a.stride })
	var walk func(k, at, to int) error
	walk = func(k, at, to int) error {
		a := order[k]
		if k == len(order)-1 {
			return r.run(at, a.stride, dst[to:], a.step, a.len)
		}
		for i := range a.len {
			if err := walk(k+1, at+i*a.stride, to+i*a.step); err != nil {
				return err
			}
		}
		return nil
	}
	return walk(0, start, 0)
}

// run reads n elements, stride apart from element at on, to every step-th
// place of dst.
func (r *viewReader) run(at, stride int, dst []float32, step, n int) error {
	off := r.base + int64(at)*int64(r.elem.Size())
	return r.file.ReadStrided(r.name, off, r.elem, max(stride, 1), dst, step, n)
}
