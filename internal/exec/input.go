package exec

import "slmc/tensor"

// Input starts a batch in the middle of the graph, in place of Embed: after
// Begin(-1, nil) it returns a copy of x [T D], the residual stream that enters
// a block, whose first row stands at position pos.
func (o *Plain) Input(x *tensor.Mat, pos int) *tensor.Mat {
	o.pos, o.rows = pos, x.R
	o.reserve(x.R)
	y := o.mat(x.R, o.g.Hidden)
	o.keep, o.matsKeep = o.used, o.matsUsed
	for r := range x.R {
		copy(y.Row(r), x.Row(r))
	}
	return y
}
