package qat

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"time"

	"slmc/internal/exec"
	"slmc/internal/kernel"
	"slmc/model"
	"slmc/quant"
)

// Config is how a model is trained: block by block if Blocks has epochs, then
// end to end if Epochs is not 0. All of it decides the result. Tuned values
// come from docs/experiments.md, "End-to-end training".
type Config struct {
	Blocks      BlockConfig `json:"blocks" yaml:"blocks"`
	Epochs      float64     `json:"epochs" yaml:"epochs"`             // passes over the sequences, end to end
	BatchTokens int         `json:"batch_tokens" yaml:"batch_tokens"` // of one step, at least one sequence
	LR          float64     `json:"lr" yaml:"lr"`                     // of weights and norms
	ScaleLR     float64     `json:"scale_lr" yaml:"scale_lr"`         // of scales
	Warmup      int         `json:"warmup" yaml:"warmup"`             // steps of rising rate
	LastLR      float64     `json:"last_lr" yaml:"last_lr"`           // share of the rate at the end
	Clip        float64     `json:"clip" yaml:"clip"`                 // largest gradient norm; 0: any
	// Frozen is the share of the steps, at the end, in which codes no longer
	// move and only scales, norms and floats learn; 1 is the E2E-QP of
	// EfficientQAT (arXiv 2407.11062, section 3.3).
	Frozen float64 `json:"frozen" yaml:"frozen"`
	// CrossEntropy is the share of the loss that is the cross-entropy of the
	// sequences' own next tokens instead of the divergence from the teacher.
	CrossEntropy float64 `json:"cross_entropy" yaml:"cross_entropy"`
	// EMA is the decay, per step, of the moving average of everything trained
	// that is the result; 0: the last values are, as they are of scales whose
	// codes Frozen stops.
	EMA  float64 `json:"ema" yaml:"ema"`
	Seed uint64  `json:"seed" yaml:"seed"`
}

// BlockConfig is how single blocks are trained.
type BlockConfig struct {
	Epochs      float64 `json:"epochs" yaml:"epochs"` // passes over the sequences, for each block; 0: no block-wise training
	BatchTokens int     `json:"batch_tokens" yaml:"batch_tokens"`
	LR          float64 `json:"lr" yaml:"lr"`
	ScaleLR     float64 `json:"scale_lr" yaml:"scale_lr"`
}

// DefaultConfig is what docs/experiments.md, "End-to-end training", arrives at
// for models of a few million parameters.
func DefaultConfig() Config {
	return Config{
		Blocks: BlockConfig{BatchTokens: 1024, LR: 1e-3, ScaleLR: 2e-4},
		Epochs: 2, BatchTokens: 1536, LR: 1e-3, ScaleLR: 2e-4, Warmup: 30, LastLR: 0.02, Clip: 1, Seed: 1,
	}
}

// Check reports a setting outside its range.
func (c Config) Check() error {
	rates := []float64{c.LR, c.ScaleLR, c.LastLR, c.Clip, c.Blocks.LR, c.Blocks.ScaleLR, c.Epochs, c.Blocks.Epochs}
	for _, v := range rates {
		if v < 0 || math.IsNaN(v) || math.IsInf(v, 0) {
			return fmt.Errorf("training config: %g is no rate, norm or number of epochs", v)
		}
	}
	switch {
	case c.Epochs == 0 && c.Blocks.Epochs == 0:
		return errors.New("training config: no epochs, neither of blocks nor end to end")
	case c.Epochs > 0 && c.BatchTokens < 1, c.Blocks.Epochs > 0 && c.Blocks.BatchTokens < 1:
		return fmt.Errorf("training config: batches of %d tokens, of %d for blocks", c.BatchTokens, c.Blocks.BatchTokens)
	case c.Epochs > 0 && c.LR == 0 && c.ScaleLR == 0:
		return errors.New("training config: lr and scale_lr are 0, so nothing would be learned end to end")
	case c.Blocks.Epochs > 0 && c.Blocks.LR == 0 && c.Blocks.ScaleLR == 0:
		return errors.New("training config: lr and scale_lr of blocks are 0, so nothing would be learned block by block")
	case c.Warmup < 0:
		return fmt.Errorf("training config: a warmup of %d steps", c.Warmup)
	case c.Frozen < 0, c.Frozen > 1, c.CrossEntropy < 0, c.CrossEntropy > 1, c.EMA < 0, c.EMA >= 1:
		return fmt.Errorf("training config: frozen %g, cross_entropy %g, ema %g: want shares", c.Frozen, c.CrossEntropy, c.EMA)
	}
	return nil
}

// ErrDiverged is returned when a loss is not finite, or rises far beyond where
// it began, before there was a state to keep.
var ErrDiverged = errors.New("training diverged")

// Run is what a training run works with; none of it but the model, the
// formats, the first scales, the sequences and the config decides a bit of the
// result.
type Run struct {
	Teacher *model.Model
	// Student is what is trained, nil for the teacher itself: a model of the
	// same blocks, some of which may share keys and values that the teacher's
	// do not.
	Student *model.Model
	Formats []quant.Format // of each weight of the student
	KV8     bool           // the cache is rounded to 8 bits
	Scales  Scales         // first scales
	Start   Start          // first codes and scales, in place of Scales; nil: of those
	Grid    Grid           // what scales may be; nil: any float16
	Seqs    [][]int32      // each at most the context long
	Config  Config
	Kernel  *kernel.Funcs
	Pool    *exec.Pool
	// State is the file that keeps what an unfinished run has done, with others
	// beside it of the same name and more; Clean removes them. "" for none.
	State string
	// Every is the number of steps between two states.
	Every int
	// Scratch is the folder for activations that do not fit StreamBytes of
	// memory (0: 256 MiB); "" for the system's.
	Scratch     string
	StreamBytes int64
	Log         *slog.Logger
	Progress    func(p Progress)
}

// Progress is the state of a run after a step.
type Progress struct {
	Phase       string // "blocks 3 to 3" or "end to end"
	Step, Steps int    // of all phases
	Loss        float64
	Tokens      int           // trained in this process and phase
	Left        int           // tokens left in this phase
	Elapsed     time.Duration // in this process and phase
}

// Rate is the number of tokens a second; TimeLeft what the phase takes yet at
// this rate.
func (p Progress) Rate() float64 { return float64(p.Tokens) / max(p.Elapsed.Seconds(), 1e-9) }

// TimeLeft is described at Rate.
func (p Progress) TimeLeft() time.Duration {
	return time.Duration(float64(p.Left) / max(p.Rate(), 1e-9) * float64(time.Second)).Round(time.Second)
}

// Report is what a run tells at its end: deterministic.
type Report struct {
	Blocks    []BlockReport `json:"blocks,omitempty"`
	Steps     int           `json:"steps"` // end to end
	Tokens    int           `json:"tokens"`
	FirstLoss float64       `json:"first_loss"` // of the first step, before anything was learned there
	LastLoss  float64       `json:"last_loss"`  // mean of the last steps
	// Stopped says why training ended before its last step with the best state
	// it had; empty when it did not.
	Stopped string `json:"stopped,omitempty"`
}

// Train trains the weights, scales and norms and gives the result to sink. A
// run that was stopped or killed continues from State and gives the same
// bytes.
func Train(ctx context.Context, r Run, sink Sink) (Report, error) {
	if err := r.Config.Check(); err != nil {
		return Report{}, err
	}
	if r.Student == nil {
		r.Student = r.Teacher
	}
	if a, b := r.Teacher.Graph, r.Student.Graph; a.Hidden != b.Hidden || a.Vocab != b.Vocab || len(a.Blocks) != len(b.Blocks) {
		return Report{}, fmt.Errorf("training: the student has hidden size %d, vocabulary %d and %d blocks, its teacher %d, %d and %d",
			b.Hidden, b.Vocab, len(b.Blocks), a.Hidden, a.Vocab, len(a.Blocks))
	}
	longest, err := r.longest()
	if err != nil {
		return Report{}, err
	}
	s := newStudent(r.Student, r.Formats, r.Scales)
	s.begin = r.Start
	for _, l := range s.all {
		l.grid = r.Grid
	}
	t, err := newTrainer(&r, s, longest)
	if err != nil {
		return Report{}, err
	}
	rep, err := t.phases(ctx, longest, sink)
	return rep, errors.Join(err, t.teacher.x.close())
}

// phases runs what the config asks for and a state has not done yet.
func (t *trainer) phases(ctx context.Context, longest int, sink Sink) (Report, error) {
	found, err := t.resume()
	if err != nil {
		return Report{}, err
	}
	if t.Config.Blocks.Epochs > 0 {
		b := newBlockTrainer(t.Run, t.s, t.teacher, longest, len(t.batches))
		t.before = b.steps()
		if !found {
			if t.report.Blocks, err = b.run(ctx, sink); err != nil {
				return t.report, err
			}
			t.ready = true
		}
	}
	if len(t.batches) == 0 {
		return t.report, t.s.emit(sink)
	}
	return t.run(ctx, sink)
}

// longest is the length of the longest sequence, which must fit the model.
func (r *Run) longest() (int, error) {
	longest := 0
	for i, q := range r.Seqs {
		if len(q) == 0 || len(q) > r.Teacher.Context {
			return 0, fmt.Errorf("training sequence %d has %d tokens, the model has %d positions", i, len(q), r.Teacher.Context)
		}
		for _, id := range q {
			if id < 0 || int(id) >= r.Teacher.Vocab {
				return 0, fmt.Errorf("training sequence %d has token %d, the model's vocabulary has %d", i, id, r.Teacher.Vocab)
			}
		}
		longest = max(longest, len(q))
	}
	if longest == 0 {
		return 0, errors.New("nothing to train on: no sequences")
	}
	return longest, nil
}

// plan lists the batches of all epochs, as indices of seqs: each epoch in a new
// order, a batch of at most size tokens or one sequence.
func plan(seqs [][]int32, epochs float64, size int, seed uint64) [][]int {
	var out [][]int
	total := int(math.Round(epochs * float64(len(seqs))))
	if epochs > 0 {
		total = max(1, total) // who asks for training gets some
	}
	for epoch := uint64(0); total > 0; epoch++ {
		r := rand.New(rand.NewPCG(seed, epoch))
		order := r.Perm(len(seqs))[:min(total, len(seqs))]
		out = append(out, group(seqs, order, size)...)
		total -= len(seqs)
	}
	return out
}

// group cuts a list of sequences into runs of at most size tokens or one
// sequence.
func group(seqs [][]int32, order []int, size int) [][]int {
	var out [][]int
	var batch []int
	tokens := 0
	for _, i := range order {
		if tokens > 0 && tokens+len(seqs[i]) > size {
			out, batch, tokens = append(out, batch), nil, 0
		}
		batch, tokens = append(batch, i), tokens+len(seqs[i])
	}
	return append(out, batch)
}

// microTokens is how many tokens (or one sequence) run through the model at
// once; a step adds up the gradients of as many parts as its batch has. Their
// activations fit the cache of a core. It decides the order of sums, so it is
// the same for every machine.
const microTokens = 512

// parts cuts a batch into what runs at once.
func (r *Run) parts(batch []int) [][]int { return group(r.Seqs, batch, microTokens) }

// tokens is the size of a batch.
func (r *Run) tokens(batch []int) int {
	n := 0
	for _, i := range batch {
		n += len(r.Seqs[i])
	}
	return n
}

// concat joins the sequences of a part.
func (r *Run) concat(part []int) (ids []int32, lengths []int) {
	for _, i := range part {
		ids, lengths = append(ids, r.Seqs[i]...), append(lengths, len(r.Seqs[i]))
	}
	return ids, lengths
}
