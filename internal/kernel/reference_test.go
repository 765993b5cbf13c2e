package kernel

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// The scalar references against arithmetic written from the documentation
// alone: codes unpacked one by one, sums in float64 or without any rounding.

// halfValue is the value of a finite float16 by its definition (IEEE 754-2019,
// section 3.4).
func halfValue(h uint16) float64 {
	sign := 1 - 2*float64(h>>15)
	e, m := int(h>>10&31), float64(h&0x3ff)
	if e == 0 {
		return sign * math.Ldexp(m, -24)
	}
	return sign * math.Ldexp(m+1024, e-25)
}

func TestHalf(t *testing.T) {
	for h := range 1 << 16 {
		if h&0x7c00 == 0x7c00 {
			continue
		}
		if got, want := half(uint16(h)), float32(halfValue(uint16(h))); math.Float32bits(got) != math.Float32bits(want) {
			t.Fatalf("half(%#04x) = %g, want %g", h, got, want)
		}
	}
}

// weight returns the level and the scale of row r, column k in quantized
// panels, following the table in panel.go.
func weight(w []byte, name string, K, group, r, k int) (level, scale float64) {
	bytesOf := func(n int) int { // of n columns and their scales
		per := map[string]int{"W8": 4, "W4": 8, "W2": 16}[name]
		return (n+per-1)/per*64 + 32
	}
	panel := 0
	for g := 0; g < K; g += group {
		panel += bytesOf(min(group, K-g))
	}
	g := k / group
	n := min(group, K-g*group)
	b := w[r/16*panel+g*bytesOf(group):]
	r, k = r%16, k%group
	switch name {
	case "W8":
		level = float64(b[k/4*64+4*r+k%4]) - 128
	case "W4":
		b := b[k/8*64+4*r+k%8%4]
		if k%8 >= 4 {
			b /= 16
		}
		level = float64(b%16) - 8
	case "W2":
		b := b[k/16*64+4*r+k%16%4]
		for range k % 16 / 4 {
			b /= 4
		}
		level = float64(b%4) - 1.5
	}
	return level, halfValue(binary.LittleEndian.Uint16(b[bytesOf(n)-32+2*r:]))
}

func TestMatQuantizedReference(t *testing.T) {
	r := rand.New(rand.NewPCG(20, 21))
	for _, q := range quantFormats {
		for _, K := range []int{12, 32, 44, 100, 172} {
			for _, group := range []int{32, 64, 128} {
				const rows, T = 2 * Rows, 3
				kind := r.IntN(kinds)
				w := make([]byte, 2*PanelBytes(K, group, q.per))
				fillPanels(r, w, 2, K, group, q.per, kind)
				x := randomActs(t, r, T, K, kind)
				dst := make([]float32, T*rows)
				q.of(&scalar)(dst, rows, w, x, group, 0, 2)
				for i := range T {
					for row := range rows {
						want := float32(0)
						for k0 := 0; k0 < K; k0 += 32 {
							dot, scale := 0.0, 0.0
							for k := k0; k < min(k0+32, K); k++ {
								level, s := weight(w, q.name, K, group, row, k)
								dot += level * float64(x.Codes[i*x.Stride+k])
								scale = s
							}
							if q.name == "W2" { // counted in half levels
								dot, scale = 2*dot, scale/2
							}
							sx := float64(x.Scales[(i*x.Stride+k0)/32])
							want = exactFMA(float32(dot), float32(scale*sx), want)
						}
						if got := dst[i*rows+row]; got != want {
							t.Fatalf("%s K=%d group=%d kind=%d token %d row %d: %b, want %b", q.name, K, group, kind, i, row, got, want)
						}
					}
				}
			}
		}
	}
}

func TestMatFloatReference(t *testing.T) {
	r := rand.New(rand.NewPCG(22, 23))
	decode := map[string]func(b []byte) float32{
		"F32":  func(b []byte) float32 { return math.Float32frombits(binary.LittleEndian.Uint32(b)) },
		"F16":  func(b []byte) float32 { return float32(halfValue(binary.LittleEndian.Uint16(b))) },
		"BF16": func(b []byte) float32 { return math.Float32frombits(uint32(b[1])<<24 | uint32(b[0])<<16) },
	}
	for _, q := range floatFormats {
		const K, T, rows = 75, 2, 2 * Rows
		w := make([]byte, rows*K*q.size)
		for i := 0; i < len(w); i += q.size {
			q.put(w[i:], float32(r.NormFloat64()))
		}
		x := make([]float32, T*K)
		for i := range x {
			x[i] = float32(r.NormFloat64())
		}
		dst := make([]float32, T*rows)
		q.of(&scalar)(dst, rows, w, x, K, T, K, 0, 2)
		for i := range T {
			for row := range rows {
				want := float32(0)
				for k := range K {
					want = exactFMA(decode[q.name](w[((row/16*K+k)*16+row%16)*q.size:]), x[i*K+k], want)
				}
				if got := dst[i*rows+row]; got != want {
					t.Fatalf("%s token %d row %d: %b, want %b", q.name, i, row, got, want)
				}
			}
		}
	}
}

func TestQuantizeA8Reference(t *testing.T) {
	r := rand.New(rand.NewPCG(24, 25))
	x := make([]float32, 172)
	for i := range x {
		x[i] = float32(r.NormFloat64() * math.Exp(4*r.NormFloat64()))
	}
	clear(x[64:96])
	codes, scales, sums := make([]int8, 192), make([]float32, 6), make([]int32, 6)
	if !quantizeA8(codes, scales, sums, x) {
		t.Fatal("refused")
	}
	for g := range scales {
		largest, sum := 0.0, int32(0)
		for _, v := range x[g*32 : min(g*32+32, len(x))] {
			largest = max(largest, math.Abs(float64(v)))
		}
		if want := float32(float32(largest) / 127); scales[g] != want {
			t.Errorf("sub-group %d: scale %g, want %g", g, scales[g], want)
		}
		for i := g * 32; i < g*32+32; i++ {
			v := 0.0
			if i < len(x) {
				v = float64(x[i])
			}
			// Half a step, and the rounding of 127/m and of the product.
			if e := math.Abs(v - float64(codes[i])*largest/127); e > largest/127*(0.5+1e-4) {
				t.Errorf("element %d: %g became %d steps of %g", i, v, codes[i], largest/127)
			}
			sum += int32(codes[i])
		}
		if sums[g] != sum {
			t.Errorf("sub-group %d: sum %d, want %d", g, sums[g], sum)
		}
	}
	for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
		x[100] = float32(bad)
		if quantizeA8(codes, scales, sums, x) {
			t.Errorf("accepts %g", bad)
		}
	}
}

// TestTree16 writes the tree out, with values that make every order of
// additions show.
func TestTree16(t *testing.T) {
	r := rand.New(rand.NewPCG(26, 27))
	for range 1000 {
		var l [16]float32
		for i := range l {
			l[i] = float32(r.NormFloat64() * math.Exp(6*r.NormFloat64()))
		}
		four := func(i int) float32 { return (l[i] + l[i+8]) + (l[i+4] + l[i+12]) }
		want := (four(0) + four(2)) + (four(1) + four(3))
		turned, by := [16]float32{}, r.IntN(16)
		for i, v := range l {
			turned[(i+by)%16] = v
		}
		if got := tree16(&l); got != want {
			t.Fatalf("tree16 = %b, want %b", got, want)
		}
		if got := tree16(&turned); got != want {
			t.Fatalf("tree16 of lanes turned by %d = %b, want %b", by, got, want)
		}
	}
}

// near fails unless got is want within a relative error.
func near(t *testing.T, what string, got float32, want, relative float64) {
	t.Helper()
	if e := math.Abs(float64(got) - want); !(e <= relative*math.Abs(want)+1e-37) {
		t.Fatalf("%s: %g, want %g", what, got, want)
	}
}

func TestVectorReference(t *testing.T) {
	r := rand.New(rand.NewPCG(28, 29))
	const n = 172
	x, y, w := make([]float32, n), make([]float32, n), make([]float32, n)
	for i := range x {
		x[i], y[i], w[i] = float32(r.NormFloat64()*3), float32(r.NormFloat64()), float32(r.NormFloat64())
	}
	dst := make([]float32, n)
	rmsNorm(dst, x, w, 1e-5)
	squares := 0.0
	for _, v := range x {
		squares += float64(v) * float64(v)
	}
	for i := range dst {
		near(t, "rmsNorm", dst[i], float64(x[i])/math.Sqrt(squares/n+1e-5)*float64(w[i]), 1e-6)
	}
	siluMul(dst, x, y)
	for i, g := range x {
		near(t, "siluMul", dst[i], float64(g)/(1+math.Exp(-float64(g)))*float64(y[i]), 1e-6)
	}
	geluMul(dst, x, y)
	for i := range x {
		g := float64(x[i])
		want := 0.5 * g * (1 + math.Tanh(math.Sqrt(2/math.Pi)*(g+0.044715*g*g*g))) * float64(y[i])
		if e := math.Abs(float64(dst[i]) - want); e > 1e-6*(1+math.Abs(g))*math.Abs(float64(y[i])) {
			t.Fatalf("geluMul(%g, %g) = %g, want %g", g, y[i], dst[i], want)
		}
	}
	copy(dst, x)
	softCap(dst, 30)
	for i, v := range x {
		near(t, "softCap", dst[i], 30*math.Tanh(float64(v)/30), 1e-6)
	}
	cos, sin := make([]float32, n/2), make([]float32, n/2)
	for i := range cos {
		s, c := math.Sincos(float64(i))
		cos[i], sin[i] = float32(c), float32(s)
	}
	copy(dst, x)
	rope(dst, cos, sin)
	for i := range cos {
		z := complex(float64(x[i]), float64(x[i+n/2])) * complex(float64(cos[i]), float64(sin[i]))
		if math.Abs(real(z)-float64(dst[i])) > 1e-5 || math.Abs(imag(z)-float64(dst[i+n/2])) > 1e-5 {
			t.Fatalf("rope: pair %d is %g, %g, want %g", i, dst[i], dst[i+n/2], z)
		}
	}
}

func TestSoftmaxReference(t *testing.T) {
	r := rand.New(rand.NewPCG(30, 31))
	for _, n := range []int{1, 2, 15, 16, 17, 100, 1000} {
		x := make([]float32, n)
		largest := math.Inf(-1)
		for i := range x {
			x[i] = float32(r.NormFloat64() * 5)
			largest = max(largest, float64(x[i]))
		}
		e, sum := append([]float32(nil), x...), 0.0
		got := softmax(e, 0)
		for i, v := range x {
			want := math.Exp(float64(v) - largest)
			near(t, "softmax", e[i], want, 3e-6) // the difference is rounded before
			sum += want
		}
		near(t, "sum of softmax", got, sum, 3e-6)
	}
}

// TestSoftmaxWindow holds, for every implementation, that a window that starts
// at t0 gives the same bits as one from 0 with -Inf before t0.
func TestSoftmaxWindow(t *testing.T) {
	r := rand.New(rand.NewPCG(32, 33))
	for _, im := range Impls() {
		if !im.OK {
			continue
		}
		for range 300 {
			t0, n := r.IntN(70), 1+r.IntN(90)
			whole := make([]float32, t0+n)
			for i := range whole {
				whole[i] = float32(math.Inf(-1))
				if i >= t0 {
					whole[i] = float32(r.NormFloat64() * 4)
				}
			}
			window := append([]float32(nil), whole[t0:]...)
			a, b := im.Softmax(whole, 0), im.Softmax(window, t0)
			compare(t, fmt.Sprintf("%s: window of %d from %d", im.Name, n, t0), window, whole[t0:])
			if math.Float32bits(a) != math.Float32bits(b) {
				t.Fatalf("%s: window of %d from %d: sum %b, from 0 %b", im.Name, n, t0, b, a)
			}
		}
	}
}

func TestAttentionReference(t *testing.T) {
	r := rand.New(rand.NewPCG(34, 35))
	const n, E = 37, 40
	c := randomCache(t, r, n, E, 1)
	q, p := make([]float32, E), make([]float32, n)
	for i := range q {
		q[i] = float32(r.NormFloat64())
	}
	for i := range p {
		p[i] = r.Float32()
	}
	for _, form := range []struct {
		name   string
		at     func(t, e int) float64
		scores func(dst []float32)
		mix    func(dst []float32)
	}{
		{"F32", func(t, e int) float64 { return float64(c.f32[t*E+e]) },
			func(dst []float32) { scoresF32(dst, q, c.f32, 0.25) }, func(dst []float32) { mixF32(dst, p, c.f32) }},
		{"F16", func(t, e int) float64 { return halfValue(c.f16[t*E+e]) },
			func(dst []float32) { scoresF16(dst, q, c.f16, 0.25) }, func(dst []float32) { mixF16(dst, p, c.f16) }},
		{"KV8", func(t, e int) float64 { return float64(c.kv8[t*E+e]) * halfValue(c.scales[t]) },
			func(dst []float32) { scoresKV8(dst, q, c.kv8, c.scales, 0.25) }, func(dst []float32) { mixKV8(dst, p, c.kv8, c.scales) }},
	} {
		scores, mix := make([]float32, n), make([]float32, E)
		form.scores(scores)
		form.mix(mix)
		for i := range n {
			dot, size := 0.0, 0.0
			for e := range E {
				dot += float64(q[e]) * form.at(i, e)
				size += math.Abs(float64(q[e]) * form.at(i, e))
			}
			if math.Abs(float64(scores[i])-dot/4) > 1e-6*size {
				t.Errorf("scores%s: position %d is %g, want %g", form.name, i, scores[i], dot/4)
			}
		}
		for e := range E {
			sum, size := 0.0, 0.0
			for i := range n {
				sum += float64(p[i]) * form.at(i, e)
				size += math.Abs(float64(p[i]) * form.at(i, e))
			}
			if math.Abs(float64(mix[e])-sum) > 1e-6*size {
				t.Errorf("mix%s: element %d is %g, want %g", form.name, e, mix[e], sum)
			}
		}
	}
}

// TestFMA32HalfWay holds the roundings that FMA32's shortcut must leave to the
// slow path.
func TestFMA32HalfWay(t *testing.T) {
	r := rand.New(rand.NewPCG(36, 37))
	for range 50000 {
		// A product just off half a unit of z, for a z in and above the
		// subnormal range.
		unit := float32(0x1p-75)
		z := math.Float32frombits(r.Uint32()&(1<<31|0x7fffff) | uint32(r.IntN(2))<<23)
		if r.IntN(2) == 0 {
			unit, z = 0x1p-12, 1+float32(r.IntN(1<<20))*0x1p-23
		}
		x := unit * (1 + float32(r.IntN(3)-1)*0x1p-23)
		y := unit * (1 - float32(r.IntN(3)-1)*0x1p-23)
		if got, want := FMA32(x, y, z), exactFMA(x, y, z); got != want {
			t.Fatalf("FMA32(%b, %b, %b) = %b, want %b", x, y, z, got, want)
		}
	}
}

func TestSelect(t *testing.T) {
	for _, im := range Impls() {
		f, err := Select(im.Name)
		if im.OK != (err == nil) || err == nil && f.Name != im.Name {
			t.Errorf("Select(%q) = %v, %v; this CPU has it: %v", im.Name, f, err, im.OK)
		}
	}
	if f, err := Select("auto"); err != nil || f.Name == "" {
		t.Errorf("Select(auto): %v", err)
	}
	if _, err := Select("mmx"); err == nil {
		t.Error("Select finds an unknown kernel")
	}
}

func TestArgMax(t *testing.T) {
	nan, inf := float32(math.NaN()), float32(math.Inf(-1))
	for _, c := range []struct {
		x    []float32
		want int
	}{
		{[]float32{3}, 0}, {[]float32{1, 3, 3, 2}, 1}, {[]float32{nan, nan, -5, inf, -4, nan, -4}, 4},
		{[]float32{2, nan, 1}, 0}, {[]float32{inf, inf}, 0}, {[]float32{nan, inf}, 1}, {[]float32{-1, nan, 7}, 2},
	} {
		if got := ArgMax(c.x); got != c.want {
			t.Errorf("ArgMax(%v) = %d, want %d", c.x, got, c.want)
		}
	}
}
