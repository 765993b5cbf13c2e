// The layouts of packed folders, from their published sources:
//
// compressed-tensors (vllm-project/compressed-tensors at ac8e2ba,
// compressors/pack_quantized/{base,helpers}.py and quantization/lifecycle/forward.py;
// what vLLM loads), symmetric integers by groups: for a linear layer M
//
//	M.weight_packed  int32 [out, ceil(in*bits/32)]  code = level + 2^(bits-1), code i at bit i*bits of a row
//	M.weight_scale   float [out, in/group_size]     weight = (code - 2^(bits-1)) * scale
//	M.weight_shape   int64 [2]                      out, in
//
// MLX's affine mode (ml-explore/mlx at 846d176, mlx/ops.cpp: affine_dequantize, and
// mlx.core.quantize's documentation; ml-explore/mlx-lm at d78bf58, utils.py: load_model):
// for a linear or embedding layer M
//
//	M.weight  uint32 [out, in*bits/32]     code i at bit i*bits of a row
//	M.scales  float [out, in/group_size]   weight = code*scale + bias
//	M.biases  float [out, in/group_size]
//
// Both want rows of whole groups; kernels have group sizes of 32, 64 and 128.

package pipeline

import (
	"encoding/binary"
	"fmt"
	"io"

	"slmc/formats/safetensors"
	"slmc/model"
	"slmc/quant"
)

// packedLayout is one layout.
type packedLayout struct {
	name string
	// grid is how a matrix is packed, the zero value for floats. why says what
	// keeps it from being packed though its format has codes.
	grid func(f quant.Format, w model.Weight) (g packedGrid, why string)
	// tensors are what stands for packed weight i.
	tensors func(p *packedWriter, i int) []safetensors.Tensor
	// config adds to config.json what a reader must know.
	config func(p *packedWriter)
	// names of codes, scales and biases after the module's; biases "" without.
	codes, scales, biases string
	// settings reads, for a module, bits and group size from config.json; 0 for
	// floats.
	settings func(config map[string]any, module string) (bits, group int)
}

func packedLayouts() []packedLayout {
	return []packedLayout{
		{name: "compressed-tensors", grid: symmetricGrid, tensors: symmetricTensors, config: symmetricConfig,
			codes: ".weight_packed", scales: ".weight_scale", settings: symmetricSettings},
		{name: "mlx", grid: affineGrid, tensors: affineTensors, config: affineConfig,
			codes: ".weight", scales: ".scales", biases: ".biases", settings: affineSettings},
	}
}

// wholeGroups finds the largest group size of kernels that divides a row and a
// group of the bundle, which then is repeated.
func wholeGroups(f quant.Format, cols int) (group int, why string) {
	for _, g := range []int{128, 64, 32} {
		if f.Group()%g == 0 && cols%g == 0 {
			return g, ""
		}
	}
	return 0, fmt.Sprintf("rows of %d weights are not whole groups of 32", cols)
}

// gridBits are the bits of a format's codes, and twice the code of level 0.
func gridBits(f quant.Format) (bits, zero2 int) {
	switch f.(type) {
	case quant.W8:
		return 8, 256
	case quant.W4:
		return 4, 16
	case quant.W2:
		return 2, 3
	}
	return 0, 0
}

// symmetricGrid: codes with an integer zero in the middle. The embedding and
// the head stay floats, as the layout's readers expect.
func symmetricGrid(f quant.Format, w model.Weight) (packedGrid, string) {
	bits, zero2 := gridBits(f)
	if bits == 0 || w.Role == model.RoleEmbed || w.Role == model.RoleHead {
		return packedGrid{}, ""
	}
	group, why := wholeGroups(f, w.Shape[1])
	if why != "" {
		return packedGrid{}, why
	}
	if bits == 2 {
		return packedGrid{Bits: 4, Group: group, zero2: 16, times: 2}, ""
	}
	return packedGrid{Bits: bits, Group: group, zero2: zero2, times: 1}, ""
}

func symmetricTensors(p *packedWriter, i int) []safetensors.Tensor {
	g, shape, m := p.grids[i], p.h.m.Weights[i].Shape, p.module(i)
	same := func(s float32) float32 { return s }
	return []safetensors.Tensor{
		{Name: m + ".weight_packed", Integer: "I32", Shape: []int{shape[0], (shape[1]*g.Bits + 31) / 32}, Data: func(w io.Writer) error { return p.words(i, w) }},
		{Name: m + ".weight_scale", Type: p.h.format.Type, Shape: []int{shape[0], shape[1] / g.Group}, Data: func(w io.Writer) error { return p.scales(i, w, same) }},
		{Name: m + ".weight_shape", Integer: "I64", Shape: []int{2}, Data: func(w io.Writer) error { return shape64(w, shape) }},
	}
}

// symmetricConfig writes quantization_config: one group of settings for each
// pair of bits and group size, for all linear layers or for those it names.
func symmetricConfig(p *packedWriter) {
	var order []packedGrid
	members := map[packedGrid][]any{}
	ignore := []any{}
	for i, w := range p.h.m.Weights {
		switch g := p.grids[i]; {
		case !w.Role.Matrix() || w.Role == model.RoleEmbed:
		case g.Bits == 0:
			ignore = append(ignore, p.module(i))
		default:
			g = packedGrid{Bits: g.Bits, Group: g.Group}
			if members[g] == nil {
				order = append(order, g)
			}
			members[g] = append(members[g], p.module(i))
		}
	}
	if p.h.m.Tied() {
		ignore = append(ignore, "lm_head")
	}
	groups := map[string]any{}
	for n, g := range order {
		targets := members[g]
		if len(order) == 1 {
			targets = []any{"Linear"}
		}
		groups[fmt.Sprintf("group_%d", n)] = map[string]any{
			"targets": targets, "input_activations": nil, "output_activations": nil, "format": "pack-quantized",
			"weights": map[string]any{
				"num_bits": integer(g.Bits), "type": "int", "symmetric": true, "strategy": "group", "group_size": integer(g.Group),
				"dynamic": false, "actorder": nil, "observer": nil,
			},
		}
	}
	p.h.config["quantization_config"] = map[string]any{
		"quant_method": "compressed-tensors", "format": "pack-quantized", "quantization_status": "compressed",
		"global_compression_ratio": nil, "kv_cache_scheme": nil, "config_groups": groups, "ignore": ignore,
	}
}

func symmetricSettings(config map[string]any, module string) (bits, group int) {
	top, _ := config["quantization_config"].(map[string]any)
	ignore, _ := top["ignore"].([]any)
	if contains(ignore, module) {
		return 0, 0
	}
	groups, _ := top["config_groups"].(map[string]any)
	for _, v := range groups {
		g, _ := v.(map[string]any)
		targets, _ := g["targets"].([]any)
		if weights, ok := g["weights"].(map[string]any); ok && (contains(targets, "Linear") || contains(targets, module)) {
			return number(weights["num_bits"]), number(weights["group_size"])
		}
	}
	return 0, 0
}

// affineGrid: codes from 0 on, with a bias for each group.
func affineGrid(f quant.Format, w model.Weight) (packedGrid, string) {
	bits, zero2 := gridBits(f)
	if bits == 0 {
		return packedGrid{}, ""
	}
	group, why := wholeGroups(f, w.Shape[1])
	if why != "" {
		return packedGrid{}, why
	}
	return packedGrid{Bits: bits, Group: group, zero2: zero2, times: 1}, ""
}

func affineTensors(p *packedWriter, i int) []safetensors.Tensor {
	g, shape, m := p.grids[i], p.h.m.Weights[i].Shape, p.module(i)
	groups := []int{shape[0], shape[1] / g.Group}
	same := func(s float32) float32 { return s }
	bias := func(s float32) float32 { return -s * float32(g.zero2) / 2 }
	return []safetensors.Tensor{
		{Name: m + ".weight", Integer: "U32", Shape: []int{shape[0], shape[1] * g.Bits / 32}, Data: func(w io.Writer) error { return p.words(i, w) }},
		{Name: m + ".scales", Type: p.h.format.Type, Shape: groups, Data: func(w io.Writer) error { return p.scales(i, w, same) }},
		{Name: m + ".biases", Type: p.h.format.Type, Shape: groups, Data: func(w io.Writer) error { return p.scales(i, w, bias) }},
	}
}

// affineConfig writes the settings of most parameters, and others by module.
// Layers without scales are floats to the reader.
func affineConfig(p *packedWriter) {
	elems := map[packedGrid]int{}
	var most packedGrid
	for i, w := range p.h.m.Weights {
		if g := p.grids[i]; g.Bits > 0 {
			if elems[g] += w.Elems(); elems[g] > elems[most] {
				most = g
			}
		}
	}
	settings := func(g packedGrid) map[string]any {
		return map[string]any{"group_size": integer(g.Group), "bits": integer(g.Bits), "mode": "affine"}
	}
	q := settings(most)
	for i := range p.h.m.Weights {
		if g := p.grids[i]; g.Bits > 0 && g != most {
			q[p.module(i)] = settings(g)
		}
	}
	p.h.config["quantization"], p.h.config["quantization_config"] = q, q
}

func affineSettings(config map[string]any, module string) (bits, group int) {
	q, _ := config["quantization"].(map[string]any)
	if own, ok := q[module].(map[string]any); ok {
		q = own
	}
	return number(q["bits"]), number(q["group_size"])
}

// unpackWords gives code k of a packed row, as both layouts store it.
func unpackWords(row []byte, k, bits int) int {
	bit := k * bits
	word := binary.LittleEndian.Uint32(row[4*(bit/32):])
	return int(word >> (bit % 32) & (1<<bits - 1))
}
