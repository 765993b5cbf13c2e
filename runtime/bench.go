package slmrt

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	goruntime "runtime"
	"slices"
	"time"
)

// BenchOptions say what to time. Repetitions are run one after the other, the
// medians are reported with their deviation.
type BenchOptions struct {
	Prompt      int // tokens of the prompt
	Generate    int // tokens decoded one by one after it
	Repetitions int
	Seed        uint64 // of the random tokens
	// Between, if not nil, is called after each repetition, and after the round
	// before them that warms up: another program's turn.
	Between func() error
}

// Check reports a setting outside its range.
func (b BenchOptions) Check() error {
	if b.Prompt < 1 || b.Generate < 1 || b.Repetitions < 1 {
		return fmt.Errorf("a bench of %d prompt tokens, %d decode tokens and %d repetitions; want at least one of each", b.Prompt, b.Generate, b.Repetitions)
	}
	return nil
}

// Fit shortens the prompt, then the answer, so that both have room.
func (b BenchOptions) Fit(room int) BenchOptions {
	b.Generate = min(b.Generate, max(1, room/2))
	b.Prompt = min(b.Prompt, max(1, room-b.Generate))
	return b
}

// BenchResult is what a bench measured; single numbers are medians.
type BenchResult struct {
	PromptTokens int     `json:"prompt_tokens"`
	DecodeTokens int     `json:"decode_tokens"`
	Repetitions  int     `json:"repetitions"`
	PrefillTokS  float64 `json:"prefill_tok_s"`
	DecodeTokS   float64 `json:"decode_tok_s"`
	Prefill      Spread  `json:"prefill"`       // of prefill_tok_s over the repetitions
	Decode       Spread  `json:"decode"`        // of decode_tok_s
	DecodeP50ms  float64 `json:"decode_p50_ms"` // of single tokens, over all repetitions
	DecodeP95ms  float64 `json:"decode_p95_ms"`
	LoadMs       float64 `json:"load_ms"` // opening and checking header and manifest, the file in memory
	InitMs       float64 `json:"init_ms"` // making a session
	TTFTms       float64 `json:"ttft_ms"` // load, session and a prompt of one token
	ColdLoadMs   float64 `json:"cold_load_ms,omitempty"`
	ColdTTFTms   float64 `json:"cold_ttft_ms,omitempty"` // with the file read from the disk
	PeakRSS      int64   `json:"peak_rss_bytes"`
	Predicted    int64   `json:"predicted_bytes"` // the memory contract's word on the peak, and ProcessBytes
	Kernel       string  `json:"kernel"`
	Threads      int     `json:"threads"`
	KV           string  `json:"kv"`

	BytesPerToken int64 `json:"bytes_per_token"` // of weights read by one decode step
	KVBytes       int64 `json:"kv_bytes"`        // of cache read by the decode step in the middle
	OpsPerToken   int64 `json:"ops_per_token"`   // 8-bit multiplications and additions of one prompt token
	// What this machine can do with these threads, and the share of it that
	// decode and prefill reach.
	ReadGBs      float64 `json:"read_gb_s"`
	Int8GOPs     float64 `json:"int8_gop_s"`
	DecodeShare  float64 `json:"decode_share"`
	PrefillShare float64 `json:"prefill_share"`

	Energy  *Energy       `json:"energy,omitempty"`
	Thermal []Temperature `json:"thermal,omitempty"`
	Rounds  []Round       `json:"-"`
	System  string        `json:"system"`
}

// Spread is how a figure varied.
type Spread struct {
	Median    float64 `json:"median"`
	Deviation float64 `json:"deviation"` // the standard deviation
	Min       float64 `json:"min"`
	Max       float64 `json:"max"`
}

func spreadOf(x []float64) Spread {
	sum, squares := 0.0, 0.0
	for _, v := range x {
		sum += v
	}
	mean := sum / float64(len(x))
	for _, v := range x {
		squares += (v - mean) * (v - mean)
	}
	s := Spread{Median: quantile(x, 50), Min: slices.Min(x), Max: slices.Max(x)}
	if len(x) > 1 {
		s.Deviation = math.Sqrt(squares / float64(len(x)-1))
	}
	return s
}

// quantile returns the p-th percentile of x.
func quantile(x []float64, p int) float64 {
	x = slices.Sorted(slices.Values(x))
	return x[(len(x)-1)*p/100]
}

// Bench times prefill and decode on random tokens. load is the time that
// opening the model took.
func (m *Model) Bench(ctx context.Context, o Options, b BenchOptions, load time.Duration) (BenchResult, error) {
	r, err := m.newRunner(o, b)
	if err != nil {
		return BenchResult{}, err
	}
	defer r.s.Close()
	first, err := r.first(ctx)
	if err != nil {
		return BenchResult{}, err
	}
	res, err := r.measure(ctx)
	res.LoadMs, res.InitMs, res.TTFTms = ms(load), ms(r.init), ms(load+r.init+first)
	return res, err
}

// BenchFile is Bench for a bundle, with loads that find the file in memory and,
// where the system can be asked to forget it, one that does not.
func BenchFile(ctx context.Context, path string, lo LoadOptions, o Options, b BenchOptions) (BenchResult, error) {
	cold := forget(path) == nil
	load, r, first, err := benchLoad(ctx, path, lo, o, b)
	if err != nil {
		return BenchResult{}, err
	}
	res, err := r.measure(ctx)
	r.close()
	if err != nil {
		return res, err
	}
	if cold {
		res.ColdLoadMs, res.ColdTTFTms = ms(load), ms(load+r.init+first)
	}
	// After the peak was taken: a second load leaves garbage behind.
	var loads, inits, ttfts []float64
	for range b.Repetitions {
		load, r, first, err := benchLoad(ctx, path, lo, o, b)
		if err != nil {
			return res, err
		}
		r.close()
		loads, inits, ttfts = append(loads, ms(load)), append(inits, ms(r.init)), append(ttfts, ms(load+r.init+first))
	}
	res.LoadMs, res.InitMs, res.TTFTms = quantile(loads, 50), quantile(inits, 50), quantile(ttfts, 50)
	return res, nil
}

// benchLoad opens a bundle and computes a first token.
func benchLoad(ctx context.Context, path string, lo LoadOptions, o Options, b BenchOptions) (load time.Duration, r *runner, first time.Duration, err error) {
	begin := time.Now()
	m, _, err := Load(path, lo)
	if err != nil {
		return 0, nil, 0, err
	}
	load = time.Since(begin)
	r, err = m.newRunner(o, b)
	if err != nil {
		m.Close()
		return 0, nil, 0, err
	}
	if first, err = r.first(ctx); err != nil {
		r.close()
		return 0, nil, 0, err
	}
	return load, r, first, nil
}

// runner is a session to be timed.
type runner struct {
	m    *Model
	s    *Session
	o    Options
	b    BenchOptions
	ids  []int32 // random: the prompt, then what is decoded
	init time.Duration
}

func (m *Model) newRunner(o Options, b BenchOptions) (*runner, error) {
	o, err := o.resolve(m)
	if err != nil {
		return nil, err
	}
	if err := b.Check(); err != nil {
		return nil, err
	}
	if b.Prompt+b.Generate > o.Context {
		return nil, fmt.Errorf("%w: %d prompt and %d decode tokens do not fit %d positions", ErrContext, b.Prompt, b.Generate, o.Context)
	}
	begin := time.Now()
	s, err := m.NewSession(o)
	if err != nil {
		return nil, err
	}
	r := &runner{m: m, s: s, o: o, b: b, init: time.Since(begin), ids: make([]int32, b.Prompt+b.Generate)}
	random := rand.New(rand.NewPCG(b.Seed, 0))
	for i := range r.ids {
		r.ids[i] = int32(random.IntN(m.Graph.Vocab))
	}
	return r, nil
}

func (r *runner) close() {
	r.s.Close()
	r.m.Close()
}

// first computes a prompt of one token.
func (r *runner) first(ctx context.Context) (time.Duration, error) {
	begin := time.Now()
	_, err := r.s.Feed(ctx, r.ids[:1])
	return time.Since(begin), err
}

// Round is one repetition of a bench.
type Round struct {
	Prefill float64   // seconds of the prompt
	Decode  float64   // seconds of the tokens after it
	Single  []float64 // seconds of each of them
}

// round feeds the prompt and decodes.
func (r *runner) round(ctx context.Context) (Round, error) {
	out := Round{Single: make([]float64, 0, r.b.Generate)}
	r.s.Truncate(0)
	begin := time.Now()
	if _, err := r.s.Feed(ctx, r.ids[:r.b.Prompt]); err != nil {
		return out, err
	}
	out.Prefill = time.Since(begin).Seconds()
	begin = time.Now()
	for i := range r.b.Generate {
		one := time.Now()
		if _, err := r.s.Feed(ctx, r.ids[r.b.Prompt+i:][:1]); err != nil {
			return out, err
		}
		out.Single = append(out.Single, time.Since(one).Seconds())
	}
	out.Decode = time.Since(begin).Seconds()
	return out, nil
}

// measure runs the repetitions, with the machine's limits between them.
func (r *runner) measure(ctx context.Context) (BenchResult, error) {
	mem, err := r.m.Memory(r.o)
	if err != nil {
		return BenchResult{}, err
	}
	// The first round warms up: pages are mapped, buffers grow to their size.
	if _, err := r.round(ctx); err != nil {
		return BenchResult{}, err
	}
	if err := r.between(); err != nil {
		return BenchResult{}, err
	}
	var rounds []Round
	var prefill, decode, single, read, int8s []float64
	sys := os.DirFS("/sys")
	before, joules := temperatures(sys), 0.0
	var energy *Energy
	for range r.b.Repetitions {
		start := readEnergy(sys)
		one, err := r.round(ctx)
		if err != nil {
			return BenchResult{}, err
		}
		if energy = readEnergy(sys).since(start); energy != nil {
			joules += energy.Joules
		}
		prefill = append(prefill, float64(r.b.Prompt)/one.Prefill)
		decode = append(decode, float64(r.b.Generate)/one.Decode)
		single = append(single, one.Single...)
		read = append(read, r.s.readRate())
		int8s = append(int8s, r.s.int8Rate())
		rounds = append(rounds, one)
		if err := r.between(); err != nil {
			return BenchResult{}, err
		}
	}
	res := BenchResult{
		PromptTokens: r.b.Prompt, DecodeTokens: r.b.Generate, Repetitions: r.b.Repetitions, Rounds: rounds,
		Prefill: spreadOf(prefill), Decode: spreadOf(decode),
		DecodeP50ms: 1e3 * quantile(single, 50), DecodeP95ms: 1e3 * quantile(single, 95),
		PeakRSS: PeakRSS(), Predicted: mem.Total + ProcessBytes, Kernel: r.s.kernel, Threads: r.o.Threads, KV: string(r.o.KV),
		BytesPerToken: r.m.bytesPerToken(), KVBytes: r.m.kvBytes(r.o, r.b.Prompt+r.b.Generate/2), OpsPerToken: r.m.opsPerToken(),
		ReadGBs: quantile(read, 50) / 1e9, Int8GOPs: quantile(int8s, 50) / 1e9,
		Thermal: since(temperatures(sys), before), System: goruntime.GOOS + "/" + goruntime.GOARCH + ", " + processor(),
	}
	res.PrefillTokS, res.DecodeTokS = res.Prefill.Median, res.Decode.Median
	res.DecodeShare = float64(res.BytesPerToken+res.KVBytes) * res.DecodeTokS / 1e9 / res.ReadGBs
	res.PrefillShare = float64(res.OpsPerToken) * res.PrefillTokS / 1e9 / res.Int8GOPs
	if energy != nil {
		energy.Joules = joules
		energy.PerToken = joules / float64(r.b.Repetitions*(r.b.Prompt+r.b.Generate))
		res.Energy = energy
	}
	return res, nil
}

func (r *runner) between() error {
	if r.b.Between == nil {
		return nil
	}
	return r.b.Between()
}

func ms(d time.Duration) float64 { return 1e3 * d.Seconds() }
