package tensor

import (
	"encoding/binary"
	"math"
	"testing"
)

// Decode gives every bit pattern of the 16-bit types the value that the type
// itself has, at every length modulo the unrolled loops.
func TestDecode16(t *testing.T) {
	raw := make([]byte, 2<<16)
	for i := range 1 << 16 {
		binary.LittleEndian.PutUint16(raw[2*i:], uint16(i))
	}
	for _, c := range []struct {
		d  DType
		of func(i int) float32
	}{
		{F16, func(i int) float32 { return Half(i).Float32() }},
		{BF16, func(i int) float32 { return BFloat(i).Float32() }},
	} {
		for _, n := range []int{0, 1, 3, 5, 1<<16 - 1, 1 << 16} {
			dst := make([]float32, n)
			if err := Decode(dst, raw[:2*n], c.d); err != nil {
				t.Fatal(err)
			}
			for i, v := range dst {
				if math.Float32bits(v) != math.Float32bits(c.of(i)) {
					t.Fatalf("%s %#04x: %g, want %g", c.d, i, v, c.of(i))
				}
			}
		}
	}
}

func TestDecodeWide(t *testing.T) {
	raw := binary.LittleEndian.AppendUint64(nil, math.Float64bits(1+0x1p-24+0x1p-40)) // rounds up, away from the tie
	dst := make([]float32, 1)
	if err := Decode(dst, raw, F64); err != nil || dst[0] != 1+0x1p-23 {
		t.Errorf("%g, %v", dst[0], err)
	}
	raw = binary.LittleEndian.AppendUint32(nil, math.Float32bits(-1.5))
	if err := Decode(dst, raw, F32); err != nil || dst[0] != -1.5 {
		t.Errorf("%g, %v", dst[0], err)
	}
	if err := Decode(dst, raw[:3], F32); err == nil {
		t.Error("3 bytes accepted")
	}
}

func BenchmarkDecode(b *testing.B) {
	const n = 1 << 14
	dst, raw := make([]float32, n), make([]byte, 8*n)
	for _, d := range []DType{F16, BF16, F32} {
		b.Run(d.String(), func(b *testing.B) {
			for b.Loop() {
				if err := Decode(dst, raw[:n*d.Size()], d); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/elem")
		})
	}
}
