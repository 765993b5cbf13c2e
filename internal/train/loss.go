package train

import (
	"slmc/internal/kernel"
	"slmc/tensor"
)

// CrossEntropy writes the gradient of the mean loss over the counted rows to
// seed [R V] and returns the sum of -log softmax(z)[want] in nats and how many
// rows counted: those whose target is not negative.
func CrossEntropy(f *kernel.Funcs, seed, z *tensor.Mat, want []int32) (sum float64, n int) {
	for _, w := range want {
		if w >= 0 {
			n++
		}
	}
	for r, w := range want {
		sum += CrossEntropyRow(f, seed.Row(r), z.Row(r), w, float32(n))
	}
	return sum, n
}

// CrossEntropyRow writes the gradient of -log softmax(z)[want]/n to seed and
// returns the loss, not divided, in nats; both are 0 for a negative target.
// Slices have V elements.
func CrossEntropyRow(f *kernel.Funcs, seed, z []float32, want int32, n float32) float64 {
	if want < 0 {
		clear(seed)
		return 0
	}
	copy(seed, z)
	m := largest(z)
	sum := f.Softmax(seed, 0)
	for i, e := range seed {
		seed[i] = e / sum / n
	}
	seed[want] -= 1 / n
	return float64(m+kernel.Log(sum)) - float64(z[want])
}

// DistillRow writes the gradient of KL(teacher || student)/n at one position to
// seed and returns the divergence in nats (Hinton et al., arXiv 1503.02531, at
// temperature 1). All slices have V elements; n is the number of positions that
// the loss averages over.
func DistillRow(f *kernel.Funcs, seed, z, teacher, scratch []float32, n float32) float64 {
	copy(scratch, teacher)
	copy(seed, z)
	tm, zm := largest(teacher), largest(z)
	ts, zs := f.Softmax(scratch, 0), f.Softmax(seed, 0)
	// The difference of the log-probabilities is that of the logits plus one
	// constant.
	shift := float64(zm+kernel.Log(zs)) - float64(tm+kernel.Log(ts))
	pt, pz, mean := 1/ts, 1/zs, 1/n
	kl := 0.0
	scratch, teacher, seed = scratch[:len(z)], teacher[:len(z)], seed[:len(z)]
	for i, x := range z {
		p := float32(scratch[i] * pt)
		kl += float64(float64(p) * (float64(teacher[i]-x) + shift))
		seed[i] = float32(float32(float32(seed[i]*pz)-p) * mean)
	}
	return kl
}

// largest is the largest element; NaN, which the sum of exponentials carries
// into the loss, is passed over.
func largest(x []float32) float32 {
	m := x[0]
	for _, v := range x {
		if v > m {
			m = v
		}
	}
	return m
}
