package kvshare

import (
	"fmt"

	"slmc/model"
)

// Rewrite returns m with the blocks of p reading their givers. Keys, values and
// key norms that no block computes any more are dropped (model.Graph.ShareKV);
// values are read from m as they are asked for. m is not changed.
//
// A checkpoint that shares from the start, as Gemma 3n with
// num_kv_shared_layers does, describes the same with Block.KVFrom when its
// graph is built; gemma3n:N gives the map of that number.
func Rewrite(m *model.Model, p Plan) (*model.Model, error) {
	g, from, err := m.ShareKV(p)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrPlan, err)
	}
	return &model.Model{Graph: g, Values: kept{m.Values, from}}, nil
}

// kept reads the weights that are left.
type kept struct {
	model.Values
	from []int
}

// Read implements model.Values.
func (k kept) Read(i, off int, dst []float32) error { return k.Values.Read(k.from[i], off, dst) }
