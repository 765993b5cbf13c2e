package pipeline

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"

	"slmc/calibrate"
	"slmc/convert"
	"slmc/formats/bundle"
	"slmc/internal/exec"
	"slmc/model"
	"slmc/quant"
)

// Versions of the stages of this file.
const (
	calibrateVersion = 2
	allocateVersion  = 2
)

// Calibration is the part of a recipe that says how codes and scales are chosen
// from examples.
type Calibration struct {
	Algorithm string `json:"algorithm" yaml:"algorithm"` // a name of calibrate.Algorithms
	// MaxTokens is how many tokens of the examples are used, whole sequences,
	// from the start; 0: all.
	MaxTokens int `json:"max_tokens" yaml:"max_tokens"`
	// Compensate rounds each matrix towards what does best on the quantized
	// inputs that it will really meet.
	Compensate bool `json:"compensate" yaml:"compensate"`

	SHA256 string `json:"sha256" yaml:"sha256"` // of the file of examples
	Fields Fields `json:"fields" yaml:"fields"`
	// Statistics: the file holds what Observe saw of the float model instead of
	// examples. Nothing can be compensated then.
	Statistics bool `json:"statistics,omitempty" yaml:"statistics,omitempty"`
}

// DefaultCalibration is what came out best at 2 bits in docs/experiments.md,
// "The ladder of calibration".
func DefaultCalibration() Calibration {
	return Calibration{Algorithm: "gptq-refined", Compensate: true, MaxTokens: calibrate.DefaultTokens}
}

// Budget asks for number formats by part of the model, chosen so that the
// weights stay within a size: one of the two is set.
type Budget struct {
	BPW      float64 `json:"bpw,omitempty" yaml:"bpw,omitempty"`             // bits per weight, of all weight data
	MaxBytes int64   `json:"max_bytes,omitempty" yaml:"max_bytes,omitempty"` // of the whole file
}

// algorithm finds a calibration algorithm by name.
func (b *build) algorithm(name string) (calibrate.Algorithm, error) {
	var names []string
	for _, a := range calibrate.Algorithms(b.kernel) {
		if a.Name() == name {
			return a, nil
		}
		names = append(names, a.Name())
	}
	return nil, fmt.Errorf("%w: calibration algorithm %q is unknown; have %s", ErrUsage, name, strings.Join(names, ", "))
}

// calibrated is the calibrate stage: it takes the place of pack.
func (b *build) calibrated() (string, error) {
	key, err := Key("calibrate", calibrateVersion, struct {
		Sources   []convert.FileDigest
		Formats   any
		KV        string
		Context   int
		Calibrate *Calibration
		Share     *Sharing `json:",omitempty"`
		Target    string   `json:",omitempty"`
	}{b.digests, b.recipe.Formats, b.recipe.KV, b.recipe.Context, b.recipe.Calibrate, b.recipe.Share, b.recipe.Target})
	if err != nil {
		return "", err
	}
	return b.stage("calibrate", key, b.calibrate)
}

func (b *build) calibrate(path string) (err error) {
	c := b.recipe.Calibrate
	a, err := b.algorithm(c.Algorithm)
	if err != nil {
		return err
	}
	var seqs [][]int32
	var given map[string]*calibrate.Input
	inputs := calibrate.Linears
	if c.Statistics {
		inputs = calibrate.Float
		given, err = b.statistics()
	} else {
		seqs, err = b.examples(c.Fields)
	}
	if err != nil {
		return err
	}
	f, err := b.packedFile(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	pool := exec.NewPool(b.cfg.Env.Threads)
	defer pool.Close()
	if err := b.writeVectors(f); err != nil {
		return err
	}
	report, err := calibrate.Run(b.ctx, calibrate.Env{Kernel: b.kernel, Pool: pool}, b.model, firstTokens(seqs, c.MaxTokens), calibrate.Config{
		Formats: b.formats, Algorithm: a, Inputs: inputs, Statistics: given,
		Compensate: c.Compensate && a.Needs() == calibrate.Hessian, KV: exec.KVFormat(b.recipe.KV), Grid: calibrate.Grid(b.grid()),
		Emit: func(i int, m exec.Matrix) error {
			_, err := f.WriteAt(m.Panels, b.plan.Stored[i].Offset)
			return err
		},
		Progress: func(done, total int) { b.cfg.Progress("calibrate", int64(done), int64(total)) },
	}, b.log)
	if err != nil {
		return err
	}
	return b.appendReport(f, report)
}

// beginnings is firstTokens of sequences cut to n tokens each: windows of text are
// as long as the context, and each format of each weight is measured on all.
func beginnings(seqs [][]int32, n int) [][]int32 {
	out := make([][]int32, len(seqs))
	for i, s := range seqs {
		out[i] = s[:min(n, len(s))]
	}
	return firstTokens(out, n)
}

// packedFile makes a stage's file of packed weights, all zeros.
func (b *build) packedFile(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	if err := f.Truncate(b.plan.Bytes); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// writeVectors stores the vectors as the source has them.
func (b *build) writeVectors(f *os.File) error {
	m, sink := b.model, b.sink(f)
	for i, w := range m.Weights {
		if w.Role.Matrix() {
			continue
		}
		v, err := m.Tensor(i)
		if err != nil {
			return err
		}
		if err := sink.Vector(i, v); err != nil {
			return err
		}
	}
	return nil
}

// appendReport puts what a stage told behind its weights: it must be there when
// the stage's result comes from the cache.
func (b *build) appendReport(f *os.File, report any) error {
	data, err := json.Marshal(report)
	if err != nil {
		return err
	}
	_, err = f.WriteAt(data, b.plan.Bytes)
	return err
}

// budgetFormats are the formats that a budget chooses between.
var budgetFormats = []string{"w2g64", smallestFormat, "w4g32", largestFormat}

const (
	smallestFormat = "w2g128"
	largestFormat  = "w8g32"
)

// uniform is the size of the weights with every matrix in one format.
func (b *build) uniform(format string) (int64, error) {
	r, err := model.Preset(format, format)
	if err != nil {
		return 0, err
	}
	p, err := convert.NewPlan(b.model.Graph, r)
	if err != nil {
		return 0, err
	}
	return p.Bytes, nil
}

// checkBudget refuses a budget that no choice of formats keeps, before anything
// is measured or trained. While a map is still searched for, the weights that
// it will drop are not known.
func (b *build) checkBudget() error {
	if s := b.recipe.Share; b.recipe.Budget == nil || s != nil && s.Map == nil {
		return nil
	}
	least, err := b.uniform(smallestFormat)
	if err != nil {
		return err
	}
	if left := b.weightBudget() + b.vectorBytes(); least > left {
		return fmt.Errorf("%w: the budget is too small: the smallest formats take %d bytes of weights, it leaves %d for them", ErrUsage, least, max(0, left))
	}
	return nil
}

// allocate replaces the recipe's formats by those that the budget allows: the
// KL of each tensor in each format is measured on the examples, and dynamic
// programming takes the best sum. The result is a recipe like any other.
func (b *build) allocate() error {
	key, err := Key("allocate", allocateVersion, struct {
		Sources   []convert.FileDigest
		Budget    *Budget
		Context   int
		Calibrate *Calibration
		Bytes     int64
		Share     *Sharing `json:",omitempty"`
	}{b.digests, b.recipe.Budget, b.recipe.Context, b.recipe.Calibrate, b.weightBudget(), b.recipe.Share})
	if err != nil {
		return err
	}
	path, err := b.stage("allocate", key, b.measure)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var r model.Recipe
	if err := json.Unmarshal(data, &r); err != nil {
		return fmt.Errorf("cached allocation: %w", err)
	}
	// From here on it is a recipe of formats, which can be edited and replayed.
	b.recipe.Formats, b.recipe.Budget = r, nil
	if b.formats, err = r.Formats(b.model.Graph); err != nil {
		return err
	}
	b.plan, err = convert.NewPlan(b.model.Graph, r)
	return err
}

// measure makes the recipe of a budget.
func (b *build) measure(path string) error {
	m := b.model
	seqs, err := b.examples(b.recipe.Calibrate.Fields)
	if err != nil {
		return err
	}
	params, err := exec.LoadParams(m, b.recipe.Context)
	if err != nil {
		return err
	}
	pool := exec.NewPool(b.cfg.Env.Threads)
	defer pool.Close()
	var formats []quant.Format
	for _, name := range budgetFormats {
		f, err := quant.Parse(name)
		if err != nil {
			return err
		}
		formats = append(formats, f)
	}
	parts, err := calibrate.Measure(b.ctx, calibrate.Env{Kernel: b.kernel, Pool: pool}, m, params, calibrate.TensorParts(m.Graph), formats,
		calibrate.RTN{Kernel: b.kernel}, nil, beginnings(seqs, calibrate.DefaultSensitivityTokens),
		func(done, total int) { b.cfg.Progress("allocate", int64(done), int64(total)) })
	if err != nil {
		return err
	}
	a, err := calibrate.Allocate(parts, b.weightBudget())
	if errors.Is(err, calibrate.ErrBudget) {
		return fmt.Errorf("%w: %w", ErrUsage, err)
	}
	if err != nil {
		return err
	}
	var table strings.Builder
	if err := a.Table(&table); err != nil {
		return err
	}
	b.cfg.Notice("number formats for the budget, KL in nats a token when a weight alone is rounded:\n" + table.String())
	r, err := a.Recipe(m.Graph, "budget")
	if err != nil {
		return err
	}
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// vectorBytes is what norms and biases take.
func (b *build) vectorBytes() int64 {
	n := int64(0)
	for _, w := range b.model.Weights {
		if !w.Role.Matrix() {
			n += aligned(4*int64(w.Elems()), convert.Align)
		}
	}
	return n
}

// weightBudget is how many bytes a budget leaves for the matrices.
func (b *build) weightBudget() int64 {
	if b.recipe.Budget.BPW > 0 {
		return int64(b.recipe.Budget.BPW*float64(b.model.Parameters())/8) - b.vectorBytes()
	}
	return b.recipe.Budget.MaxBytes - b.vectorBytes() - b.overhead()
}

// overhead estimates what a bundle holds beside its weights: sections as they
// will be, and a bound on golden vectors and manifest, which are text.
func (b *build) overhead() int64 {
	g, r := b.model.Graph, b.recipe
	golden := r.Golden.Prompts * (r.Golden.PromptTokens*240 + r.Golden.Greedy*48)
	manifest := 4096 + 300*len(g.Weights) + 500*len(g.Blocks)
	rope := 0
	for _, x := range g.Ropes {
		rope += 4 * r.Context * x.HeadDim
	}
	sizes := []int{bundle.HeaderBytes, golden, rope, bundle.SectionAlign} // the last: leaves
	if t := b.source.text; t.Tokenizer != nil {
		sizes = append(sizes, len(t.Tokenizer.Marshal()))
		if t.Template != nil {
			sizes = append(sizes, len(t.Template.Source()))
		}
	}
	sum := int64(manifest + bundle.SectionAlign) // and the weights' own padding
	for _, n := range sizes {
		sum += aligned(int64(n), bundle.SectionAlign)
	}
	return sum
}

func aligned(n, a int64) int64 { return (n + a - 1) / a * a }
