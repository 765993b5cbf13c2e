package gguf

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"flag"
	"math"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"testing"

	"slmc/bench/peer"
)

var peerFolder = flag.String("peer", "", "folder of the installed llama.cpp oracle (default: bench/peer/.cache)")

func findPeer(t *testing.T) *peer.Oracle {
	t.Helper()
	o, err := peer.Find(*peerFolder)
	if errors.Is(err, peer.ErrAbsent) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// findPeerOrNil is for tests that have something to show without it.
func findPeerOrNil() *peer.Oracle {
	o, err := peer.Find(*peerFolder)
	if err != nil {
		return nil
	}
	return o
}

func parseFloats(t *testing.T, s string) []float32 {
	t.Helper()
	x := make([]float32, len(s)/8)
	for i := range x {
		b, err := strconv.ParseUint(s[8*i:8*i+8], 16, 32)
		if err != nil {
			t.Fatal(err)
		}
		x[i] = math.Float32frombits(uint32(b))
	}
	return x
}

// ownEncoder: types whose encoder minimises the error instead of giving
// llama.cpp's bytes.
func ownEncoder(t Type) bool { return t == Q2_K || t == TQ2_0 }

func sameBits(a, b []float32) int {
	for i := range a {
		if math.Float32bits(a[i]) != math.Float32bits(b[i]) {
			return i
		}
	}
	return -1
}

// testdata/blocks.txt holds what llama.cpp makes of each block: every readable
// and every writable type must give the same bits.
func TestBlocksAgainstGolden(t *testing.T) {
	raw, err := os.ReadFile("testdata/blocks.txt")
	if err != nil {
		t.Fatal(err)
	}
	decoded, encoded := map[string]int{}, map[string]int{}
	for line := range strings.Lines(string(raw)) {
		f := strings.Fields(line)
		if f[0] == "#" {
			continue
		}
		typ, err := TypeByName(f[1])
		if err != nil {
			t.Fatal(err)
		}
		floats, block := f[3], f[2]
		if f[0] == "encode" {
			floats, block = f[2], f[3]
		}
		x := parseFloats(t, floats)
		b, err := hex.DecodeString(block)
		if err != nil {
			t.Fatal(err)
		}
		if f[0] == "encode" {
			encoded[f[1]]++
			got := make([]byte, len(b))
			if err := Encode(got, x, typ); err != nil || !bytes.Equal(got, b) {
				t.Errorf("%s: encoded %x, llama.cpp %x (%v)", f[1], got, b, err)
			}
			continue
		}
		decoded[f[1]]++
		got := make([]float32, len(x))
		if err := Decode(got, b, typ); err != nil {
			t.Errorf("%s: %v", f[1], err)
		} else if i := sameBits(got, x); i >= 0 {
			t.Errorf("%s: element %d is %g, llama.cpp has %g; block %x", f[1], i, got[i], x[i], b)
		}
	}
	for _, b := range blockTypes {
		if b.decode != nil && decoded[b.name] == 0 && b.name != "F32" && b.name != "F64" {
			t.Errorf("%s is readable and has no golden block", b.name)
		}
		if b.encode != nil && encoded[b.name] == 0 && b.name != "F32" && !ownEncoder(b.id) {
			t.Errorf("%s is writable and has no golden block", b.name)
		}
	}
}

// The same against the library itself, with many more blocks.
func TestBlocksAgainstPeer(t *testing.T) {
	o := findPeer(t)
	ctx := context.Background()
	rng := rand.New(rand.NewPCG(1, 2))
	known, err := o.Types(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range known {
		b := typeByID(uint32(k.ID))
		if b == nil || !strings.EqualFold(b.name, k.Name) || b.elems != k.Elems || b.bytes != k.Bytes {
			t.Errorf("llama.cpp has %+v, the table %+v", k, b)
			continue
		}
		if b.decode == nil || b.name == "F64" {
			continue
		}
		raw := make([]byte, 200*b.bytes)
		for i := range raw {
			raw[i] = byte(rng.Uint32())
		}
		want, err := o.Dequantize(ctx, b.name, raw)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]float32, 200*b.elems)
		b.decode(got, raw)
		for i := range got {
			if math.Float32bits(got[i]) != math.Float32bits(want[i]) && (got[i] == got[i] || want[i] == want[i]) {
				t.Fatalf("%s: element %d of block %d is %g, llama.cpp has %g", b.name, i%b.elems, i/b.elems, got[i], want[i])
			}
		}
	}
	for _, typ := range []Type{F16, BF16, Q8_0, Q4_0} {
		x := make([]float32, 32*2000)
		for i := range x {
			x[i] = float32(rng.NormFloat64() * math.Exp(8*math.Sin(float64(i/32))-4))
		}
		want, err := o.Encode(ctx, typ.String(), x)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(want))
		if err := Encode(got, x, typ); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s: encoding differs from llama.cpp", typ)
		}
	}
}

func TestEncodeRefusesWhatItCannotHold(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	for _, c := range []struct {
		typ Type
		bad float32
		ok  float32 // the largest of its kind that is taken
	}{
		{F32, inf, math.MaxFloat32}, {F32, nan, 0},
		{F16, 65520, 65519}, {F16, -inf, -65504}, {F16, nan, 0},
		{BF16, math.MaxFloat32, 3.38e38}, {BF16, nan, 0},
		{Q8_0, 65520 * 127, 65504 * 127}, {Q8_0, nan, 0}, {Q8_0, inf, 0},
		{Q4_0, -65520 * 8, 65504 * 8}, {Q4_0, nan, 0}, {Q4_0, -inf, 0},
		{Q2_K, 65520, 65504}, {Q2_K, nan, 0}, {Q2_K, -inf, 0}, {TQ2_0, -65520, -65504}, {TQ2_0, nan, 0},
	} {
		elems, size := c.typ.Block()
		n := max(elems, 32)
		x, dst := make([]float32, n), make([]byte, n/elems*size)
		x[1], x[7] = 0.5, c.ok
		if err := Encode(dst, x, c.typ); err != nil {
			t.Errorf("%s: %g refused: %v", c.typ, c.ok, err)
		}
		x[7] = c.bad
		err := Encode(dst, x, c.typ)
		var re *RangeError
		if !errors.As(err, &re) || re.Index != 7 {
			t.Errorf("%s: %g gives %v, wanted an error about element 7", c.typ, c.bad, err)
		}
	}
	if err := Encode(make([]byte, 5), make([]float32, 32), Q8_0); err == nil {
		t.Error("a short destination was accepted")
	}
	if err := Encode(make([]byte, 110), make([]float32, 256), 11); err == nil {
		t.Error("Q3_K has no encoder")
	}
}

// Blocks so small that the scale's reciprocal overflows are zero blocks.
func TestEncodeTinyBlocks(t *testing.T) {
	for _, typ := range []Type{Q8_0, Q4_0, Q2_K, TQ2_0} {
		elems, size := typ.Block()
		x := make([]float32, elems)
		x[0], x[5] = 1e-44, -3e-45
		raw, got := make([]byte, size), make([]float32, elems)
		if err := Encode(raw, x, typ); err != nil {
			t.Fatal(err)
		}
		if err := Decode(got, raw, typ); err != nil {
			t.Fatal(err)
		}
		for i, v := range got {
			if v != 0 {
				t.Errorf("%s: element %d is %g", typ, i, v)
			}
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, bt := range blockTypes {
		if bt.decode == nil {
			continue
		}
		b.Run(bt.name, func(b *testing.B) {
			raw, x := make([]byte, 4096/bt.elems*bt.bytes), make([]float32, 4096)
			b.SetBytes(4 * 4096)
			for b.Loop() {
				bt.decode(x, raw)
			}
		})
	}
}

func BenchmarkEncode(b *testing.B) {
	x := make([]float32, 4096)
	for i := range x {
		x[i] = float32(math.Sin(float64(i)))
	}
	for _, bt := range blockTypes {
		if bt.encode == nil {
			continue
		}
		b.Run(bt.name, func(b *testing.B) {
			raw := make([]byte, 4096/bt.elems*bt.bytes)
			b.SetBytes(4 * 4096)
			for b.Loop() {
				bt.encode(raw, x)
			}
		})
	}
}
