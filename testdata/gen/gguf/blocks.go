// Golden block conversions: blocks with random codes and chosen scales, and
// what ggml makes of them.

package main

import (
	"bufio"
	"context"
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"os"

	"slmc/bench/peer"
	"slmc/formats/gguf"
)

// blockLayouts says where the float16 scales of a block lie and how many
// blocks are made.
var blockLayouts = []struct {
	name   string
	scales []int
}{
	{"F16", nil}, {"BF16", nil},
	{"Q4_0", []int{0}}, {"Q4_1", []int{0, 2}}, {"Q5_0", []int{0}}, {"Q5_1", []int{0, 2}}, {"Q8_0", []int{0}},
	{"Q2_K", []int{80, 82}}, {"Q3_K", []int{108}}, {"Q4_K", []int{0, 2}}, {"Q5_K", []int{0, 2}}, {"Q6_K", []int{208}},
	{"TQ2_0", []int{64}}, {"IQ4_NL", []int{0}},
}

// scales are float16 patterns: ordinary ones, the smallest denormal, the
// largest denormal, zero, the largest, and negative ones.
var scales = []uint16{0x2c66, 0x9e37, 0x0001, 0x03ff, 0x0000, 0x7bff, 0xfbff, 0x8001}

func blocks(ctx context.Context, oracle *peer.Oracle, path string) error {
	return writeFile(path, func(f *os.File) error {
		w := bufio.NewWriter(f)
		fmt.Fprintln(w, "# Blocks and what llama.cpp's ggml converts them to, in hexadecimal; floats are big-endian bit patterns.")
		fmt.Fprintln(w, "# decode TYPE BLOCK FLOATS: ggml_get_type_traits(TYPE)->to_float. encode TYPE FLOATS BLOCK: ->from_float_ref.")
		fmt.Fprintln(w, "# Made by: go run ./testdata/gen/gguf blocks")
		rng := rand.New(rand.NewPCG(7, 11))
		for _, l := range blockLayouts {
			if err := decodeLines(ctx, w, oracle, rng, l.name, l.scales); err != nil {
				return err
			}
		}
		for _, name := range []string{"F16", "BF16", "Q8_0", "Q4_0"} {
			if err := encodeLines(ctx, w, oracle, rng, name); err != nil {
				return err
			}
		}
		return w.Flush()
	})
}

func decodeLines(ctx context.Context, w *bufio.Writer, oracle *peer.Oracle, rng *rand.Rand, name string, at []int) error {
	t, err := gguf.TypeByName(name)
	if err != nil {
		return err
	}
	elems, size := t.Block()
	count := 4
	if elems == 1 {
		elems, size, count = 64, 64*size, 1
	}
	for i := range count {
		block := make([]byte, size)
		for k := range block {
			switch {
			case i == count-1 && at != nil:
				block[k] = 0xff
			default:
				block[k] = byte(rng.Uint32())
			}
		}
		for k, off := range at {
			s := scales[(2*i+3*k)%len(scales)]
			if i == count-1 {
				s = 0x3555
			}
			block[off], block[off+1] = byte(s), byte(s>>8)
		}
		if at == nil {
			finite(block)
		}
		x, err := oracle.Dequantize(ctx, name, block)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "decode %s %s ", name, hex.EncodeToString(block))
		writeFloats(w, x)
		fmt.Fprintln(w)
	}
	return nil
}

// finite clears a bit of each 16-bit pattern that is, or as F16 would be, no
// finite number.
func finite(raw []byte) {
	for i := 1; i < len(raw); i += 2 {
		if raw[i]&0x7c == 0x7c {
			raw[i] &^= 0x40
		}
	}
}

func writeFloats(w *bufio.Writer, x []float32) {
	for _, v := range x {
		fmt.Fprintf(w, "%08x", math.Float32bits(v))
	}
}

func encodeLines(ctx context.Context, w *bufio.Writer, oracle *peer.Oracle, rng *rand.Rand, name string) error {
	for i := range 8 {
		x := make([]float32, 32)
		for k := range x {
			x[k] = float32(rng.NormFloat64() * math.Pow(10, float64(i-5)))
			switch {
			case i == 5: // ties of rounding
				x[k] = float32(rng.IntN(255)-127) / 2
			case i == 6:
				x[k] = 0
			}
		}
		if i == 5 {
			x[3] = 127
		}
		if i == 7 {
			roundTwice(x, rng)
		}
		block, err := oracle.Encode(ctx, name, x)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "encode %s ", name)
		writeFloats(w, x)
		fmt.Fprintf(w, " %s\n", hex.EncodeToString(block))
	}
	return nil
}

// roundTwice fills x with values whose quotient by Q4_0's scale lies so little
// below k + 1/2 that it becomes k + 1/2 when it is rounded to float32, and
// stays below when 8.5 is added in the same operation.
func roundTwice(x []float32, rng *rand.Rand) {
	for k := range x {
		x[k] = 0
	}
	for n := 1; n < len(x); {
		x[0] = 1 + rng.Float32()
		id := 1 / (x[0] / -8)
		for n = 1; n < len(x); n++ {
			half := float32(rng.IntN(4)) - 7.5
			near := half / id
			for range 8 {
				p := float64(near) * float64(id)
				if float32(p) == half && p < float64(half)-0x1p-25 {
					break
				}
				near = math.Nextafter32(near, x[0])
			}
			if p := float64(near) * float64(id); float32(p) != half || p >= float64(half)-0x1p-25 {
				break
			}
			x[n] = near
		}
		if n > 4 { // the rest stays zero
			return
		}
		n = 1
	}
}
