package bundle

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	"slmc/model"
	"slmc/quant"
	"slmc/tensor"
)

// dims of a tiny model: one giver and one taker unless blocks is 1.
type dims struct{ D, H, K, E, F, V, context, blocks int }

var tinyDims = dims{D: 8, H: 2, K: 1, E: 4, F: 12, V: 16, context: 8, blocks: 1}

// tinyGraph describes a model whose every second block reads the keys and
// values of the one before.
func tinyGraph(d dims) model.Graph {
	g := model.Graph{Arch: "llama", Hidden: d.D, Vocab: d.V, Context: d.context, NormEps: 1e-5, EmbedScale: 1}
	weight := func(name string, role model.Role, shape ...int) int {
		g.Weights = append(g.Weights, model.Weight{Name: name, Role: role, Shape: shape})
		return len(g.Weights) - 1
	}
	none := model.Linear{W: model.None, B: model.None}
	linear := func(name string, role model.Role, out, in int) model.Linear {
		return model.Linear{W: weight(name+".weight", role, out, in), B: model.None}
	}
	g.Embed = weight("token_embd.weight", model.RoleEmbed, d.V, d.D)
	g.Norm = weight("output_norm.weight", model.RoleNorm, d.D)
	g.Head = model.Linear{W: g.Embed, B: model.None}
	rope := model.Rope{HeadDim: d.E}
	for i := range d.E / 2 {
		rope.InvFreq = append(rope.InvFreq, float32(math.Pow(10000, -2*float64(i)/float64(d.E))))
	}
	g.Ropes = []model.Rope{rope}
	for i := range d.blocks {
		at := fmt.Sprintf("blk.%d.", i)
		b := model.Block{Heads: d.H, KVHeads: d.K, HeadDim: d.E, FFN: d.F, Act: model.SiLU, AttnScale: float32(1 / math.Sqrt(float64(d.E))),
			QNorm: model.None, KNorm: model.None, PostAttnNorm: model.None, PostFFNNorm: model.None, K: none, V: none, KVFrom: i &^ 1}
		b.AttnNorm = weight(at+"attn_norm.weight", model.RoleNorm, d.D)
		b.Q = linear(at+"attn_q", model.RoleAttnQ, d.H*d.E, d.D)
		if b.KVFrom == i {
			b.K = linear(at+"attn_k", model.RoleAttnK, d.K*d.E, d.D)
			b.V = linear(at+"attn_v", model.RoleAttnV, d.K*d.E, d.D)
			b.V.B = weight(at+"attn_v.bias", model.RoleBias, d.K*d.E)
		}
		b.O = linear(at+"attn_output", model.RoleAttnO, d.D, d.H*d.E)
		b.FFNNorm = weight(at+"ffn_norm.weight", model.RoleNorm, d.D)
		b.Gate = linear(at+"ffn_gate", model.RoleGate, d.F, d.D)
		b.Up = linear(at+"ffn_up", model.RoleUp, d.F, d.D)
		b.Down = linear(at+"ffn_down", model.RoleDown, d.D, d.F)
		g.Blocks = append(g.Blocks, b)
	}
	return g
}

// tinySpec makes a whole bundle of seeded weights.
func tinySpec(t testing.TB, d dims) Spec {
	t.Helper()
	g := tinyGraph(d)
	s := Spec{MinTool: "0.1.0", Formats: make([]quant.Format, len(g.Weights))}
	for i, w := range g.Weights {
		s.Formats[i] = quant.F32
		if w.Role.Matrix() {
			s.Formats[i] = quant.W8{GroupSize: 32}
		}
	}
	s.Weight = func(i int, dst io.Writer) error { return writeTinyWeight(g.Weights[i], s.Formats[i], uint64(i), dst) }
	s.Manifest = Manifest{
		ToolVersion: "0.1.0", Graph: g, Context: d.context, KVFormat: KV8, Kernels: []string{"kv8", "mat_w8g32"},
		Memory:    Memory{Fixed: 4096, PerPosition: 20, PerToken: 512},
		Tokenizer: Tokenizer{Kind: "tokenizer.json", BOS: 1, EOS: []int{2}},
		Provenance: Provenance{
			Sources: []SourceFile{{Name: "model.safetensors", Bytes: 1234, SHA256: Digest{1, 2, 3}}},
			Recipe:  json.RawMessage(`{"weights": "w8", "rate": 1.50, "note": "<&\u20ac>"}`),
			Seeds:   []Seed{{Stage: "golden", Seed: math.MaxUint64}},
			Reports: []StageReport{{Stage: "quantize", Version: "1", Report: json.RawMessage(`{"mse": 1e-7}`)}},
		},
	}
	golden, err := tinyGolden(d.V).Encode(d.V)
	if err != nil {
		t.Fatal(err)
	}
	s.Sections = []Data{
		{SectionTokenizer, true, []byte(`{"model":{"type":"BPE"}}`)},
		{SectionTemplate, false, []byte("{% for m in messages %}{{ m.content }}{% endfor %}")},
		{SectionGolden, false, golden},
	}
	return s
}

func writeTinyWeight(w model.Weight, f quant.Format, seed uint64, dst io.Writer) error {
	rng := rand.New(rand.NewPCG(1, seed))
	if !w.Role.Matrix() {
		for range w.Shape[0] {
			if err := binary.Write(dst, binary.LittleEndian, 1+rng.Float32()); err != nil {
				return err
			}
		}
		return nil
	}
	rows, K := w.Shape[0], w.Shape[1]
	panel := make([]byte, f.PanelBytes(K))
	for r := 0; r < rows; r += 16 {
		var forms [][]byte
		for range min(16, rows-r) {
			row := make([]float32, K)
			for k := range row {
				row[k] = rng.Float32() - 0.5
			}
			scales := make([]tensor.Half, quant.Groups(f, K))
			for i := range scales {
				scales[i] = tensor.HalfFrom(0.5 / 127)
			}
			form, err := f.Encode(nil, row, scales)
			if err != nil {
				return err
			}
			forms = append(forms, form)
		}
		f.Pack(panel, forms, K)
		if _, err := dst.Write(panel); err != nil {
			return err
		}
	}
	return nil
}

func tinyGolden(vocab int) *Golden {
	g := &Golden{Origin: "sampled", Seed: 7}
	step := TeacherStep{NLL: 1.25}
	for i := range min(teacherTop, vocab) {
		step.Top = append(step.Top, TokenLogProb{ID: i, LogProb: -0.1 * float32(i+1)})
	}
	for i := range 2 {
		g.Prompts = append(g.Prompts, GoldenPrompt{
			IDs:          []int{1, i},
			Logits:       []LogitsDigest{DigestLogits([]float32{1}), DigestLogits([]float32{2})},
			Greedy:       []int{3},
			GreedyLogits: []LogitsDigest{DigestLogits([]float32{float32(i)})},
			Teacher:      []TeacherStep{step, step},
		})
	}
	return g
}

// writeTiny writes a bundle to a new folder and returns its path and bytes.
func writeTiny(t testing.TB, s Spec) (string, []byte) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "tiny.slmb")
	if _, err := Write(path, s); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, content
}

func mustOpen(t testing.TB, path string) *Bundle {
	t.Helper()
	b, err := Open(path, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}
