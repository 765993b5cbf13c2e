// Package pipeline runs the stages that turn a checkpoint into a bundle: what
// a recipe lists, each cached by the digest of what goes in. It is where the
// stages meet; they do not know each other.
package pipeline

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/goccy/go-yaml"

	"slmc/internal/exec"
	"slmc/kvshare"
	"slmc/model"
	"slmc/qat"
	"slmc/quant"
	slmrt "slmc/runtime"
)

// ToolVersion is the version of slmc, which bundles carry.
const ToolVersion = "0.1.0"

// ErrUsage is a setting that can not be meant.
var ErrUsage = errors.New("usage")

// ErrGate is a quality gate that was not reached.
var ErrGate = errors.New("quality gate")

// Recipe is everything that decides the bytes of a bundle, beside the source:
// plain data, stored in the bundle and beside it.
type Recipe struct {
	Version int          `json:"version" yaml:"version"` // 1
	Formats model.Recipe `json:"formats" yaml:"formats"`
	// KV is the cache's format, "kv8" or "f16".
	KV string `json:"kv" yaml:"kv"`
	// Context is the number of positions of the bundle; 0 in a recipe that is
	// not resolved: the model's own, at most DefaultContext.
	Context int    `json:"context" yaml:"context"`
	Seed    uint64 `json:"seed" yaml:"seed"`
	Golden  Golden `json:"golden" yaml:"golden"`
	// Target is what the bundle's weights are to fit in, one of Targets: scales
	// are kept to such as it stores. "" for nothing else.
	Target string `json:"target,omitempty" yaml:"target,omitempty"`
	// Share says which blocks read others' keys and values; nil: those that do
	// in the source.
	Share *Sharing `json:"share,omitempty" yaml:"share,omitempty"`
	// Budget replaces Formats by what a size allows; nil: Formats hold.
	Budget *Budget `json:"budget,omitempty" yaml:"budget,omitempty"`
	// Calibrate is how codes and scales are chosen; nil: nearest codes.
	Calibrate *Calibration `json:"calibrate,omitempty" yaml:"calibrate,omitempty"`
	// QAT is how the weights are trained; nil: they are rounded as they are.
	QAT *Training `json:"qat,omitempty" yaml:"qat,omitempty"`
	// Speculate says how the bundle is best run; nil: token by token. It changes
	// no weight and no token.
	Speculate *slmrt.SpeculationHint `json:"speculate,omitempty" yaml:"speculate,omitempty"`
	// Router is how the deferral router is made; nil: there is none.
	Router *Routing `json:"router,omitempty" yaml:"router,omitempty"`
}

// Golden says what the golden vectors of a bundle are.
type Golden struct {
	// Prompts is the number of prompts that the model samples itself, of
	// PromptTokens tokens each, at temperature 1 from the recipe's seed.
	Prompts      int `json:"prompts" yaml:"prompts"`
	PromptTokens int `json:"prompt_tokens" yaml:"prompt_tokens"`
	// Greedy is the number of tokens decoded after each prompt.
	Greedy int `json:"greedy" yaml:"greedy"`
	// SHA256 is the digest of the file that gives the prompts instead, empty
	// without one. Its name and place are not part of the recipe.
	SHA256 string `json:"sha256,omitempty" yaml:"sha256,omitempty"`
}

// DefaultRecipe is the recipe of a preset: weights and embeddings are names of
// number formats, embeddings "" for the preset's own.
func DefaultRecipe(weights, embeddings string) (Recipe, error) {
	f, err := model.Preset(weights, embeddings)
	if err != nil {
		return Recipe{}, fmt.Errorf("%w: %w", ErrUsage, err)
	}
	return Recipe{
		Version: 1, Formats: f, KV: string(defaultKV(weights)), Seed: 1,
		Golden: Golden{Prompts: 8, PromptTokens: 20, Greedy: 32},
	}, nil
}

// defaultKV is the cache format that costs little beside the weights' own loss:
// 8 bits under 2- and 4-bit weights, float16 otherwise (docs/experiments.md,
// "The cache's share of the loss").
func defaultKV(weights string) exec.KVFormat {
	if kind, _, _ := strings.Cut(weights, "g"); kind == "w2" || kind == "w4" {
		return exec.KV8
	}
	return exec.KVF16
}

// ReadRecipe reads a recipe file. Unknown keys are errors; a section that is
// there has its defaults where it says nothing.
func ReadRecipe(path string) (Recipe, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Recipe{}, err
	}
	return parseRecipe(filepath.Base(path), data)
}

// parseRecipe is ReadRecipe of a file's bytes.
func parseRecipe(name string, data []byte) (Recipe, error) {
	r, err := DefaultRecipe("w8", "")
	if err != nil {
		return r, err
	}
	r.Formats = model.Recipe{}
	var named Recipe
	for _, to := range []*Recipe{&named, &r} {
		if err := yaml.UnmarshalWithOptions(data, to, yaml.Strict()); err != nil {
			return r, fmt.Errorf("%w: recipe %s: %w", ErrUsage, name, err)
		}
		if to == &named {
			r.QAT, r.Calibrate, r.Share = named.defaults()
		}
	}
	if r.Version != 1 {
		return r, fmt.Errorf("%w: recipe %s: version %d, this slmc reads version 1", ErrUsage, name, r.Version)
	}
	return r, r.check()
}

// defaults gives the sections of r as they are where a file says nothing.
func (r Recipe) defaults() (t *Training, c *Calibration, s *Sharing) {
	if r.QAT != nil {
		t = &Training{Config: qat.DefaultConfig()}
	}
	if r.Calibrate != nil {
		d := DefaultCalibration()
		c = &d
	}
	if r.Share == nil {
		return t, c, nil
	}
	s = &Sharing{}
	if r.Share.Search != nil {
		d := kvshare.DefaultSearch()
		s.Search = &d
	}
	if r.Share.Match != nil {
		d := kvshare.DefaultMatch()
		s.Match = &d
	}
	if r.Share.Heal != nil {
		d := DefaultHeal()
		s.Heal = &d
	}
	return t, c, s
}

// check reports a setting outside its range.
func (r Recipe) check() error {
	kv, err := exec.ParseKV(r.KV)
	if err == nil && r.Speculate != nil {
		err = r.Speculate.Check()
	}
	switch {
	case err != nil:
	case kv == exec.KVF32:
		err = errors.New("KV format f32 is for float runs; a bundle has kv8 or f16")
	case r.Context < 0:
		err = fmt.Errorf("context is %d", r.Context)
	case r.Golden.SHA256 == "" && (r.Golden.Prompts < 1 || r.Golden.Prompts > 1024):
		err = fmt.Errorf("golden: %d prompts, want 1 to 1024", r.Golden.Prompts)
	case r.Golden.PromptTokens < 1, r.Golden.Greedy < 0:
		err = fmt.Errorf("golden: %d prompt tokens and %d greedy ones", r.Golden.PromptTokens, r.Golden.Greedy)
	}
	if err != nil {
		return fmt.Errorf("%w: recipe: %w", ErrUsage, err)
	}
	return nil
}

// resolve fills in what depends on the model, and gives the formats of its
// weights.
func (r Recipe) resolve(g *model.Graph) (Recipe, []quant.Format, error) {
	if r.Context == 0 {
		r.Context = min(g.Context, DefaultContext)
	}
	if r.Context > g.Context {
		return r, nil, fmt.Errorf("%w: context %d, the model has %d positions", ErrUsage, r.Context, g.Context)
	}
	if err := r.check(); err != nil {
		return r, nil, err
	}
	// What does not fit is made to: the whole of a golden prompt and its
	// answer must be positions of the bundle.
	r.Golden.PromptTokens = min(r.Golden.PromptTokens, max(1, r.Context/2))
	r.Golden.Greedy = min(r.Golden.Greedy, r.Context-r.Golden.PromptTokens)
	f, err := r.Formats.Formats(g)
	if err != nil {
		return r, nil, fmt.Errorf("%w: %w", ErrUsage, err)
	}
	return r, f, r.checkTarget(g, f)
}

// YAML is the recipe as a file that ReadRecipe reads.
func (r Recipe) YAML() ([]byte, error) {
	data, err := yaml.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("recipe: %w", err)
	}
	return append([]byte("# The recipe of this bundle, every setting resolved.\n"), data...), nil
}
