package pipeline_test

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"slmc/convert"
	"slmc/formats"
	"slmc/formats/safetensors"
	"slmc/internal/pipeline"
	"slmc/model"
)

func packed(t testing.TB, o *pipeline.Opened, opts pipeline.PackedOptions) (string, pipeline.PackedReport) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "out")
	r, err := pipeline.ExportPacked(t.Context(), o, dir, opts, quiet, nil)
	if err != nil {
		t.Fatal(err)
	}
	return dir, r
}

// Every format in both layouts: values and logits are the bundle's, the embedding
// packed or not as the layout's readers have it.
func TestExportPacked(t *testing.T) {
	source := wide(t, 64, 96)
	for _, c := range []struct {
		weights, layout, floats string
		bits, group             int
		exact                   bool
	}{
		{"w8", "mlx", "", 8, 32, true}, {"w4g64", "mlx", "", 4, 64, true}, {"w2", "mlx", "", 2, 64, true}, {"w2g128", "mlx", "f16", 2, 64, false},
		{"w8", "compressed-tensors", "", 8, 32, true}, {"w4", "compressed-tensors", "", 4, 32, true}, {"w2", "compressed-tensors", "", 4, 64, true},
		{"w4", "compressed-tensors", "f16", 4, 32, false},
	} {
		name := c.weights + " as " + c.layout + " " + c.floats
		dir, r := packed(t, quantized(t, source, c.weights), pipeline.PackedOptions{Layout: c.layout, Floats: c.floats})
		q := r.Tensors[slices.IndexFunc(r.Tensors, func(x pipeline.PackedTensor) bool { return strings.HasSuffix(x.Name, "0.self_attn.q_proj.weight") })]
		if r.Exact != c.exact || c.exact != (r.MaxError == 0) || c.exact && r.LogitError != 0 || r.LogitError > 0.01 || r.LogitTokens != 8 || q.Bits != c.bits || q.GroupSize != c.group {
			t.Errorf("%s: %+v", name, r)
		}
		st, err := os.Stat(filepath.Join(dir, "model.safetensors"))
		if err != nil || st.Size() != r.FileBytes || r.FileBPW != 8*float64(st.Size())/float64(r.Parameters) {
			t.Errorf("%s: %v bytes, reported %d", name, st.Size(), r.FileBytes)
		}
		// FFNs of 96 under groups of 64 are groups of 32, by name.
		data, err := os.ReadFile(filepath.Join(dir, "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		if two := strings.Contains(string(data), "mlp.down_proj"); two != (c.group == 64) {
			t.Errorf("%s: config names down_proj: %v\n%s", name, two, data)
		}
	}
}

// byHand is a model whose first row of q is -8 to 7 in an order of its own.
type byHand struct{ randomValues }

var handLevels = [16]float32{1, 2, 3, 4, 5, 6, 7, 0, -1, -2, -3, -4, -5, -6, -7, -8}

func (v byHand) Read(i, off int, dst []float32) error {
	if v.g.Weights[i].Name != "blk.0.attn_q.weight" {
		return v.randomValues.Read(i, off, dst)
	}
	for k := range dst {
		dst[k] = handLevels[(off+k)%16]
	}
	return nil
}

// A row by hand. compressed-tensors: the values of test_repack_4bit
// (tests/test_compressors/test_pack_quant.py at ac8e2ba), to which
// pack_to_int32 adds 8 and gives 4 bits each from the lowest on. MLX: the first
// element has the lowest bits, mlx.core.quantize's documentation at 846d176.
func TestPackedByHand(t *testing.T) {
	g := openGraph(t, wide(t, 32, 32))
	folder := filepath.Join(t.TempDir(), "hand")
	m := &model.Model{Graph: g, Values: byHand{randomValues{g}}}
	if _, err := pipeline.ConvertHF(t.Context(), &pipeline.Opened{Path: "test", Checkpoint: &convert.Checkpoint{Model: m}}, folder, pipeline.HFOptions{}, quiet, nil); err != nil {
		t.Fatal(err)
	}
	want := []uint32{0x8fedcba9, 0x01234567, 0x8fedcba9, 0x01234567}
	o := quantized(t, folder, "w4")
	for layout, names := range map[string][]string{
		"compressed-tensors": {".weight_packed", ".weight_scale"}, "mlx": {".weight", ".scales", ".biases"},
	} {
		dir, _ := packed(t, o, pipeline.PackedOptions{Layout: layout})
		f, err := safetensors.Open(filepath.Join(dir, "model.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		const q = "model.layers.0.self_attn.q_proj"
		raw, got := make([]byte, 16), make([]uint32, 4)
		if err := f.ReadRaw(q+names[0], 0, raw); err != nil {
			t.Fatal(err)
		}
		for i := range got {
			got[i] = binary.LittleEndian.Uint32(raw[4*i:])
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %x, want %x", layout, got, want)
		}
		for k, name := range names[1:] {
			x := make([]float32, 1)
			if err := f.ReadF32(q+name, 0, x); err != nil || x[0] != []float32{1, -8}[k] {
				t.Errorf("%s: %s is %g, %v", layout, name, x[0], err)
			}
		}
		if layout == "compressed-tensors" {
			shape := make([]byte, 16)
			if err := f.ReadRaw(q+".weight_shape", 0, shape); err != nil || binary.LittleEndian.Uint64(shape) != 32 || binary.LittleEndian.Uint64(shape[8:]) != 32 {
				t.Errorf("shape %v, %v", shape, err)
			}
		}
		var config struct {
			Quantization map[string]any `json:"quantization"`
			CT           struct {
				Method string                     `json:"quant_method"`
				Groups map[string]json.RawMessage `json:"config_groups"`
				Ignore []string                   `json:"ignore"`
			} `json:"quantization_config"`
		}
		data, err := os.ReadFile(filepath.Join(dir, "config.json"))
		if err == nil {
			err = json.Unmarshal(data, &config)
		}
		if err != nil {
			t.Fatal(err)
		}
		if layout == "mlx" {
			if config.Quantization["bits"] != 4.0 || config.Quantization["group_size"] != 32.0 {
				t.Errorf("mlx: %v", config.Quantization)
			}
		} else if config.CT.Method != "compressed-tensors" || len(config.CT.Groups) != 1 || !slices.Equal(config.CT.Ignore, []string{"lm_head"}) {
			t.Errorf("compressed-tensors: %+v", config.CT)
		}
	}
}

func openGraph(t *testing.T, path string) *model.Graph { return open(t, path).Graph() }

func TestPackedRefuses(t *testing.T) {
	tiny := quantized(t, testdata("assistant-tiny"), "w4") // rows of 176
	for _, c := range []struct {
		o    *pipeline.Opened
		opts pipeline.PackedOptions
		kind error
		want string
	}{
		{tiny, pipeline.PackedOptions{Layout: "mlx"}, formats.ErrUnsupported, "rows of 176 weights are not whole groups of 32"},
		{tiny, pipeline.PackedOptions{Layout: "awq"}, pipeline.ErrUsage, "want one of compressed-tensors, mlx"},
		{tiny, pipeline.PackedOptions{Layout: "mlx", Floats: "bf16"}, pipeline.ErrUsage, "want f32 or f16"},
		{open(t, testdata("assistant-tiny")), pipeline.PackedOptions{Layout: "mlx"}, pipeline.ErrUsage, "is no bundle"},
	} {
		dir := filepath.Join(t.TempDir(), "out")
		if _, err := pipeline.ExportPacked(t.Context(), c.o, dir, c.opts, quiet, nil); !errors.Is(err, c.kind) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.opts, err)
		}
		if left, _ := os.ReadDir(filepath.Dir(dir)); len(left) != 0 {
			t.Errorf("files left: %v", left)
		}
	}
	for _, layout := range pipeline.PackedLayouts() {
		dir, r := packed(t, tiny, pipeline.PackedOptions{Layout: layout, Fallback: true})
		if !r.Exact || r.LogitError != 0 || math.IsNaN(r.FileBPW) {
			t.Errorf("%s with floats: %+v", layout, r)
		}
		if _, err := os.Stat(filepath.Join(dir, "tokenizer.json")); err != nil {
			t.Error(err)
		}
	}
}
