package pipeline

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"slmc/convert"
	"slmc/formats"
	"slmc/kvshare"
	"slmc/model"
	"slmc/qat"
)

// Versions of the stages of this file.
const (
	searchVersion = 2
	healVersion   = 1 // of heal.go
)

// Sharing is the part of a recipe that says which blocks read another block's
// keys and values, and how the weights are healed of it.
type Sharing struct {
	// Plan is one of kvshare.Forms. Map is the map of blocks that it came to;
	// where a recipe gives it, it decides, and Plan only says where it is from.
	Plan string       `json:"plan" yaml:"plan"`
	Map  kvshare.Plan `json:"map,omitempty" yaml:"map,omitempty"`
	// Search is how a map is searched for, of a Plan search:RATIO.
	Search *kvshare.SearchConfig `json:"search,omitempty" yaml:"search,omitempty"`
	// Match and Heal are how the shared model is trained, in float, to do what
	// the unshared one did: takers one by one, then all end to end; nil: not.
	Match  *kvshare.MatchConfig `json:"match,omitempty" yaml:"match,omitempty"`
	Heal   *qat.Config          `json:"heal,omitempty" yaml:"heal,omitempty"`
	SHA256 string               `json:"sha256,omitempty" yaml:"sha256,omitempty"` // of the file of examples
	Fields Fields               `json:"fields" yaml:"fields"`
}

// examples reports whether the stages of s want examples.
func (s *Sharing) examples() bool {
	return s != nil && (s.heals() || s.Search != nil && s.Map == nil)
}

func (s *Sharing) heals() bool { return s.Match != nil || s.Heal != nil }

// shareKV makes b.model of the source: what the recipe shares is linked, where
// the map is known without a search.
func (b *build) shareKV() error {
	b.model = b.source.Checkpoint.Model
	if b.cfg.Recipe.Share == nil {
		return nil
	}
	s := *b.cfg.Recipe.Share
	b.cfg.Recipe.Share = &s
	if s.Map == nil {
		spec, err := kvshare.Parse(s.Plan)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUsage, err)
		}
		if spec.Kind != kvshare.Search {
			s.Map, err = spec.Plan(b.model.Graph)
		} else if s.Search == nil {
			c := kvshare.DefaultSearch()
			c.Seed, s.Search = b.cfg.Recipe.Seed, &c
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUsage, err)
		}
	}
	if s.Map == nil { // the search comes later
		if !b.healsLater() && s.Search.Trial.Candidates > 0 {
			c := *s.Search
			c.Trial.Candidates, s.Search = 0, &c
		}
		return nil
	}
	return b.link(s.Map)
}

// link rewrites the model by a map that is decided now.
func (b *build) link(p kvshare.Plan) error {
	m, err := kvshare.Rewrite(b.source.Checkpoint.Model, p)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUsage, err)
	}
	b.model, b.cfg.Recipe.Share.Map = m, p
	return nil
}

// shared runs the stages of sharing that take time: the search for a map, and
// healing.
func (b *build) shared() error {
	s := b.cfg.Recipe.Share
	if s == nil {
		return nil
	}
	if s.Map == nil {
		if err := b.chooseMap(); err != nil {
			return err
		}
	}
	s = b.cfg.Recipe.Share
	cost := kvshare.CostOf(b.source.Graph(), b.model.Graph, costPrompt(b.model.Graph))
	b.log.Info("blocks share keys and values", "map", s.Map, "cache saved", percent(cost.CacheF16), "prefill saved", percent(cost.Prefill))
	if !s.heals() {
		if b.recipe.QAT == nil {
			how := "give --calibrate FILE to heal it"
			if b.cfg.CalibrateFile != "" {
				how = "--heal-epochs heals it"
			}
			b.log.Warn("a shared model that is not trained has lost much; " + how)
		}
		return nil
	}
	return b.timed("heal", b.heal)
}

// stageReport is what a stage told, for the manifest.
type stageReport struct {
	stage string
	json  []byte
}

func (b *build) told(stage string, report []byte) {
	b.shareReports = append(b.shareReports, stageReport{stage, bytes.Clone(report)})
}

// costPrompt is the prompt that costs are told for.
func costPrompt(g *model.Graph) int { return min(512, g.Context) }

func percent(c kvshare.Change) string { return fmt.Sprintf("%.1f%%", 100*c.Saved()) }

// chooseMap searches for maps on the examples and heals the best on trial.
func (b *build) chooseMap() error {
	var r kvshare.SearchReport
	err := b.timed("search", func() (err error) { r, err = b.search(); return err })
	if err != nil {
		return err
	}
	if err := b.timed("trials", func() error { return b.trials(&r) }); err != nil {
		return err
	}
	for _, c := range r.Candidates {
		attrs := []any{"map", c.Plan, "kl", fmt.Sprintf("%.4f", c.KL)}
		if c.Healed != nil {
			attrs = append(attrs, "healed", fmt.Sprintf("%.4f", *c.Healed), "tokens", c.HealedTokens, "expected", fmt.Sprintf("%.4f", *c.Expected))
		}
		b.log.Info("candidate", append(attrs, "from", c.Name)...)
	}
	// Not into the bundle: its recipe has the map, and made again from that
	// there is no search.
	b.report.Search = &r
	if err := b.link(r.Best()); err != nil {
		return err
	}
	return b.settle()
}

// search measures maps on the examples before anything is healed.
func (b *build) search() (r kvshare.SearchReport, err error) {
	s := b.cfg.Recipe.Share
	key, err := Key("search", searchVersion, struct {
		Sources []convert.FileDigest
		Context int
		Plan    string
		Search  *kvshare.SearchConfig
		SHA256  string
		Fields  Fields
	}{b.digests, b.recipe.Context, s.Plan, s.Search, s.SHA256, s.Fields})
	if err != nil {
		return r, err
	}
	path, err := b.stage("search", key, func(path string) error {
		r, err := b.runSearch()
		if err != nil {
			return err
		}
		data, err := json.Marshal(r)
		if err != nil {
			return err
		}
		return os.WriteFile(path, data, 0o600)
	})
	if err != nil {
		return r, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil || len(r.Candidates) == 0 {
		return r, fmt.Errorf("cached search: %w", errors.Join(err, formats.ErrCorrupt))
	}
	return r, nil
}

// runSearch measures maps of as many takers as the plan asks for.
func (b *build) runSearch() (kvshare.SearchReport, error) {
	s := b.cfg.Recipe.Share
	spec, err := kvshare.Parse(s.Plan)
	if err != nil {
		return kvshare.SearchReport{}, err
	}
	seqs, err := b.examples(s.Fields)
	if err != nil {
		return kvshare.SearchReport{}, err
	}
	m := b.source.Checkpoint.Model
	return kvshare.SearchRun{
		Model: m, Takers: spec.Count(len(m.Blocks)), Seqs: seqs, Config: *s.Search, Kernel: b.kernel, Threads: b.cfg.Env.Threads,
		Progress: func(done, total int) { b.cfg.Progress("search", int64(done), int64(total)) },
	}.Run(b.ctx)
}

// SharedPreview is what sharing by a map would cost and save.
type SharedPreview struct {
	Name string       `json:"name"`
	Plan kvshare.Plan `json:"plan"`
	Cost kvshare.Cost `json:"cost"`
	// KL is the divergence of the shared model that is not healed from the
	// source, in nats a token, where a file of examples is given.
	KL *float64 `json:"kl,omitempty"`
}

// previewShare compares maps, the one that a build would share by first, as far
// as that is known before healing. A search is run: which maps it finds is what
// a dry run is asked for.
func (b *build) previewShare() ([]SharedPreview, *TrialPreview, error) {
	if b.cfg.Recipe.Share == nil {
		return nil, nil, nil
	}
	all, trials, err := b.candidates()
	if err != nil {
		return nil, nil, err
	}
	m, s := b.source.Checkpoint.Model, b.cfg.Recipe.Share
	var out []SharedPreview
	for i, c := range all {
		if i > 0 && c.Plan.String() == s.Map.String() {
			continue
		}
		g, _, err := m.ShareKV(c.Plan)
		if err != nil {
			return nil, nil, err
		}
		p := SharedPreview{Name: c.Name, Plan: c.Plan, Cost: kvshare.CostOf(m.Graph, g, costPrompt(g))}
		if b.cfg.CalibrateFile != "" {
			p.KL = &c.KL
		}
		out = append(out, p)
	}
	return out, trials, nil
}

// candidates are the maps of a dry run, measured where there are examples. The
// first is the one that a build takes unless trials find a better one.
func (b *build) candidates() ([]kvshare.Candidate, *TrialPreview, error) {
	s := b.cfg.Recipe.Share
	if s.Map == nil {
		begin := time.Now()
		r, err := b.runSearch()
		if err != nil {
			return nil, nil, err
		}
		trials, err := b.previewTrials(r, time.Since(begin))
		if err != nil {
			return nil, nil, err
		}
		if err := b.link(r.Best()); err != nil {
			return nil, nil, err
		}
		return r.Candidates, trials, b.settle()
	}
	m := b.source.Checkpoint.Model
	all := append([]kvshare.Candidate{{Name: cmp.Or(s.Plan, "map"), Plan: s.Map}}, kvshare.Fixed(m.Graph, len(s.Map))...)
	if b.cfg.CalibrateFile == "" {
		return all, nil, nil
	}
	seqs, err := b.examples(s.Fields)
	if err != nil {
		return nil, nil, err
	}
	all, err = kvshare.SearchRun{Model: m, Seqs: seqs, Config: kvshare.DefaultSearch(), Kernel: b.kernel, Threads: b.cfg.Env.Threads}.Measure(b.ctx, all)
	return all, nil, err
}
