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
	scratch := make([]float32, z.C)
	for r, w := range want {
		d := seed.Row(r)
		if w < 0 {
			clear(d)
			continue
		}
		lse := f.LogSumExp(z.Row(r), scratch)
		sum += float64(lse) - float64(z.Row(r)[w])
		for i, x := range z.Row(r) {
			d[i] = kernel.Exp(x-lse) / float32(n)
		}
		d[w] -= 1 / float32(n)
	}
	return sum, n
}

// DistillRow writes the gradient of KL(teacher || student)/n at one position to
// seed and returns the divergence in nats (Hinton et al., arXiv 1503.02531, at
// temperature 1). All slices have V elements; n is the number of positions that
// the loss averages over.
func DistillRow(f *kernel.Funcs, seed, z, teacher, scratch []float32, n float32) float64 {
	copy(scratch, teacher)
	copy(seed, z)
	tm, zm := teacher[kernel.ArgMax(teacher)], z[kernel.ArgMax(z)]
	ts, zs := f.Softmax(scratch, 0), f.Softmax(seed, 0)
	tl, zl := tm+kernel.Log(ts), zm+kernel.Log(zs)
	kl := 0.0
	for i, x := range z {
		p := scratch[i] / ts
		kl += float64(float64(p) * float64((teacher[i]-tl)-(x-zl)))
		seed[i] = float32(seed[i]/zs-p) / n
	}
	return kl
}
