package slmrt

import (
	"context"
	"fmt"

	"slmc/formats"
	"slmc/formats/bundle"
	"slmc/internal/kernel"
)

// RecordGolden runs a prompt from an empty session and then greedy tokens, and
// returns the digests of the logits at every position.
func (s *Session) RecordGolden(ctx context.Context, prompt []int32, greedy int) (bundle.GoldenPrompt, error) {
	s.Truncate(0)
	var p bundle.GoldenPrompt
	next := int32(-1)
	for _, id := range prompt {
		p.IDs = append(p.IDs, int(id))
	}
	err := s.Logits(ctx, prompt, func(_ int, z []float32) error {
		p.Logits = append(p.Logits, bundle.DigestLogits(z))
		next = int32(kernel.ArgMax(z))
		return nil
	})
	for range greedy {
		if err != nil {
			break
		}
		p.Greedy = append(p.Greedy, int(next))
		var z []float32
		if z, err = s.Feed(ctx, []int32{next}); err == nil {
			p.GreedyLogits = append(p.GreedyLogits, bundle.DigestLogits(z))
			next = int32(kernel.ArgMax(z))
		}
	}
	return p, err
}

// ReplayGolden runs the golden vectors of a bundle and returns the digest of
// all logits as this runtime computes them. The first position that differs
// from what the bundle holds is an error of kind formats.ErrCorrupt.
func (s *Session) ReplayGolden(ctx context.Context, g *bundle.Golden, progress func(done, total int)) (bundle.Digest, error) {
	got := bundle.Golden{}
	var first error
	for i, want := range g.Prompts {
		ids := make([]int32, len(want.IDs))
		for j, id := range want.IDs {
			ids[j] = int32(id)
		}
		p, err := s.RecordGolden(ctx, ids, len(want.Greedy))
		if err != nil {
			return bundle.Digest{}, fmt.Errorf("golden prompt %d: %w", i, err)
		}
		got.Prompts = append(got.Prompts, p)
		if first == nil {
			first = sameGolden(i, p, want)
		}
		progress(i+1, len(g.Prompts))
	}
	return got.Digest(), first
}

// sameGolden reports the first position at which two records of prompt n
// differ.
func sameGolden(n int, got, want bundle.GoldenPrompt) error {
	for i := range want.Logits {
		if got.Logits[i] != want.Logits[i] {
			return formats.Corrupt("golden vectors", "", -1, "prompt %d, position %d: logits digest %s, the bundle has %s", n, i, got.Logits[i], want.Logits[i])
		}
	}
	for i := range want.Greedy {
		at := len(want.IDs) + i
		if got.Greedy[i] != want.Greedy[i] {
			return formats.Corrupt("golden vectors", "", -1, "prompt %d, position %d: greedy token %d, the bundle has %d", n, at, got.Greedy[i], want.Greedy[i])
		}
		if got.GreedyLogits[i] != want.GreedyLogits[i] {
			return formats.Corrupt("golden vectors", "", -1, "prompt %d, position %d: logits digest %s, the bundle has %s", n, at, got.GreedyLogits[i], want.GreedyLogits[i])
		}
	}
	return nil
}
