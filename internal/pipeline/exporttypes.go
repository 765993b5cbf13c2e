package pipeline

import (
	"context"
	"encoding/binary"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"slmc/formats"
	"slmc/formats/gguf"
	"slmc/model"
	"slmc/quant"
	"slmc/tensor"
)

// autoType is the name of the smallest type that holds a matrix exactly.
const autoType = "auto"

// ExportTypes lists the types of a GGUF file that an export writes.
func ExportTypes() []string {
	return []string{autoType, "f32", "f16", "bf16", "q8_0", "q4_0", "q2_k", "tq2_0"}
}

// wanted is a type that was asked for.
type wanted struct {
	auto bool
	typ  gguf.Type
}

func (w wanted) String() string {
	if w.auto {
		return autoType
	}
	return w.typ.String()
}

func parseType(flag, name string, allowed []string) (wanted, error) {
	if !slices.Contains(allowed, strings.ToLower(name)) {
		return wanted{}, fmt.Errorf("%w: %s %q: want one of %s", ErrUsage, flag, name, strings.Join(allowed, ", "))
	}
	if strings.EqualFold(name, autoType) {
		return wanted{auto: true}, nil
	}
	t, err := gguf.TypeByName(name)
	return wanted{typ: t}, err
}

// types reads the options.
func (e *export) types() (err error) {
	if e.typ, err = parseType("type", e.opts.Type, ExportTypes()); err != nil {
		return err
	}
	e.embed = e.typ
	small := slices.Contains([]gguf.Type{gguf.Q4_0, gguf.Q2_K, gguf.TQ2_0}, e.typ.typ)
	switch {
	case e.opts.Embeddings != "":
		if e.embed, err = parseType("embeddings", e.opts.Embeddings, ExportTypes()); err != nil {
			return err
		}
	case small && e.o.Bundle != nil:
		e.embed = wanted{auto: true}
	case small:
		e.embed = wanted{typ: gguf.Q8_0}
	}
	if e.opts.Fallback != "" {
		w, err := parseType("fallback", e.opts.Fallback, []string{"f16", "bf16", "f32"})
		if err != nil {
			return err
		}
		e.fall = &w.typ
	}
	return nil
}

// chosen is what becomes of a matrix.
type chosen struct {
	typ   gguf.Type
	carry bool // the bundle's codes are carried over
	// round: its scales are rounded to such as Q2_K stores.
	round bool
}

// choose decides the type of every matrix, and notes which it is that most
// parameters have.
func (e *export) choose(ctx context.Context) error {
	e.chosen = make([]chosen, len(e.m.Weights))
	elems := map[gguf.Type]int{}
	for i, w := range e.m.Weights {
		if !w.Role.Matrix() {
			continue
		}
		want := e.typ
		if w.Role == model.RoleEmbed || w.Role == model.RoleHead {
			want = e.embed
		}
		var err error
		if want.auto {
			e.chosen[i], err = e.smallest(ctx, i)
		} else {
			e.chosen[i], err = e.asked(i, want.typ)
		}
		if err != nil {
			return err
		}
		t := e.chosen[i].typ
		if elems[t] += w.Elems(); elems[t] > elems[e.main] {
			e.main = t
		}
	}
	if !e.typ.auto {
		e.main = e.typ.typ
	}
	return nil
}

// grid is the format of a matrix of a bundle whose weights are levels times
// scales; ok is false for floats.
func (e *export) grid(i int) (f quant.Leveled, ok bool) {
	if e.o.Bundle == nil {
		return nil, false
	}
	f, ok = e.o.Bundle.Format(i).(quant.Leveled)
	return f, ok
}

// asked is type t for weight i, a fallback, or the reason against both.
func (e *export) asked(i int, t gguf.Type) (chosen, error) {
	w := &e.m.Weights[i]
	elems, _ := t.Block()
	if w.Shape[1]%elems != 0 {
		if e.fall == nil {
			return chosen{}, e.refuse(w, "rows of %d elements, %s has blocks of %d; %s", w.Shape[1], t, elems, e.wayOut(w, elems))
		}
		return chosen{typ: *e.fall}, nil
	}
	f, ok := e.grid(i)
	if !ok || elems == 1 {
		return chosen{typ: t}, nil
	}
	why, err := e.against(i, t)
	switch {
	case err != nil:
		return chosen{}, err
	case why == "":
		return chosen{typ: t, carry: true}, nil
	case !e.opts.Requantize:
		return chosen{}, e.refuse(w, "%s does not hold its %s weights exactly: %s; --requantize rounds them and tells the error, --type auto finds a type that holds them",
			t, f.Name(), why)
	}
	_, two := f.(quant.W2)
	return chosen{typ: t, carry: two && t == gguf.Q2_K, round: two && t == gguf.Q2_K}, nil
}

// wayOut says what can be done about rows that are not whole blocks.
func (e *export) wayOut(w *model.Weight, elems int) string {
	out := "--fallback f16 stores such matrices as F16 and lists them"
	switch {
	case w.Role == model.RoleDown && !e.opts.Pad:
		return fmt.Sprintf("--pad widens the FFNs to %d, %s", (w.Shape[1]+elems-1)/elems*elems, out)
	case e.opts.Pad && w.Role == model.RoleAttnO:
		return "--pad widens FFNs only: more heads would keep keys and values of their own; " + out
	case e.opts.Pad:
		return "--pad widens FFNs only: these rows are the hidden size, over which RMS norms take their mean; " + out
	}
	return out
}

func (e *export) refuse(w *model.Weight, format string, args ...any) error {
	return formats.Unsupported(filepath.Base(e.o.Path), w.Name, -1, format, args...)
}

// smallest is the smallest type that holds weight i exactly.
func (e *export) smallest(ctx context.Context, i int) (chosen, error) {
	if _, ok := e.grid(i); ok {
		for _, t := range []gguf.Type{gguf.Q2_K, gguf.Q4_0, gguf.Q8_0} {
			if elems, _ := t.Block(); e.m.Weights[i].Shape[1]%elems != 0 {
				continue
			}
			if why, err := e.against(i, t); err != nil || why == "" {
				return chosen{typ: t, carry: true}, err
			}
		}
	}
	half, brain := true, true
	err := eachPiece(ctx, e.m, i, func(_ int, x []float32) error {
		for _, v := range x {
			half = half && tensor.HalfFrom(v).Float32() == v
			brain = brain && tensor.BFloatFrom(v).Float32() == v
		}
		return nil
	})
	switch {
	case half:
		return chosen{typ: gguf.F16}, err
	case brain:
		return chosen{typ: gguf.BF16}, err
	}
	return chosen{typ: gguf.F32}, err
}

// against is what keeps blocks of type t from holding the levels and scales of
// weight i, "" for nothing.
func (e *export) against(i int, t gguf.Type) (why string, err error) {
	f, _ := e.grid(i)
	lo, hi := f.Levels()
	switch t {
	case gguf.Q8_0, gguf.Q4_0:
		if _, ok := blockLevels(t, f); !ok {
			return fmt.Sprintf("levels from %g to %g are too many", lo, hi), nil
		}
		return "", nil
	case gguf.TQ2_0:
		return fmt.Sprintf("it has the levels -1, 0 and 1, they from %g to %g", lo, hi), nil
	}
	if _, two := f.(quant.W2); !two {
		return fmt.Sprintf("levels from %g to %g are too many", lo, hi), nil
	}
	if cols := e.src.Weights[i].Shape[1]; cols%16 != 0 {
		return fmt.Sprintf("rows of %d weights end within a group of 16, and zeros would be needed beside the four levels", cols), nil
	}
	return e.freeScales(i)
}

// freeScales says which scales of a 2-bit matrix Q2_K does not store.
func (e *export) freeScales(i int) (string, error) {
	if why, known := e.free[i]; known {
		return why, nil
	}
	first, worst := "", 0.0
	err := e.o.Bundle.Guard(func() error {
		eachScales(e, i, func(row int, scales []tensor.Half, group int) {
			if b := gguf.HoldsBalancedQ2K(scales, group); b >= 0 && first == "" {
				first = fmt.Sprintf("the scales of row %d, weights from %d on,", row, 256*b)
			}
			if first != "" {
				worst = max(worst, roundedBy(scales, group))
			}
		})
		return nil
	})
	if first != "" {
		first = fmt.Sprintf("%s are not multiples of one float16 below 16; rounding moves a scale by up to %.1f %%; build with --target gguf-q2k for such as are", first, 100*worst)
	}
	e.free[i] = first
	return first, err
}

// roundedBy is the largest relative change of a scale of a row that is rounded
// to what Q2_K stores.
func roundedBy(scales []tensor.Half, group int) float64 {
	x, to := floatScales(scales), make([]tensor.Half, len(scales))
	gguf.ConstrainQ2K(to, x, group)
	worst := 0.0
	for g, v := range x {
		if v != 0 {
			worst = max(worst, float64(max(to[g].Float32()-v, v-to[g].Float32()))/float64(max(v, -v)))
		}
	}
	return worst
}

func floatScales(scales []tensor.Half) []float32 {
	x := make([]float32, len(scales))
	for g, h := range scales {
		x[g] = h.Float32()
	}
	return x
}

// eachScales visits the scales of a matrix row by row, as the bundle has them;
// the caller guards.
func eachScales(e *export, i int, visit func(row int, scales []tensor.Half, group int)) {
	f, shape := e.o.Bundle.Format(i), e.src.Weights[i].Shape
	r := rowReader{e.o.Bundle, i, make([]byte, f.RowBytes(shape[1]))}
	scales := make([]tensor.Half, quant.Groups(f, shape[1]))
	for row := range shape[0] {
		rowScales(scales, f, r.row(row))
		visit(row, scales, f.Group())
	}
}

// rowScales takes the scales out of a row form.
func rowScales(dst []tensor.Half, f quant.Format, form []byte) {
	for g := range dst {
		dst[g] = tensor.Half(binary.LittleEndian.Uint16(form[g*f.RowBytes(f.Group()):]))
	}
}

// widen pads the FFNs to whole blocks of the type that their rows get, where
// that is asked for and needed.
func (e *export) widen() error {
	if !e.opts.Pad {
		return nil
	}
	block := 1
	for i, w := range e.m.Weights {
		if w.Role != model.RoleDown {
			continue
		}
		elems, err := e.padBlock(i)
		if err != nil {
			return err
		}
		block = max(block, elems)
	}
	ffn := e.m.Blocks[0].FFN
	to := (ffn + block - 1) / block * block
	if to == ffn {
		return nil
	}
	if slices.ContainsFunc(e.m.Blocks, func(b model.Block) bool { return b.FFN != ffn }) {
		return nil // refused later, with the block
	}
	e.m = padFFN(e.m, to)
	e.report.PaddedFFN = to
	e.report.Notes = append(e.report.Notes, fmt.Sprintf("the FFNs are %d wide instead of %d: what is added is zero and adds nothing to any output", to, ffn))
	return nil
}

// padBlock is the block that the rows of down matrix i must be whole multiples
// of: that of the type asked for, or of the smallest one for its levels.
func (e *export) padBlock(i int) (int, error) {
	if !e.typ.auto {
		elems, _ := e.typ.typ.Block()
		return elems, nil
	}
	if _, ok := e.grid(i); !ok {
		return 1, nil
	}
	why, err := e.against(i, gguf.Q2_K)
	if why == "" {
		return 256, err
	}
	return 32, err
}
