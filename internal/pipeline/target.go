package pipeline

import (
	"fmt"
	"slices"
	"strings"

	"slmc/calibrate"
	"slmc/convert"
	"slmc/formats/gguf"
	"slmc/model"
	"slmc/qat"
	"slmc/quant"
	"slmc/tensor"
)

// targetQ2K keeps the scales of 2-bit matrices to such as Q2_K stores, so that an
// export holds the bundle's weights exactly.
const targetQ2K = "gguf-q2k"

// Targets lists what a bundle can be built for.
func Targets() []string { return []string{targetQ2K} }

// checkTarget refuses a target that the model or the recipe can't meet.
func (r Recipe) checkTarget(g *model.Graph, f []quant.Format) error {
	if r.Target == "" {
		return nil
	}
	if !slices.Contains(Targets(), r.Target) {
		return fmt.Errorf("%w: target %q: want one of %s", ErrUsage, r.Target, strings.Join(Targets(), ", "))
	}
	if r.Budget != nil {
		return fmt.Errorf("%w: target %s: a budget chooses formats that it may not hold; name the formats in a recipe", ErrUsage, r.Target)
	}
	found := false
	for i, w := range g.Weights {
		if _, ok := f[i].(quant.W2); !ok || !w.Role.Matrix() {
			continue
		}
		found = true
		switch cols := w.Shape[1]; {
		case cols%256 == 0:
		case w.Role != model.RoleDown:
			return fmt.Errorf("%w: target %s: %s has rows of %d, Q2_K blocks of 256; only FFNs can be padded; a recipe can give it w4", ErrUsage, r.Target, w.Name, cols)
		case cols%16 != 0:
			return fmt.Errorf("%w: target %s: %s has rows of %d, which end within a group of 16; a recipe can give it w4", ErrUsage, r.Target, w.Name, cols)
		}
	}
	if !found {
		return fmt.Errorf("%w: target %s: no matrix is w2", ErrUsage, r.Target)
	}
	return nil
}

// scales chooses scales of rows that are rounded to nearest.
func (b *build) scales() convert.Scales {
	rtn := calibrate.RTN{Kernel: b.kernel}.Scales
	grid := b.grid()
	if grid == nil {
		return rtn
	}
	return func(dst []tensor.Half, f quant.Format, row []float32) error {
		if err := rtn(dst, f, row); err != nil {
			return err
		}
		grid(dst, f, floatScales(dst))
		return nil
	}
}

// grid is what the target leaves of the scales; nil: all.
func (b *build) grid() qat.Grid {
	if b.recipe.Target != targetQ2K {
		return nil
	}
	return func(dst []tensor.Half, f quant.Format, scales []float32) {
		if w2, ok := f.(quant.W2); ok {
			gguf.ConstrainQ2K(dst, scales, w2.GroupSize)
			return
		}
		for g, s := range scales {
			dst[g] = tensor.HalfFrom(s)
		}
	}
}
