package model

import (
	"fmt"
	"slices"
	"strings"

	"slmc/quant"
)

// Recipe says in which number format each weight is stored: a list of rules, of
// which the last that matches a weight decides. Vectors (norms and biases) are
// always stored as float32.
type Recipe struct {
	Name  string `json:"name,omitempty" yaml:"name,omitempty"`
	Rules []Rule `json:"rules" yaml:"rules"`
}

// Rule chooses a format for the weights that meet all of its conditions; an
// absent condition is met by every matrix.
type Rule struct {
	Roles []Role `json:"roles,omitempty" yaml:"roles,omitempty"`
	// Blocks is the first and the last block, both included, whose weights are
	// meant.
	Blocks []int `json:"blocks,omitempty" yaml:"blocks,omitempty,flow"`
	// Weight is the exact name of one weight, "blk.3.ffn_down.weight": the last
	// resort, since it says nothing about another model.
	Weight string `json:"weight,omitempty" yaml:"weight,omitempty"`

	Format    string `json:"format" yaml:"format"`                             // "w8", "w4g64", "f16"
	GroupSize int    `json:"group_size,omitempty" yaml:"group_size,omitempty"` // 0: the format's own
}

// presets lists the named recipes with the format of the matrices and that of
// the embedding and the head.
var presets = []struct{ name, weights, embeddings string }{
	{"w8", "w8", "w8"},
	{"w4", "w4", "w4"},
	{"w2", "w2", "w4"},
	{"f16", "f16", "f16"},
	{"bf16", "bf16", "bf16"},
	{"f32", "f32", "f32"},
}

// Presets lists the names that Preset knows.
func Presets() []string {
	var out []string
	for _, p := range presets {
		out = append(out, p.name)
	}
	return out
}

// Preset returns the recipe for a format of the weights; embeddings is the
// format of the embedding and the head, empty for the preset's own. A GroupSize
// may be part of a format's name: "w2g128".
func Preset(weights, embeddings string) (Recipe, error) {
	kind, _, _ := strings.Cut(weights, "g")
	for _, p := range presets {
		if p.name != kind {
			continue
		}
		if embeddings == "" {
			embeddings = p.embeddings
		}
		for _, f := range []string{weights, embeddings} {
			if _, err := quant.Parse(f); err != nil {
				return Recipe{}, err
			}
		}
		return Recipe{Name: weights, Rules: []Rule{
			{Format: weights},
			{Roles: []Role{RoleEmbed, RoleHead}, Format: embeddings},
		}}, nil
	}
	return Recipe{}, fmt.Errorf("no preset for weights %q; have %s", weights, strings.Join(Presets(), ", "))
}

// Formats resolves the recipe for a graph: the format of every weight, by its
// index. A rule that matches no weight is an error, and so is a matrix that no
// rule matches.
func (r Recipe) Formats(g *Graph) ([]quant.Format, error) {
	out := make([]quant.Format, len(g.Weights))
	for n, rule := range r.Rules {
		f, err := rule.check()
		if err != nil {
			return nil, fmt.Errorf("recipe %q: rule %d (%s): %w", r.Name, n+1, rule, err)
		}
		found := false
		for i, w := range g.Weights {
			if w.Role.Matrix() && rule.matches(w) {
				out[i], found = f, true
			}
		}
		if !found {
			return nil, fmt.Errorf("recipe %q: rule %d (%s) matches no weight of the model", r.Name, n+1, rule)
		}
	}
	for i, w := range g.Weights {
		if !w.Role.Matrix() {
			out[i] = quant.F32
		} else if out[i] == nil {
			return nil, fmt.Errorf("recipe %q: no rule matches weight %q of role %s", r.Name, w.Name, w.Role)
		}
	}
	return out, nil
}

// check validates a rule and returns its format.
func (r Rule) check() (quant.Format, error) {
	for _, role := range r.Roles {
		if !slices.Contains(Roles, role) {
			return nil, fmt.Errorf("role %q is unknown; have %v", role, Roles)
		}
		if !role.Matrix() {
			return nil, fmt.Errorf("role %q: vectors are always stored as float32", role)
		}
	}
	if n := len(r.Blocks); n != 0 && (n != 2 || r.Blocks[0] < 0 || r.Blocks[1] < r.Blocks[0]) {
		return nil, fmt.Errorf("blocks %v, wanted the first and the last", r.Blocks)
	}
	name := r.Format
	if r.GroupSize != 0 {
		name = fmt.Sprintf("%sg%d", name, r.GroupSize)
	}
	return quant.Parse(name)
}

func (r Rule) matches(w Weight) bool {
	if r.Weight != "" && r.Weight != w.Name || len(r.Roles) > 0 && !slices.Contains(r.Roles, w.Role) {
		return false
	}
	if len(r.Blocks) == 0 {
		return true
	}
	var n int
	_, err := fmt.Sscanf(w.Name, "blk.%d.", &n)
	return err == nil && n >= r.Blocks[0] && n <= r.Blocks[1]
}

// String describes the conditions of the rule.
func (r Rule) String() string {
	var parts []string
	for _, role := range r.Roles {
		parts = append(parts, string(role))
	}
	if len(parts) == 0 {
		parts = append(parts, "all matrices")
	}
	if len(r.Blocks) == 2 {
		parts = append(parts, fmt.Sprintf("blocks %d to %d", r.Blocks[0], r.Blocks[1]))
	}
	if r.Weight != "" {
		parts = append(parts, r.Weight)
	}
	return strings.Join(parts, ", ") + " -> " + r.Format
}
