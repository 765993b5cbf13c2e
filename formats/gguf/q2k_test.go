package gguf

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"slmc/tensor"
)

// balanced are the values that codes and scales stand for, as slmc's own W2
// computes them.
func balanced(codes []byte, scales []tensor.Half, group int) []float32 {
	x := make([]float32, len(codes))
	for i, c := range codes {
		x[i] = float32(2*int(c)-3) * 0.5 * scales[i/group].Float32()
	}
	return x
}

func randomCodes(rng *rand.Rand, n int) []byte {
	codes := make([]byte, n)
	for i := range codes {
		codes[i] = byte(rng.IntN(4))
	}
	return codes
}

// Constrained scales of any size make blocks whose values are the balanced
// levels times the scale, to the last bit, in our decoder and in llama.cpp's.
func TestConstrainedScalesAreExact(t *testing.T) {
	rng := rand.New(rand.NewPCG(7, 7))
	o := findPeerOrNil()
	for _, group := range []int{16, 32, 64, 128, 256} {
		for try := range 60 {
			scales := make([]float32, 2*256/group)
			size := math.Exp2(float64(try%34) - 20) // around float16's subnormal numbers and its largest
			for g := range scales {
				scales[g] = float32(min(65504, size*math.Exp(0.5*rng.NormFloat64())))
			}
			if try%5 == 0 {
				scales[0] = 0
			}
			half := make([]tensor.Half, len(scales))
			ConstrainQ2K(half, scales, group)
			again := make([]tensor.Half, len(scales))
			asFloat := make([]float32, len(scales))
			for g, h := range half {
				asFloat[g] = h.Float32()
			}
			if ConstrainQ2K(again, asFloat, group); !slices.Equal(again, half) {
				t.Fatalf("scales %v constrained twice: %v, then %v", scales, half, again)
			}
			codes, raw := randomCodes(rng, 512), make([]byte, 2*q2kBytes)
			if b := EncodeBalancedQ2K(raw, codes, half, group); b >= 0 {
				t.Fatalf("GroupSize %d: block %d does not hold %v of %v", group, b, asFloat, scales)
			}
			want, got := balanced(codes, half, group), make([]float32, 512)
			decodeQ2K(got, raw)
			sameValues(t, got, want)
			if o != nil && try%8 == 0 {
				theirs, err := o.Dequantize(t.Context(), "Q2_K", raw)
				if err != nil {
					t.Fatal(err)
				}
				sameValues(t, theirs, want)
			}
		}
	}
}

// sameValues: equal as numbers, since a scale of 0 has two zeros.
func sameValues(t *testing.T, got, want []float32) {
	t.Helper()
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("element %d is %g, want %g", i, got[i], want[i])
		}
	}
}

// The constraint costs little: typical scales move by little over 1 %, where 2 bits
// leave an error of 34 %.
func TestConstrainMovesLittle(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 9))
	var sum, size float64
	for range 500 {
		scales := make([]float32, 4)
		for g := range scales {
			scales[g] = float32(0.03 * math.Exp(0.3*rng.NormFloat64()))
		}
		half := make([]tensor.Half, 4)
		ConstrainQ2K(half, scales, 64)
		for g, s := range scales {
			d := float64(half[g].Float32() - s)
			sum, size = sum+d*d, size+float64(s)*float64(s)
			if math.Abs(d) > float64(slices.Max(scales))/20 {
				t.Errorf("%v became %g", scales, half[g].Float32())
			}
		}
	}
	if rms := math.Sqrt(sum / size); rms > 0.015 {
		t.Errorf("scales move by %.4f of their size", rms)
	} else {
		t.Logf("scales move by %.4f of their size", rms)
	}
	neg := []tensor.Half{1}
	if ConstrainQ2K(neg, []float32{-0.5}, 64); neg[0] != 0 {
		t.Errorf("a negative scale became %g", neg[0].Float32())
	}
}

// Scales as training leaves them are refused, with the block; equal ones and
// negative ones are held.
func TestBalancedRefusesFreeScales(t *testing.T) {
	free := []float32{0.031, 0.0277, 0.0423, 0.0391}
	scales := make([]tensor.Half, 8)
	for g := range scales {
		scales[g] = tensor.HalfFrom(0.0317)
		if g >= 4 {
			scales[g] = tensor.HalfFrom(free[g-4])
		}
	}
	codes, raw := randomCodes(rand.New(rand.NewPCG(2, 2)), 512), make([]byte, 2*q2kBytes)
	if b := EncodeBalancedQ2K(raw, codes, scales, 64); b != 1 {
		t.Errorf("block %d refused, want 1", b)
	}
	for g := range scales {
		scales[g] = tensor.HalfFrom(-0.0317) // 3/2 of it is no float16
	}
	if b := EncodeBalancedQ2K(raw, codes, scales, 64); b >= 0 {
		t.Fatalf("block %d of equal scales refused", b)
	}
	got := make([]float32, 512)
	decodeQ2K(got, raw)
	sameValues(t, got, balanced(codes, scales, 64))
}

// A block by hand: d 2, dmin 3, all scales 1; codes 0 1 2 3 in the first group.
func TestBalancedByHand(t *testing.T) {
	codes := make([]byte, 256)
	copy(codes, []byte{0, 1, 2, 3})
	raw := make([]byte, q2kBytes)
	EncodeBalancedQ2K(raw, codes, []tensor.Half{tensor.HalfFrom(2)}, 256)
	want := make([]byte, q2kBytes)
	for g := range 16 {
		want[g] = 0x11
	}
	want[17], want[18], want[19] = 1, 2, 3
	want[80], want[81], want[82], want[83] = 0x00, 0x40, 0x00, 0x42
	if !slices.Equal(raw, want) {
		t.Errorf("got  %x\nwant %x", raw, want)
	}
}
