package pipeline

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"

	"slmc/convert"
	"slmc/formats"
	"slmc/formats/gguf"
	"slmc/model"
)

// check reads the file back: as a checkpoint, whose graph must be the model's;
// tensor by tensor, whose values must be within what their type can do; and its
// tokenizer.
func (e *export) check(ctx context.Context, path string) (err error) {
	c, err := convert.Open(ctx, path, convert.Options{})
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := sameComputation(e.m.Graph, c.Model.Graph); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	f, err := gguf.Open(path)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := e.checkValues(ctx, f); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if err := e.checkTokenizer(f); err != nil {
		return err
	}
	e.report.LogitTokens = min(logitTokens, e.m.Context)
	// A note may tell that llama.cpp computes otherwise, and so does its reader.
	e.report.LogitError, err = checkLogits(ctx, e.src, c.Model, e.report.Exact && len(e.file.Notes) == 0)
	if err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	return nil
}

// sameComputation reports where b, read from a file that was made of a, does
// not compute the same. Blocks that share weights in a have their own in b;
// rotary frequencies are made again from numbers in float32; the embedding's
// scale is llama.cpp's, which a note says where it is not a's.
func sameComputation(a, b *model.Graph) error {
	differ := func(what string, x, y any) error {
		return formats.Corrupt("", "", -1, "%s is %v, wanted %v", what, y, x)
	}
	switch {
	case a.Hidden != b.Hidden || a.Vocab != b.Vocab || a.Context != b.Context || len(a.Blocks) != len(b.Blocks):
		return differ("shape", []int{a.Hidden, a.Vocab, a.Context, len(a.Blocks)}, []int{b.Hidden, b.Vocab, b.Context, len(b.Blocks)})
	case a.Tied() != b.Tied():
		return differ("tied head", a.Tied(), b.Tied())
	case a.NormEps != b.NormEps || a.LogitCap != b.LogitCap:
		return differ("eps and soft-cap", []float32{a.NormEps, a.LogitCap}, []float32{b.NormEps, b.LogitCap})
	}
	for i := range a.Blocks {
		x, y := settings(&a.Blocks[i]), settings(&b.Blocks[i])
		if x != y {
			return differ(fmt.Sprintf("block %d", i), x, y)
		}
		p, q := a.Ropes[a.Blocks[i].Rope].InvFreq, b.Ropes[b.Blocks[i].Rope].InvFreq
		if !slices.EqualFunc(p, q, nearlySame) {
			return differ(fmt.Sprintf("block %d: rotary frequencies", i), p, q)
		}
	}
	return nil
}

// nearlySame allows the last bits of a frequency.
func nearlySame(x, y float32) bool {
	return math.Abs(float64(x)-float64(y)) <= 4e-7*math.Abs(float64(x))
}

// settings are what a block computes with, beside its weights.
func settings(b *model.Block) [9]float64 {
	act := 0.0
	if b.Act == model.GELUTanh {
		act = 1
	}
	// Scales agree to the precision in which the file's reader makes them.
	scale := math.Round(1e6*float64(b.AttnScale)) / 1e6
	return [9]float64{float64(b.Heads), float64(b.KVHeads), float64(b.HeadDim), float64(b.FFN), act, scale, float64(b.AttnCap), float64(b.Window), float64(b.KVFrom)}
}

// checkValues compares every tensor with the model and fills the report.
func (e *export) checkValues(ctx context.Context, f *gguf.File) error {
	infos := f.Tensors()
	if len(infos) != len(e.tensors) {
		return formats.Corrupt("", "", -1, "%d tensors, wanted %d", len(infos), len(e.tensors))
	}
	e.report.Exact = true
	power := map[string]float64{} // sums of squared values by type, for RMSError
	for k, info := range infos {
		want := &e.tensors[k]
		if info.Name != want.Name || !slices.Equal(info.Shape, want.Shape) || info.Type != want.Type.String() {
			return formats.Corrupt("", info.Name, info.Offset, "%s %v, wanted %s, %s %v", info.Type, info.Shape, want.Name, want.Type, want.Shape)
		}
		i := slices.IndexFunc(e.report.Types, func(t ExportedType) bool { return t.Type == info.Type })
		if i < 0 {
			i, e.report.Types = len(e.report.Types), append(e.report.Types, ExportedType{Type: info.Type})
		}
		t := &e.report.Types[i]
		t.Tensors++
		t.Bytes += info.Bytes
		if e.file.Weights[k] == model.None {
			continue
		}
		diff, most, sum, err := e.compare(ctx, f, k)
		if err != nil {
			return err
		}
		if diff > sum {
			return formats.Corrupt("", info.Name, -1, "values are off by more than they are large")
		}
		t.MaxError = max(t.MaxError, most)
		t.RMSError += diff
		power[t.Type] += sum
		e.report.MaxError = max(e.report.MaxError, most)
		e.report.Exact = e.report.Exact && most == 0
	}
	for i := range e.report.Types {
		t := &e.report.Types[i]
		if t.RMSError > 0 {
			t.RMSError = math.Sqrt(t.RMSError / power[t.Type])
		}
	}
	return nil
}

// compareBlock is the number of elements that are compared at a time, whole
// blocks of every type that is written.
const compareBlock = 1 << 14

// compare holds tensor k of the file to the model: the sum of squared
// differences, the largest one, and the sum of squared values. A difference
// beyond what the type makes of any value is ErrCorrupt: rows out of order, or
// a bad disk.
func (e *export) compare(ctx context.Context, f *gguf.File, k int) (diff, most, power float64, err error) {
	t, w := &e.tensors[k], e.file.Weights[k]
	elems := e.m.Weights[w].Elems()
	x, y := make([]float32, min(elems, compareBlock)), make([]float32, min(elems, compareBlock))
	for off := 0; off < elems; off += compareBlock {
		if err := ctx.Err(); err != nil {
			return 0, 0, 0, err
		}
		n := min(compareBlock, elems-off)
		if err := e.m.Values.Read(w, off, x[:n]); err != nil {
			return 0, 0, 0, err
		}
		if err := f.ReadF32(t.Name, off, y[:n]); err != nil {
			return 0, 0, 0, err
		}
		size, _ := t.Type.Block()
		for at := 0; at < n; at += size {
			bound := e.bound(k, x[at:min(at+size, n)])
			for i := at; i < min(at+size, n); i++ {
				d := math.Abs(float64(x[i]) - float64(y[i]))
				if !(d <= bound) {
					return 0, 0, 0, formats.Corrupt("", t.Name, -1, "element %d is %g, wanted %g within %g", off+i, y[i], x[i], bound)
				}
				most = max(most, d)
				diff += d * d
				power += float64(x[i]) * float64(x[i])
			}
		}
	}
	return diff, most, power, nil
}

// bound is the largest difference that the type of tensor k may leave in a
// block x: half a step between levels and what rounding the scale to float16
// moves the largest level by; Q4_0 also cuts off a value of the other sign than
// the largest one, by at most a step. The 2-bit types may leave out a value.
func (e *export) bound(k int, x []float32) float64 {
	const half, halfMin = 0x1p-11, 0x1p-25 // float16's rounding: relative, and below its normal numbers
	most := 0.0
	for _, v := range x {
		most = max(most, math.Abs(float64(v)))
	}
	switch t := e.tensors[k].Type; {
	case t == gguf.F32 || e.exact[k]:
		return 0
	case t == gguf.F16:
		return max(most*half, halfMin)
	case t == gguf.BF16:
		return most * 0x1p-8
	case t == gguf.Q8_0:
		return most/127*0.501 + max(most*half, 127*halfMin)
	case t == gguf.Q2_K || t == gguf.TQ2_0:
		return most*1.001 + 15*halfMin
	}
	return most/8*1.001 + max(most*half, 8*halfMin)
}
