//go:build unix

// Ladder measures calibration algorithms on a model: for each, the loss on a
// text and the divergence from the float model, exact match on a task, the mean
// proxy loss of the layers, seconds and peak memory. The quantized model runs
// on the packed kernels with an 8-bit cache, as the runtime runs it. README.md has
// the commands.
//
//	go run ./bench/ladder [flags] SOURCE
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"syscall"
	"time"

	"slmc/calibrate"
	"slmc/internal/eval"
	"slmc/internal/exec"
	"slmc/internal/kernel"
	"slmc/internal/pipeline"
	"slmc/model"
	"slmc/quant"
	slmrt "slmc/runtime"
)

type config struct {
	source, text, task, file       string
	weights, embeddings, algorithm string
	embeddingAlgorithm, inputs     string
	tokens, textTokens, rows       int
	threads, refine                int
	skip                           int
	damp, bpw                      float64
	parts                          string
	sense                          int
	actOrder, verbose, compensate  bool
}

func main() {
	var c config
	flag.StringVar(&c.file, "calibrate", "", "calibration text, plain or JSONL")
	flag.IntVar(&c.tokens, "tokens", 32768, "calibration tokens")
	flag.IntVar(&c.skip, "skip", 0, "calibration sequences to leave out at the start, for another draw")
	flag.StringVar(&c.text, "text", "", "text to score")
	flag.IntVar(&c.textTokens, "text-tokens", 40000, "its tokens")
	flag.StringVar(&c.task, "task", "", "JSONL to score by exact match")
	flag.IntVar(&c.rows, "rows", 300, "its rows")
	flag.StringVar(&c.weights, "weights", "w2", "format of the weights")
	flag.StringVar(&c.embeddings, "embeddings", "", "format of the embeddings")
	flag.StringVar(&c.algorithm, "algorithm", "rtn", "float, rtn, imatrix, gptq or gptq-refined")
	flag.StringVar(&c.embeddingAlgorithm, "embedding-algorithm", "rtn", "of the embedding: rtn, imatrix, ...")
	flag.StringVar(&c.inputs, "inputs", string(calibrate.Linears), "float, blocks or linears")
	flag.IntVar(&c.threads, "threads", 1, "threads")
	flag.IntVar(&c.refine, "refine", calibrate.DefaultRefine, "rounds of gptq-refined")
	flag.Float64Var(&c.damp, "damp", calibrate.DefaultDamp, "first damping of GPTQ")
	flag.Float64Var(&c.bpw, "bpw", 0, "allocate w2, w4 and w8 under this many bits per weight, in place of -weights and -embeddings")
	flag.StringVar(&c.parts, "parts", "tensors", "what is allocated: roles or tensors")
	flag.IntVar(&c.sense, "sensitivity-tokens", calibrate.DefaultSensitivityTokens, "tokens on which sensitivity is measured")
	flag.BoolVar(&c.compensate, "compensate", false, "matrices answer for what those before them lost")
	flag.BoolVar(&c.actOrder, "act-order", false, "GPTQ by falling activation")
	flag.BoolVar(&c.verbose, "v", false, "the proxy loss of each weight, on stderr")
	flag.Parse()
	if flag.NArg() != 1 {
		flag.Usage()
		os.Exit(2)
	}
	c.source = flag.Arg(0)
	if err := run(context.Background(), c); err != nil {
		fmt.Fprintln(os.Stderr, "ladder:", err)
		os.Exit(1)
	}
}

// result is one line of the output.
type result struct {
	Algorithm  string  `json:"algorithm"`
	Inputs     string  `json:"inputs,omitempty"`
	Tokens     int     `json:"calibration_tokens,omitempty"`
	Proxy      float64 `json:"mean_proxy_loss,omitempty"`
	Seconds    float64 `json:"seconds"`     // of calibration
	CPU        float64 `json:"cpu_seconds"` // of calibration, all threads
	PeakRSS    int64   `json:"peak_rss_bytes"`
	BPW        float64 `json:"bpw,omitempty"`
	NLL        float64 `json:"nll,omitempty"`
	KL         float64 `json:"kl_mean,omitempty"`
	SameTop1   float64 `json:"same_top1,omitempty"`
	ExactMatch float64 `json:"exact_match,omitempty"`
}

func run(ctx context.Context, c config) (err error) {
	source, err := pipeline.Open(ctx, c.source, pipeline.Env{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	teacher, err := source.Runtime(0)
	if err != nil {
		return err
	}
	out := result{Algorithm: c.algorithm}
	student := teacher
	if c.algorithm != "float" {
		if student, err = c.quantize(ctx, source.Checkpoint.Model, teacher, &out); err != nil {
			return err
		}
	}
	out.PeakRSS = slmrt.PeakRSS()
	if c.text != "" {
		if err := c.score(ctx, teacher, student, &out); err != nil {
			return err
		}
	}
	if c.task != "" {
		if err := c.match(ctx, student, &out); err != nil {
			return err
		}
	}
	return json.NewEncoder(os.Stdout).Encode(out)
}

// cpuSeconds is what the process has used so far.
func cpuSeconds() float64 {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}

// named returns an algorithm by its name.
func (c config) named(name string, k *kernel.Funcs) (calibrate.Algorithm, error) {
	for _, a := range calibrate.Algorithms(k) {
		if a.Name() != name {
			continue
		}
		if g, ok := a.(calibrate.GPTQ); ok {
			g.ActOrder, g.Damp = c.actOrder, c.damp
			if g.Refine > 0 {
				g.Refine = c.refine
			}
			return g, nil
		}
		return a, nil
	}
	return nil, fmt.Errorf("no algorithm %q", name)
}

// quantize makes the student.
func (c config) quantize(ctx context.Context, m *model.Model, teacher *slmrt.Model, out *result) (*slmrt.Model, error) {
	k, err := kernel.Select("")
	if err != nil {
		return nil, err
	}
	pool := exec.NewPool(c.threads)
	defer pool.Close()
	env := calibrate.Env{Kernel: k, Pool: pool}
	seqs, err := c.sequences(teacher)
	if err != nil {
		return nil, err
	}
	recipe, err := model.Preset(c.weights, c.embeddings)
	if err == nil && c.bpw > 0 {
		recipe, err = c.allocate(ctx, env, m, teacher.Params, seqs)
	}
	if err != nil {
		return nil, err
	}
	cfg := calibrate.Config{Inputs: calibrate.Inputs(c.inputs), Compensate: c.compensate}
	if cfg.Formats, err = recipe.Formats(m.Graph); err != nil {
		return nil, err
	}
	if cfg.Algorithm, err = c.named(c.algorithm, k); err != nil {
		return nil, err
	}
	if cfg.Embedding, err = c.named(c.embeddingAlgorithm, k); err != nil {
		return nil, err
	}
	if seqs.Tokens() < min(m.Context, 2048) {
		cfg.MinTokens = 1 // the smallest sizes of the ablation
	}
	p := &exec.Params{Mats: slices.Clone(teacher.Params.Mats), Vecs: teacher.Params.Vecs, Cos: teacher.Params.Cos, Sin: teacher.Params.Sin}
	bytes := 0
	cfg.Emit = func(i int, mat exec.Matrix) error {
		p.Mats[i] = mat
		bytes += len(mat.Panels)
		return nil
	}
	level := slog.LevelWarn
	if c.verbose {
		level = slog.LevelDebug
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	begin, cpu := time.Now(), cpuSeconds()
	if cfg.Embedding.Needs() > calibrate.Nothing || cfg.Inputs == calibrate.Float {
		if cfg.Statistics, err = calibrate.Observe(ctx, env, m.Graph, teacher.Params, exec.KVF32, seqs, max(cfg.Embedding.Needs(), cfg.Algorithm.Needs()) == calibrate.Hessian); err != nil {
			return nil, err
		}
	}
	report, err := calibrate.Run(ctx, env, m, seqs, cfg, log)
	if err != nil {
		return nil, err
	}
	out.Seconds, out.CPU = time.Since(begin).Seconds(), cpuSeconds()-cpu
	out.Inputs, out.Tokens = string(report.Inputs), report.Tokens
	n := 0
	for _, w := range report.Weights {
		if w.Loss != nil {
			out.Proxy += *w.Loss
			n++
		}
	}
	out.Proxy /= float64(max(n, 1))
	for i, w := range m.Weights {
		if !w.Role.Matrix() {
			bytes += 4 * len(p.Vecs[i])
		}
	}
	out.BPW = 8 * float64(bytes) / float64(m.Parameters())
	student := *teacher
	student.Params, student.KV = p, exec.KV8
	return &student, nil
}

// allocate measures sensitivity on the first calibration sequences and chooses
// formats; the table goes to stderr.
func (c config) allocate(ctx context.Context, env calibrate.Env, m *model.Model, p *exec.Params, seqs calibrate.Sequences) (model.Recipe, error) {
	parts := calibrate.TensorParts(m.Graph)
	if c.parts == "roles" {
		parts = calibrate.RoleParts(m.Graph)
	}
	n := 0
	few := slices.DeleteFunc(slices.Clone(seqs), func(q []int32) bool { n += len(q); return n-len(q) >= c.sense })
	begin := time.Now()
	formats := []quant.Format{quant.W2{GroupSize: 64}, quant.W4{GroupSize: 32}, quant.W8{GroupSize: 32}}
	measured, err := calibrate.Measure(ctx, env, m, p, parts, formats, calibrate.RTN{Kernel: env.Kernel}, nil, few, func(int, int) {})
	if err != nil {
		return model.Recipe{}, err
	}
	budget := int64(c.bpw * float64(m.Parameters()) / 8)
	for _, w := range m.Weights {
		if !w.Role.Matrix() {
			budget -= 4 * int64(w.Elems())
		}
	}
	a, err := calibrate.Allocate(measured, budget)
	if err != nil {
		return model.Recipe{}, err
	}
	fmt.Fprintf(os.Stderr, "sensitivity on %d tokens, %.1f s\n", few.Tokens(), time.Since(begin).Seconds())
	if err := a.Table(os.Stderr); err != nil {
		return model.Recipe{}, err
	}
	return a.Recipe(m.Graph, fmt.Sprintf("%g bpw", c.bpw))
}

// sequences reads the calibration text, as many tokens as asked for.
func (c config) sequences(m *slmrt.Model) (calibrate.Sequences, error) {
	rows, err := pipeline.ReadRows(c.file, pipeline.Fields{})
	if err != nil {
		return nil, err
	}
	all, _, err := pipeline.Sequences(m, rows, m.Context)
	if err != nil {
		return nil, err
	}
	all = all[min(c.skip, len(all)):]
	var out calibrate.Sequences
	left := c.tokens
	for _, q := range all {
		if left == 0 {
			break
		}
		q = q[:min(len(q), left)]
		out, left = append(out, q), left-len(q)
	}
	return out, nil
}

// score measures loss and divergence on the text.
func (c config) score(ctx context.Context, teacher, student *slmrt.Model, out *result) error {
	rows, err := pipeline.ReadRows(c.text, pipeline.Fields{})
	if err != nil {
		return err
	}
	windows, _, err := pipeline.Sequences(student, rows, student.Context)
	if err != nil {
		return err
	}
	n := 0
	windows = slices.DeleteFunc(windows, func(w []int32) bool { n += len(w); return n > c.textTokens })
	k, err := kernel.Select("")
	if err != nil {
		return err
	}
	s, err := student.NewSession(slmrt.Options{Threads: c.threads})
	if err != nil {
		return err
	}
	defer s.Close()
	t, err := teacher.NewSession(slmrt.Options{Threads: c.threads, KV: exec.KVF32})
	if err != nil {
		return err
	}
	defer t.Close()
	score, err := eval.Score(ctx, k, s, t, student.Graph.Vocab, windows, func(int) {})
	if err != nil {
		return err
	}
	out.NLL, out.KL, out.SameTop1 = score.NLL, *score.KLMean, *score.SameTop1
	return nil
}

// match scores the task.
func (c config) match(ctx context.Context, student *slmrt.Model, out *result) error {
	rows, err := pipeline.ReadRows(c.task, pipeline.Fields{})
	if err != nil {
		return err
	}
	t, err := pipeline.EvalTask(ctx, student, rows[:min(c.rows, len(rows))], slmrt.Options{}, c.threads, func(int) {})
	out.ExactMatch = t.ExactMatch
	return err
}
