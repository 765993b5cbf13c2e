package pipeline

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"
	"time"

	"slmc/convert"
	"slmc/internal/kernel"
	"slmc/kvshare"
	"slmc/model"
	"slmc/quant"
	routertrain "slmc/router_train"
)

// Versions of the stages: a result in the cache is used only by the version
// that made it. Raise one when its stage's bytes change.
const (
	packVersion   = 1
	goldenVersion = 2
)

// Config is what a build is asked for.
type Config struct {
	Source     string
	Output     string // the bundle; OUTPUT.recipe.yaml and OUTPUT.report.json go beside it
	Recipe     Recipe
	GoldenFile string // prompts, one a line or JSONL; "" to sample them
	// Bare leaves out golden vectors and teacher: weights are streamed into
	// the bundle, no stage is cached, and memory stays at a few panels.
	Bare bool
	// CalibrateFile holds the examples that calibration and training use.
	CalibrateFile string
	Router        *RouterFiles // nil: no router
	Accept        *Acceptance  // nil: every result is good
	Env           Env
	// Progress is called with what is done of a stage; may be nil.
	Progress func(stage string, done, total int64)
	// Notice takes a text for people, such as a table; may be nil.
	Notice func(text string)
}

// Report is what a build tells at its end. Only Digest, sizes and counts are
// the same every time.
type Report struct {
	Output       string   `json:"output"`
	Digest       string   `json:"digest"`
	Arch         string   `json:"architecture"`
	Parameters   int64    `json:"parameters"`
	FileBytes    int64    `json:"file_bytes"`
	BPW          float64  `json:"bpw"`
	FileBPW      float64  `json:"file_bpw"`
	KVPerToken   int      `json:"kv_bytes_per_token"`
	Context      int      `json:"context"`
	LogitsDigest string   `json:"logits_digest,omitempty"` // when the build was verified
	TeacherNLL   *float64 `json:"teacher_nll,omitempty"`   // of the golden prompts, nats a token
	Figures      *Figures `json:"figures,omitempty"`       // of an acceptance

	Router      *routertrain.Report   `json:"router,omitempty"` // of the deferral router
	Search      *kvshare.SearchReport `json:"search,omitempty"` // of a map of shared keys and values
	Seconds     map[string]float64    `json:"seconds"`
	Cached      []string              `json:"cached"` // stages that were not run again
	PeakRSS     int64                 `json:"peak_rss_bytes"`
	MemoryBytes int64                 `json:"memory_bytes"` // of a session at full context, the mapped file aside
}

// build is one run of Build.
type build struct {
	ctx     context.Context
	cfg     Config
	log     *slog.Logger
	kernel  *kernel.Funcs
	source  *Opened
	model   *model.Model // what is packed: the source, keys and values shared and healed
	digests []convert.FileDigest
	recipe  Recipe
	formats []quant.Format
	plan    *convert.Plan
	cache   *Cache
	report  Report
	// chosenBy is the stage that made the packed weights, stageReport what it
	// told, JSON; empty when it tells nothing.
	chosenBy     string
	stageReport  []byte
	shareReports []stageReport  // of healing
	accepted     []Row          // examples of an acceptance
	unmap        []func() error // files of the cache that are in use
	probed       bool           // the router's large model answers
}

// Build makes a bundle of a checkpoint. A build that is killed leaves nothing
// under the output's name; the next one resumes from the stages that were
// finished and writes the same bytes.
func Build(ctx context.Context, cfg Config, log *slog.Logger) (_ Report, err error) {
	b := &build{ctx: ctx, cfg: cfg, log: log, report: Report{Output: cfg.Output, Seconds: map[string]float64{}, Cached: []string{}}}
	if err := b.open(); err != nil {
		return Report{}, err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	if cfg.Bare {
		err = b.timed("write", b.streamed)
	} else {
		err = b.cached()
	}
	if err != nil {
		return Report{}, err
	}
	return b.report, b.finish()
}

// timed runs a step and notes its seconds.
func (b *build) timed(step string, f func() error) error {
	begin := time.Now()
	err := f()
	b.report.Seconds[step] = time.Since(begin).Seconds()
	if err != nil {
		return fmt.Errorf("%s: %w", step, err)
	}
	b.log.Debug("done", "step", step, "seconds", b.report.Seconds[step])
	return nil
}

// open reads the source's description, resolves the recipe against it and
// makes the plan: everything that can be refused early is refused here.
func (b *build) open() (err error) {
	if b.cfg.Progress == nil {
		b.cfg.Progress = func(string, int64, int64) {}
	}
	if b.cfg.Notice == nil {
		b.cfg.Notice = func(string) {}
	}
	if b.cfg.Env.Threads == 0 {
		b.cfg.Env.Threads = goruntime.GOMAXPROCS(0)
	}
	if b.kernel, err = kernel.Select(b.cfg.Env.Kernel); err != nil {
		return fmt.Errorf("%w: %w", ErrUsage, err)
	}
	if b.source, err = Open(b.ctx, b.cfg.Source, b.cfg.Env); err != nil {
		return err
	}
	if err := b.prepare(); err != nil {
		return errors.Join(err, b.source.Close())
	}
	return nil
}

func (b *build) prepare() (err error) {
	if b.source.Checkpoint == nil {
		return fmt.Errorf("%w: %s is a bundle; a build starts from a checkpoint", ErrUsage, b.cfg.Source)
	}
	// A build may take long: what its end would refuse is refused now.
	if st, err := os.Stat(filepath.Dir(b.cfg.Output)); err != nil {
		return fmt.Errorf("output: %w", err)
	} else if !st.IsDir() {
		return fmt.Errorf("output: %s is no folder", filepath.Dir(b.cfg.Output))
	}
	if b.cfg.GoldenFile != "" {
		if b.cfg.Recipe.Golden.SHA256, err = fileDigest(b.ctx, b.cfg.GoldenFile); err != nil {
			return err
		}
	}
	if err := b.cfg.Recipe.checkStages(); err != nil {
		return fmt.Errorf("%w: recipe: %w", ErrUsage, err)
	}
	if err := b.shareKV(); err != nil {
		return err
	}
	if b.cfg.Accept != nil {
		if b.accepted, err = b.cfg.Accept.rows(); err != nil {
			return err
		}
	}
	if err := b.checkExamples(); err != nil {
		return err
	}
	if err := b.checkRouter(); err != nil {
		return err
	}
	return b.settle()
}

// close gives back what the build holds.
func (b *build) close() error {
	errs := []error{b.source.Close()}
	for _, unmap := range b.unmap {
		errs = append(errs, unmap())
	}
	return errors.Join(errs...)
}

// settle resolves the recipe against the model and plans its weights.
func (b *build) settle() (err error) {
	g := b.model.Graph
	if b.recipe, b.formats, err = b.cfg.Recipe.resolve(g); err != nil {
		return err
	}
	if b.plan, err = convert.NewPlan(g, b.recipe.Formats); err != nil {
		return err
	}
	if err := b.checkBudget(); err != nil {
		return err
	}
	if g.Context > b.recipe.Context {
		b.log.Info("the bundle holds fewer positions than the model", "context", b.recipe.Context, "model", g.Context, "change", "--context")
	}
	return nil
}

// cached runs the stages, each through the cache.
func (b *build) cached() (err error) {
	if b.cache, err = OpenCache(b.ctx, b.cfg.Env.CacheDir, b.log); err != nil {
		return err
	}
	defer b.cache.Close()
	if err := b.timed("digest", b.digest); err != nil {
		return err
	}
	if err := b.shared(); err != nil {
		return err
	}
	if b.recipe.Budget != nil {
		if err := b.timed("allocate", b.allocate); err != nil {
			return err
		}
	}
	var packed, golden string
	step, pack := "pack", b.pack
	switch {
	case b.recipe.QAT != nil:
		step, pack = "qat", b.trained
	case b.recipe.Calibrate != nil:
		step, pack = "calibrate", b.calibrated
	}
	b.chosenBy = step
	if err := b.timed(step, func() error { packed, err = pack(); return err }); err != nil {
		return err
	}
	weights, unmap, err := mapFile(packed)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmap()) }()
	if int64(len(weights)) < b.plan.Bytes {
		return fmt.Errorf("cache: %s has %d bytes, wanted at least %d", packed, len(weights), b.plan.Bytes)
	}
	weights, b.stageReport = weights[:b.plan.Bytes], weights[b.plan.Bytes:]
	if b.cfg.Accept != nil {
		if err := b.timed("accept", func() error { return b.accept(weights) }); err != nil {
			return err
		}
	}
	if err := b.timed("golden", func() error { golden, err = b.golden(weights); return err }); err != nil {
		return err
	}
	vectors, err := os.ReadFile(golden)
	if err != nil {
		return err
	}
	path := b.cfg.Output
	if b.recipe.Router != nil {
		// The router is trained on the bundle as it will run.
		path = b.cache.Path("unrouted.slmb")
		defer func() { err = errors.Join(err, ignoreMissing(os.Remove(path))) }()
	}
	err = b.timed("write", func() error {
		return b.write(path, func(i int, dst io.Writer) error {
			if err := b.ctx.Err(); err != nil {
				return err
			}
			s := b.plan.Stored[i]
			_, err := dst.Write(weights[s.Offset : s.Offset+s.Bytes])
			return err
		}, vectors)
	})
	if err != nil || b.recipe.Router == nil {
		return err
	}
	return b.routed(path)
}

// digest hashes the files of the source: what is cached is keyed by them.
func (b *build) digest() (err error) {
	b.digests, err = b.source.Checkpoint.Digests(b.ctx)
	return err
}

// pack rounds and packs all weights into one file of the cache.
func (b *build) pack() (string, error) {
	key, err := Key("pack", packVersion, struct {
		Sources []convert.FileDigest
		Formats any
		Scales  string
		Share   *Sharing `json:",omitempty"`
		Target  string   `json:",omitempty"`
	}{b.digests, b.recipe.Formats, "rtn", b.recipe.Share, b.recipe.Target})
	if err != nil {
		return "", err
	}
	return b.stage("pack", key, func(path string) (err error) {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		return b.writeWeights(f)
	})
}

// writeWeights streams the plan's bytes.
func (b *build) writeWeights(w io.Writer) error {
	return convert.Write(b.ctx, w, b.model, b.plan, convert.WriteOptions{
		Threads: b.cfg.Env.Threads, Kernel: b.kernel, Scales: b.scales(),
		Progress: func(done, total int64) { b.cfg.Progress("pack", done, total) },
	})
}

// stage takes a result from the cache or makes it.
func (b *build) stage(name, key string, make func(path string) error) (string, error) {
	make = b.probing(name, make)
	path, found, err := b.cache.File(b.ctx, key, make)
	if found && !slices.Contains(b.report.Cached, name) {
		b.report.Cached = append(b.report.Cached, name)
	}
	return path, err
}
