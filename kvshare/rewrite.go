package kvshare

import (
	"slmc/model"
)

// Rewrite returns m with the blocks of p reading their givers. Keys, values and
// key norms that no block computes any more are dropped; everything else, the
// takers' query norms and rotations among it, stays as it is, and values are
// read from m as they are asked for. m is not changed.
//
// A checkpoint that shares from the start, as Gemma 3n with
// num_kv_shared_layers does, describes the same with Block.KVFrom when its
// graph is built; gemma3n:N gives the map of that number.
func Rewrite(m *model.Model, p Plan) (*model.Model, error) {
	g, from, err := RewriteGraph(m.Graph, p)
	if err != nil {
		return nil, err
	}
	return &model.Model{Graph: g, Values: kept{m.Values, from}}, nil
}

// RewriteGraph is Rewrite without values. Weight i of the result is weight
// from[i] of g.
func RewriteGraph(g *model.Graph, p Plan) (out *model.Graph, from []int, err error) {
	if err := p.Check(g); err != nil {
		return nil, nil, err
	}
	out = link(g, p)
	used := make([]bool, len(g.Weights))
	eachIndex(out, func(i *int) { used[*i] = true })
	to := make([]int, len(g.Weights))
	out.Weights = nil
	for i, w := range g.Clone().Weights {
		if used[i] {
			to[i] = len(from)
			from = append(from, i)
			out.Weights = append(out.Weights, w)
		}
	}
	eachIndex(out, func(i *int) { *i = to[*i] })
	return out, from, nil
}

// link returns g with the takers of p linked to their givers, and all weights.
func link(g *model.Graph, p Plan) *model.Graph {
	none := model.Linear{W: model.None, B: model.None}
	out := g.Clone()
	for taker, giver := range p {
		b := &out.Blocks[taker]
		b.KVFrom, b.K, b.V, b.KNorm = giver, none, none, model.None
	}
	return out
}

// eachIndex gives f every weight index of the graph that is not None, once for
// each place that holds it.
func eachIndex(g *model.Graph, f func(i *int)) {
	one := func(all ...*int) {
		for _, i := range all {
			if *i != model.None {
				f(i)
			}
		}
	}
	one(&g.Embed, &g.Norm, &g.Head.W, &g.Head.B)
	for i := range g.Blocks {
		b := &g.Blocks[i]
		one(&b.AttnNorm, &b.QNorm, &b.KNorm, &b.PostAttnNorm, &b.FFNNorm, &b.PostFFNNorm)
		for _, l := range []*model.Linear{&b.Q, &b.K, &b.V, &b.O, &b.Gate, &b.Up, &b.Down} {
			one(&l.W, &l.B)
		}
	}
}

// kept reads the weights that are left.
type kept struct {
	model.Values
	from []int
}

// Read implements model.Values.
func (k kept) Read(i, off int, dst []float32) error { return k.Values.Read(k.from[i], off, dst) }
