package pipeline

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
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
	"slmc/formats/gguf"
	"slmc/model"
)

// ExportOptions say what a GGUF file's matrices are stored as. Types are names
// of ExportTypes.
type ExportOptions struct {
	Type string // of most matrices
	// Embeddings is the type of token embedding and output: "" for Type, but
	// for q4_0, where it is q8_0, since llama.cpp too keeps these two larger.
	Embeddings string
	// Fallback is the float type of matrices whose rows are not whole blocks of
	// their type; "" refuses them by name.
	Fallback string
	DryRun   bool // stop when everything is decided; the report lacks what is measured
}

// ExportTypes lists the types that an export writes.
func ExportTypes() []string { return []string{"f32", "f16", "bf16", "q8_0", "q4_0"} }

// ExportReport tells what Export wrote and how far it is from the model, which
// it read back to find out.
type ExportReport struct {
	Output       string           `json:"output"`
	Architecture string           `json:"architecture"` // llama.cpp's name
	Type         string           `json:"type"`
	Embeddings   string           `json:"embeddings"`
	Parameters   int64            `json:"parameters"`
	FileBytes    int64            `json:"file_bytes"`
	FileBPW      float64          `json:"file_bpw"` // 8*FileBytes/Parameters
	SHA256       string           `json:"sha256"`
	Types        []ExportedType   `json:"types"`
	Fallback     []ExportedTensor `json:"fallback"`  // matrices of another type than was asked for
	Exact        bool             `json:"exact"`     // every value is the model's, bit for bit
	MaxError     float64          `json:"max_error"` // largest difference of a value
	Tokenizer    string           `json:"tokenizer"` // "llama", "gpt2", or "none"
	// Notes say where llama.cpp will compute or split text differently.
	Notes   []string         `json:"notes"`
	Tensors []ExportedTensor `json:"tensors"`
}

// ExportedType sums up the tensors of one type.
type ExportedType struct {
	Type     string  `json:"type"`
	Tensors  int     `json:"tensors"`
	Bytes    int64   `json:"bytes"`
	MaxError float64 `json:"max_error"` // largest difference between a value and the model's
	RMSError float64 `json:"rms_error"` // root mean square of the differences, over that of the values
}

// ExportedTensor is one tensor of the file.
type ExportedTensor struct {
	Name  string `json:"name"`
	Type  string `json:"type"`
	Shape []int  `json:"shape"`
}

// Export writes the model of o as a GGUF file that llama.cpp loads. The file is
// read back, values and tokenizer are compared with the model, and only then
// does it get its name. The same model and options give the same bytes. What
// llama.cpp can't compute is ErrUnsupported. progress, which may be nil, is
// called with bytes written and to be written.
func Export(ctx context.Context, o *Opened, output string, opts ExportOptions, log *slog.Logger, progress func(done, total int64)) (ExportReport, error) {
	e := &export{o: o, m: o.Model(), report: ExportReport{Output: output, Fallback: []ExportedTensor{}, Notes: []string{}}}
	if err := e.plan(opts); err != nil {
		return ExportReport{}, err
	}
	for _, n := range e.report.Notes {
		log.Warn("the export differs: " + n)
	}
	size, err := gguf.Size(e.kvs, e.tensors)
	if err != nil {
		return ExportReport{}, err
	}
	e.report.FileBytes = size
	e.report.FileBPW = 8 * float64(size) / float64(e.report.Parameters)
	if opts.DryRun {
		return e.report, nil
	}
	err = replaceFile(output, func(f *os.File) error {
		sum := sha256.New()
		w := &countingWriter{w: io.MultiWriter(f, sum), total: size, progress: progress}
		if err := gguf.Write(ctx, w, e.kvs, e.tensors); err != nil {
			return e.explain(err)
		}
		e.report.SHA256 = hex.EncodeToString(sum.Sum(nil))
		return nil
	}, func(path string) error { return e.check(ctx, path) })
	if err != nil {
		return ExportReport{}, fmt.Errorf("export %s: %w", output, err)
	}
	return e.report, nil
}

// export is one run of Export.
type export struct {
	o       *Opened
	m       *model.Model
	typ     gguf.Type
	embed   gguf.Type
	fall    *gguf.Type
	file    *convert.GGUFFile
	kvs     []gguf.KV
	tensors []gguf.Tensor
	exact   []bool // by tensor: the bundle's codes are carried over
	report  ExportReport
}

// plan decides everything before a byte is written.
func (e *export) plan(opts ExportOptions) error {
	if err := e.types(opts); err != nil {
		return err
	}
	name := strings.TrimSuffix(filepath.Base(e.o.Path), filepath.Ext(e.o.Path))
	var err error
	if e.file, err = convert.GGUF(e.m, name, e.typ, e.typeOf); err != nil {
		return err
	}
	if _, _, err := plain(e.m.Graph, "float32"); err != nil {
		return err // a setting that the file has no key for
	}
	e.kvs, e.tensors = e.file.KVs, e.file.Tensors
	e.report.Notes = append(e.report.Notes, e.file.Notes...)
	e.report.Architecture, _ = e.kvs[0].Value.(string)
	e.report.Type, e.report.Embeddings, e.report.Parameters = e.typ.String(), e.embed.String(), int64(e.m.Parameters())
	e.repeated()
	e.carryCodes()
	vocab, notes, err := e.vocab()
	if err != nil {
		return err
	}
	e.kvs = append(e.kvs, vocab...)
	e.report.Notes = append(e.report.Notes, notes...)
	for _, t := range e.tensors {
		e.report.Tensors = append(e.report.Tensors, ExportedTensor{t.Name, t.Type.String(), t.Shape})
	}
	return nil
}

// types reads the options.
func (e *export) types(opts ExportOptions) error {
	parse := func(flag, name string, allowed []string) (gguf.Type, error) {
		if !slices.Contains(allowed, strings.ToLower(name)) {
			return 0, fmt.Errorf("%w: %s %q: want one of %s", ErrUsage, flag, name, strings.Join(allowed, ", "))
		}
		return gguf.TypeByName(name)
	}
	var err error
	if e.typ, err = parse("type", opts.Type, ExportTypes()); err != nil {
		return err
	}
	e.embed = e.typ
	switch {
	case opts.Embeddings != "":
		if e.embed, err = parse("embeddings", opts.Embeddings, ExportTypes()); err != nil {
			return err
		}
	case e.typ == gguf.Q4_0:
		e.embed = gguf.Q8_0
	}
	if opts.Fallback != "" {
		t, err := parse("fallback", opts.Fallback, []string{"f16", "bf16", "f32"})
		if err != nil {
			return err
		}
		e.fall = &t
	}
	return nil
}

// typeOf is the type of a matrix.
func (e *export) typeOf(tensor string, w model.Weight) (gguf.Type, error) {
	t := e.typ
	if w.Role == model.RoleEmbed || w.Role == model.RoleHead {
		t = e.embed
	}
	elems, _ := t.Block()
	cols := w.Shape[1]
	if cols%elems == 0 {
		return t, nil
	}
	if e.fall == nil {
		return t, formats.Unsupported(filepath.Base(e.o.Path), tensor, -1,
			"rows of %d elements, %s has blocks of %d; --fallback f16 stores such matrices as F16 and lists them", cols, t, elems)
	}
	e.report.Fallback = append(e.report.Fallback, ExportedTensor{tensor, e.fall.String(), w.Shape})
	return *e.fall, nil
}

// repeated notes weights that several blocks share and that the file holds once
// for each.
func (e *export) repeated() {
	seen, again := map[int]bool{}, 0
	for _, w := range e.file.Weights {
		if w != model.None && seen[w] {
			again++
		}
		seen[w] = true
	}
	if again > 0 {
		e.report.Notes = append(e.report.Notes, fmt.Sprintf("blocks share weights, which llama.cpp can not: %d tensors are written again, and %d blocks stand for %d",
			again, len(e.m.Blocks), distinctBlocks(e.m.Graph)))
	}
}

func distinctBlocks(g *model.Graph) int {
	seen := map[int]bool{}
	for _, b := range g.Blocks {
		seen[b.Q.W] = true
	}
	return len(seen)
}

// explain adds to a value beyond a type's range what may be done.
func (e *export) explain(err error) error {
	if r := new(gguf.RangeError); errors.As(err, &r) {
		return fmt.Errorf("%w: %w; --type bf16 or f32 holds it", formats.ErrUnsupported, err)
	}
	return err
}

// countingWriter reports what has passed.
type countingWriter struct {
	w           io.Writer
	done, total int64
	progress    func(done, total int64)
}

func (c *countingWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.done += int64(n)
	if c.progress != nil {
		c.progress(c.done, c.total)
	}
	return n, err
}

// replaceFile writes a file beside path, has it checked, and renames it to
// path: under that name is the old file or the whole new one. A process that is
// killed meanwhile leaves a file named .BASE.part*.
func replaceFile(path string, fill func(f *os.File) error, check func(path string) error) error {
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		return fmt.Errorf("not a regular file (%s)", st.Mode().Type())
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".part*")
	if err != nil {
		return err
	}
	if err = fill(f); err == nil {
		err = errors.Join(f.Chmod(0o644), f.Sync())
	}
	err = errors.Join(err, f.Close())
	if err == nil && check != nil {
		err = check(f.Name())
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, ignoreMissing(os.Remove(f.Name())))
	}
	return nil
}
