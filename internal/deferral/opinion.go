package deferral

import (
	"slmc/internal/kernel"
)

// Opinion is a second opinion on how an answer begins: a bag of hashed tokens
// and token pairs, averaged, then a softmax over the beginnings that answers in
// the training data have (the linear text classifier of Joulin et al., arXiv
// 1607.01759, with the hashing of Weinberger et al., arXiv 0902.2206). It knows
// nothing of the model, so where the two disagree one of them is wrong; and it
// costs a few additions a token. docs/experiments.md, "Deferral: a second
// opinion", has what it brings.
type Opinion struct {
	Unigrams, Bigrams, Dim int
	// Classes are the beginnings, at most Prefix ids each, ascending.
	Classes [][]int32
	Table   []float32 // [Unigrams+Bigrams Dim]
	Out     []float32 // [len(Classes) Dim]
	Bias    []float32 // [len(Classes)]

	find map[[Prefix]int32]int
}

// Prefix is the number of tokens of an answer that make its class.
const Prefix = 3

// prefixOf is the class key of an answer; short ones are filled with -1.
func prefixOf(ids []int32) (key [Prefix]int32) {
	for i := range key {
		key[i] = -1
		if i < len(ids) {
			key[i] = ids[i]
		}
	}
	return key
}

// Index prepares Class; it is called once, after Classes are set.
func (o *Opinion) Index() {
	o.find = make(map[[Prefix]int32]int, len(o.Classes))
	for k, c := range o.Classes {
		o.find[prefixOf(c)] = k
	}
}

// Class is the class of an answer, or -1.
func (o *Opinion) Class(answer []int32) int {
	if k, ok := o.find[prefixOf(answer[:min(Prefix, len(answer))])]; ok {
		return k
	}
	return -1
}

// Buckets appends the rows of Table that a prompt adds up: one for each token,
// one for each pair of neighbours, both ends included.
func (o *Opinion) Buckets(dst []int32, ids []int32) []int32 {
	prev := uint32(0xffffffff)
	for i := 0; i <= len(ids); i++ {
		id := uint32(0xffffffff)
		if i < len(ids) {
			id = uint32(ids[i])
			u := id
			if o.Unigrams <= int(id) {
				u = mix(id) % uint32(o.Unigrams)
			}
			dst = append(dst, int32(u))
		}
		if o.Bigrams > 0 {
			dst = append(dst, int32(o.Unigrams)+int32(mix(mix(prev)+id)%uint32(o.Bigrams)))
		}
		prev = id
	}
	return dst
}

// mix is the finalizer of MurmurHash3 (Appleby, public domain).
func mix(h uint32) uint32 {
	h ^= h >> 16
	h *= 0x85ebca6b
	h ^= h >> 13
	h *= 0xc2b2ae35
	return h ^ h>>16
}

// Hidden writes the mean of the rows [Dim] that buckets name.
func (o *Opinion) Hidden(dst []float32, buckets []int32) {
	clear(dst)
	for _, b := range buckets {
		for i, v := range o.Table[int(b)*o.Dim:][:o.Dim] {
			dst[i] += v
		}
	}
	n := float32(max(1, len(buckets)))
	for i := range dst {
		dst[i] /= n
	}
}

// logits writes those of the classes [len(Classes)] for a hidden vector.
func (o *Opinion) logits(dst, hidden []float32) {
	for k := range dst {
		s := o.Bias[k]
		for i, w := range o.Out[k*o.Dim:][:o.Dim] {
			s = kernel.FMA32(w, hidden[i], s)
		}
		dst[k] = s
	}
}

// View is what an opinion says of one prompt and of how a model's answer to it
// begins.
type View struct {
	o       *Opinion
	first   First
	hidden  []float32 // [Dim]
	logits  []float32
	logp    []float32 // [len(Classes)]
	most    float32   // largest logit
	best    int       // its class
	entropy float32
	margin  float32 // log-probability of the best over that of the second
	mine    float32 // probability that the opinion gives the model's likeliest first token
	theirs  float32 // probability that the model gives the opinion's likeliest
	overlap float32 // sum over the model's likeliest tokens of the smaller probability
	buckets []int32
}

// See asks opinion o about a prompt, and compares it with the distribution of
// the model's first token. A nil opinion says nothing.
func (v *View) See(o *Opinion, f *kernel.Funcs, prompt []int32, first *First) {
	v.o, v.first = o, *first
	if o == nil {
		return
	}
	v.buckets = o.Buckets(v.buckets[:0], prompt)
	K := len(o.Classes)
	v.hidden, v.logits, v.logp = grow(v.hidden, o.Dim), grow(v.logits, K), grow(v.logp, K)
	o.Hidden(v.hidden, v.buckets)
	o.logits(v.logits, v.hidden)
	lse := f.LogSumExp(v.logits, v.logp)
	v.best, v.entropy = kernel.ArgMax(v.logits), 0
	v.most = v.logits[v.best]
	second := float32(-80)
	for k, z := range v.logits {
		l := float32(z - lse)
		v.logp[k] = l
		v.entropy -= float32(kernel.Exp(l) * l)
		if k != v.best {
			second = max(second, l)
		}
	}
	v.margin = v.logp[v.best] - second
	v.compare()
}

// compare fills in what model and opinion have in common.
func (v *View) compare() {
	v.mine, v.theirs, v.overlap = v.begins(v.first.Top[0].ID), 0, 0
	want := v.o.Classes[v.best][0]
	for _, t := range v.first.Top {
		p := kernel.Exp(t.LogP)
		v.overlap += min(v.begins(t.ID), p)
		if t.ID == want {
			v.theirs = p
		}
	}
}

// begins is the opinion's probability that the answer begins with a token.
func (v *View) begins(id int32) (p float32) {
	for k, c := range v.o.Classes {
		if c[0] == id {
			p += kernel.Exp(v.logp[k])
		}
	}
	return p
}

// unseen is the log-probability of an answer that begins like none of the
// training data.
const unseen = -12

// Features appends the opinion's features of a checkpoint, Layout.Opinion of
// them; answer holds the tokens so far, of which the first Prefix count.
func (v *View) Features(dst []float32, at Checkpoint, answer []int32) []float32 {
	if v.o == nil {
		return dst
	}
	dst = append(dst, v.logp[v.best], v.entropy, v.margin, kernel.Log(v.mine+tiny), kernel.Log(v.theirs+tiny), v.overlap)
	dst = append(dst, v.hidden...)
	if at == Pre {
		return dst
	}
	logp, strange := float32(unseen), float32(1)
	if k := v.o.Class(answer); k >= 0 {
		logp, strange = v.logp[k], 0
	}
	return append(dst, logp, logp-v.logp[v.best], strange)
}

// grow returns x with n elements, allocating only when it is too small.
func grow(x []float32, n int) []float32 {
	if cap(x) < n {
		return make([]float32, n)
	}
	return x[:n]
}
