package main

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"slmc/formats/safetensors"
)

// A checkpoint with a tensor missing, too many, misshapen or not finite is
// exit code 4 and an error that names the tensor, and leaves no bundle.
func TestBrokenCheckpoints(t *testing.T) {
	const victim = "model.layers.3.mlp.up_proj.weight"
	find := func(ts []safetensors.Tensor) *safetensors.Tensor {
		return &ts[slices.IndexFunc(ts, func(x safetensors.Tensor) bool { return x.Name == victim })]
	}
	put := func(value float32) func([]safetensors.Tensor) []safetensors.Tensor {
		return func(ts []safetensors.Tensor) []safetensors.Tensor {
			x := find(ts)
			data := x.Data
			x.Data = func(w io.Writer) error {
				var b bytes.Buffer
				if err := data(&b); err != nil {
					return err
				}
				binary.LittleEndian.PutUint32(b.Bytes()[4*1000:], math.Float32bits(value))
				_, err := w.Write(b.Bytes())
				return err
			}
			return ts
		}
	}
	for _, c := range []struct {
		name    string
		edit    func([]safetensors.Tensor) []safetensors.Tensor
		inspect int // NaN is seen when the weights are read
		names   string
	}{
		{"missing", func(ts []safetensors.Tensor) []safetensors.Tensor {
			return slices.DeleteFunc(ts, func(x safetensors.Tensor) bool { return x.Name == victim })
		}, exitIntegrity, victim},
		{"surplus", func(ts []safetensors.Tensor) []safetensors.Tensor {
			more := *find(ts)
			more.Name = "model.layers.3.mlp.side_proj.weight"
			return append(ts, more)
		}, exitIntegrity, "model.layers.3.mlp.side_proj.weight"},
		{"turned", func(ts []safetensors.Tensor) []safetensors.Tensor {
			x := find(ts)
			x.Shape = []int{x.Shape[1], x.Shape[0]}
			return ts
		}, exitIntegrity, victim},
		{"NaN", put(float32(math.NaN())), 0, victim},
		{"Inf", put(float32(math.Inf(-1))), 0, victim},
	} {
		source := checkpoint(t, c.edit)
		if n, text := code("inspect", source); n != c.inspect || n != 0 && !strings.Contains(text, c.names) {
			t.Errorf("%s: inspect: exit %d, wanted %d and %s in: %s", c.name, n, c.inspect, c.names, text)
		}
		dir := t.TempDir()
		for _, command := range []string{"build", "quantize"} {
			args := []string{command, source, "-o", filepath.Join(dir, "out.slmb")}
			if command == "build" {
				args = append(args, "--cache", filepath.Join(t.TempDir(), "cache"))
			}
			if n, text := code(args...); n != exitIntegrity || !strings.Contains(text, c.names) {
				t.Errorf("%s: %s: exit %d, wanted %d and %s in: %s", c.name, command, n, exitIntegrity, c.names, text)
			}
		}
		if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
			t.Errorf("%s: left %v (%v)", c.name, left, err)
		}
		if n, text := code("run", source, "--prompt", "hello", "-n", "1"); n != exitIntegrity {
			t.Errorf("%s: run: exit %d: %s", c.name, n, text)
		}
	}
}
