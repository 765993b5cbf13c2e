package slmrt

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"slmc/formats"
	"slmc/formats/bundle"
)

// SpeculationHint is the part "speculate" of a recipe: how its bundle is best
// run. It changes no token, so a runtime is free to ignore it.
type SpeculationHint struct {
	// Draft is the file name of a bundle that lies beside the one with the hint.
	Draft  string `json:"draft,omitempty" yaml:"draft,omitempty"`
	Lookup int    `json:"lookup,omitempty" yaml:"lookup,omitempty"`
	Tokens int    `json:"tokens,omitempty" yaml:"tokens,omitempty"`
}

// Check reports a setting outside its range.
func (h SpeculationHint) Check() error {
	switch {
	case h.Lookup < 0 || h.Lookup > maxLookup:
		return fmt.Errorf("speculate: a lookup of %d tokens, want 0 to %d", h.Lookup, maxLookup)
	case h.Tokens < 0 || h.Tokens > maxProposals:
		return fmt.Errorf("speculate: %d tokens, want 0 to %d", h.Tokens, maxProposals)
	case h.Draft == "." || h.Draft == ".." || strings.ContainsAny(h.Draft, "/\\:\x00"):
		return fmt.Errorf("speculate: the draft %q is no plain file name; it is looked for beside the bundle", h.Draft)
	}
	return nil
}

// ParseHint reads the hint of a recipe, JSON; the zero value without one.
func ParseHint(recipe []byte) (SpeculationHint, error) {
	var r struct {
		Speculate SpeculationHint `json:"speculate"`
	}
	if err := json.Unmarshal(recipe, &r); err != nil {
		return SpeculationHint{}, fmt.Errorf("speculate: %w", err)
	}
	return r.Speculate, r.Speculate.Check()
}

// hintOf is the hint in a bundle's recipe.
func hintOf(b *bundle.Bundle) (SpeculationHint, error) {
	h, err := ParseHint(b.Manifest().Provenance.Recipe)
	if err != nil {
		return h, &formats.Error{File: b.Name(), Offset: -1, Kind: formats.ErrCorrupt, Msg: "recipe", Err: err}
	}
	return h, nil
}

// Wish is what the user of a program says about speculation.
type Wish struct {
	Draft  string // path of a bundle; "" for none
	Lookup int    // as in Speculation
	Tokens int    // as in Speculation
	// Said is set when the user spoke of Draft or Lookup: then the bundle's
	// recipe is not asked.
	Said bool
}

// OpenSpeculator prepares what a user wishes, or else what the recipe of b
// says, for sessions of m with options o; nil when that is nothing. path is that
// of b, which may be nil. A draft that the recipe names and that is not there is
// done without, after a word to notice. The speculator's Close closes the draft.
func OpenSpeculator(m *Model, b *bundle.Bundle, path string, w Wish, o Options, notice func(text string)) (*Speculator, error) {
	if !w.Said && b != nil {
		h, err := hintOf(b)
		if err != nil {
			return nil, err
		}
		w.Lookup = h.Lookup
		if w.Tokens == 0 {
			w.Tokens = h.Tokens
		}
		if h.Draft != "" {
			w.Draft = filepath.Join(filepath.Dir(path), h.Draft)
			if _, err := os.Stat(w.Draft); errors.Is(err, os.ErrNotExist) {
				notice(fmt.Sprintf("the recipe names the draft %s, which does not lie beside %s: going without it", h.Draft, b.Name()))
				w.Draft = ""
			}
		}
	}
	if w.Draft == "" && w.Lookup == 0 {
		return nil, nil
	}
	s := Speculation{Lookup: w.Lookup, Tokens: w.Tokens}
	mem, err := m.Memory(o)
	if err != nil {
		return nil, err
	}
	left := o.Budget - mem.Total - s.rowBytes(m)
	if o.Budget > 0 && left < 0 {
		return nil, fmt.Errorf("%w: speculation takes %d bytes beside the session's %d, the budget is %d", ErrMemory, s.rowBytes(m), mem.Total, o.Budget)
	}
	if w.Draft == "" {
		return NewSpeculator(m, s)
	}
	if s.Draft, _, err = Load(w.Draft, LoadOptions{}); err != nil {
		return nil, fmt.Errorf("draft: %w", err)
	}
	s.Options = Options{Threads: o.Threads, Kernel: o.Kernel}
	if o.Budget > 0 {
		s.Options.Budget = max(1, left)
	}
	sp, err := NewSpeculator(m, s)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", filepath.Base(w.Draft), err), s.Draft.Close())
	}
	sp.owns = s.Draft
	return sp, nil
}
