package pipeline

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"time"

	"slmc/calibrate"
	"slmc/convert"
	"slmc/formats"
	"slmc/internal/exec"
	"slmc/kvshare"
	"slmc/model"
	"slmc/qat"
)

// trialVersion is the version of the stage of this file.
const trialVersion = 1

// warmupShare: a trial's rate rises for no more than the tenth part of its steps.
const warmupShare = 10

// healsLater reports whether anything trains the shared model, so that trials
// tell what becomes of a map.
func (b *build) healsLater() bool {
	return b.cfg.Recipe.Share.heals() || b.cfg.Recipe.QAT != nil
}

// trialConfig is how a map is healed on trial: as the model is afterwards, but
// in float and end to end alone where weights are to be quantized too.
func (b *build) trialConfig() *qat.Config {
	r := b.cfg.Recipe
	switch {
	case r.Share.Heal != nil:
		c := *r.Share.Heal
		return &c
	case r.QAT != nil:
		c := r.QAT.Config
		c.Blocks.Epochs, c.Frozen = 0, 0
		if c.Epochs == 0 {
			c.Epochs = r.QAT.Blocks.Epochs
			c.BatchTokens, c.LR = r.QAT.Blocks.BatchTokens, r.QAT.Blocks.LR
		}
		return &c
	}
	return nil
}

// trials orders what a search found by what short heals make of it. Without
// enough examples the divergence before healing decides, and it says so.
func (b *build) trials(r *kvshare.SearchReport) error {
	s := b.cfg.Recipe.Share
	c := s.Search.Trial
	t, err := b.newTrial(len(r.Candidates))
	if err != nil || t == nil {
		return err
	}
	r.Trial = &kvshare.TrialReport{Rounds: c.Plan(len(r.Candidates)), Held: tokensOf(t.examples.Held)}
	b.log.Info("maps are healed on trial", "maps, tokens", fmt.Sprint(r.Trial.Rounds), "tokens", t.cost(r.Trial.Rounds), "measured on", r.Trial.Held)
	r.Candidates, err = kvshare.TrialRun{Config: c, Heal: t.run}.Run(b.ctx, r.Candidates)
	r.Trial.Tokens = t.tokens
	return err
}

// newTrial prepares trials of n maps; nil where there are none to be.
func (b *build) newTrial(n int) (*trial, error) {
	s := b.cfg.Recipe.Share
	c := s.Search.Trial
	if len(c.Plan(n)) == 0 {
		return nil, nil
	}
	seqs, err := b.examples(s.Fields)
	if err != nil {
		return nil, err
	}
	examples, err := c.Split(seqs, s.Search.Seed)
	if errors.Is(err, kvshare.ErrTooFew) {
		b.log.Warn("the map is chosen by its divergence before healing alone", "reason", err)
		return nil, nil
	}
	if held := tokensOf(examples.Held); err == nil && held < c.Held {
		b.log.Warn("few examples to choose a map by: close ones are told apart by chance", "tokens held back", held, "wanted", c.Held)
	}
	return &trial{build: b, examples: examples, heal: b.trialConfig()}, err
}

// cost is the number of tokens that trials learn from, about: of few examples
// no more than healing would.
func (t *trial) cost(rounds []kvshare.Round) int {
	sum := 0.0
	for _, r := range rounds {
		seqs, epochs := t.examples.First(r.Tokens, t.epochs())
		sum += float64(r.Maps) * epochs * float64(tokensOf(seqs))
	}
	return int(sum)
}

// TrialPreview is what choosing a map by short heals costs.
type TrialPreview struct {
	Rounds []kvshare.Round `json:"rounds"`
	Tokens int             `json:"tokens"` // learned from, about
	Held   int             `json:"held"`   // measured on, for each map
	// Seconds are estimated from what the search took here.
	Seconds float64 `json:"seconds"`
}

// trainedCost is what a token costs that is learned from, in tokens that a
// search measures: docs/experiments.md, "Choosing a map by short heals".
const trainedCost = 4

// previewTrials tells what trials of a search's maps would cost, nil where
// there are none. took is what the search did.
func (b *build) previewTrials(r kvshare.SearchReport, took time.Duration) (*TrialPreview, error) {
	t, err := b.newTrial(len(r.Candidates))
	if err != nil || t == nil {
		return nil, err
	}
	p := &TrialPreview{Rounds: b.cfg.Recipe.Share.Search.Trial.Plan(len(r.Candidates)), Held: tokensOf(t.examples.Held)}
	p.Tokens = t.cost(p.Rounds)
	measured := p.Held // once by the unshared model
	for _, round := range p.Rounds {
		measured += round.Maps * p.Held
	}
	each := took.Seconds() / max(1, float64(r.Measured*r.Tokens))
	p.Seconds = each * float64(trainedCost*p.Tokens+measured)
	return p, nil
}

// trial heals maps for a short while.
type trial struct {
	*build
	examples kvshare.Examples
	heal     *qat.Config
	judge    *kvshare.Judge // made when first wanted
	tokens   int            // learned from, those of cached results too
}

// trialResult is what the cache keeps of a trial.
type trialResult struct {
	KL       *float64 `json:"kl"` // nil: the map can not be healed
	Tokens   int      `json:"tokens"`
	Diverged string   `json:"diverged,omitempty"`
}

// run heals one map, or takes what an earlier build made of it.
func (t *trial) run(_ context.Context, p kvshare.Plan, tokens int) (none kvshare.Trial, err error) {
	s := t.cfg.Recipe.Share
	seqs, epochs := t.examples.First(tokens, t.epochs())
	key, err := Key("trial", trialVersion, struct {
		Sources []convert.FileDigest
		Context int
		Map     kvshare.Plan
		Held    int
		Tokens  int
		Seed    uint64
		Match   *kvshare.MatchConfig `json:",omitempty"`
		Heal    *qat.Config          `json:",omitempty"`
		SHA256  string
		Fields  Fields
	}{t.digests, t.recipe.Context, p, s.Search.Trial.Held, tokens, s.Search.Seed, s.Match, t.heal, s.SHA256, s.Fields})
	if err != nil {
		return none, err
	}
	path, err := t.stage("trial", key, func(path string) error {
		res, err := t.fresh(p, path+".weights", seqs, epochs)
		if err != nil {
			return err
		}
		data, err := json.Marshal(res)
		if err != nil {
			return err
		}
		return os.WriteFile(path, data, 0o600)
	})
	if err != nil {
		return none, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return none, err
	}
	var res trialResult
	if err := json.Unmarshal(data, &res); err != nil {
		return none, fmt.Errorf("cached trial: %w", errors.Join(err, formats.ErrCorrupt))
	}
	t.tokens += res.Tokens
	if res.KL == nil {
		t.log.Warn("healed on trial", "map", p, "tokens", res.Tokens, "failed", res.Diverged)
		return kvshare.Trial{KL: math.Inf(1), Tokens: res.Tokens}, nil
	}
	t.log.Info("healed on trial", "map", p, "tokens", res.Tokens, "kl", fmt.Sprintf("%.4f", *res.KL))
	return kvshare.Trial{KL: *res.KL, Tokens: res.Tokens}, nil
}

// epochs are the passes that healing makes over the examples: a trial makes no
// more.
func (t *trial) epochs() float64 {
	if t.heal != nil {
		return t.heal.Epochs
	}
	return t.cfg.Recipe.Share.Match.Epochs
}

// fresh heals a map by the code that heals the model, with scratch for its
// weights, and measures it.
func (t *trial) fresh(p kvshare.Plan, scratch string, seqs [][]int32, epochs float64) (res trialResult, err error) {
	teacher := t.source.Checkpoint.Model
	if t.judge == nil {
		j, err := kvshare.NewJudge(t.ctx, teacher, t.examples.Held, t.kernel)
		if err != nil {
			return res, err
		}
		t.judge = &j
	}
	student, err := kvshare.Rewrite(teacher, p)
	if err != nil {
		return res, err
	}
	pool := exec.NewPool(t.cfg.Env.Threads)
	defer pool.Close()
	if m := t.cfg.Recipe.Share.Match; m != nil {
		student, _, err = kvshare.Match{Teacher: teacher, Student: student, Seqs: seqs, Config: *m, Kernel: t.kernel, Pool: pool}.Run(t.ctx)
		if err != nil {
			return res, err
		}
	}
	if t.heal == nil {
		res.Tokens = tokensOf(seqs)
		return t.measured(res, student)
	}
	w := newHealed(student.Graph)
	if w.file, err = os.OpenFile(scratch, os.O_CREATE|os.O_TRUNC|os.O_RDWR, 0o600); err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, w.file.Close(), ignoreMissing(os.Remove(scratch))) }()
	c := *t.heal
	c.Epochs = epochs
	// A rate that rises for most of a short run would not heal.
	c.Warmup = min(c.Warmup, int(epochs*float64(tokensOf(seqs)))/max(1, c.BatchTokens)/warmupShare)
	report, err := qat.Train(t.ctx, qat.Run{
		Teacher: teacher, Student: student, Formats: floats(student.Graph), Scales: calibrate.RTN{Kernel: t.kernel}.Scales,
		Seqs: seqs, Config: c, Kernel: t.kernel, Pool: pool, Scratch: t.cfg.Env.CacheDir,
		Progress: func(p qat.Progress) { t.cfg.Progress("trial", int64(p.Step), int64(p.Steps)) },
	}, qat.Sink{Rows: w.rows, Vector: w.vector})
	if errors.Is(err, qat.ErrDiverged) {
		res.Diverged = err.Error()
		return res, nil
	}
	if err != nil {
		return res, err
	}
	res.Tokens = report.Tokens
	data, unmap, err := mapFile(scratch)
	if err != nil {
		return res, err
	}
	defer func() { err = errors.Join(err, unmap()) }()
	w.data = data
	return t.measured(res, &model.Model{Graph: student.Graph, Values: w})
}

func (t *trial) measured(res trialResult, m *model.Model) (trialResult, error) {
	kl, err := t.judge.KL(t.ctx, m)
	if err == nil && !math.IsNaN(kl) && !math.IsInf(kl, 0) {
		res.KL = &kl
	}
	return res, err
}

func tokensOf(seqs [][]int32) int { return calibrate.Sequences(seqs).Tokens() }
