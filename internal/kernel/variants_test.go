package kernel

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// Every variant must give the scalar references' bits. All slices end at an
// unreadable page (guarded), so the same tests find reads beyond a slice.

// eachVariant runs test for each implementation but the definition itself.
func eachVariant(t *testing.T, test func(t *testing.T, f *Funcs)) {
	impls := Impls()
	for _, im := range impls[:len(impls)-1] {
		t.Run(im.Name, func(t *testing.T) {
			if !im.OK {
				t.Skip("this CPU lacks it")
			}
			test(t, &im.Funcs)
		})
	}
}

// sameBits reports equal bits, or a NaN in both: which NaN is the CPU's choice.
func sameBits(a, b float32) bool {
	return math.Float32bits(a) == math.Float32bits(b) || a != a && b != b
}

// compare fails the test at the first element that differs.
func compare(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if !sameBits(got[i], want[i]) {
			t.Fatalf("%s: element %d of %d is %b, scalar %b: every variant must give the same bits", what, i, len(want), got[i], want[i])
		}
	}
}

func clone[E any](t testing.TB, s []E) []E {
	c := guarded[E](t, len(s))
	copy(c, s)
	return c
}

// widths are on, around and off the vector and sub-group widths.
var widths = []int{1, 4, 12, 16, 31, 32, 44, 64, 68, 96, 172, 176, 352, 576, 960}

// quantFormat is one quantized panel layout and its product in Funcs.
type quantFormat struct {
	name string
	per  int
	zero Zero
	of   func(f *Funcs) MatQ
}

// product is the format's product of f for activations that have not been
// through Prepare.
func (q quantFormat) product(f *Funcs) MatQ {
	return func(dst []float32, ld int, w []byte, x *Acts, group, p0, p1 int) {
		q.prepare(f, x)
		q.of(f)(dst, ld, w, x, group, p0, p1)
	}
}

func (q quantFormat) prepare(f *Funcs, x *Acts) {
	x.Zero = q.zero
	f.Prepare(x, 0, x.T, 0, (x.K+Sub-1)/Sub)
}

var quantFormats = []quantFormat{
	{"W8", 4, ZeroW8, func(f *Funcs) MatQ { return f.MatW8 }},
	{"W4", 8, ZeroW4, func(f *Funcs) MatQ { return f.MatW4 }},
	{"W2", 16, ZeroW2, func(f *Funcs) MatQ { return f.MatW2 }},
}

// Contents of test weights and activations.
const (
	random   = iota
	extreme  // largest and smallest codes only
	oneSided // all codes largest, all activations of one sign: the largest dots
	faint    // subnormal scales
	huge     // largest scales
	zeroes   // scale 0 in every other group
	kinds
)

// fillPanels fills quantized panels: codes, then the scales of each group.
func fillPanels(r *rand.Rand, w []byte, panels, K, group, per, kind int) {
	for i := range w {
		switch kind {
		case extreme:
			w[i] = byte(r.IntN(2)) * 255
		case oneSided:
			w[i] = 255
		default:
			w[i] = byte(r.Uint32())
		}
	}
	rest := w
	for range panels {
		for g := 0; g < K; g += group {
			n := min(group, K-g)
			codes := (n + per - 1) / per * 64
			for i := range Rows {
				binary.LittleEndian.PutUint16(rest[codes+2*i:], randomScale(r, kind, g/group))
			}
			rest = rest[codes+2*Rows:]
		}
	}
}

// randomScale is a positive finite float16, of group g's panel.
func randomScale(r *rand.Rand, kind, g int) uint16 {
	switch {
	case kind == faint:
		return uint16(r.IntN(0x400))
	case kind == huge:
		return uint16(0x7bff - r.IntN(3))
	case kind == zeroes && g%2 == 0:
		return 0
	}
	return uint16(0x1000 + r.IntN(0x2800))
}

// randomActs quantizes T rows of K activations of the kind.
func randomActs(t testing.TB, r *rand.Rand, T, K, kind int) *Acts {
	stride := (K + Sub - 1) / Sub * Sub
	if r.IntN(3) == 0 {
		stride += Sub
	}
	x := &Acts{T: T, K: K, Stride: stride, Codes: guarded[int8](t, T*stride),
		Scales: guarded[float32](t, T*stride/Sub), Sums: guarded[int32](t, T*stride/Sub), Meta: guarded[uint32](t, MetaWords(T, K))}
	for i := range T {
		row := make([]float32, K)
		for k := range row {
			switch kind {
			case extreme:
				row[k] = float32(2*r.IntN(2) - 1)
			case oneSided:
				row[k] = float32(2*(i%2) - 1)
			case faint:
				row[k] = float32(r.NormFloat64()) * 0x1p-99
			case huge:
				row[k] = float32(r.NormFloat64()) * 0x1p100
			default:
				row[k] = float32(r.NormFloat64() * math.Exp(3*r.NormFloat64()))
			}
		}
		n := (K + Sub - 1) / Sub
		if !quantizeA8(x.Codes[i*stride:], x.Scales[i*stride/Sub:][:n], x.Sums[i*stride/Sub:], row) {
			t.Fatal("quantizeA8 refuses finite activations")
		}
	}
	return x
}

// output is a guarded destination full of a mark, so that stores outside of
// the rows asked for show.
func output(t testing.TB, n int) []float32 {
	d := guarded[float32](t, n)
	for i := range d {
		d[i] = -7
	}
	return d
}

func TestMatQuantized(t *testing.T) {
	const panels = 3
	eachVariant(t, func(t *testing.T, f *Funcs) {
		r := rand.New(rand.NewPCG(3, 4))
		kind := 0
		for _, q := range quantFormats {
			for _, K := range widths {
				for _, group := range []int{32, 64, 128} {
					w := guarded[byte](t, panels*PanelBytes(K, group, q.per))
					for _, T := range []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 16, 17} { // their number shares no factor with that of kinds
						kind = (kind + 1) % kinds
						fillPanels(r, w, panels, K, group, q.per, kind)
						x := randomActs(t, r, T, K, kind)
						p0 := r.IntN(panels)
						p1 := p0 + r.IntN(panels-p0+1)
						ld := panels*Rows + r.IntN(2)*5
						n := (T-1)*ld + panels*Rows
						got, want := output(t, n), output(t, n)
						q.product(f)(got, ld, w, x, group, p0, p1)
						q.of(&scalar)(want, ld, w, x, group, p0, p1)
						compare(t, fmt.Sprintf("%s K=%d group=%d T=%d kind=%d panels %d to %d", q.name, K, group, T, kind, p0, p1), got, want)
					}
				}
			}
		}
	})
}

// TestMatQuantizedLong walks through more sub-groups and tokens than the
// buffers of a variant are likely to hold at once.
func TestMatQuantizedLong(t *testing.T) {
	eachVariant(t, func(t *testing.T, f *Funcs) {
		r := rand.New(rand.NewPCG(5, 6))
		for _, c := range []struct{ K, T int }{{20000, 1}, {20012, 9}, {2052, 70}, {172, 73}, {96, 136}} {
			for _, q := range quantFormats {
				w := guarded[byte](t, PanelBytes(c.K, 128, q.per))
				fillPanels(r, w, 1, c.K, 128, q.per, random)
				x := randomActs(t, r, c.T, c.K, random)
				got, want := output(t, c.T*Rows), output(t, c.T*Rows)
				q.product(f)(got, Rows, w, x, 128, 0, 1)
				q.of(&scalar)(want, Rows, w, x, 128, 0, 1)
				compare(t, fmt.Sprintf("%s K=%d T=%d", q.name, c.K, c.T), got, want)
			}
		}
	})
}

// floatFormat is one float panel's element type and product.
type floatFormat struct {
	name string
	size int
	of   func(f *Funcs) MatF
	put  func(b []byte, v float32)
}

var floatFormats = []floatFormat{
	{"F32", 4, func(f *Funcs) MatF { return f.MatF32 }, func(b []byte, v float32) {
		binary.LittleEndian.PutUint32(b, math.Float32bits(v))
	}},
	{"F16", 2, func(f *Funcs) MatF { return f.MatF16 }, func(b []byte, v float32) {
		// Any finite pattern will do; the value's bits choose it.
		binary.LittleEndian.PutUint16(b, uint16(math.Float32bits(v)>>8)&^(1<<14))
	}},
	{"BF16", 2, func(f *Funcs) MatF { return f.MatBF16 }, func(b []byte, v float32) {
		binary.LittleEndian.PutUint16(b, uint16(math.Float32bits(v)>>16))
	}},
}

func TestMatFloat(t *testing.T) {
	eachVariant(t, func(t *testing.T, f *Funcs) {
		r := rand.New(rand.NewPCG(7, 8))
		kind := 0
		for _, q := range floatFormats {
			for _, K := range widths[:13] {
				for _, T := range []int{1, 2, 3, 5, 7, 8, 9, 12, 17, 29} {
					kind++
					panels := 1 + r.IntN(6)
					w := guarded[byte](t, panels*K*Rows*q.size)
					for i := 0; i < len(w); i += q.size {
						q.put(w[i:], randomValue(r, kind))
					}
					ldx := K + r.IntN(2)*3
					x := guarded[float32](t, (T-1)*ldx+K)
					for i := range x {
						x[i] = randomValue(r, kind)
					}
					p0 := r.IntN(panels)
					p1 := p0 + 1 + r.IntN(panels-p0)
					ld := panels*Rows + r.IntN(2)*5
					n := (T-1)*ld + panels*Rows
					got, want := output(t, n), output(t, n)
					q.of(f)(got, ld, w, x, ldx, T, K, p0, p1)
					q.of(&scalar)(want, ld, w, x, ldx, T, K, p0, p1)
					compare(t, fmt.Sprintf("%s K=%d T=%d kind=%d panels %d to %d of %d", q.name, K, T, kind, p0, p1, panels), got, want)
				}
			}
		}
	})
}

// randomValue is an ordinary number, or one of all exponents and -0 for one
// kind in three.
func randomValue(r *rand.Rand, kind int) float32 {
	if kind%3 != 0 {
		return float32(r.NormFloat64())
	}
	switch r.IntN(8) {
	case 0:
		return float32(math.Copysign(0, -1))
	case 1:
		return randomFloat(r)
	case 2:
		return float32(r.NormFloat64()) * 0x1p-70
	}
	return float32(r.NormFloat64() * math.Exp(8*r.NormFloat64()))
}

// TestMatEmpty holds the corners without work.
func TestMatEmpty(t *testing.T) {
	eachVariant(t, func(t *testing.T, f *Funcs) {
		for _, q := range quantFormats {
			dst := []float32{1, 2}
			q.of(f)(dst, 16, nil, &Acts{K: 32, Stride: 32}, 32, 0, 0)
			q.of(f)(dst[:0], 16, make([]byte, PanelBytes(32, 32, q.per)), &Acts{K: 32, Stride: 32}, 32, 0, 1)
			out := output(t, Rows)
			q.of(f)(out, 16, nil, &Acts{T: 1}, 32, 0, 1)
			compare(t, q.name+" K=0", out, make([]float32, Rows))
		}
		for _, q := range floatFormats {
			out := output(t, Rows)
			q.of(f)(out, 16, nil, nil, 0, 1, 0, 0, 1)
			compare(t, q.name+" K=0", out, make([]float32, Rows))
		}
	})
}
