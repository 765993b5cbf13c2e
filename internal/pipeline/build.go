package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	goruntime "runtime"
	"time"

	"github.com/edsrzf/mmap-go"

	"slmc/convert"
	"slmc/formats/bundle"
	"slmc/internal/exec"
	"slmc/internal/kernel"
	"slmc/kvshare"
	"slmc/model"
	"slmc/quant"
	routertrain "slmc/router_train"
	slmrt "slmc/runtime"
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

// checkExamples ties the recipe to the file of examples, which calibration and
// training want.
func (b *build) checkExamples() error {
	r := &b.cfg.Recipe
	if r.QAT == nil && r.Calibrate == nil && r.Budget == nil && !r.Share.examples() {
		if b.cfg.CalibrateFile != "" && b.cfg.Router == nil {
			return fmt.Errorf("%w: nothing uses the examples in %s", ErrUsage, b.cfg.CalibrateFile)
		}
		return nil
	}
	if b.cfg.CalibrateFile == "" || b.cfg.Bare {
		return fmt.Errorf("%w: calibration and training want a file of examples; give build --calibrate FILE", ErrUsage)
	}
	sum, err := fileDigest(b.ctx, b.cfg.CalibrateFile)
	if err != nil {
		return err
	}
	given, err := isStatistics(b.cfg.CalibrateFile)
	if err != nil {
		return err
	}
	if given {
		if err := b.givenOnly(r); err != nil {
			return err
		}
	}
	// A recipe that was resolved before names its examples.
	tie := func(part string, named *string) error {
		if *named != "" && *named != sum {
			return fmt.Errorf("%w: the recipe's %s was made with examples of SHA-256 %s, %s has %s; give that file, or take the line sha256 out of the recipe",
				ErrUsage, part, *named, b.cfg.CalibrateFile, sum)
		}
		*named = sum
		return nil
	}
	if r.Share.examples() { // shareKV has made a copy
		if err := tie("share", &r.Share.SHA256); err != nil {
			return err
		}
	}
	if r.QAT != nil {
		t := *r.QAT
		r.QAT = &t
		if err := tie("qat", &t.SHA256); err != nil {
			return err
		}
	}
	if r.Calibrate != nil {
		c := *r.Calibrate
		c.Statistics = given
		c.Compensate = c.Compensate && !given
		r.Calibrate = &c
		if err := tie("calibrate", &c.SHA256); err != nil {
			return err
		}
		_, err = b.algorithm(c.Algorithm)
	}
	return err
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
	path, found, err := b.cache.File(b.ctx, key, make)
	if found {
		b.report.Cached = append(b.report.Cached, name)
	}
	return path, err
}

// streamed writes the bundle from the weights as they are packed, without a
// file between.
func (b *build) streamed() error {
	r, w := io.Pipe()
	packed := make(chan struct{})
	go func() {
		defer close(packed)
		w.CloseWithError(b.writeWeights(w))
	}()
	at := int64(0)
	err := b.write(b.cfg.Output, func(i int, dst io.Writer) error {
		s := b.plan.Stored[i]
		if _, err := io.CopyN(io.Discard, r, s.Offset-at); err != nil {
			return err
		}
		at = s.Offset + s.Bytes
		buf := make([]byte, min(s.Bytes, 1<<20))
		_, err := io.CopyBuffer(onlyWriter{dst}, io.LimitReader(r, s.Bytes), buf)
		return err
	}, nil)
	// When the bundle can't be written, the packer waits for a reader and
	// holds the source.
	err = errors.Join(err, r.Close())
	<-packed
	return err
}

// onlyWriter hides a ReadFrom that would choose its own buffer.
type onlyWriter struct{ io.Writer }

// write makes the bundle at path: weights as they are asked for, and the
// sections that are small.
func (b *build) write(path string, weight func(i int, dst io.Writer) error, golden []byte) error {
	if b.digests == nil {
		if err := b.digest(); err != nil {
			return err
		}
	}
	spec, err := b.spec()
	if err != nil {
		return err
	}
	spec.Weight = weight
	if golden != nil {
		spec.Sections = append(spec.Sections, bundle.Data{Name: bundle.SectionGolden, Bytes: golden})
	}
	_, err = bundle.Write(path, spec)
	return err
}

// finish writes what lies beside the bundle and fills the report from the file
// as it is.
func (b *build) finish() (err error) {
	out, err := bundle.Open(b.cfg.Output, bundle.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	m, r := out.Manifest(), &b.report
	r.Digest, r.Arch, r.Parameters = out.Digest().String(), m.Graph.Arch, m.Parameters
	r.FileBytes, r.BPW, r.FileBPW, r.Context = out.Size(), m.BPW, out.FileBPW(), m.Context
	r.KVPerToken = exec.KVBytesPerToken(&m.Graph, exec.KVFormat(m.KVFormat))
	r.MemoryBytes = m.Memory.Peak(m.Context, slmrt.DefaultBatch)
	r.PeakRSS = slmrt.PeakRSS()
	if budget := b.cfg.Recipe.Budget; budget != nil && budget.MaxBytes > 0 && out.Size() > budget.MaxBytes {
		return errors.Join(fmt.Errorf("%w: the bundle has %d bytes, %d were allowed: what is not weights took more than was set aside; ask for less", ErrGate, out.Size(), budget.MaxBytes),
			os.Remove(b.cfg.Output))
	}
	text, err := b.recipe.YAML()
	if err != nil {
		return err
	}
	if err := WriteFile(b.cfg.Output+".recipe.yaml", text, 0o644); err != nil {
		return err
	}
	report, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return WriteFile(b.cfg.Output+".report.json", append(report, '\n'), 0o644)
}

// mapFile maps a file of the cache.
func mapFile(path string) (data []byte, unmap func() error, err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, err
	}
	m, err := mmap.Map(f, mmap.RDONLY, 0)
	if err != nil {
		return nil, nil, errors.Join(err, f.Close())
	}
	return m, func() error { return errors.Join(m.Unmap(), f.Close()) }, nil
}
