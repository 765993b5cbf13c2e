package calibrate

import (
	"slmc/internal/kernel"
	"slmc/quant"
	"slmc/tensor"
)

// DefaultRefine is the number of rounds that docs/experiments.md ("The ladder of
// calibration") found worth their time.
const DefaultRefine = 4

// The refinement is coordinate descent on the exact objective that GPTQ
// descends greedily, L = d^T A d for a row's error d = w - q and A = H + damping
// (as CDQuant, arXiv 2406.17542, does from other starts): in turn every code
// moves to the level of least L with all others fixed, then every group's scale
// to the float16 nearest to its best. Each step is taken only if L falls, so L
// never rises; unlike GPTQ, early columns get to answer to late ones, and scales
// are fitted to the codes they ended with, unless a Grid ties them together.
//
//	code k by t levels:   dL = -2 t s g_k + (t s)^2 A_kk        with g = A d
//	scale of group G by t: dL = -2 t l.g + t^2 l^T A_GG l
type refiner struct {
	k      *kernel.Funcs
	m      Matrix
	grid   grid
	a      []float32 // [K K]
	panels []byte    // the same as panels
	rounds int
}

func newRefiner(k *kernel.Funcs, m Matrix, h []float64, damp float64, rounds int) *refiner {
	K := m.K
	f := &refiner{k: k, m: m, grid: gridOf(m.Format), a: make([]float32, K*K), panels: make([]byte, 4*panels(K)*kernel.Rows*K), rounds: rounds}
	for i := range f.a {
		f.a[i] = float32(h[i])
	}
	for i := range K {
		f.a[i*K+i] = float32(h[i*K+i] + damp)
	}
	for c := 0; c < K; c += kernel.Rows {
		for r := range K {
			putFloats(f.panels[4*(c*K+r*kernel.Rows):], f.a[r*K+c:][:min(kernel.Rows, K-c)])
		}
	}
	return f
}

// refining is one goroutine's scratch.
type refining struct {
	*refiner
	d, g []float32 // [tileRows K], [tileRows P*16]
}

func (f *refiner) newScratch() *refining {
	return &refining{f, make([]float32, tileRows*f.m.K), make([]float32, tileRows*panels(f.m.K)*kernel.Rows)}
}

// run improves levels [rows K] and scales [rows groups] for the weights w
// [rows K] of a tile.
func (t *refining) run(w, levels []float32, scales []tensor.Half) {
	K, G, groups := t.m.K, t.m.Format.Group(), quant.Groups(t.m.Format, t.m.K)
	rows := len(w) / K
	for i, x := range w {
		s := scales[i/K*groups+i%K/G].Float32()
		t.d[i] = x - float32(levels[i]*s)
	}
	P := panels(K)
	ld := P * kernel.Rows
	t.k.MatF32(t.g, ld, t.panels, t.d, K, rows, K, 0, P)
	for r := range rows {
		g, l, s := t.g[r*ld:][:K], levels[r*K:(r+1)*K], scales[r*groups:(r+1)*groups]
		for range t.rounds {
			moved := t.codes(g, l, s)
			if t.m.Grid == nil && t.scales(g, l, s) {
				moved = true
			}
			if !moved {
				break
			}
		}
	}
}

// codes visits every code of a row once; g is A d and is kept up to date.
func (t *refining) codes(g, levels []float32, scales []tensor.Half) (moved bool) {
	K, G := t.m.K, t.m.Format.Group()
	for k, l := range levels {
		s := scales[k/G].Float32()
		a := t.a[k*K+k]
		if s == 0 || a == 0 {
			continue
		}
		to := t.grid.nearest(l + g[k]/float32(a*s))
		step := float32((to - l) * s)
		if to == l || float32(step*(float32(step*a)-2*g[k])) >= 0 {
			continue
		}
		levels[k], moved = to, true
		for j, c := range t.a[k*K : (k+1)*K] {
			g[j] -= float32(step * c)
		}
	}
	return moved
}

// scales visits every scale of a row once.
func (t *refining) scales(g, levels []float32, scales []tensor.Half) (moved bool) {
	K, G := t.m.K, t.m.Format.Group()
	for i, s := range scales {
		lo, hi := i*G, min((i+1)*G, K)
		l := levels[lo:hi]
		var slope, curve float64
		for j, v := range l {
			slope += float64(float64(v) * float64(g[lo+j]))
			part := 0.0
			for n, c := range t.a[(lo+j)*K+lo : (lo+j)*K+hi] {
				part += float64(float64(c) * float64(l[n]))
			}
			curve += float64(part * float64(v))
		}
		if !(curve > 0) {
			continue
		}
		to := tensor.HalfFrom(s.Float32() + float32(slope/curve))
		step := to.Float32() - s.Float32()
		if to&0x7fff == 0 || to&0x7c00 == 0x7c00 || float64(step)*(float64(float64(step)*curve)-2*slope) >= 0 {
			continue
		}
		scales[i], moved = to, true
		for j, v := range l {
			c := float32(step * v)
			for n, x := range t.a[(lo+j)*K : (lo+j+1)*K] {
				g[n] -= float32(c * x)
			}
		}
	}
	return moved
}
