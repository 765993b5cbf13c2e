package deferral

import "slmc/tensor"

// Collector gathers the features of one generation as the runtime computes it.
// It is not safe for concurrent use.
type Collector struct {
	r      *Router
	tokens int
	ood    float32
}

// NewCollector returns a collector, to be started with Start.
func (r *Router) NewCollector() *Collector { return &Collector{r: r} }

// Start begins a generation after a prompt of that many tokens.
func (c *Collector) Start(prompt int) { c.tokens, c.ood = 0, 0 }

// State takes the residual stream x [R D] that enters a block, or the head as
// block L.
func (c *Collector) State(block int, x *tensor.Mat) {}

// Token takes a generated token and the logits z [V] that it was chosen from.
func (c *Collector) Token(z []float32, id int32) { c.tokens++ }

// Read returns the reading at a checkpoint; ended says at Post that the model
// ended its answer itself.
func (c *Collector) Read(at Checkpoint, ended bool) Reading {
	return Reading{Checkpoint: at, Tokens: c.tokens, OOD: c.ood}
}
