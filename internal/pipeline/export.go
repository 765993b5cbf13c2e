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
	// for the types of 4 and 2 bits, where it is auto for a bundle, and for a
	// checkpoint q8_0, since llama.cpp too keeps these two larger.
	Embeddings string
	// Fallback is the float type of matrices whose rows are not whole blocks of
	// their type; "" refuses them by name.
	Fallback string
	// Pad widens the FFNs by zeros to whole blocks, which changes no output.
	Pad bool
	// Requantize rounds a bundle's weights again where a type does not hold
	// their levels and scales; without it that is refused.
	Requantize bool
	DryRun     bool // stop when everything is decided; the report lacks what is measured
}

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
	Fallback     []ExportedTensor `json:"fallback"`             // matrices of another type than was asked for
	PaddedFFN    int              `json:"padded_ffn,omitempty"` // width of the FFNs, where zeros were added
	Exact        bool             `json:"exact"`                // every value is the model's, bit for bit
	MaxError     float64          `json:"max_error"`            // largest difference of a value
	// LogitError is the largest difference of the file's logits from the model's
	// on LogitTokens tokens, both in float32, relative to a row's largest.
	LogitError  float64 `json:"logit_error"`
	LogitTokens int     `json:"logit_tokens"`
	Tokenizer   string  `json:"tokenizer"` // "llama", "gpt2", or "none"
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
	m := o.Model()
	e := &export{o: o, opts: opts, src: m, m: m, free: map[int]string{}, report: ExportReport{Output: output, Fallback: []ExportedTensor{}, Notes: []string{}}}
	if err := e.plan(ctx); err != nil {
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
	opts    ExportOptions
	src     *model.Model // as it was opened
	m       *model.Model // as the file holds it
	typ     wanted
	embed   wanted
	fall    *gguf.Type
	chosen  []chosen // by weight
	main    gguf.Type
	free    map[int]string // by weight: what freeScales found
	file    *convert.GGUFFile
	kvs     []gguf.KV
	tensors []gguf.Tensor
	exact   []bool // by tensor: its values must be the model's
	report  ExportReport
}

// plan decides everything before a byte is written.
func (e *export) plan(ctx context.Context) error {
	if err := e.types(); err != nil {
		return err
	}
	if err := e.widen(); err != nil {
		return err
	}
	// Twice, since what the architecture forbids is to be said first, and the
	// key of the file's type asks for the types of all matrices.
	name := strings.TrimSuffix(filepath.Base(e.o.Path), filepath.Ext(e.o.Path))
	if _, err := convert.GGUF(e.m, name, gguf.F32, nil); err != nil {
		return err
	}
	err := e.choose(ctx)
	if err != nil {
		return err
	}
	e.file, err = convert.GGUF(e.m, name, e.main, func(_ string, w model.Weight) (gguf.Type, error) { return e.chosen[e.m.Index(w.Name)].typ, nil })
	if err != nil {
		return err
	}
	if _, _, err := plain(e.m.Graph, "float32"); err != nil {
		return err // a setting that the file has no key for
	}
	e.kvs, e.tensors = e.file.KVs, e.file.Tensors
	e.report.Notes = append(e.report.Notes, e.file.Notes...)
	e.report.Architecture, _ = e.kvs[0].Value.(string)
	e.report.Type, e.report.Embeddings, e.report.Parameters = e.typ.String(), e.embed.String(), int64(e.src.Parameters())
	e.repeated()
	e.carryCodes()
	vocab, notes, err := e.vocab()
	if err != nil {
		return err
	}
	e.kvs = append(e.kvs, vocab...)
	e.report.Notes = append(e.report.Notes, notes...)
	e.list()
	return nil
}

// list fills the report's tensors, and those that did not get the type that was
// asked for.
func (e *export) list() {
	for k, t := range e.tensors {
		x := ExportedTensor{t.Name, t.Type.String(), t.Shape}
		e.report.Tensors = append(e.report.Tensors, x)
		w := e.file.Weights[k]
		if w == model.None || !e.m.Weights[w].Role.Matrix() {
			continue
		}
		want := e.typ
		if r := e.m.Weights[w].Role; r == model.RoleEmbed || r == model.RoleHead {
			want = e.embed
		}
		if !want.auto && want.typ != t.Type {
			e.report.Fallback = append(e.report.Fallback, x)
		}
	}
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
