package routertrain

import (
	"math"
	"math/rand/v2"

	"slmc/internal/deferral"
	"slmc/internal/kernel"
	"slmc/internal/train"
)

// HeadConfig says how a head is trained: AdamW (arXiv 1711.05101) on the
// cross-entropy of both outputs, with dropout (Srivastava et al. 2014) on inputs
// and hidden units.
type HeadConfig struct {
	Hidden int     `json:"hidden"` // 0: logistic regression
	Epochs int     `json:"epochs"`
	Batch  int     `json:"batch"`
	LR     float64 `json:"lr"`
	Decay  float64 `json:"decay"`
	Drop   float64 `json:"drop"`
}

// DefaultHead is what cross-validation on the training part favours,
// docs/experiments.md, "Deferral: heads".
func DefaultHead() HeadConfig {
	return HeadConfig{Hidden: 32, Epochs: 15, Batch: 128, LR: 2e-3, Decay: 1e-2, Drop: 0.1}
}

// sample is one row of a head's training data: all features of the checkpoint
// and the targets.
type sample struct {
	x []float32
	y [deferral.Outputs]float32
}

// fitHead trains a head that reads the given inputs.
func fitHead(c HeadConfig, at deferral.Checkpoint, inputs []int32, data []sample, seed uint64) deferral.Head {
	h := deferral.Head{Checkpoint: at, Inputs: inputs, Hidden: c.Hidden}
	standardize(&h, data)
	t := &headTrainer{c: c, h: &h, r: rand.New(rand.NewPCG(seed, 4)), n: len(inputs)}
	t.start(data)
	t.run()
	return h
}

// standardize sets mean and deviation of the inputs.
func standardize(h *deferral.Head, data []sample) {
	n := float64(max(1, len(data)))
	h.Mean, h.Inv = make([]float32, len(h.Inputs)), make([]float32, len(h.Inputs))
	for j, i := range h.Inputs {
		sum, square := 0.0, 0.0
		for _, s := range data {
			sum += float64(s.x[i])
		}
		mean := sum / n
		for _, s := range data {
			d := float64(s.x[i]) - mean
			square += d * d
		}
		h.Mean[j] = float32(mean)
		if dev := math.Sqrt(square / n); dev > 1e-6 { // else the input says nothing
			h.Inv[j] = float32(1 / dev)
		}
	}
}

type headTrainer struct {
	c    HeadConfig
	h    *deferral.Head
	r    *rand.Rand
	n    int         // inputs
	x    [][]float32 // standardized
	y    [][deferral.Outputs]float32
	w1t  []float32 // hidden layer, [n Hidden]: its loops run along the hidden units
	grad [4][]float32

	in, act, dact []float32
}

func (t *headTrainer) start(data []sample) {
	h, H := t.h, t.c.Hidden
	for _, s := range data {
		x := make([]float32, t.n)
		h.Standardize(x, s.x)
		t.x, t.y = append(t.x, x), append(t.y, s.y)
	}
	width := t.n
	if H > 0 {
		width = H
		t.w1t, h.B1 = make([]float32, t.n*H), make([]float32, H)
		t.draw(t.w1t, t.n)
	}
	h.W2, h.B2 = make([]float32, deferral.Outputs*width), make([]float32, deferral.Outputs)
	if H > 0 {
		t.draw(h.W2, width)
	}
	for i, p := range t.params() {
		t.grad[i] = make([]float32, len(p))
	}
	t.in, t.act, t.dact = make([]float32, t.n), make([]float32, H), make([]float32, H)
}

// draw is the uniform start of width 1/sqrt(fan-in) (LeCun et al. 1998).
func (t *headTrainer) draw(w []float32, fanIn int) {
	a := 1 / math.Sqrt(float64(fanIn))
	for i := range w {
		w[i] = float32(a * (2*t.r.Float64() - 1))
	}
}

func (t *headTrainer) params() [4][]float32 {
	return [4][]float32{t.w1t, t.h.B1, t.h.W2, t.h.B2}
}

func (t *headTrainer) run() {
	var lengths []int
	for _, p := range t.params() {
		lengths = append(lengths, len(p))
	}
	adam := train.NewAdamW(lengths)
	adam.Beta2, adam.Decay = 0.999, float32(t.c.Decay)
	steps := (len(t.x) + t.c.Batch - 1) / t.c.Batch
	total := steps * t.c.Epochs
	for epoch := range t.c.Epochs {
		perm := t.r.Perm(len(t.x))
		for s := range steps {
			part := perm[s*t.c.Batch : min(len(perm), (s+1)*t.c.Batch)]
			for _, g := range t.grad {
				clear(g)
			}
			for _, i := range part {
				t.example(t.x[i], t.y[i], 1/float32(deferral.Outputs*len(part)))
			}
			adam.Step()
			lr := float32(train.Cosine(epoch*steps+s, total/10, total, t.c.LR, 0.01))
			for i, p := range t.params() {
				adam.Update(i, p, t.grad[i], lr, whole)
			}
		}
	}
	t.finish()
}

// finish turns the hidden layer the way that a head holds it.
func (t *headTrainer) finish() {
	H := t.c.Hidden
	if H == 0 {
		return
	}
	t.h.W1 = make([]float32, len(t.w1t))
	for i := range t.n {
		for j := range H {
			t.h.W1[j*t.n+i] = t.w1t[i*H+j]
		}
	}
}

// example adds the gradient of weight times the cross-entropy of one row.
func (t *headTrainer) example(x []float32, y [deferral.Outputs]float32, weight float32) {
	keep := float32(1 - t.c.Drop)
	for i, v := range x {
		t.in[i] = 0
		if t.c.Hidden == 0 { // a convex problem needs decay alone
			t.in[i] = v
		} else if t.r.Float32() < keep {
			t.in[i] = v / keep
		}
	}
	if t.c.Hidden == 0 {
		t.output(t.in, y, weight, nil)
		return
	}
	H := t.c.Hidden
	copy(t.act, t.h.B1)
	for i, v := range t.in {
		if v != 0 {
			axpy(t.act, v, t.w1t[i*H:][:H])
		}
	}
	for j, v := range t.act {
		if v <= 0 || t.r.Float32() >= keep {
			t.act[j] = 0
		} else {
			t.act[j] = v / keep
		}
	}
	clear(t.dact)
	t.output(t.act, y, weight, t.dact)
	for j, v := range t.act {
		if v == 0 {
			t.dact[j] = 0
		} else {
			t.dact[j] /= keep
		}
		t.grad[1][j] += t.dact[j]
	}
	for i, v := range t.in {
		if v != 0 {
			axpy(t.grad[0][i*H:][:H], v, t.dact)
		}
	}
}

// output adds the gradient of the last layer and, to dx, that of its input.
func (t *headTrainer) output(x []float32, y [deferral.Outputs]float32, weight float32, dx []float32) {
	n := len(x)
	for o := range deferral.Outputs {
		w := t.h.W2[o*n:][:n]
		z := t.h.B2[o]
		for i, v := range x {
			z += float32(w[i] * v)
		}
		g := float32(weight * float32(sigmoid(z)-y[o]))
		t.grad[3][o] += g
		axpy(t.grad[2][o*n:][:n], g, x)
		if dx != nil {
			axpy(dx, g, w)
		}
	}
}

func sigmoid(x float32) float32 { return 1 / float32(1+kernel.Exp(-x)) }

// axpy adds a*x to dst.
func axpy(dst []float32, a float32, x []float32) {
	x = x[:len(dst)]
	for i := range dst {
		dst[i] += float32(a * x[i])
	}
}

// scores runs a head over features and returns its two sigmoids.
func scores(h *deferral.Head, x []float32) [deferral.Outputs]float32 {
	in, hidden := make([]float32, len(h.Inputs)), make([]float32, h.Hidden)
	var z [deferral.Outputs]float32
	h.Standardize(in, x)
	h.Logits(z[:], hidden, in)
	for i, v := range z {
		z[i] = deferral.Sigmoid(v)
	}
	return z
}
