package slmrt

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// BenchOptions say what to time. Repetitions are run one after the other, the
// medians are reported.
type BenchOptions struct {
	Prompt      int // tokens of the prompt
	Generate    int // tokens decoded one by one after it
	Repetitions int
	Seed        uint64 // of the random tokens
}

// Check reports a setting outside its range.
func (b BenchOptions) Check() error {
	if b.Prompt < 1 || b.Generate < 1 || b.Repetitions < 1 {
		return fmt.Errorf("a bench of %d prompt tokens, %d decode tokens and %d repetitions; want at least one of each", b.Prompt, b.Generate, b.Repetitions)
	}
	return nil
}

// BenchResult is what a bench measured; times are medians.
type BenchResult struct {
	PromptTokens  int     `json:"prompt_tokens"`
	DecodeTokens  int     `json:"decode_tokens"`
	PrefillTokS   float64 `json:"prefill_tok_s"`
	DecodeTokS    float64 `json:"decode_tok_s"`
	DecodeP95ms   float64 `json:"decode_p95_ms"` // of single tokens, over all repetitions
	LoadMs        float64 `json:"load_ms"`       // opening and checking, filled in by the caller
	TTFTms        float64 `json:"ttft_ms"`       // load, session and a prompt of one token
	PeakRSS       int64   `json:"peak_rss_bytes"`
	Kernel        string  `json:"kernel"`
	Threads       int     `json:"threads"`
	BytesPerToken int64   `json:"bytes_per_token"` // of weights read by one decode step
}

// Bench times prefill and decode on random tokens. load is the time that
// opening the model took.
func (m *Model) Bench(ctx context.Context, o Options, b BenchOptions, load time.Duration) (BenchResult, error) {
	o, err := o.resolve(m)
	if err != nil {
		return BenchResult{}, err
	}
	if err := b.Check(); err != nil {
		return BenchResult{}, err
	}
	if b.Prompt+b.Generate > o.Context {
		return BenchResult{}, fmt.Errorf("%w: %d prompt and %d decode tokens do not fit %d positions", ErrContext, b.Prompt, b.Generate, o.Context)
	}
	begin := time.Now()
	s, err := m.NewSession(o)
	if err != nil {
		return BenchResult{}, err
	}
	defer s.Close()
	r := rand.New(rand.NewPCG(b.Seed, 0))
	ids := make([]int32, b.Prompt+b.Generate)
	for i := range ids {
		ids[i] = int32(r.IntN(m.Graph.Vocab))
	}
	if _, err := s.Feed(ctx, ids[:1]); err != nil {
		return BenchResult{}, err
	}
	ttft := load + time.Since(begin)
	var prefill, decode, single []float64
	for range b.Repetitions {
		s.Truncate(0)
		begin := time.Now()
		if _, err := s.Feed(ctx, ids[:b.Prompt]); err != nil {
			return BenchResult{}, err
		}
		prefill = append(prefill, time.Since(begin).Seconds())
		begin = time.Now()
		for _, id := range ids[b.Prompt:] {
			one := time.Now()
			if _, err := s.Feed(ctx, []int32{id}); err != nil {
				return BenchResult{}, err
			}
			single = append(single, time.Since(one).Seconds())
		}
		decode = append(decode, time.Since(begin).Seconds())
	}
	return BenchResult{
		PromptTokens: b.Prompt, DecodeTokens: b.Generate,
		PrefillTokS: float64(b.Prompt) / quantile(prefill, 50),
		DecodeTokS:  float64(b.Generate) / quantile(decode, 50),
		DecodeP95ms: 1e3 * quantile(single, 95),
		LoadMs:      1e3 * load.Seconds(), TTFTms: 1e3 * ttft.Seconds(),
		PeakRSS: PeakRSS(), Kernel: s.kernel, Threads: o.Threads,
		BytesPerToken: m.bytesPerToken(),
	}, nil
}

// quantile returns the p-th percentile of x, which it sorts.
func quantile(x []float64, p int) float64 {
	slices.Sort(x)
	return x[(len(x)-1)*p/100]
}

// bytesPerToken counts the panels that one decode step reads: all matrices but
// an untied embedding, of which it reads one row; shared ones as often as they
// run.
func (m *Model) bytesPerToken() int64 {
	n := int64(len(m.Params.Mats[m.Graph.Head.W].Panels))
	for _, b := range m.Graph.Blocks {
		for _, l := range []int{b.Q.W, b.K.W, b.V.W, b.O.W, b.Gate.W, b.Up.W, b.Down.W} {
			if l >= 0 {
				n += int64(len(m.Params.Mats[l].Panels))
			}
		}
	}
	return n
}

// Fit shortens the prompt, then the answer, so that both have room.
func (b BenchOptions) Fit(room int) BenchOptions {
	b.Generate = min(b.Generate, max(1, room/2))
	b.Prompt = min(b.Prompt, max(1, room-b.Generate))
	return b
}
