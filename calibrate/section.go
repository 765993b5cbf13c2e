package calibrate

import (
	"errors"
	"slices"

	"slmc/internal/exec"
	"slmc/model"
	"slmc/quant"
	"slmc/tensor"
)

// What Run holds of the model at a time: some blocks and their weights, under
// the indices of the whole graph.

// groupEnd returns the end of the group of blocks that starts at lo: the
// shortest run whose weights no block outside of it reads.
func (r *run) groupEnd(lo int) int {
	hi := lo + 1
	for i := lo; i < hi; i++ {
		weights := r.weightsOf([]int{i})
		for j := hi; j < len(r.m.Blocks); j++ {
			if slices.ContainsFunc(r.weightsOf([]int{j}), func(w int) bool { return slices.Contains(weights, w) }) {
				hi = j + 1
			}
		}
	}
	return hi
}

// weightsOf lists the weights of blocks, each once, in the order of the forward
// pass.
func (r *run) weightsOf(blocks []int) []int {
	var out []int
	add := func(all ...int) {
		for _, i := range all {
			if i != model.None && !slices.Contains(out, i) {
				out = append(out, i)
			}
		}
	}
	for _, n := range blocks {
		b := &r.m.Blocks[n]
		add(b.AttnNorm)
		for _, l := range []model.Linear{b.K, b.V, b.Q, b.O, b.Gate, b.Up, b.Down} {
			if l.W != model.None {
				add(l.W, l.B)
			}
		}
		add(b.QNorm, b.KNorm, b.PostAttnNorm, b.FFNNorm, b.PostFFNNorm)
	}
	return out
}

// load reads weights as float32 into params.
func (r *run) load(weights []int) (err error) {
	for _, i := range weights {
		if r.m.Weights[i].Role.Matrix() {
			r.params.Mats[i], err = exec.PackMatrix(r.m, i, quant.F32, nil)
		} else {
			r.params.Vecs[i], err = r.m.Tensor(i)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// use replaces matrices by their quantized forms.
func (r *run) use(packed map[int]exec.Matrix) {
	for i, m := range packed {
		r.params.Mats[i] = m
	}
}

// drop forgets the weights of every block below hi that no block from hi on
// needs, and what entered it.
func (r *run) drop(lo, hi int) error {
	var errs []error
	var need, gone []int
	for j := range hi {
		if r.lastTaker(j) >= hi {
			need = append(need, j)
		} else if j >= lo || r.kept[j] != nil {
			gone = append(gone, j)
			if r.kept[j] != nil {
				errs = append(errs, r.kept[j].close())
				delete(r.kept, j)
			}
		}
	}
	keep := r.weightsOf(need)
	for _, i := range r.weightsOf(gone) {
		if !slices.Contains(keep, i) {
			r.params.Mats[i], r.params.Vecs[i] = exec.Matrix{}, nil
		}
	}
	return errors.Join(errs...)
}

// lastTaker is the last block that reads the keys and values of block j.
func (r *run) lastTaker(j int) int {
	last := -1
	for i, b := range r.m.Blocks {
		if b.KVFrom == j {
			last = i
		}
	}
	return last
}

// giversBefore lists the blocks before the given ones whose keys and values
// they read.
func (r *run) giversBefore(blocks []int) []int {
	var out []int
	for _, b := range blocks {
		if j := r.m.Blocks[b].KVFrom; j < blocks[0] && !slices.Contains(out, j) {
			out = append(out, j)
		}
	}
	return out
}

// keep stores what enters giver b in sequence i, for its takers.
func (r *run) keep(b, i int, x *tensor.Mat) (err error) {
	if r.kept[b] == nil {
		if r.kept[b], err = r.newResiduals(); err != nil {
			return err
		}
	}
	return r.kept[b].store(i, x)
}

// section returns the graph with all weights empty but those of blocks and the
// ones named, with caches for these blocks only, and its parameters.
func (r *run) section(blocks []int, weights ...int) (*model.Graph, *exec.Params) {
	g := r.m.Graph.Clone()
	p := &exec.Params{Mats: make([]exec.Matrix, len(g.Weights)), Vecs: make([][]float32, len(g.Weights)), Cos: r.params.Cos, Sin: r.params.Sin}
	live := append(r.weightsOf(blocks), weights...)
	for i := range g.Weights {
		if slices.Contains(live, i) {
			p.Mats[i], p.Vecs[i] = r.params.Mats[i], r.params.Vecs[i]
			continue
		}
		clear(g.Weights[i].Shape)
		p.Mats[i].Format = quant.F32
	}
	for i := range g.Blocks {
		if !slices.Contains(blocks, i) {
			g.Blocks[i].KVFrom = model.None
		}
	}
	return g, p
}

// plain makes the operations for a section.
func (r *run) plain(g *model.Graph, p *exec.Params) *exec.Plain {
	kv := r.cfg.KV
	if r.cfg.Inputs == Float {
		kv = exec.KVF32
	}
	return exec.NewPlain(g, p, r.env.Kernel, r.env.Pool, exec.NewCache(g, kv, longest(r.seqs)))
}
