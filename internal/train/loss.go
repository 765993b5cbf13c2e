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

// Distill writes the gradient of the mean KL(teacher || student) over the rows
// with weight[r] true to seed and returns the sum of the divergences in nats
// and the number of rows. Logits are [R V] each (Hinton et al., arXiv
// 1503.02531, at temperature 1).
func Distill(f *kernel.Funcs, seed, z, teacher *tensor.Mat, counts []bool) (sum float64, n int) {
	for _, c := range counts {
		if c {
			n++
		}
	}
	scratch := make([]float32, z.C)
	for r, c := range counts {
		d := seed.Row(r)
		if !c {
			clear(d)
			continue
		}
		lse := f.LogSumExp(z.Row(r), scratch)
		tl := f.LogSumExp(teacher.Row(r), scratch)
		kl := 0.0
		for i, x := range z.Row(r) {
			lp, lq := teacher.Row(r)[i]-tl, x-lse
			p := kernel.Exp(lp)
			kl += float64(float64(p) * float64(lp-lq))
			d[i] = float32(kernel.Exp(lq)-p) / float32(n)
		}
		sum += kl
	}
	return sum, n
}
