package pipeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"slmc/formats"
	"slmc/formats/safetensors"
	"slmc/model"
)

// packedFiles are the open files of a folder.
type packedFiles []*safetensors.File

// Close closes all.
func (f packedFiles) Close() error {
	var err error
	for _, x := range f {
		err = errors.Join(err, x.Close())
	}
	return err
}

// find returns the file that holds a tensor, nil for none.
func (f packedFiles) find(name string) (*safetensors.File, formats.TensorInfo) {
	for _, x := range f {
		infos := x.Tensors()
		if i := slices.IndexFunc(infos, func(t formats.TensorInfo) bool { return t.Name == name }); i >= 0 {
			return x, infos[i]
		}
	}
	return nil, formats.TensorInfo{}
}

// readPacked opens a packed folder as its readers do: settings from
// config.json, codes and scales from the files. named tells the architecture's
// names and norms.
func readPacked(dir string, l packedLayout, named *model.Graph) (_ *model.Model, files packedFiles, err error) {
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		return nil, nil, err
	}
	var config map[string]any
	dec := json.NewDecoder(strings.NewReader(string(data)))
	dec.UseNumber()
	if err := dec.Decode(&config); err != nil {
		return nil, nil, formats.Corrupt("config.json", "", -1, "%v", err)
	}
	words := map[string]any{}
	for k, v := range config {
		if k != "quantization" && k != "quantization_config" {
			words[k] = v
		}
	}
	g, err := model.Build(model.NewConfig("config.json", words))
	if err != nil {
		return nil, nil, err
	}
	paths, err := filepath.Glob(filepath.Join(dir, "model*.safetensors"))
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, files.Close())
		}
	}()
	for _, path := range paths {
		f, err := safetensors.Open(path)
		if err != nil {
			return nil, files, err
		}
		files = append(files, f)
	}
	v := packedValues{named: named, layout: l, files: files, rows: make([]packedRows, len(named.Weights))}
	for i, w := range named.Weights {
		if v.rows[i], err = v.locate(config, w); err != nil {
			return nil, files, err
		}
	}
	return &model.Model{Graph: g, Values: v}, files, nil
}

// packedValues are the weights of a packed folder.
type packedValues struct {
	named  *model.Graph
	layout packedLayout
	files  packedFiles
	rows   []packedRows
}

// packedRows is the place of one weight; bits is 0 for floats.
type packedRows struct {
	module               string
	bits, group          int
	codes, scale, biases *safetensors.File // codes holds the floats where bits is 0
}

func (v packedValues) locate(config map[string]any, w model.Weight) (r packedRows, err error) {
	r.module = strings.TrimSuffix(w.Source, ".weight")
	missing := func(name string) error {
		return fmt.Errorf("%w: no tensor %q of the right type and shape", formats.ErrCorrupt, name)
	}
	var scale formats.TensorInfo
	if r.scale, scale = v.files.find(r.module + v.layout.scales); r.scale == nil || !w.Role.Matrix() {
		var info formats.TensorInfo
		if r.codes, info = v.files.find(w.Source); r.codes == nil || !slices.Equal(info.Shape, w.Shape) {
			return r, missing(w.Source)
		}
		return r, nil
	}
	r.bits, r.group = v.layout.settings(config, r.module)
	if r.bits < 1 || r.group < 1 || w.Shape[1]%r.group != 0 || 8%r.bits != 0 {
		return r, formats.Corrupt("config.json", r.module, -1, "%d bits in groups of %d for rows of %d", r.bits, r.group, w.Shape[1])
	}
	groups := []int{w.Shape[0], w.Shape[1] / r.group}
	var codes formats.TensorInfo
	if r.codes, codes = v.files.find(r.module + v.layout.codes); r.codes == nil ||
		!slices.Equal(codes.Shape, []int{w.Shape[0], (w.Shape[1]*r.bits + 31) / 32}) || codes.Type != "I32" && codes.Type != "U32" {
		return r, missing(r.module + v.layout.codes)
	}
	if !slices.Equal(scale.Shape, groups) {
		return r, missing(r.module + v.layout.scales)
	}
	if v.layout.biases != "" {
		var info formats.TensorInfo
		if r.biases, info = v.files.find(r.module + v.layout.biases); r.biases == nil || !slices.Equal(info.Shape, groups) {
			return r, missing(r.module + v.layout.biases)
		}
	}
	return r, nil
}

// Read implements model.Values.
func (v packedValues) Read(i, off int, dst []float32) error {
	w, r := v.named.Weights[i], v.rows[i]
	if err := formats.CheckRange("", w.Source, off, len(dst), w.Elems()); err != nil {
		return err
	}
	if r.bits == 0 {
		err := r.codes.ReadF32(w.Source, off, dst)
		if w.AddOne {
			for k := range dst {
				dst[k]++
			}
		}
		return err
	}
	cols := w.Shape[1]
	whole := make([]float32, cols)
	for len(dst) > 0 {
		row, col := off/cols, off%cols
		if err := v.row(r, row, whole); err != nil {
			return err
		}
		n := copy(dst, whole[col:])
		off, dst = off+n, dst[n:]
	}
	return nil
}

// row decodes one row in float32.
func (v packedValues) row(r packedRows, row int, dst []float32) error {
	words := make([]byte, 4*((len(dst)*r.bits+31)/32))
	if err := r.codes.ReadRaw(r.module+v.layout.codes, int64(row*len(words)), words); err != nil {
		return err
	}
	n := len(dst) / r.group
	scales, biases := make([]float32, n), make([]float32, n)
	if err := r.scale.ReadF32(r.module+v.layout.scales, row*n, scales); err != nil {
		return err
	}
	zero := 1 << (r.bits - 1)
	if r.biases != nil {
		zero = 0
		if err := r.biases.ReadF32(r.module+v.layout.biases, row*n, biases); err != nil {
			return err
		}
	}
	for k := range dst {
		g := k / r.group
		dst[k] = float32(float32(unpackWords(words, k, r.bits)-zero)*scales[g]) + biases[g]
	}
	return nil
}

func contains(list []any, name string) bool { return slices.Contains(list, any(name)) }

// number is a JSON integer, 0 for anything else.
func number(v any) int {
	n, ok := v.(json.Number)
	if !ok {
		return 0
	}
	i, err := n.Int64()
	if err != nil || i < 0 || i > 1<<20 {
		return 0
	}
	return int(i)
}
