// Package deferral is the part of a deferral router that a phone runs: the
// features of a query that exec's states and logits give, the heads that turn
// them into scores, the certified table of thresholds, and the bytes of a
// bundle's router section, docs/bundle.md. All arithmetic follows the numeric
// rules of internal/kernel, so that a score has the same bits on every CPU.
// router_train makes routers; nothing here learns.
package deferral

import "fmt"

// Checkpoint is a moment at which a router reads the model.
type Checkpoint string

// The checkpoints, in the order in which a generation meets them.
const (
	Pre  Checkpoint = "pre"  // after the prompt, before the first token
	Mid  Checkpoint = "mid"  // after every MidEvery generated tokens
	Post Checkpoint = "post" // when the generation has ended
)

// Checkpoints lists them all in order.
func Checkpoints() []Checkpoint { return []Checkpoint{Pre, Mid, Post} }

// MidEvery is the number of generated tokens from one mid reading to the next.
const MidEvery = 16

// ParseCheckpoint returns the checkpoint of that name.
func ParseCheckpoint(name string) (Checkpoint, error) {
	for _, c := range Checkpoints() {
		if string(c) == name {
			return c, nil
		}
	}
	return "", fmt.Errorf("checkpoint %q is unknown; have pre, mid, post", name)
}

// Reading is what a router says at one checkpoint. Its bits are the same on
// every CPU. All values lie in 0..1.
type Reading struct {
	Checkpoint Checkpoint `json:"checkpoint"`
	Tokens     int        `json:"tokens"` // generated so far
	// Wrong is the calibrated probability that the answer given here is wrong,
	// Gain that it is wrong and the large model's right.
	Wrong float32 `json:"wrong"`
	Gain  float32 `json:"gain"`
	// Score is what a row's threshold is compared with. It orders queries by
	// what deferring them is worth.
	Score float32 `json:"score"`
	// OOD is how far the query lies from those that the router was trained on:
	// the share of them that lie nearer. Only the first reading of a generation
	// computes it; later ones repeat it.
	OOD float32 `json:"ood"`
}
