package quant

import (
	"bytes"
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"slmc/internal/kernel"
	"slmc/tensor"
)

// EncodePanel gives the bytes of Encode and Pack, under every kernel, also for
// scales that are too small, zero or negative.
func TestEncodePanel(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 10))
	for _, im := range kernel.Impls() {
		if !im.OK {
			continue
		}
		for _, G := range []int{32, 64, 128} {
			f := W8{G}
			for _, K := range append(widths, 2048) {
				for _, n := range []int{1, 5, 16} {
					var x []float32
					var scales []tensor.Half
					rows := make([][]byte, n)
					for i := range rows {
						row := randomRow(r, K)
						s := scalesOf(r, f, row)
						for g := range s {
							switch r.IntN(8) {
							case 0:
								s[g] = 0
							case 1:
								s[g] = tensor.HalfFrom(s[g].Float32() / 3)
							case 2:
								s[g] ^= 0x8000
							case 3:
								s[g] = 1
							}
						}
						enc, err := f.Encode(nil, row, s)
						if err != nil {
							t.Fatal(err)
						}
						rows[i] = enc
						x, scales = append(x, row...), append(scales, s...)
					}
					want := make([]byte, f.PanelBytes(K))
					f.Pack(want, rows, K)
					got := bytes.Repeat([]byte{0x77}, len(want))
					if err := f.EncodePanel(&im.Funcs, got, x, K, scales); err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(got, want) {
						t.Fatalf("%s %s K=%d, %d rows: bytes differ from Encode and Pack", im.Name, f.Name(), K, n)
					}
				}
			}
		}
	}
}

func TestEncodePanelRefuses(t *testing.T) {
	k, err := kernel.Select("")
	if err != nil {
		t.Fatal(err)
	}
	f := W8{32}
	for _, bad := range []float32{float32(math.NaN()), float32(math.Inf(1)), float32(math.Inf(-1))} {
		x, scales := make([]float32, 2*40), make([]tensor.Half, 4)
		x[41] = bad
		if err := f.EncodePanel(k, make([]byte, f.PanelBytes(40)), x, 40, scales); !errors.Is(err, ErrNotFinite) {
			t.Errorf("%g gave %v", bad, err)
		}
		x[41], scales[3] = 0, tensor.HalfFrom(bad)
		if err := f.EncodePanel(k, make([]byte, f.PanelBytes(40)), x, 40, scales); !errors.Is(err, ErrNotFinite) {
			t.Errorf("scale %g gave %v", bad, err)
		}
	}
}

func BenchmarkEncodePanel(b *testing.B) {
	const K = 2048
	f := W8{32}
	x := randomRow(rand.New(rand.NewPCG(1, 2)), 16*K)
	scales := make([]tensor.Half, 16*Groups(f, K))
	for i := range scales {
		scales[i] = tensor.HalfFrom(3.0 / 127)
	}
	panel := make([]byte, f.PanelBytes(K))
	for _, im := range kernel.Impls() {
		if !im.OK {
			continue
		}
		b.Run(im.Name, func(b *testing.B) {
			for b.Loop() {
				if err := f.EncodePanel(&im.Funcs, panel, x, K, scales); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(16*K), "ns/weight")
		})
	}
}
