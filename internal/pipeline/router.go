package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	goruntime "runtime"
	"slices"

	"slmc/formats"
	"slmc/formats/bundle"
	"slmc/internal/deferral"
	routertrain "slmc/router_train"
	slmrt "slmc/runtime"
)

// Versions of the stages of this file.
const (
	labelVersion  = 1
	routerVersion = 4
)

// Routing is the part of a recipe that says how a deferral router is made.
type Routing struct {
	Scorer string             `json:"scorer" yaml:"scorer"`
	Train  routertrain.Config `json:"train" yaml:"train"`
	// SHA256 is the digest of the file of queries, Large who the large model was,
	// Pairs the digest of the file of examples that taught the second opinion,
	// empty when the queries did.
	SHA256 string `json:"sha256" yaml:"sha256"`
	Large  string `json:"large" yaml:"large"`
	Pairs  string `json:"pairs,omitempty" yaml:"pairs,omitempty"`
}

// DefaultRouting scores by exact match.
func DefaultRouting() Routing {
	return Routing{Scorer: "exact_match", Train: routertrain.DefaultConfig()}
}

// RouterFiles are where a build's router comes from.
type RouterFiles struct {
	Queries string
	Fields  Fields
	Large   Large
}

// ReadQueries reads queries with their right answers.
func ReadQueries(path string, fields Fields) ([]routertrain.Query, error) {
	rows, err := ReadRows(path, fields)
	if err != nil {
		return nil, err
	}
	var out []routertrain.Query
	for _, r := range rows {
		if r.Prompt == "" {
			return nil, fmt.Errorf("%w: %s: line %d has no query with an answer", ErrUsage, filepath.Base(path), r.Line)
		}
		out = append(out, routertrain.Query{Source: r.Source, Text: r.Prompt, Reference: r.Answer})
	}
	return out, nil
}

// ReadPairs reads the examples that teach a second opinion: rows of another form
// teach nothing.
func ReadPairs(path string, fields Fields) ([]routertrain.Pair, error) {
	rows, err := ReadRows(path, fields)
	if err != nil {
		return nil, err
	}
	var out []routertrain.Pair
	for _, r := range rows {
		if r.Prompt != "" && r.Answer != "" {
			out = append(out, routertrain.Pair{Prompt: r.Prompt, Answer: r.Answer})
		}
	}
	return out, nil
}

// LabelHeader starts the header of a label file for a bundle.
func LabelHeader(b *bundle.Bundle) routertrain.Header {
	return routertrain.Header{Bundle: b.Digest(), Weights: weightsRoot(b), Scorer: "exact_match", Temperature: 1, MaxTokens: routertrain.DefaultConfig().MaxTokens, Seed: 1, Redaction: routertrain.RedactNone}
}

// RouterInput is what TrainRouter trains on.
type RouterInput struct {
	Bundle *bundle.Bundle
	Labels *routertrain.Labels
	// Queries give the text that labels lack; Pairs teach the second opinion.
	Queries []routertrain.Query
	Pairs   []routertrain.Pair
	Config  routertrain.Config
	Threads int
	Kernel  string
	// Progress is called with the queries that the bundle has answered.
	Progress func(done int)
}

// checkWeights refuses the answers of another model. Ready-made labels don't say
// whose they are.
func (in RouterInput) checkWeights() error {
	root := weightsRoot(in.Bundle)
	if h := in.Labels.Header; h.Version != 0 && h.Weights != root {
		return &formats.Error{File: in.Bundle.Name(), Offset: -1, Kind: formats.ErrCorrupt, Err: routertrain.ErrMismatch,
			Msg: fmt.Sprintf("the labels were made with weights %s, the bundle holds %s; label with this bundle", h.Weights, root)}
	}
	return nil
}

// TrainRouter trains a router for a bundle on its labels.
func TrainRouter(ctx context.Context, in RouterInput, log *slog.Logger) (*routertrain.Trained, error) {
	if err := in.checkWeights(); err != nil {
		return nil, err
	}
	m, err := slmrt.FromBundle(in.Bundle)
	if err != nil {
		return nil, err
	}
	texts, err := labelTexts(in.Labels, in.Queries)
	if err != nil {
		return nil, err
	}
	examples, err := routertrain.Extract(ctx, m, texts, slmrt.Options{Kernel: in.Kernel}, threadsOr(in.Threads), in.Config.MaxTokens, in.Progress)
	if err != nil {
		return nil, err
	}
	return routertrain.Fit(ctx, routertrain.Data{Model: m, Weights: weightsRoot(in.Bundle), Labels: in.Labels, Examples: examples, Pairs: in.Pairs}, in.Config, threadsOr(in.Threads), log)
}

func threadsOr(n int) int {
	if n == 0 {
		return goruntime.GOMAXPROCS(0)
	}
	return n
}

// labelTexts finds the text of each labelled query, which a redacted label file
// lacks, in the queries.
func labelTexts(l *routertrain.Labels, queries []routertrain.Query) ([]string, error) {
	byID := map[string]string{}
	for _, q := range queries {
		byID[routertrain.QueryID(q.Text)] = q.Text
	}
	out := make([]string, len(l.Rows))
	for i := range l.Rows {
		r := &l.Rows[i]
		text, ok := byID[r.ID]
		if !ok {
			if text = r.Query; routertrain.QueryID(text) != r.ID {
				return nil, fmt.Errorf("%w: label %d (%s) has no text: the file is redacted; give the queries too", ErrUsage, i+1, r.ID)
			}
		}
		out[i] = text
	}
	return out, nil
}

// InstallRouter writes a bundle with the router at path.
func InstallRouter(b *bundle.Bundle, path string, r *deferral.Router, report any) (bundle.Digest, error) {
	section, err := r.Encode()
	if err != nil {
		return bundle.Digest{}, err
	}
	text, err := json.Marshal(report)
	if err != nil {
		return bundle.Digest{}, err
	}
	return b.Replace(path, bundle.Data{Name: bundle.SectionRouter, Bytes: section},
		bundle.StageReport{Stage: "router", Version: fmt.Sprint(routerVersion), Report: text})
}

// RouterReport is what a bundle's provenance says of its router; nil without.
func RouterReport(b *bundle.Bundle) (*routertrain.Report, error) {
	for _, r := range b.Manifest().Provenance.Reports {
		if r.Stage == "router" {
			out := new(routertrain.Report)
			if err := json.Unmarshal(r.Report, out); err != nil {
				return nil, formats.Corrupt(b.Name(), "", -1, "report of the router: %v", err)
			}
			return out, nil
		}
	}
	return nil, nil
}

// infeasible makes a refusal of a bound a quality gate that was not reached.
func infeasible(t *deferral.Table) error {
	if _, err := t.Default(); err != nil {
		if errors.Is(err, deferral.ErrInfeasible) {
			return fmt.Errorf("%w: router: %w", ErrGate, err)
		}
		return err
	}
	return nil
}

// CheckFeasible returns ErrGate, naming the nearest feasible row, when no row of
// a router keeps its bound.
func CheckFeasible(r *deferral.Router) error { return infeasible(r.Table()) }

// probing tries the large model before the first stage that has to run, since hours
// of training may lie before its labels. Labels that are there need nobody to answer.
func (b *build) probing(stage string, make func(path string) error) func(path string) error {
	return func(path string) error {
		if b.cfg.Router != nil && !b.probed && stage != routerStage {
			b.probed = true
			if err := b.cfg.Router.Large.Probe(b.ctx, b.cfg.Env); err != nil {
				return err
			}
		}
		return make(path)
	}
}

// routerStage is the one stage that does without the large model.
const routerStage = "router"

// routed is the last stage of a build with a router: it labels the queries with
// the bundle at path, trains, and returns the section with its report. Both
// steps come from the cache when they were done before.
func (b *build) routed(path string) (err error) {
	in, err := bundle.Open(path, bundle.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	var labels string
	if err := b.timed("label", func() error { labels, err = b.labelled(in); return err }); err != nil {
		return err
	}
	return b.timed("router", func() error { return b.install(in, labels) })
}

// labelled is the label stage.
func (b *build) labelled(in *bundle.Bundle) (string, error) {
	r := b.recipe.Router
	key, err := Key("label", labelVersion, struct {
		Bundle  bundle.Digest
		Queries string
		Large   string
		Scorer  string
		Max     int
	}{in.Digest(), r.SHA256, r.Large, r.Scorer, r.Train.MaxTokens})
	if err != nil {
		return "", err
	}
	return b.stage("label", key, func(path string) error { return b.label(in, path, key) })
}

func (b *build) label(in *bundle.Bundle, path, key string) (err error) {
	r, files := b.recipe.Router, b.cfg.Router
	queries, err := ReadQueries(files.Queries, files.Fields)
	if err != nil {
		return err
	}
	scorer, err := routertrain.ScorerByName(r.Scorer)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUsage, err)
	}
	large, err := OpenLarge(b.ctx, files.Large, b.cfg.Env, b.cfg.Env.Threads, r.Train.MaxTokens, 1, r.Train.Seed)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, large.Close()) }()
	m, err := slmrt.FromBundle(in)
	if err != nil {
		return err
	}
	h := LabelHeader(in)
	h.Scorer, h.MaxTokens, h.Seed = r.Scorer, r.Train.MaxTokens, r.Train.Seed
	// The labels so far survive a kill under a name of their own: the cache
	// sweeps unfinished entries.
	state := b.cache.Path(key + ".labels")
	err = routertrain.WriteLabels(b.ctx, m, queries, state, routertrain.LabelConfig{
		Header: h, Score: routertrain.ByRule(scorer), Large: large, Threads: b.cfg.Env.Threads, Parallel: large.Parallel,
		Session:  slmrt.Options{Kernel: b.cfg.Env.Kernel},
		Progress: func(done int) { b.cfg.Progress("label", int64(done), int64(len(queries))) },
	})
	if err != nil {
		return err
	}
	return os.Rename(state, path)
}

// trainedRouter is a cached result of the router stage.
type trainedRouter struct {
	Section []byte             `json:"section"`
	Report  routertrain.Report `json:"report"`
}

// install is the router stage, and writes the bundle.
func (b *build) install(in *bundle.Bundle, labels string) error {
	sum, err := fileDigest(b.ctx, labels)
	if err != nil {
		return err
	}
	key, err := Key("router", routerVersion, struct {
		Bundle bundle.Digest
		Labels string
		Router *Routing
	}{in.Digest(), sum, b.recipe.Router})
	if err != nil {
		return err
	}
	path, err := b.stage(routerStage, key, func(path string) error { return b.trainRouter(in, labels, path) })
	if err != nil {
		return err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var t trainedRouter
	if err := json.Unmarshal(data, &t); err != nil {
		return fmt.Errorf("cached router: %w", err)
	}
	r, err := deferral.Decode(t.Section)
	if err != nil {
		return fmt.Errorf("cached router: %w", err)
	}
	if err := infeasible(r.Table()); err != nil {
		return err
	}
	b.report.Router = &t.Report
	_, err = InstallRouter(in, b.cfg.Output, r, t.Report)
	return err
}

func (b *build) trainRouter(in *bundle.Bundle, labels, path string) error {
	l, err := routertrain.ReadLabels(labels)
	if err != nil {
		return err
	}
	input := RouterInput{Bundle: in, Labels: l, Config: b.recipe.Router.Train, Threads: b.cfg.Env.Threads, Kernel: b.cfg.Env.Kernel,
		Progress: func(done int) { b.cfg.Progress("router", int64(done), int64(len(l.Rows))) }}
	if b.recipe.Router.Pairs != "" {
		if input.Pairs, err = ReadPairs(b.cfg.CalibrateFile, b.pairFields()); err != nil {
			return err
		}
	}
	t, err := TrainRouter(b.ctx, input, b.log)
	if err != nil {
		return err
	}
	section, err := t.Router.Encode()
	if err != nil {
		return err
	}
	data, err := json.Marshal(trainedRouter{section, t.Report})
	if err != nil {
		return err
	}
	return os.WriteFile(path, data, 0o600)
}

// pairFields are the fields of the file of examples.
func (b *build) pairFields() Fields {
	switch {
	case b.recipe.QAT != nil:
		return b.recipe.QAT.Fields
	case b.recipe.Calibrate != nil:
		return b.recipe.Calibrate.Fields
	}
	return Fields{}
}

// checkRouter ties the recipe to the files that a router is made of.
func (b *build) checkRouter() (err error) {
	r, files := b.cfg.Recipe.Router, b.cfg.Router
	if files == nil {
		if r != nil {
			return fmt.Errorf("%w: the recipe has a router; give build --router QUERIES --large MODEL", ErrUsage)
		}
		return nil
	}
	if b.cfg.Bare {
		return fmt.Errorf("%w: a router wants golden vectors and a cache; use build", ErrUsage)
	}
	d := DefaultRouting()
	if r != nil {
		d = *r
	}
	if err := d.Train.Check(); err != nil {
		return fmt.Errorf("%w: router: %w", ErrUsage, err)
	}
	if !slices.ContainsFunc(routertrain.Scorers(), func(s routertrain.Scorer) bool { return s.Name == d.Scorer }) {
		_, err := routertrain.ScorerByName(d.Scorer)
		return fmt.Errorf("%w: %w", ErrUsage, err)
	}
	if d.SHA256, err = fileDigest(b.ctx, files.Queries); err != nil {
		return err
	}
	if d.Large, err = files.Large.identity(b.ctx); err != nil {
		return fmt.Errorf("large model: %w", err)
	}
	d.Pairs = ""
	if b.cfg.CalibrateFile != "" {
		statistics, err := isStatistics(b.cfg.CalibrateFile)
		if err != nil {
			return err
		}
		if !statistics {
			if d.Pairs, err = fileDigest(b.ctx, b.cfg.CalibrateFile); err != nil {
				return err
			}
		}
	}
	if _, err := ReadQueries(files.Queries, files.Fields); err != nil {
		return err
	}
	b.cfg.Recipe.Router = &d
	return nil
}
