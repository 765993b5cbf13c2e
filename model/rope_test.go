package model

import (
	"encoding/binary"
	"encoding/json"
	"hash/fnv"
	"math"
	"math/big"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
)

func relative(got, want float64) float64 { return math.Abs(got-want) / math.Abs(want) }

// The functions agree with package math, which is within 1 ulp of the truth,
// to the error that realmath.go states.
func TestRealMath(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for range 100000 {
		x := math.Exp(r.Float64()*40 - 20)
		if e := math.Abs(ln(x) - math.Log(x)); e > 2e-15*max(1, math.Abs(math.Log(x))) {
			t.Fatalf("ln(%g) = %g, want %g", x, ln(x), math.Log(x))
		}
		y := r.Float64()*60 - 30
		if relative(exp(y), math.Exp(y)) > 2e-15 {
			t.Fatalf("exp(%g) = %g, want %g", y, exp(y), math.Exp(y))
		}
		theta, p := math.Exp(r.Float64()*14), r.Float64()
		if relative(pow(theta, p), math.Pow(theta, p)) > 8e-15 {
			t.Fatalf("pow(%g, %g) = %g, want %g", theta, p, pow(theta, p), math.Pow(theta, p))
		}
		a := r.Float64() * math.Exp2(float64(r.IntN(21)))
		s, c := sinCos(a)
		ws, wc := math.Sincos(a)
		if math.Abs(s-ws) > 4e-16 || math.Abs(c-wc) > 4e-16 {
			t.Fatalf("sinCos(%g) = %g, %g, want %g, %g", a, s, c, ws, wc)
		}
	}
	// Near multiples of pi/2 the reduction decides.
	for n := 1; n < 600000; n += 997 {
		a := float64(float32(float64(n) * math.Pi / 2))
		s, c := sinCos(a)
		ws, wc := math.Sincos(a)
		if math.Abs(s-ws) > 4e-16 || math.Abs(c-wc) > 4e-16 {
			t.Fatalf("sinCos(%g) = %g, %g, want %g, %g", a, s, c, ws, wc)
		}
	}
}

// bigPow10k returns 10000^(-2i/E) by repeated square roots in 200 bits, for E a
// power of two.
func bigPow10k(i, E int) float64 {
	root := new(big.Float).SetPrec(200).SetInt64(10000)
	for e := E / 2; e > 1; e /= 2 {
		root.Sqrt(root)
	}
	p := new(big.Float).SetPrec(200).SetInt64(1)
	for range i {
		p.Mul(p, root)
	}
	f, _ := new(big.Float).SetPrec(200).Quo(big.NewFloat(1), p).Float64()
	return f
}

// Frequencies are the correctly rounded ones.
func TestInvFreq(t *testing.T) {
	for _, E := range []int{8, 16, 64, 128, 256} {
		r := scaledRope(E, 10000, nil, NewConfig("c", nil))
		for i, f := range r.InvFreq {
			if want := float32(bigPow10k(i, E)); f != want {
				t.Errorf("E %d pair %d: %b, want %b", E, i, f, want)
			}
		}
	}
}

func TestTables(t *testing.T) {
	r := scaledRope(64, 10000, nil, NewConfig("c", nil))
	const context = 3000
	cos, sin := r.Tables(context)
	if len(cos) != context*32 || len(sin) != context*32 {
		t.Fatalf("%d cosines, %d sines", len(cos), len(sin))
	}
	wrong := 0
	for p := range context {
		for i, f := range r.InvFreq {
			s, c := math.Sincos(float64(float32(p) * f))
			gs, gc := sin[p*32+i], cos[p*32+i]
			if gs != float32(s) || gc != float32(c) {
				wrong++ // a near-tie may round the other way, by one ulp
				if math.Abs(float64(gs)-s) > 6e-8 || math.Abs(float64(gc)-c) > 6e-8 {
					t.Fatalf("position %d pair %d: %g %g, want %g %g", p, i, gc, gs, c, s)
				}
			}
		}
	}
	if wrong > 1 {
		t.Errorf("%d of %d pairs are not correctly rounded", wrong, len(cos))
	}
}

func TestRopeForms(t *testing.T) {
	plain := ropeFrom(t, `{"rope_theta": 500000.0}`)
	for _, same := range []string{
		`{"rope_theta": 500000, "rope_scaling": null}`,
		`{"rope_theta": 5e5, "rope_scaling": {"rope_type": "default"}}`,
		`{"rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}`,
		`{"rope_theta": 500000.0, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 1.0}}`,
	} {
		if got := ropeFrom(t, same); !equal32(got, plain) {
			t.Errorf("%s: %v, want %v", same, got, plain)
		}
	}
	linear := ropeFrom(t, `{"rope_theta": 500000.0, "rope_scaling": {"type": "linear", "factor": 4.0}}`)
	for i := range linear {
		if linear[i] != plain[i]/4 {
			t.Errorf("linear, pair %d: %g, want %g", i, linear[i], plain[i]/4)
		}
	}
	// Values of transformers' _compute_llama3_parameters for these numbers,
	// computed with NumPy in float64.
	llama3 := ropeFrom(t, `{"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}`)
	want := []float64{1, 0.0671330375110499, 0.001175188466589498, 0.0002278957730380347, 4.4194173824159226e-05, 8.570255489881478e-06, 1.661967467795309e-06, 3.2229329303788936e-07}
	for i := range want {
		if relative(float64(llama3[i]), want[i]) > 1e-6 {
			t.Errorf("llama3, pair %d: %g, want %g", i, llama3[i], want[i])
		}
	}
}

func ropeFrom(t *testing.T, text string) []float32 {
	t.Helper()
	c, err := ParseConfig("config.json", strings.NewReader(text), int64(len(text)))
	if err != nil {
		t.Fatal(err)
	}
	r := c.rope(16, 10000)
	if err := c.Err(); err != nil {
		t.Fatal(err)
	}
	return r.InvFreq
}

func equal32(a, b []float32) bool {
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return len(a) == len(b)
}

// A graph keeps what its frequencies were computed from.
func TestRopeScaling(t *testing.T) {
	for _, c := range []struct {
		scaling map[string]any
		want    RopeScaling
	}{
		{nil, RopeScaling{}},
		{map[string]any{"type": "linear", "factor": json.Number("4")}, RopeScaling{Type: "linear", Factor: 4}},
		{map[string]any{"rope_type": "llama3", "factor": json.Number("8"), "low_freq_factor": json.Number("1"), "high_freq_factor": json.Number("4"),
			"original_max_position_embeddings": json.Number("8192")}, RopeScaling{Type: "llama3", Factor: 8, LowFreq: 1, HighFreq: 4, Context: 8192}},
		{map[string]any{"rope_type": FreqFactors, "factors": []any{json.Number("1"), json.Number("2")}}, RopeScaling{Type: FreqFactors, Factors: []float64{1, 2}}},
	} {
		config := NewConfig("test", map[string]any{"rope_theta": json.Number("500000")})
		var s *Config
		if c.scaling != nil {
			s = NewConfig("test", c.scaling)
		}
		r := scaledRope(4, 500000, s, config)
		if r.Base != 500000 || !reflect.DeepEqual(r.Scaling, c.want) {
			t.Errorf("%v: base %g, scaling %+v", c.scaling, r.Base, r.Scaling)
		}
	}
}

// The bits of tables and frequencies, to be the same on every CPU.
func TestTablesBits(t *testing.T) {
	h := fnv.New64a()
	add := func(x []float32) {
		for _, v := range x {
			var b [4]byte
			binary.LittleEndian.PutUint32(b[:], math.Float32bits(v))
			h.Write(b[:])
		}
	}
	for _, E := range []int{8, 48, 64, 80, 128} {
		cos, sin := scaledRope(E, 500000, nil, NewConfig("c", nil)).Tables(512)
		add(cos)
		add(sin)
	}
	add(ropeFrom(t, `{"rope_theta": 500000.0, "rope_scaling": {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}}`))
	if got, want := h.Sum64(), uint64(0x30793b0bf40488dc); got != want {
		t.Errorf("digest %#x, want %#x", got, want)
	}
}
