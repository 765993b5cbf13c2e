package slmrt

import (
	"context"
	"fmt"

	"slmc/formats/bundle"
	"slmc/internal/kernel"
	"slmc/tensor"
)

// TraceStep is one position of a golden prompt as this runtime computes it.
type TraceStep struct {
	ID int `json:"id"` // the token that was fed
	// States are digests of the residual stream [D] that enters each block, and
	// the head as the last: L+1 of them.
	States []bundle.LogitsDigest `json:"states"`
	Logits bundle.LogitsDigest   `json:"logits"`
}

// Trace is what "slmrt trace" prints.
type Trace struct {
	Golden int         `json:"golden"` // number of the prompt
	Steps  []TraceStep `json:"steps"`
}

// TraceGolden computes what RecordGolden does, in the same passes, and returns
// the digests inside each position: where two machines disagree, the first
// state that differs names the layer.
func (s *Session) TraceGolden(ctx context.Context, p bundle.GoldenPrompt) ([]TraceStep, error) {
	s.Truncate(0)
	var steps []TraceStep
	states := make([][]bundle.LogitsDigest, len(s.m.Graph.Blocks)+1)
	found := s.see
	defer s.Observe(found)
	s.Observe(func(block int, x *tensor.Mat) {
		for r := range x.R {
			states[block] = append(states[block], bundle.DigestLogits(x.Row(r)[:x.C]))
		}
	})
	add := func(id int, z []float32) {
		step := TraceStep{ID: id, Logits: bundle.DigestLogits(z)}
		for _, list := range states {
			step.States = append(step.States, list[len(steps)])
		}
		steps = append(steps, step)
	}
	ids := make([]int32, len(p.IDs))
	for i, id := range p.IDs {
		ids[i] = int32(id)
	}
	next := int32(-1)
	err := s.Logits(ctx, ids, func(i int, z []float32) error {
		add(p.IDs[i], z)
		next = int32(kernel.ArgMax(z))
		return nil
	})
	for range p.Greedy {
		if err != nil {
			break
		}
		var z []float32
		if z, err = s.Feed(ctx, []int32{next}); err == nil {
			add(int(next), z)
			next = int32(kernel.ArgMax(z))
		}
	}
	return steps, err
}

// Trace runs golden prompt n of an open bundle. The model is the bundle's.
func (m *Model) Trace(ctx context.Context, g *bundle.Golden, n int, o Options) ([]TraceStep, error) {
	if g == nil || n < 0 || n >= len(g.Prompts) {
		have := 0
		if g != nil {
			have = len(g.Prompts)
		}
		return nil, fmt.Errorf("golden prompt %d: the bundle has %d", n, have)
	}
	if o.Context == 0 {
		o.Context = goldenRoom(g)
	}
	s, err := m.NewSession(o)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return s.TraceGolden(ctx, g.Prompts[n])
}

// Place is the first spot at which two traces of a prompt differ.
type Place struct {
	Position int    `json:"position"`
	Layer    string `json:"layer"` // "embedding", "block 3", "head", or "token" when other tokens were fed
	Block    int    `json:"block"` // -1 embedding, L head
	Got      string `json:"got"`
	Want     string `json:"want"`
}

// FirstDifference compares two traces of the same prompt; ok is false when they
// are equal.
func FirstDifference(got, want []TraceStep) (p Place, ok bool) {
	for i := range min(len(got), len(want)) {
		g, w := got[i], want[i]
		if g.ID != w.ID {
			return Place{i, "token", -1, fmt.Sprint(g.ID), fmt.Sprint(w.ID)}, true
		}
		for b := range min(len(g.States), len(w.States)) {
			if g.States[b] == w.States[b] {
				continue
			}
			// What enters block b is what the one before made.
			p := Place{i, "embedding", b - 1, g.States[b].String(), w.States[b].String()}
			if b > 0 {
				p.Layer = fmt.Sprintf("block %d", b-1)
			}
			return p, true
		}
		if g.Logits != w.Logits {
			return Place{i, "head", len(w.States) - 1, g.Logits.String(), w.Logits.String()}, true
		}
	}
	if len(got) != len(want) {
		return Place{Position: min(len(got), len(want)), Layer: "token", Block: -1, Got: fmt.Sprintf("%d positions", len(got)), Want: fmt.Sprintf("%d positions", len(want))}, true
	}
	return Place{}, false
}
