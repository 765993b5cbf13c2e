// Big writes a checkpoint folder of seeded random weights in a published shape,
// to measure conversion with: config.json and a BF16 model.safetensors. The same
// seed gives the same bytes. Without -tokenizer it has none.
//
//	go run ./testdata/gen/big -shape tinyllama-1.1b -o FOLDER
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"slmc/formats/safetensors"
	"slmc/model"
	"slmc/tensor"
)

// shapes are the published dimensions: TinyLlama (arXiv 2401.02385) and
// MobileLLM (arXiv 2402.14905, table 9). tiny is for a quick look.
var shapes = map[string]string{
	"tinyllama-1.1b": `{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 2048, "num_hidden_layers": 22, "num_attention_heads": 32, "num_key_value_heads": 4, "intermediate_size": 5632, "tie_word_embeddings": false}`,
	"mobilellm-125m": `{"model_type": "mobilellm", "architectures": ["MobileLLMForCausalLM"], "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "intermediate_size": 1536, "share_embedding": true, "tie_word_embeddings": false}`,
	"mobilellm-350m": `{"model_type": "mobilellm", "architectures": ["MobileLLMForCausalLM"], "hidden_size": 960, "num_hidden_layers": 32, "num_attention_heads": 15, "num_key_value_heads": 5, "intermediate_size": 2560, "share_embedding": true, "tie_word_embeddings": false}`,
	"tiny":           `{"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 172, "tie_word_embeddings": true}`,
}

func main() {
	shape := flag.String("shape", "tinyllama-1.1b", "tinyllama-1.1b, mobilellm-125m, mobilellm-350m or tiny")
	out := flag.String("o", "", "folder to write; it is made")
	seed := flag.Uint64("seed", 1, "seed of the weights")
	tokenizer := flag.String("tokenizer", "", "folder whose tokenizer files are copied, for example testdata/assistant-tiny")
	flag.Parse()
	if err := run(*shape, *out, *seed, *tokenizer); err != nil {
		fmt.Fprintln(os.Stderr, "big:", err)
		os.Exit(1)
	}
}

func run(shape, out string, seed uint64, tokenizer string) error {
	if out == "" {
		return errors.New("-o FOLDER is wanted")
	}
	config := map[string]any{}
	if err := json.Unmarshal([]byte(shapes[shape]), &config); err != nil {
		return fmt.Errorf("shape %q: %w", shape, err)
	}
	for k, v := range map[string]any{"vocab_size": 32000, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
		"torch_dtype": "bfloat16", "bos_token_id": 1, "eos_token_id": 2} {
		config[k] = v
	}
	text, err := json.MarshalIndent(config, "", "  ")
	if err != nil {
		return err
	}
	c, err := model.ParseConfig("config.json", strings.NewReader(string(text)), int64(len(text)))
	if err != nil {
		return err
	}
	g, err := model.Build(c)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(out, "config.json"), append(text, '\n'), 0o644); err != nil {
		return err
	}
	if tokenizer != "" {
		for _, name := range []string{"tokenizer.json", "tokenizer.model", "tokenizer_config.json"} {
			b, err := os.ReadFile(filepath.Join(tokenizer, name))
			if err != nil {
				return err
			}
			if err := os.WriteFile(filepath.Join(out, name), b, 0o644); err != nil {
				return err
			}
		}
	}
	return writeWeights(filepath.Join(out, "model.safetensors"), g, seed)
}

func writeWeights(path string, g *model.Graph, seed uint64) (err error) {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	var tensors []safetensors.Tensor
	for i, w := range g.Weights {
		tensors = append(tensors, safetensors.Tensor{Name: w.Source, Type: tensor.BF16, Shape: w.Shape, Data: func(out io.Writer) error {
			return fill(out, w, rand.NewPCG(seed, uint64(i)))
		}})
	}
	buf := bufio.NewWriterSize(f, 1<<20)
	if err := safetensors.Write(buf, map[string]string{"format": "pt"}, tensors...); err != nil {
		return err
	}
	return buf.Flush()
}

// fill writes a weight: ones for a norm, otherwise nearly normal numbers (the
// sum of four uniform ones) of standard deviation 1/sqrt(inputs).
func fill(out io.Writer, w model.Weight, r *rand.PCG) error {
	const uniform = 37837.2 // standard deviation of the sum of four uniform 16-bit numbers
	scale := float32(1 / math.Sqrt(float64(w.Shape[len(w.Shape)-1])) / uniform)
	buf := make([]byte, 0, 1<<16)
	for n := w.Elems(); n > 0; n-- {
		x := float32(1)
		if w.Role.Matrix() {
			u := r.Uint64()
			sum := int(u&0xffff) + int(u>>16&0xffff) + int(u>>32&0xffff) + int(u>>48)
			x = float32(sum-2*0xffff) * scale
		}
		buf = binary.LittleEndian.AppendUint16(buf, uint16(tensor.BFloatFrom(x)))
		if len(buf) == cap(buf) || n == 1 {
			if _, err := out.Write(buf); err != nil {
				return err
			}
			buf = buf[:0]
		}
	}
	return nil
}
