package deferral

import (
	"slmc/internal/kernel"
)

// Head turns features into the scores of one checkpoint: standardize, one
// hidden layer with ReLU (none when Hidden is 0: logistic regression), two
// logits, calibration. Inputs lists the features it reads.
type Head struct {
	Checkpoint Checkpoint
	Inputs     []int32 // indices into the checkpoint's features, ascending
	Hidden     int
	Mean, Inv  []float32 // [len(Inputs)]; Inv is one over the deviation
	// W1 [Hidden len(Inputs)] and B1 [Hidden] are empty without a hidden layer.
	W1, B1 []float32
	W2, B2 []float32 // [Outputs Hidden], or [Outputs len(Inputs)]; [Outputs]
	// Wrong and Gain map the sigmoid of a logit to a probability.
	Wrong, Gain Curve
}

// The outputs of a head.
const (
	OutWrong = iota // the answer is wrong
	OutGain         // it is wrong and the large model's is right
	Outputs
)

// farthest bounds a standardized feature: a query unlike all others must not
// drive a logit without limit.
const farthest = 6

// Parameters counts what the head holds.
func (h *Head) Parameters() int {
	return len(h.Mean) + len(h.Inv) + len(h.W1) + len(h.B1) + len(h.W2) + len(h.B2)
}

// MACs counts the multiply-adds of one forward pass.
func (h *Head) MACs() int { return len(h.Inputs) + len(h.W1) + len(h.W2) }

// Standardize writes the head's inputs [len(Inputs)] from the checkpoint's
// features.
func (h *Head) Standardize(dst, features []float32) {
	for j, i := range h.Inputs {
		x := float32(float32(features[i]-h.Mean[j]) * h.Inv[j])
		dst[j] = max(-farthest, min(farthest, x))
	}
}

// Logits writes the Outputs logits for standardized inputs x; hidden has Hidden
// elements. Sums run over inputs in order, fused, from the bias.
func (h *Head) Logits(dst, hidden, x []float32) {
	if h.Hidden > 0 {
		affine(hidden, h.W1, h.B1, x)
		for i, v := range hidden {
			hidden[i] = max(v, 0)
		}
		x = hidden
	}
	affine(dst, h.W2, h.B2, x)
}

// affine writes dst = w x + b, w [len(dst) len(x)].
func affine(dst, w, b, x []float32) {
	n := len(x)
	// Four rows at once: the fused sums are chains, and a chain waits.
	r := 0
	for ; r+4 <= len(dst); r += 4 {
		w0, w1, w2, w3 := w[r*n:][:n], w[(r+1)*n:][:n], w[(r+2)*n:][:n], w[(r+3)*n:][:n]
		s0, s1, s2, s3 := b[r], b[r+1], b[r+2], b[r+3]
		for i, v := range x {
			s0 = kernel.FMA32(w0[i], v, s0)
			s1 = kernel.FMA32(w1[i], v, s1)
			s2 = kernel.FMA32(w2[i], v, s2)
			s3 = kernel.FMA32(w3[i], v, s3)
		}
		dst[r], dst[r+1], dst[r+2], dst[r+3] = s0, s1, s2, s3
	}
	for ; r < len(dst); r++ {
		s := b[r]
		for i, v := range w[r*n:][:n] {
			s = kernel.FMA32(v, x[i], s)
		}
		dst[r] = s
	}
}

// Sigmoid returns 1/(1+exp(-x)).
func Sigmoid(x float32) float32 { return 1 / float32(1+kernel.Exp(-x)) }

// Curve is a non-decreasing, piecewise linear map; below the first X and above
// the last it is flat. An empty one is the identity.
type Curve struct {
	X, Y []float32
}

// At returns the curve's value at x.
func (c Curve) At(x float32) float32 {
	n := len(c.X)
	switch {
	case n == 0:
		return x
	case !(x > c.X[0]):
		return c.Y[0]
	case x >= c.X[n-1]:
		return c.Y[n-1]
	}
	lo, hi := 0, n-1 // X[lo] < x < X[hi] or equal to one of them
	for hi-lo > 1 {
		if m := (lo + hi) / 2; c.X[m] <= x {
			lo = m
		} else {
			hi = m
		}
	}
	t := float32(x-c.X[lo]) / float32(c.X[hi]-c.X[lo])
	return c.Y[lo] + float32(t*float32(c.Y[hi]-c.Y[lo]))
}
