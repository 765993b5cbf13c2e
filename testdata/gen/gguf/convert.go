// A plain translation of a Hugging Face llama folder, for test files: it knows
// no architecture but llama and no tokenizer but SentencePiece.

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"

	"slmc/formats"
	"slmc/formats/gguf"
	"slmc/formats/safetensors"
)

type config struct {
	Hidden    int     `json:"hidden_size"`
	Layers    int     `json:"num_hidden_layers"`
	Heads     int     `json:"num_attention_heads"`
	KVHeads   int     `json:"num_key_value_heads"`
	HeadDim   int     `json:"head_dim"`
	FFN       int     `json:"intermediate_size"`
	Vocab     int     `json:"vocab_size"`
	Context   int     `json:"max_position_embeddings"`
	RopeTheta float64 `json:"rope_theta"`
	Eps       float64 `json:"rms_norm_eps"`
	BOS       int     `json:"bos_token_id"`
	EOS       int     `json:"eos_token_id"`
}

func readJSON(path string, v any) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return json.Unmarshal(raw, v)
}

func convert(ctx context.Context, folder, out string, typ gguf.Type) (err error) {
	var c config
	if err := readJSON(filepath.Join(folder, "config.json"), &c); err != nil {
		return err
	}
	params := gguf.ArchParams{
		Arch: "llama", Name: filepath.Base(folder), Type: typ, Vocab: c.Vocab, Context: c.Context, Embedding: c.Hidden,
		Blocks: c.Layers, FFN: c.FFN, Heads: c.Heads, KVHeads: c.KVHeads, HeadDim: c.HeadDim, NormEps: c.Eps, RopeBase: c.RopeTheta,
	}
	kvs, err := params.KVs()
	if err != nil {
		return err
	}
	vocab, err := readVocab(folder, c)
	if err != nil {
		return err
	}
	kvs = append(kvs, vocab.KVs()...)
	src, err := safetensors.Open(filepath.Join(folder, "model.safetensors"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, src.Close()) }()
	tensors, err := list(src, c, typ)
	if err != nil {
		return err
	}
	return writeFile(out, func(f *os.File) error { return gguf.Write(ctx, f, kvs, tensors) })
}

// names maps the parts of Hugging Face's names.
var names = map[string]string{
	"model.embed_tokens.weight":       "token_embd.weight",
	"model.norm.weight":               "output_norm.weight",
	"lm_head.weight":                  "output.weight",
	"input_layernorm.weight":          "attn_norm.weight",
	"post_attention_layernorm.weight": "ffn_norm.weight",
	"self_attn.q_proj.weight":         "attn_q.weight",
	"self_attn.k_proj.weight":         "attn_k.weight",
	"self_attn.v_proj.weight":         "attn_v.weight",
	"self_attn.o_proj.weight":         "attn_output.weight",
	"mlp.gate_proj.weight":            "ffn_gate.weight",
	"mlp.up_proj.weight":              "ffn_up.weight",
	"mlp.down_proj.weight":            "ffn_down.weight",
}

func list(src formats.Source, c config, typ gguf.Type) ([]gguf.Tensor, error) {
	var tensors []gguf.Tensor
	for _, info := range src.Tensors() {
		t := gguf.Tensor{Shape: info.Shape, Type: typ, Read: func(off int, dst []float32) error { return src.ReadF32(info.Name, off, dst) }}
		part, block := info.Name, ""
		if rest, ok := strings.CutPrefix(info.Name, "model.layers."); ok {
			var num string
			num, part, _ = strings.Cut(rest, ".")
			block = "blk." + num + "."
		}
		if names[part] == "" {
			return nil, fmt.Errorf("tensor %q has no name in GGUF", info.Name)
		}
		t.Name = block + names[part]
		if len(info.Shape) == 1 {
			t.Type = gguf.F32
		} else if elems, _ := typ.Block(); info.Shape[1]%elems != 0 {
			t.Type = gguf.F16
		}
		switch part {
		case "self_attn.q_proj.weight":
			t.Heads = c.Heads
		case "self_attn.k_proj.weight":
			t.Heads = c.KVHeads
		}
		tensors = append(tensors, t)
	}
	return tensors, nil
}

// readVocab reads tokenizer.model, and from tokenizer.json which of its pieces
// are special.
func readVocab(folder string, c config) (gguf.Vocab, error) {
	v := gguf.NoIDs()
	raw, err := os.ReadFile(filepath.Join(folder, "tokenizer.model"))
	if err != nil {
		return v, err
	}
	v.Model, v.Pre, v.BOS, v.EOS, v.Unknown = "llama", "default", c.BOS, c.EOS, 0
	yes, no := true, false
	v.AddBOS, v.AddEOS = &yes, &no
	if err := pieces(raw, &v); err != nil {
		return v, err
	}
	if len(v.Tokens) != c.Vocab {
		return v, fmt.Errorf("tokenizer.model has %d pieces, the model %d", len(v.Tokens), c.Vocab)
	}
	var tok struct {
		Added []struct {
			ID      int
			Content string
			Special bool
		} `json:"added_tokens"`
	}
	if err := readJSON(filepath.Join(folder, "tokenizer.json"), &tok); err != nil {
		return v, err
	}
	for _, a := range tok.Added {
		if a.ID < 0 || a.ID >= len(v.Tokens) || v.Tokens[a.ID] != a.Content {
			return v, fmt.Errorf("added token %d %q is not that of tokenizer.model", a.ID, a.Content)
		}
		switch {
		case v.Types[a.ID] == gguf.TokenUnknown:
		case a.Special:
			v.Types[a.ID] = gguf.TokenControl
		default:
			v.Types[a.ID] = gguf.TokenUserDefined
		}
	}
	var tc struct {
		Template string `json:"chat_template"`
	}
	if err := readJSON(filepath.Join(folder, "tokenizer_config.json"), &tc); err != nil && !errors.Is(err, os.ErrNotExist) {
		return v, err
	}
	v.ChatTemplate = tc.Template
	return v, nil
}

// pieces reads field 1 of SentencePiece's ModelProto, a message with the piece
// (1), its score (2) and its class (3), whose numbers are GGUF's.
func pieces(raw []byte, v *gguf.Vocab) error {
	return fields(raw, func(num int, value uint64, body []byte) error {
		if num != 1 || body == nil {
			return nil
		}
		var piece string
		var score float32
		class := gguf.TokenNormal
		err := fields(body, func(num int, value uint64, body []byte) error {
			switch num {
			case 1:
				piece = string(body)
			case 2:
				score = math.Float32frombits(uint32(value))
			case 3:
				class = gguf.TokenType(value)
			}
			return nil
		})
		v.Tokens, v.Scores, v.Types = append(v.Tokens, piece), append(v.Scores, score), append(v.Types, class)
		return err
	})
}

// fields walks a protobuf message: body is set for length-delimited fields,
// value for the others.
func fields(raw []byte, visit func(num int, value uint64, body []byte) error) error {
	bad := errors.New("tokenizer.model: malformed protobuf")
	for len(raw) > 0 {
		tag, n := uvarint(raw)
		if n == 0 {
			return bad
		}
		raw = raw[n:]
		var value uint64
		var body []byte
		switch tag & 7 {
		case 0:
			if value, n = uvarint(raw); n == 0 {
				return bad
			}
		case 1, 5:
			n = 8 - int(tag&4) // 8 bytes, or 4
			if len(raw) < n {
				return bad
			}
			for i := range n {
				value |= uint64(raw[i]) << (8 * i)
			}
		case 2:
			size, k := uvarint(raw)
			if k == 0 || size > uint64(len(raw)-k) {
				return bad
			}
			n = k + int(size)
			body = raw[k:n:n]
		default:
			return bad
		}
		raw = raw[n:]
		if err := visit(int(tag>>3), value, body); err != nil {
			return err
		}
	}
	return nil
}

func uvarint(raw []byte) (v uint64, n int) {
	for n < len(raw) && n < 10 {
		b := raw[n]
		v |= uint64(b&0x7f) << (7 * n)
		n++
		if b < 0x80 {
			return v, n
		}
	}
	return 0, 0
}
