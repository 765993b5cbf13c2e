package convert

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slmc/bench/peer"
	"slmc/formats"
	"slmc/formats/gguf"
	"slmc/model"
)

// pieces is a vocabulary of n bytes and names, which says nothing but lets
// llama.cpp load a file.
func pieces(n int) gguf.Vocab {
	v := gguf.NoIDs()
	v.Model, v.Pre, v.BOS, v.EOS, v.Unknown = "llama", "default", 1, 2, 0
	for i := range n {
		token, class := fmt.Sprintf("<0x%02X>", i-3), gguf.TokenByte
		if i < 3 {
			token, class = []string{"<unk>", "<s>", "</s>"}[i], []gguf.TokenType{gguf.TokenUnknown, gguf.TokenControl, gguf.TokenControl}[i]
		} else if i >= 259 {
			token, class = fmt.Sprintf("[PAD%d]", i), gguf.TokenUnused
		}
		v.Tokens, v.Types, v.Scores = append(v.Tokens, token), append(v.Types, class), append(v.Scores, 0)
	}
	return v
}

// export writes a model to a GGUF file.
func export(t *testing.T, m *model.Model, typ gguf.Type) (string, *GGUFFile) {
	t.Helper()
	f, err := GGUF(m, "test", typ, nil)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := gguf.Write(t.Context(), &b, append(f.KVs, pieces(m.Vocab).KVs()...), f.Tensors); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "model.gguf")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, f
}

// ggufCases lists the reference checkpoints with what their export must say.
var ggufCases = []struct {
	name    string
	refused string // part of the error, "" where the export works
}{
	{name: "llama"}, {name: "llama3"}, {name: "llama-linear"}, {name: "mobilellm"}, {name: "mobilellm-ls"},
	{name: "qwen2"}, {name: "qwen2-window", refused: "sliding"}, {name: "qwen3"},
	{name: "gemma2"}, {name: "gemma2-bf16", refused: "scores are scaled"},
	{name: "gemma3"}, {name: "gemma3-types"},
}

// An F32 export read back is the same model: the logits of both agree to the
// last bits (rotary factors are stored in float32).
func TestGGUFRoundTrip(t *testing.T) {
	for _, c := range ggufCases {
		m := open(t, testdata("arch", c.name), Options{}).Model
		if c.refused != "" {
			if _, err := GGUF(m, c.name, gguf.F32, nil); !errors.Is(err, formats.ErrUnsupported) || !strings.Contains(err.Error(), c.refused) {
				t.Errorf("%s: %v, want an error with %q", c.name, err, c.refused)
			}
			continue
		}
		path, f := export(t, m, gguf.F32)
		if len(f.Notes) > 0 {
			t.Errorf("%s: notes %q", c.name, f.Notes)
		}
		back := open(t, path, Options{}).Model
		if c.name != "mobilellm-ls" { // there the blocks are written out
			sameWeights(t, c.name, m, back)
		}
		ids := []int32{1, 7, 3, 20, 9, 49, 11, 12, 13, 2, 5, 30}
		a, b := start(t, m, len(ids)).feed(t, ids, 0), start(t, back, len(ids)).feed(t, ids, 0)
		for pos := range a {
			want := make([]float64, len(a[pos]))
			for i, v := range a[pos] {
				want[i] = float64(v)
			}
			if d := worst(b[pos], want); d > 2e-6 {
				t.Errorf("%s: logits at position %d differ by %.2g after a round trip", c.name, pos, d)
				break
			}
		}
	}
}

// llama.cpp computes the same logits from our F32 export.
func TestGGUFInPeer(t *testing.T) {
	o, err := peer.Find("")
	if err != nil {
		t.Skip(err)
	}
	ctx := context.Background()
	for _, c := range ggufCases {
		if c.refused != "" {
			continue
		}
		var ref struct {
			IDs    []int
			Logits [][]float64
		}
		readJSON(t, testdata("arch", c.name, "logits.json"), &ref)
		path, _ := export(t, open(t, testdata("arch", c.name), Options{}).Model, gguf.F32)
		got, err := o.Logits(ctx, path, ref.IDs)
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
			continue
		}
		bad := 0.0
		for pos, row := range got {
			bad = max(bad, worst(row, ref.Logits[pos]))
		}
		t.Logf("%-14s llama.cpp differs from the reference by %.1e", c.name, bad)
		// ggml looks GELU up in a table of float16 (ggml_vec_gelu_f32 under
		// GGML_GELU_FP16), which moves Gemma's logits by up to 2^-10.
		bound := 1e-5
		if strings.HasPrefix(c.name, "gemma") {
			bound = 2e-3
		}
		if !(bad < bound) {
			t.Errorf("%s: llama.cpp's logits differ from the reference by %.2g", c.name, bad)
		}
	}
}

// A Gemma 3 without windows has no key that says so in GGUF: its absence does.
func TestGGUFWithoutWindows(t *testing.T) {
	f := tiny(t, "gemma3-types")
	f.config["layer_types"] = []string{"full_attention", "full_attention", "full_attention"}
	m := open(t, f.write(t), Options{}).Model
	path, _ := export(t, m, gguf.F32)
	back := open(t, path, Options{}).Model
	for i, b := range back.Blocks {
		if b.Window != 0 || b.Rope != 0 {
			t.Errorf("block %d: window %d, frequencies %d", i, b.Window, b.Rope)
		}
	}
	sameWeights(t, "gemma3 without windows", m, back)
}
