// Package peer runs the oracle of this folder: llama.cpp as the npm package
// @node-llama-cpp/linux-x64 ships it, behind a small C program. Tests compare
// with it and benchmarks measure against it; nothing of it is linked in.
package peer

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// ErrAbsent says that the oracle has not been installed.
var ErrAbsent = errors.New("llama.cpp oracle is absent")

// Oracle is an installed oracle.
type Oracle struct {
	path string
	// Options are given to every command, for example "-t", "2" for two
	// threads or "-k", "f16" for the type of the KV cache. README.md lists
	// them; the defaults are one thread, F32 cache, no flash attention.
	Options []string
}

// Find returns the oracle in folder; with an empty folder that in
// bench/peer/.cache of the module that the working directory lies in. Its
// absence is ErrAbsent, with the command that installs it.
func Find(folder string) (*Oracle, error) {
	if folder == "" {
		root, err := moduleRoot()
		if err != nil {
			return nil, err
		}
		folder = filepath.Join(root, "bench", "peer", ".cache")
	}
	path := filepath.Join(folder, "oracle")
	if _, err := os.Stat(path); err != nil {
		return nil, fmt.Errorf("%w: no %s; bench/peer/install.sh builds it (needs npm, gcc and a network)", ErrAbsent, path)
	}
	return &Oracle{path: path}, nil
}

func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no go.mod above the working directory")
		}
		dir = up
	}
}

func (o *Oracle) run(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, o.path, append(append([]string{}, o.Options...), args...)...)
	cmd.Stdin = bytes.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("oracle %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(errs.String()))
	}
	return out.Bytes(), nil
}

// With returns an oracle with further options.
func (o *Oracle) With(options ...string) *Oracle {
	return &Oracle{path: o.path, Options: append(append([]string{}, o.Options...), options...)}
}

// Info returns what "oracle info" says of a model: version, desc, vocab,
// layers, rope_type and so on.
func (o *Oracle) Info(ctx context.Context, model string) (map[string]string, error) {
	return o.fields(ctx, "info", model)
}

func (o *Oracle) fields(ctx context.Context, args ...string) (map[string]string, error) {
	out, err := o.run(ctx, nil, args...)
	if err != nil {
		return nil, err
	}
	fields := map[string]string{}
	for _, line := range strings.Split(strings.ReplaceAll(string(out), " ", "\n"), "\n") {
		if k, v, ok := strings.Cut(line, "="); ok {
			fields[k] = v
		}
	}
	return fields, nil
}

// Logits returns the logits [T V] after each of the ids.
func (o *Oracle) Logits(ctx context.Context, model string, ids []int) ([][]float32, error) {
	out, err := o.run(ctx, nil, append([]string{"logits", model}, words(ids)...)...)
	if err != nil {
		return nil, err
	}
	var rows [][]float32
	for line := range strings.Lines(string(out)) {
		var row []float32
		for word := range strings.FieldsSeq(line) {
			x, err := strconv.ParseFloat(word, 32)
			if err != nil {
				return nil, fmt.Errorf("oracle logits: %w", err)
			}
			row = append(row, float32(x))
		}
		rows = append(rows, row)
	}
	return rows, nil
}

// Greedy returns the n tokens that follow ids, the largest logit each time
// (the lowest id of equal ones); it does not stop at an end token.
func (o *Oracle) Greedy(ctx context.Context, model string, n int, ids []int) ([]int, error) {
	out, err := o.run(ctx, nil, append([]string{"greedy", model, strconv.Itoa(n)}, words(ids)...)...)
	if err != nil {
		return nil, err
	}
	return numbers(string(out))
}

// Tokenize returns the ids of each text; special adds what the vocabulary
// says to add (BOS), parse recognizes special tokens in the text.
func (o *Oracle) Tokenize(ctx context.Context, model string, texts []string, special, parse bool) ([][]int, error) {
	var in bytes.Buffer
	for _, t := range texts {
		fmt.Fprintf(&in, "%x\n", t)
	}
	with := o
	if special {
		with = with.With("-s")
	}
	if parse {
		with = with.With("-p")
	}
	out, err := with.run(ctx, in.Bytes(), "tokenize", model)
	if err != nil {
		return nil, err
	}
	var all [][]int
	for line := range strings.Lines(string(out)) {
		ids, err := numbers(line)
		if err != nil {
			return nil, err
		}
		all = append(all, ids)
	}
	return all, nil
}

// Detokenize returns the text of each list of ids; special prints special
// tokens too.
func (o *Oracle) Detokenize(ctx context.Context, model string, ids [][]int, special bool) ([]string, error) {
	var in bytes.Buffer
	for _, line := range ids {
		fmt.Fprintln(&in, strings.Join(words(line), " "))
	}
	with := o
	if special {
		with = with.With("-p")
	}
	out, err := with.run(ctx, in.Bytes(), "detokenize", model)
	if err != nil {
		return nil, err
	}
	var texts []string
	for line := range strings.Lines(string(out)) {
		raw, err := hex.DecodeString(strings.TrimSpace(line))
		if err != nil {
			return nil, fmt.Errorf("oracle detokenize: %w", err)
		}
		texts = append(texts, string(raw))
	}
	return texts, nil
}

// Quantize writes a quantized copy of a model, with llama.cpp's choice of
// type for each tensor, and returns the seconds it took.
func (o *Oracle) Quantize(ctx context.Context, in, out, fileType string) (seconds float64, err error) {
	fields, err := o.fields(ctx, "quantize", in, out, fileType)
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(fields["seconds"], 64)
}

// Dequantize converts blocks of a type such as "Q4_K" with ggml's reference.
func (o *Oracle) Dequantize(ctx context.Context, blockType string, blocks []byte) ([]float32, error) {
	out, err := o.run(ctx, blocks, "dequantize", blockType)
	if err != nil {
		return nil, err
	}
	x := make([]float32, len(out)/4)
	for i := range x {
		x[i] = math.Float32frombits(binary.LittleEndian.Uint32(out[4*i:]))
	}
	return x, nil
}

// Encode converts floats to blocks with ggml's reference quantizer.
func (o *Oracle) Encode(ctx context.Context, blockType string, x []float32) ([]byte, error) {
	raw := make([]byte, 0, 4*len(x))
	for _, v := range x {
		raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(v))
	}
	return o.run(ctx, raw, "encode", blockType)
}

// BlockType is a line of "oracle types".
type BlockType struct {
	ID           int
	Name         string
	Elems, Bytes int
}

// Types lists ggml's block types.
func (o *Oracle) Types(ctx context.Context) ([]BlockType, error) {
	out, err := o.run(ctx, nil, "types")
	if err != nil {
		return nil, err
	}
	var types []BlockType
	for line := range strings.Lines(string(out)) {
		var t BlockType
		if _, err := fmt.Sscan(line, &t.ID, &t.Name, &t.Elems, &t.Bytes); err != nil {
			return nil, fmt.Errorf("oracle types: %q: %w", line, err)
		}
		types = append(types, t)
	}
	return types, nil
}

func words(ids []int) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = strconv.Itoa(id)
	}
	return out
}

func numbers(line string) ([]int, error) {
	ids := []int{}
	for word := range strings.FieldsSeq(line) {
		id, err := strconv.Atoi(word)
		if err != nil {
			return nil, fmt.Errorf("oracle: %w", err)
		}
		ids = append(ids, id)
	}
	return ids, nil
}
