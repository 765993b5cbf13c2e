package calibrate

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"

	"slmc/internal/exec"
	"slmc/model"
	"slmc/quant"
)

// Inputs says on which activations matrices are calibrated.
type Inputs string

// The choices. In Blocks the inputs of a block come from the blocks before it
// as they were quantized, run as the runtime runs them (arXiv 2210.17323,
// section 4, "setup"); in Linears, the default, also from the quantized matrices
// before it in the same block, at the price of running a block once for each
// input. docs/experiments.md ("The ladder of calibration") compares them.
const (
	Float   Inputs = "float"
	Blocks  Inputs = "blocks"
	Linears Inputs = "linears"
)

// DefaultTokens is how much calibration text to use: docs/experiments.md ("How
// much text").
const DefaultTokens = 32768

// Config is what calibration is asked for. Zero values are the defaults.
type Config struct {
	Formats   []quant.Format // by weight, as model.Recipe.Formats gives them
	Algorithm Algorithm      // of the blocks' matrices and an untied head
	// Embedding is the algorithm of the embedding, of a tied one too; nil: RTN.
	// It sees the input of a tied head only through Statistics.
	Embedding Algorithm
	Inputs    Inputs // "": Linears
	// Compensate makes each matrix answer for what those before it lost, as
	// compensate.go has it; an algorithm that needs no Hessian and Float inputs
	// are left alone. It takes a second set of activations.
	Compensate bool
	KV         exec.KVFormat // of the quantized model's cache; "": KV8
	Grid       Grid          // of the scales; nil: every float16
	// Statistics observed before, by label. They take the place of observing
	// when Inputs is Float.
	Statistics map[string]*Input
	// MinTokens refuses shorter text; 0: the model's context or 2048, whichever
	// is less.
	MinTokens int
	// ActivationBytes bounds the activations that are held in memory; more go
	// to a file in ScratchFolder ("": the system's). 0: 512 MiB.
	ActivationBytes int64
	ScratchFolder   string
	// Emit takes each matrix when it is done: the embedding, blocks in order,
	// the head. Its panels may be kept.
	Emit     func(i int, m exec.Matrix) error
	Progress func(done, total int) // matrices; may be nil
}

// WeightReport says how a matrix was quantized. Loss is its ProxyLoss, where a
// Hessian was at hand.
type WeightReport struct {
	Name      string   `json:"name"`
	Format    string   `json:"format"`
	Algorithm string   `json:"algorithm"`
	Loss      *float64 `json:"proxy_loss,omitempty"`
}

// Report is what calibration did; the same input gives the same report.
type Report struct {
	Sequences int            `json:"sequences"`
	Tokens    int            `json:"tokens"`
	Inputs    Inputs         `json:"inputs"`
	Text      string         `json:"text_sha256"`
	Weights   []WeightReport `json:"weights"`
}

// Run quantizes the matrices of in block by block and hands them to cfg.Emit.
// It holds one block's weights and statistics at a time (blocks that share
// weights count as one), the blocks whose keys and values later ones read, and
// the activations that enter the block. in is not changed; neither the number of
// threads nor the kernel changes a byte.
func Run(ctx context.Context, env Env, in *model.Model, seqs Sequences, cfg Config, log *slog.Logger) (_ Report, err error) {
	r, err := newRun(ctx, env, in, seqs, cfg, log)
	if err != nil {
		return Report{}, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	if err := r.embedding(); err != nil {
		return Report{}, err
	}
	for lo := 0; lo < len(in.Blocks); {
		hi := groupEnd(in.Graph, lo)
		if err := r.group(lo, hi); err != nil {
			return Report{}, fmt.Errorf("blocks %d to %d: %w", lo, hi-1, err)
		}
		lo = hi
	}
	if err := r.head(); err != nil {
		return Report{}, err
	}
	return r.report, nil
}

// run is one run of Run.
type run struct {
	ctx    context.Context
	env    Env
	m      *model.Model
	seqs   Sequences
	cfg    Config
	log    *slog.Logger
	walk   bool    // activations are needed
	q      *stream // the model as it is quantized; the float model when Inputs is Float
	f      *stream // the float model, when it is compared with
	report Report
	total  int
}

func newRun(ctx context.Context, env Env, in *model.Model, seqs Sequences, cfg Config, log *slog.Logger) (*run, error) {
	cfg.Inputs, cfg.KV = cmp.Or(cfg.Inputs, Linears), cmp.Or(cfg.KV, exec.KV8)
	cfg.ActivationBytes = cmp.Or(cfg.ActivationBytes, 512<<20)
	cfg.MinTokens = cmp.Or(cfg.MinTokens, min(in.Context, 2048))
	if cfg.Embedding == nil {
		cfg.Embedding = RTN{env.Kernel}
	}
	if cfg.Progress == nil {
		cfg.Progress = func(int, int) {}
	}
	if !slices.Contains([]Inputs{Float, Blocks, Linears}, cfg.Inputs) {
		return nil, fmt.Errorf("calibration inputs %q are unknown; have %s, %s, %s", cfg.Inputs, Float, Blocks, Linears)
	}
	if len(cfg.Formats) != len(in.Weights) {
		panic(fmt.Sprintf("calibrate: %d formats for %d weights", len(cfg.Formats), len(in.Weights)))
	}
	r := &run{ctx: ctx, env: env, m: in, seqs: slices.DeleteFunc(slices.Clone(seqs), func(q []int32) bool { return len(q) == 0 }), cfg: cfg, log: log}
	for i, w := range in.Weights {
		if w.Role.Matrix() {
			r.total++
			r.walk = r.walk || r.observes(i)
		}
	}
	r.report = Report{Sequences: len(r.seqs), Tokens: seqs.Tokens(), Inputs: cfg.Inputs, Text: seqs.Digest().String()}
	if !r.walk {
		return r, nil
	}
	if err := seqs.Check(in.Graph, in.Context, cfg.MinTokens); err != nil {
		return nil, err
	}
	room := func() (*residuals, error) {
		return newResiduals(r.seqs, in.Hidden, cfg.ActivationBytes, cfg.ScratchFolder)
	}
	kv := cfg.KV
	if cfg.Inputs == Float {
		kv = exec.KVF32
	}
	var err error
	if r.q, err = newStream(env, in, r.seqs, kv, room); err == nil && cfg.Compensate && cfg.Inputs != Float {
		r.f, err = newStream(env, in, r.seqs, exec.KVF32, room)
	}
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	return r, nil
}

func (r *run) close() error { return errors.Join(r.q.close(), r.f.close()) }

// algorithm is the one that quantizes weight i.
func (r *run) algorithm(i int) Algorithm {
	switch {
	case r.cfg.Formats[i].Group() == 0:
		return RTN{r.env.Kernel}
	case i == r.m.Embed:
		return r.cfg.Embedding
	}
	return r.cfg.Algorithm
}

// observes reports whether weight i needs statistics that are not given.
func (r *run) observes(i int) bool {
	need := r.algorithm(i).Needs()
	if i == r.m.Embed || need == Nothing {
		return false
	}
	in := r.cfg.Statistics[r.m.Weights[i].Input]
	return r.cfg.Inputs != Float || in == nil || need == Hessian && in.H == nil
}

// embedding quantizes the embedding and embeds all sequences.
func (r *run) embedding() error {
	e := r.m.Embed
	packed, err := r.matrix(e, r.cfg.Statistics[r.m.Weights[e].Input])
	if err != nil || !r.walk {
		return err
	}
	if r.cfg.Inputs == Float || r.f != nil {
		float, err := exec.PackMatrix(r.m, e, quant.F32, nil)
		if err != nil {
			return err
		}
		if r.f == nil {
			packed = float
		} else if err := r.f.embed(float); err != nil {
			return err
		}
	}
	return r.q.embed(packed)
}

// group quantizes the blocks [lo, hi) and runs all sequences through them.
func (r *run) group(lo, hi int) error {
	var blocks []int
	for i := lo; i < hi; i++ {
		blocks = append(blocks, i)
	}
	weights := weightsOf(r.m.Graph, blocks)
	if !r.walk {
		for _, i := range weights {
			if err := r.given(i); err != nil {
				return err
			}
		}
		return nil
	}
	if err := r.load(weights); err != nil {
		return err
	}
	packed := map[int]exec.Matrix{}
	for _, stage := range r.stages(weights) {
		stats, err := r.observe(blocks, stage)
		if err != nil {
			return err
		}
		for _, i := range weights {
			if label := r.m.Weights[i].Input; r.m.Weights[i].Role.Matrix() && slices.Contains(stage, label) {
				if packed[i], err = r.matrix(i, stats[label]); err != nil {
					return err
				}
			}
		}
		if r.cfg.Inputs == Linears {
			r.q.use(packed)
		}
	}
	if r.cfg.Inputs != Float {
		r.q.use(packed)
	}
	if err := r.pass(blocks, nil, true); err != nil {
		return err
	}
	if r.f != nil {
		if err := r.f.drop(lo, hi); err != nil {
			return err
		}
	}
	return r.q.drop(lo, hi)
}

// load reads weights as float32 for both streams.
func (r *run) load(weights []int) error {
	if err := r.q.load(weights); err != nil || r.f == nil {
		return err
	}
	for _, i := range weights {
		r.f.params.Mats[i], r.f.params.Vecs[i] = r.q.params.Mats[i], r.q.params.Vecs[i]
	}
	return nil
}

// stages lists the labels of weights that are quantized at a time, in the order
// of the forward pass.
func (r *run) stages(weights []int) [][]string {
	var out [][]string
	for _, i := range weights {
		label := r.m.Weights[i].Input
		switch {
		case !r.m.Weights[i].Role.Matrix() || slices.ContainsFunc(out, func(s []string) bool { return slices.Contains(s, label) }):
		case r.cfg.Inputs == Linears || len(out) == 0:
			out = append(out, []string{label})
		default:
			out[0] = append(out[0], label)
		}
	}
	return out
}

// observe returns the statistics of the labels: those given, and for the others
// those of a pass through the blocks.
func (r *run) observe(blocks []int, labels []string) (map[string]*Input, error) {
	sums, out := map[string]*accumulator{}, map[string]*Input{}
	for _, i := range weightsOf(r.m.Graph, blocks) {
		w := r.m.Weights[i]
		if !w.Role.Matrix() || !slices.Contains(labels, w.Input) {
			continue
		}
		if !r.observes(i) {
			out[w.Input] = r.cfg.Statistics[w.Input]
		} else if need := r.algorithm(i).Needs(); sums[w.Input] == nil || need == Hessian && !sums[w.Input].hessian {
			sums[w.Input] = newAccumulator(r.env, w.Input, w.Shape[1], need == Hessian)
		}
	}
	if len(sums) == 0 {
		return out, nil
	}
	for _, i := range weightsOf(r.m.Graph, blocks) {
		if a := sums[r.m.Weights[i].Input]; a != nil && a.hessian && r.f != nil && a.beside[0] == nil {
			lag := 0
			if r.added(i) {
				lag = r.m.Hidden
			}
			a.compare(lag)
		}
	}
	if err := r.pass(blocks, sums, false); err != nil {
		return nil, err
	}
	for label, a := range sums {
		in, err := a.finish()
		if err != nil {
			return nil, err
		}
		out[label] = in
	}
	return out, nil
}

// added reports whether what weight i gives goes into the residual stream as it
// is.
func (r *run) added(i int) bool {
	for _, b := range r.m.Blocks {
		if b.O.W == i && b.PostAttnNorm == model.None || b.Down.W == i && b.PostFFNNorm == model.None {
			return true
		}
	}
	return false
}

// pass runs all sequences through consecutive blocks, of the float model first
// where it is compared with. With advance the result takes the place of what
// entered.
func (r *run) pass(blocks []int, sums map[string]*accumulator, advance bool) error {
	var f *passage
	if r.f != nil {
		f = r.f.passage(blocks, sums)
		f.o.expect = true
	}
	q := r.q.passage(blocks, sums)
	for i := range r.seqs {
		if err := r.ctx.Err(); err != nil {
			return err
		}
		if f != nil {
			if err := f.run(i, advance); err != nil {
				return fmt.Errorf("float model: %w", err)
			}
		}
		if err := q.run(i, advance); err != nil {
			return err
		}
	}
	return nil
}

// head quantizes an untied output projection.
func (r *run) head() error {
	w := r.m.Head.W
	if r.m.Tied() {
		return nil
	}
	if !r.observes(w) {
		return r.given(w)
	}
	if err := r.load([]int{r.m.Norm}); err != nil {
		return err
	}
	a := newAccumulator(r.env, r.m.Weights[w].Input, r.m.Hidden, r.algorithm(w).Needs() == Hessian)
	if r.f != nil && a.hessian {
		a.compare(0)
	}
	for i := range r.seqs {
		if a.beside[0] != nil {
			x, err := r.f.final(i)
			if err != nil {
				return err
			}
			a.expect(x, nil)
		}
		x, err := r.q.final(i)
		if err != nil {
			return err
		}
		a.add(x, nil)
	}
	in, err := a.finish()
	if err != nil {
		return err
	}
	_, err = r.matrix(w, in)
	return err
}

// given quantizes weight i without observing.
func (r *run) given(i int) error {
	if !r.m.Weights[i].Role.Matrix() {
		return nil
	}
	_, err := r.matrix(i, r.cfg.Statistics[r.m.Weights[i].Input])
	return err
}
