package tensor

import (
	"math"
	"testing"
)

// Every half converts to a float32 and back to itself, and a float32 rounds to
// the nearer of its two neighbours: checked against float64 arithmetic, which
// is exact here.
func TestHalfRoundTrip(t *testing.T) {
	for i := 0; i < 1<<16; i++ {
		h := Half(i)
		f := h.Float32()
		if f != f {
			if !isNaN(HalfFrom(f)) {
				t.Fatalf("%#04x: NaN lost", i)
			}
			continue
		}
		if got := HalfFrom(f); got != h {
			t.Fatalf("%#04x -> %g -> %#04x", i, f, got)
		}
		exp, man := i>>10&31, i&1023
		want := math.Ldexp(float64(man+1024), exp-25)
		if exp == 0 {
			want = math.Ldexp(float64(man), -24)
		} else if exp == 31 {
			want = math.Inf(1)
		}
		if i&0x8000 != 0 {
			want = -want
		}
		if float64(f) != want {
			t.Fatalf("%#04x = %g, want %g", i, f, want)
		}
	}
}

func isNaN(h Half) bool { return h&0x7c00 == 0x7c00 && h&0x3ff != 0 }

func TestHalfRounding(t *testing.T) {
	for i := 0; i < 0x7bff; i++ {
		a, b := Half(i), Half(i+1)
		mid := float32((float64(a.Float32()) + float64(b.Float32())) / 2)
		even := a
		if i&1 == 1 {
			even = b
		}
		for _, c := range []struct {
			x    float32
			want Half
		}{{mid, even}, {math.Nextafter32(mid, 0), a}, {math.Nextafter32(mid, 1e9), b}} {
			if got := HalfFrom(c.x); got != c.want {
				t.Fatalf("%g -> %#04x, want %#04x", c.x, got, c.want)
			}
			if got := HalfFrom(-c.x); got != c.want|0x8000 {
				t.Fatalf("%g -> %#04x, want %#04x", -c.x, got, c.want|0x8000)
			}
		}
	}
	for x, want := range map[float32]Half{65519: 0x7bff, 65520: 0x7c00, 1e30: 0x7c00, 0x1p-25: 0, 0x1.000002p-25: 1} {
		if got := HalfFrom(x); got != want {
			t.Errorf("%g -> %#04x, want %#04x", x, got, want)
		}
	}
}

func TestBFloat(t *testing.T) {
	for i := 0; i < 1<<16; i++ {
		f := BFloat(i).Float32()
		if f == f && BFloatFrom(f) != BFloat(i) {
			t.Fatalf("%#04x does not round-trip", i)
		}
	}
	if got := BFloatFrom(math.Float32frombits(0x3f808000)); got != 0x3f80 {
		t.Errorf("tie to even: %#x", got)
	}
	if got := BFloatFrom(math.Float32frombits(0x3f818000)); got != 0x3f82 {
		t.Errorf("tie to even: %#x", got)
	}
}

func TestElems(t *testing.T) {
	if n, err := Elems([]int{3, 4}); n != 12 || err != nil {
		t.Error(n, err)
	}
	for _, bad := range [][]int{{-1}, {1 << 40, 1 << 40}, {1 << 62, 4}} {
		if _, err := Elems(bad); err == nil {
			t.Errorf("%v accepted", bad)
		}
	}
}
