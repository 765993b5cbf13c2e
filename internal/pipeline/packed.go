package pipeline

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"slmc/formats"
	"slmc/formats/safetensors"
	"slmc/model"
	"slmc/quant"
	"slmc/tensor"
)

// PackedOptions say how ExportPacked stores a bundle.
type PackedOptions struct {
	Layout string // one of PackedLayouts
	// Floats is the type of scales and of all that is not packed, "f32" or
	// "f16"; "" for f32, which holds everything exactly.
	Floats string
	// Fallback stores matrices that the layout can't pack as Floats; without it
	// they are refused by name.
	Fallback bool
	DryRun   bool // stop when everything is decided; the report lacks what is measured
}

// PackedReport tells what ExportPacked wrote and how far it is from the bundle.
type PackedReport struct {
	Output       string  `json:"output"`
	Layout       string  `json:"layout"`
	Architecture string  `json:"architecture"`
	Floats       string  `json:"floats"`
	Parameters   int64   `json:"parameters"`
	FileBytes    int64   `json:"file_bytes"` // of the weights
	FileBPW      float64 `json:"file_bpw"`
	Exact        bool    `json:"exact"`     // every value is the bundle's, bit for bit
	MaxError     float64 `json:"max_error"` // largest difference of a value
	// LogitError is as in ExportReport.
	LogitError  float64        `json:"logit_error"`
	LogitTokens int            `json:"logit_tokens"`
	Files       []string       `json:"files"`
	Notes       []string       `json:"notes"`
	Tensors     []PackedTensor `json:"tensors"` // the matrices
}

// PackedTensor is one matrix of the folder; Bits and GroupSize are 0 for floats.
type PackedTensor struct {
	Name      string `json:"name"`
	Format    string `json:"format"` // the bundle's
	Bits      int    `json:"bits,omitempty"`
	GroupSize int    `json:"group_size,omitempty"`
	Shape     []int  `json:"shape"`
}

// PackedLayouts lists the layouts of ExportPacked.
func PackedLayouts() []string {
	var names []string
	for _, l := range packedLayouts() {
		names = append(names, l.name)
	}
	return names
}

// ExportPacked writes the bundle of o as a Hugging Face folder with packed
// matrices. The folder is read back by what the layout's own documents say, its
// values and logits are compared with the bundle's, and only then does it get
// its name. dir must not exist, or be an empty folder. progress, which may be
// nil, is called with bytes of weights.
func ExportPacked(ctx context.Context, o *Opened, dir string, opts PackedOptions, log *slog.Logger, progress func(done, total int64)) (PackedReport, error) {
	p := &packedWriter{opts: opts, report: PackedReport{Output: dir, Layout: opts.Layout, Files: []string{}, Notes: []string{}}}
	i := slices.IndexFunc(packedLayouts(), func(l packedLayout) bool { return l.name == opts.Layout })
	switch {
	case i < 0:
		return PackedReport{}, fmt.Errorf("%w: layout %q: want one of %s", ErrUsage, opts.Layout, strings.Join(PackedLayouts(), ", "))
	case o.Bundle == nil:
		return PackedReport{}, fmt.Errorf("%w: %s is no bundle: %s packs weights that have codes already; make them with slmc build", ErrUsage, o.Path, opts.Layout)
	case opts.Floats == "":
		p.opts.Floats = "f32"
	case opts.Floats != "f32" && opts.Floats != "f16":
		return PackedReport{}, fmt.Errorf("%w: floats %q: want f32 or f16", ErrUsage, opts.Floats)
	}
	p.layout = packedLayouts()[i]
	p.h = &hfWriter{ctx: ctx, o: o, m: o.Model(), opts: HFOptions{DType: p.opts.Floats}, log: log, progress: progress, packed: p.tensors,
		report: HFReport{Output: dir, Files: []string{}, Notes: []string{}}}
	if err := p.plan(); err != nil {
		return PackedReport{}, err
	}
	if !opts.DryRun {
		err := replaceFolder(dir, func(temp string) error {
			p.h.dir = temp
			return p.h.write()
		}, p.check)
		if err != nil {
			return PackedReport{}, fmt.Errorf("export to %s: %w", dir, err)
		}
		p.report.FileBytes = p.h.report.FileBytes
		p.report.Files = p.h.report.Files
		slices.Sort(p.report.Files)
	}
	p.report.Notes = append(p.report.Notes, p.h.report.Notes...)
	p.report.FileBPW = 8 * float64(p.report.FileBytes) / float64(p.report.Parameters)
	return p.report, nil
}

// packedWriter is one run of ExportPacked.
type packedWriter struct {
	h      *hfWriter
	opts   PackedOptions
	layout packedLayout
	grids  []packedGrid // by weight; Bits 0 for floats
	report PackedReport
}

// packedGrid is how the codes of a matrix are stored: unsigned, Bits each, for
// the levels (code - Zero/2)/Times of the bundle under scales times Times.
type packedGrid struct {
	Bits, Group int
	zero2       int // twice the code of level 0
	times       int // a bundle's level is a layout's level over times
}

// plan decides the grid of every matrix and the config.
func (p *packedWriter) plan() error {
	r, m := &p.report, p.h.m
	for i, b := range m.Blocks {
		if b.KVFrom != i {
			return formats.Unsupported(p.h.o.Path, "", -1, "%s: block %d reads the keys and values of block %d, which no reader of such folders knows; slmc convert writes a folder with the map", p.opts.Layout, i, b.KVFrom)
		}
	}
	if err := p.h.plan(); err != nil {
		return err
	}
	r.Architecture, r.Floats, r.Parameters = m.Arch, p.opts.Floats, int64(m.Parameters())
	p.grids = make([]packedGrid, len(m.Weights))
	widened := 0
	for i, w := range m.Weights {
		if !w.Role.Matrix() {
			continue
		}
		f := p.h.o.Bundle.Format(i)
		grid, why := p.layout.grid(f, w)
		if why != "" && !p.opts.Fallback {
			return formats.Unsupported(filepath.Base(p.h.o.Path), w.Name, -1, "%s: %s; --fallback %s stores such matrices as floats", p.opts.Layout, why, p.opts.Floats)
		}
		p.grids[i] = grid
		if grid.times > 1 {
			widened++
		}
		r.Tensors = append(r.Tensors, PackedTensor{p.h.named.Weights[i].Source, f.Name(), grid.Bits, grid.Group, w.Shape})
	}
	if widened > 0 {
		r.Notes = append(r.Notes, fmt.Sprintf("the 2-bit levels of %d matrices are half integers, which symmetric codes of 2 bits are not: they are stored exactly, as 4-bit codes -3, -1, 1, 3 under half their scale", widened))
	}
	if m.Arch == "mobilellm" {
		r.Notes = append(r.Notes, "readers of this layout know the weights but not model_type mobilellm: their model code must be given to them")
	}
	p.layout.config(p)
	p.h.total = 0
	for i := range m.Weights {
		for _, t := range p.h.tensors(i) {
			p.h.total += t.Bytes()
		}
	}
	r.FileBytes = p.h.total
	return nil
}

// module is the name of the layer that weight i belongs to.
func (p *packedWriter) module(i int) string {
	return strings.TrimSuffix(p.h.named.Weights[i].Source, ".weight")
}

// tensors are the packed forms of weight i, nil where it stays floats.
func (p *packedWriter) tensors(i int) []safetensors.Tensor {
	if p.grids[i].Bits == 0 {
		return nil
	}
	return p.layout.tensors(p, i)
}

// words writes the codes of weight i, each row packed into 32-bit words, lowest
// bits first.
func (p *packedWriter) words(i int, dst io.Writer) error {
	g := p.grids[i]
	cols := p.h.m.Weights[i].Shape[1]
	row := make([]byte, 4*((cols*g.Bits+31)/32))
	return p.rows(i, func(levels []float32, _ []float32) error {
		clear(row)
		for k, l := range levels {
			code := int(2*l)*g.times + g.zero2
			bit := k * g.Bits
			row[bit/8] |= byte(code / 2 << (bit % 8)) // 8 is a multiple of Bits
		}
		return p.emit(dst, row)
	})
}

// scales writes what value makes of each scale of weight i, group by group of the
// layout's, in the type of floats.
func (p *packedWriter) scales(i int, dst io.Writer, value func(scale float32) float32) error {
	g, group := p.grids[i], p.h.o.Bundle.Format(i).Group()
	var x []float32
	var raw []byte
	return p.rows(i, func(levels, scales []float32) error {
		x = x[:0]
		for k := 0; k < len(levels); k += g.Group {
			x = append(x, value(scales[k/group]/float32(g.times)))
		}
		var err error
		if raw, err = p.h.format.Encode(raw[:0], x, nil); err != nil {
			return fmt.Errorf("scales of %s: %w; --floats f32 holds them", p.h.m.Weights[i].Name, err)
		}
		return p.emit(dst, raw)
	})
}

// rows visits the rows of a matrix as levels and scales.
func (p *packedWriter) rows(i int, visit func(levels, scales []float32) error) error {
	b, shape := p.h.o.Bundle, p.h.m.Weights[i].Shape
	f := b.Format(i)
	r := rowReader{b, i, make([]byte, f.RowBytes(shape[1]))}
	levels, half := make([]float32, shape[1]), make([]tensor.Half, quant.Groups(f, shape[1]))
	return b.Guard(func() error {
		for row := range shape[0] {
			if err := p.h.ctx.Err(); err != nil {
				return err
			}
			form := r.row(row)
			f.Decode(levels, form)
			rowScales(half, f, form)
			scales := floatScales(half)
			for g, s := range scales {
				if s-s != 0 {
					return formats.Corrupt(b.Name(), p.h.m.Weights[i].Name, -1, "row %d has a scale of %g", row, s)
				}
				for k := g * f.Group(); k < min((g+1)*f.Group(), shape[1]); k++ {
					if s == 0 {
						levels[k] = p.zeroLevel(i)
					} else {
						levels[k] /= s
					}
				}
			}
			if err := visit(levels, scales); err != nil {
				return err
			}
		}
		return nil
	})
}

// zeroLevel is a level that the grid has, for groups whose scale is 0.
func (p *packedWriter) zeroLevel(i int) float32 {
	lo, _ := p.h.o.Bundle.Format(i).Levels()
	return lo - float32(math.Trunc(float64(lo)))
}

func (p *packedWriter) emit(dst io.Writer, raw []byte) error {
	_, err := dst.Write(raw)
	p.h.done += int64(len(raw))
	if p.h.progress != nil {
		p.h.progress(p.h.done, p.h.total)
	}
	return err
}

// shape64 writes a matrix's shape as int64.
func shape64(dst io.Writer, shape []int) error {
	var raw []byte
	for _, n := range shape {
		raw = binary.LittleEndian.AppendUint64(raw, uint64(n))
	}
	_, err := dst.Write(raw)
	return err
}

// check reads the folder back.
func (p *packedWriter) check(dir string) (err error) {
	got, files, err := readPacked(dir, p.layout, p.h.named)
	if err != nil {
		return err
	}
	defer func() {
		if e := files.Close(); err == nil {
			err = e
		}
	}()
	if err := sameGraph(p.h.m.Graph, got.Graph); err != nil {
		return formats.Corrupt("config.json", "", -1, "%v", err)
	}
	p.report.Exact = true
	buf := make([]float32, pieceElems)
	for i, w := range p.h.m.Weights {
		bound := 0.0
		if p.opts.Floats == "f16" {
			bound = 0x1p-9 // twice rounded, of the largest value of a piece
		}
		err := eachPiece(p.h.ctx, p.h.m, i, func(off int, x []float32) error {
			y := buf[:len(x)]
			if err := got.Values.Read(i, off, y); err != nil {
				return err
			}
			most := 0.0
			for _, v := range x {
				most = max(most, math.Abs(float64(v)))
			}
			for k := range x {
				d := math.Abs(float64(x[k]) - float64(y[k]))
				if !(d <= bound*most+bound*0x1p-14) {
					return formats.Corrupt("model.safetensors", w.Name, -1, "element %d is %g, wanted %g", off+k, y[k], x[k])
				}
				p.report.MaxError = max(p.report.MaxError, d)
				p.report.Exact = p.report.Exact && d == 0
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	p.report.LogitTokens = min(logitTokens, p.h.m.Context)
	p.report.LogitError, err = checkLogits(p.h.ctx, p.h.m, got, p.report.Exact)
	return err
}

var _ model.Values = packedValues{}
