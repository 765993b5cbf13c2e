package pipeline

import (
	"context"
	"errors"
	"log/slog"

	"slmc/internal/exec"
	slmrt "slmc/runtime"
)

// PreviewReport is what a build would make.
type PreviewReport struct {
	Output      string        `json:"output"`
	Arch        string        `json:"architecture"`
	Parameters  int64         `json:"parameters"`
	Context     int           `json:"context"`
	WeightBytes int64         `json:"weight_bytes"`
	BPW         float64       `json:"bpw"`
	Formats     []FormatBytes `json:"formats"`
	// Bound: a budget chooses the formats when the examples are measured;
	// WeightBytes and BPW are what it allows at most.
	Bound       bool  `json:"bound,omitempty"`
	KVPerToken  int   `json:"kv_bytes_per_token"`
	BuildMemory int64 `json:"build_memory_bytes"` // to expect at the peak of the build
	RunMemory   int64 `json:"run_memory_bytes"`   // of a session at full context, the mapped file aside
	// Shared compares the map of a recipe that shares keys and values, first,
	// with others of as many takers.
	Shared []SharedPreview `json:"share_kv,omitempty"`
	// Trials are what a build does to choose among the maps of a search, which
	// a dry run does not; nil where the first map is the build's.
	Trials *TrialPreview `json:"share_kv_trials,omitempty"`
}

// FormatBytes sums the weights of one number format.
type FormatBytes struct {
	Format  string `json:"format"`
	Weights int    `json:"weights"`
	Bytes   int64  `json:"bytes"`
}

// Preview decides everything that Build would, and writes nothing.
func Preview(ctx context.Context, cfg Config, log *slog.Logger) (_ PreviewReport, err error) {
	b := &build{ctx: ctx, cfg: cfg, log: log}
	if err := b.open(); err != nil {
		return PreviewReport{}, err
	}
	defer func() { err = errors.Join(err, b.source.Close()) }()
	shared, trials, err := b.previewShare() // a search decides the graph
	if err != nil {
		return PreviewReport{}, err
	}
	g, kv := b.model.Graph, exec.KVFormat(b.recipe.KV)
	p := PreviewReport{
		Output: cfg.Output, Arch: g.Arch, Parameters: int64(b.plan.Params), Context: b.recipe.Context,
		WeightBytes: b.plan.Bytes, BPW: b.plan.BPW(), KVPerToken: exec.KVBytesPerToken(g, kv),
		RunMemory: memoryFormula(g, b.plan.Formats, kv, b.recipe.Context).Peak(b.recipe.Context, slmrt.DefaultBatch),
	}
	if b.recipe.Budget != nil {
		most, err := b.uniform(largestFormat)
		if err != nil {
			return PreviewReport{}, err
		}
		p.Bound, p.Formats = true, []FormatBytes{}
		p.WeightBytes = min(most, b.weightBudget()+b.vectorBytes())
		p.BPW = 8 * float64(p.WeightBytes) / float64(p.Parameters)
	} else {
		for _, s := range b.plan.Stored {
			p.Formats = addFormat(p.Formats, s.Format.Name(), s.Bytes)
		}
	}
	p.BuildMemory = b.plan.WorkBytes(max(1, cfg.Env.Threads))
	if !cfg.Bare {
		// The packed weights stay mapped while the float teacher runs beside.
		p.BuildMemory = max(p.BuildMemory, p.WeightBytes+4*p.Parameters+2*p.RunMemory)
	}
	p.Shared, p.Trials = shared, trials
	return p, nil
}

// addFormat counts a weight of bytes in format.
func addFormat(to []FormatBytes, format string, bytes int64) []FormatBytes {
	for i := range to {
		if f := &to[i]; f.Format == format {
			f.Weights, f.Bytes = f.Weights+1, f.Bytes+bytes
			return to
		}
	}
	return append(to, FormatBytes{format, 1, bytes})
}
