package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"slmc/convert"
	"slmc/formats"
	"slmc/formats/safetensors"
	"slmc/model"
	"slmc/quant"
)

// HFOptions say how ConvertHF stores weights. The zero value is good.
type HFOptions struct {
	// DType is "f32", "f16" or "bf16"; "" for the narrowest of them that holds
	// the source without loss.
	DType string
	// ShardBytes is the most that a file of weights may hold, unless one tensor
	// alone has more; 0 for 5 GB, as transformers has it.
	ShardBytes int64
	IgnoreKeys []string // unknown config keys that the user vouches for
	DryRun     bool     // stop when everything is decided
}

// HFReport tells what ConvertHF wrote.
type HFReport struct {
	Output       string   `json:"output"`
	Architecture string   `json:"architecture"`
	DType        string   `json:"dtype"`
	Parameters   int64    `json:"parameters"`
	FileBytes    int64    `json:"file_bytes"` // of the weights
	Files        []string `json:"files"`      // none in a dry run
	Exact        bool     `json:"exact"`      // every value is the source's, bit for bit
	MaxError     float64  `json:"max_error"`  // largest difference of a value
	Notes        []string `json:"notes"`      // what the folder lacks
}

// HFTypes lists the element types of a Hugging Face folder.
func HFTypes() []string { return []string{"f32", "f16", "bf16"} }

const defaultShard = 5_000_000_000

// ConvertHF writes the model of o as a Hugging Face folder: config.json,
// safetensors and the tokenizer's files. dir must not exist, or be an empty
// folder. The folder is opened again and its graph and values are compared with
// the model before it gets its name. progress, which may be nil, is called with
// bytes of weights.
func ConvertHF(ctx context.Context, o *Opened, dir string, opts HFOptions, log *slog.Logger, progress func(done, total int64)) (HFReport, error) {
	h := &hfWriter{ctx: ctx, o: o, m: o.Model(), opts: opts, log: log, progress: progress, report: HFReport{Output: dir, Files: []string{}, Notes: []string{}}}
	if err := h.plan(); err != nil {
		return HFReport{}, err
	}
	if opts.DryRun {
		h.report.FileBytes = h.total
		return h.report, nil
	}
	err := replaceFolder(dir, func(temp string) error {
		h.dir = temp
		return h.write()
	}, h.check)
	if err != nil {
		return HFReport{}, fmt.Errorf("convert to %s: %w", dir, err)
	}
	slices.Sort(h.report.Files)
	return h.report, nil
}

// replaceFolder fills a folder beside dir, has it checked, and renames it.
func replaceFolder(dir string, fill, check func(temp string) error) (err error) {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return err
	case len(entries) > 0:
		return fmt.Errorf("%w: the folder is not empty", ErrUsage)
	}
	dir = filepath.Clean(dir)
	temp, err := os.MkdirTemp(filepath.Dir(dir), "."+filepath.Base(dir)+".part*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(temp))
		}
	}()
	if err = fill(temp); err != nil {
		return err
	}
	if err = check(temp); err != nil {
		return fmt.Errorf("read back: %w", err)
	}
	if err = os.Chmod(temp, 0o755); err != nil {
		return err
	}
	if err = ignoreMissing(os.Remove(dir)); err != nil {
		return err
	}
	return os.Rename(temp, dir)
}

// hfWriter is one run of ConvertHF.
type hfWriter struct {
	ctx      context.Context
	o        *Opened
	m        *model.Model
	opts     HFOptions
	log      *slog.Logger
	progress func(done, total int64)
	named    *model.Graph   // the same graph with the names of a checkpoint
	config   map[string]any // config.json
	format   quant.Float
	dir      string
	done     int64
	total    int64
	report   HFReport
	// packed are the tensors of weight i when it is not written as floats, nil
	// when it is; nil itself when all are.
	packed func(i int) []safetensors.Tensor
}

func (h *hfWriter) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	h.log.Warn(text)
	h.report.Notes = append(h.report.Notes, text)
}

var hfTypes = map[string]struct {
	format quant.Float
	torch  string
}{"f32": {quant.F32, "float32"}, "f16": {quant.F16, "float16"}, "bf16": {quant.BF16, "bfloat16"}}

// plan decides type, names and config.
func (h *hfWriter) plan() error {
	name := h.opts.DType
	if name == "" {
		var err error
		if name, err = h.narrowest(); err != nil {
			return err
		}
	}
	typ, ok := hfTypes[name]
	if !ok {
		return fmt.Errorf("%w: dtype %q: want one of %s", ErrUsage, name, strings.Join(HFTypes(), ", "))
	}
	if h.opts.ShardBytes < 0 {
		return fmt.Errorf("%w: a shard of %d bytes", ErrUsage, h.opts.ShardBytes)
	}
	if h.opts.ShardBytes == 0 {
		h.opts.ShardBytes = defaultShard
	}
	h.format, h.report.DType = typ.format, name
	h.report.Architecture, h.report.Parameters = h.m.Arch, int64(h.m.Parameters())
	h.total = h.report.Parameters * int64(typ.format.Type.Size())
	var err error
	if h.named, h.config, err = plain(h.m.Graph, typ.torch); err != nil {
		return err
	}
	if kept := h.config["torch_dtype"]; kept != typ.torch {
		h.note("torch_dtype stays %v, since it decides the embedding's scale", kept)
	}
	if len(h.m.KVMap()) > 0 {
		h.note("blocks share keys and values, which %s says in config.json: only slmc reads it, other programs miss weights", model.KVFromKey)
	}
	return h.ownConfig(typ.torch)
}

// narrowest is the type of most of the source's bytes, where that is float16 or
// bfloat16 and holds all other tensors too; float32 otherwise.
func (h *hfWriter) narrowest() (string, error) {
	if h.o.Checkpoint == nil || len(h.o.Checkpoint.Types) == 0 {
		return "f32", nil
	}
	name := strings.ToLower(h.o.Checkpoint.Types[0].Type)
	typ, ok := hfTypes[name]
	if !ok || name == "f32" {
		return "f32", nil
	}
	if len(h.o.Checkpoint.Types) == 1 {
		return name, nil
	}
	for i, w := range h.m.Weights {
		exact := true
		err := eachPiece(h.ctx, h.m, i, func(_ int, x []float32) error {
			y, err := stored(typ.format, x)
			exact = exact && err == nil && slices.Equal(x, y)
			return nil
		})
		if err != nil {
			return "", err
		}
		if !exact {
			h.log.Info("stored as f32", "tensor", w.Name, "because", name+" would round it")
			return "f32", nil
		}
	}
	return name, nil
}

// stored is what f makes of x.
func stored(f quant.Float, x []float32) ([]float32, error) {
	raw, err := f.Encode(nil, x, nil)
	if err != nil {
		return nil, err
	}
	y := make([]float32, len(x))
	f.Decode(y, raw)
	return y, nil
}

const pieceElems = 1 << 16

// eachPiece reads weight i in pieces.
func eachPiece(ctx context.Context, m *model.Model, i int, f func(off int, x []float32) error) error {
	elems := m.Weights[i].Elems()
	buf := make([]float32, min(elems, pieceElems))
	for off := 0; off < elems; off += len(buf) {
		if err := ctx.Err(); err != nil {
			return err
		}
		x := buf[:min(len(buf), elems-off)]
		if err := m.Values.Read(i, off, x); err != nil {
			return err
		}
		if err := f(off, x); err != nil {
			return err
		}
	}
	return nil
}

// write fills the folder.
func (h *hfWriter) write() error {
	if err := h.weights(); err != nil {
		return err
	}
	if err := h.json("config.json", h.config); err != nil {
		return err
	}
	return h.text()
}

// json writes an object with sorted keys, indented as transformers does.
func (h *hfWriter) json(name string, v any) error {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return err
	}
	return h.file(name, []byte(b.String()))
}

func (h *hfWriter) file(name string, data []byte) error {
	h.report.Files = append(h.report.Files, name)
	return os.WriteFile(filepath.Join(h.dir, name), data, 0o644)
}

// tensors are what stands for weight i: one of floats, unless it is packed.
func (h *hfWriter) tensors(i int) []safetensors.Tensor {
	if h.packed != nil {
		if packed := h.packed(i); packed != nil {
			return packed
		}
	}
	w := h.named.Weights[i]
	return []safetensors.Tensor{{Name: w.Source, Type: h.format.Type, Shape: w.Shape, Data: func(dst io.Writer) error { return h.data(i, dst) }}}
}

// weights writes the tensors, in shards when one file would be too large.
func (h *hfWriter) weights() error {
	var shards [][]safetensors.Tensor
	var size int64
	for i := range h.named.Weights {
		tensors, n := h.tensors(i), int64(0)
		for k := range tensors {
			n += tensors[k].Bytes()
		}
		if len(shards) == 0 || size+n > h.opts.ShardBytes {
			shards, size = append(shards, nil), 0
		}
		size += n
		last := &shards[len(shards)-1]
		*last = append(*last, tensors...)
	}
	places := map[string]string{}
	for k, tensors := range shards {
		name := "model.safetensors"
		if len(shards) > 1 {
			name = fmt.Sprintf("model-%05d-of-%05d.safetensors", k+1, len(shards))
		}
		for _, t := range tensors {
			places[t.Name] = name
		}
		if err := h.shard(name, tensors); err != nil {
			return err
		}
	}
	if len(shards) == 1 {
		return nil
	}
	return h.json("model.safetensors.index.json", map[string]any{"metadata": map[string]any{"total_size": h.total}, "weight_map": places})
}

func (h *hfWriter) shard(name string, tensors []safetensors.Tensor) (err error) {
	h.report.Files = append(h.report.Files, name)
	f, err := os.Create(filepath.Join(h.dir, name))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := safetensors.Write(f, map[string]string{"format": "pt"}, tensors...); err != nil {
		return err
	}
	n, err := f.Seek(0, io.SeekCurrent)
	h.report.FileBytes += n
	return errors.Join(err, f.Sync())
}

// data writes the elements of weight i as a checkpoint stores them.
func (h *hfWriter) data(i int, dst io.Writer) error {
	var raw []byte
	return eachPiece(h.ctx, h.m, i, func(_ int, x []float32) error {
		h.lessOne(i, x)
		var err error
		if raw, err = h.format.Encode(raw[:0], x, nil); err != nil {
			return fmt.Errorf("%s; --dtype bf16 or f32 holds it: %w", h.m.Weights[i].Name, err)
		}
		_, err = dst.Write(raw)
		h.done += int64(len(raw))
		if h.progress != nil {
			h.progress(h.done, h.total)
		}
		return err
	})
}

// lessOne undoes the one that the graph's norms have over the checkpoint's. The
// sum of the result and one is the same float32 again: below 2^24 the
// difference is exact, or so small that one swallows it.
func (h *hfWriter) lessOne(i int, x []float32) {
	if h.named.Weights[i].AddOne {
		for k := range x {
			x[k]--
		}
	}
}

// check opens the folder as any other checkpoint and compares.
func (h *hfWriter) check(temp string) (err error) {
	c, err := convert.Open(h.ctx, temp, convert.Options{IgnoreKeys: h.opts.IgnoreKeys})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	if err := sameGraph(h.m.Graph, c.Model.Graph); err != nil {
		return formats.Corrupt("", "", -1, "%v", err)
	}
	h.report.Exact = true
	for i, w := range h.m.Weights {
		got := make([]float32, pieceElems)
		err := eachPiece(h.ctx, h.m, i, func(off int, x []float32) error {
			y := got[:len(x)]
			if err := c.Model.Values.Read(i, off, y); err != nil {
				return err
			}
			want := slices.Clone(x)
			h.lessOne(i, want)
			want, err := stored(h.format, want)
			if err != nil {
				return err
			}
			for k := range x {
				if h.named.Weights[i].AddOne {
					want[k]++
				}
				if y[k] != want[k] {
					return formats.Corrupt("", w.Source, -1, "element %d is %g, wanted %g", off+k, y[k], want[k])
				}
				h.report.MaxError = max(h.report.MaxError, float64(max(y[k]-x[k], x[k]-y[k])))
				h.report.Exact = h.report.Exact && x[k] == y[k]
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
