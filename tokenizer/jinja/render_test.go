package jinja

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// golden is testdata/golden.json, which testdata/gen.py writes.
type golden struct {
	Contexts  map[string]goldenContext `json:"contexts"`
	Templates map[string]string        `json:"templates"`
	Cases     []goldenCase             `json:"cases"`
}

// goldenCase is one rendering by Jinja2.
type goldenCase struct {
	Template string  `json:"template"` // a name in Templates, or the source itself
	Context  string  `json:"context"`
	Output   *string `json:"output"` // nil: Jinja2 raised Error
	Error    string  `json:"error"`
}

type goldenContext struct {
	Messages            []Value           `json:"messages"`
	Tools               []Value           `json:"tools"`
	Documents           []Value           `json:"documents"`
	AddGenerationPrompt bool              `json:"add_generation_prompt"`
	Special             map[string]string `json:"special"`
	Vars                map[string]Value  `json:"vars"`
}

// goldenNow is the time that gen.py gives strftime_now.
var goldenNow = time.Date(2024, time.July, 6, 9, 3, 5, 0, time.UTC)

func (g goldenContext) context() Context {
	return Context{Messages: g.Messages, Tools: g.Tools, Documents: g.Documents, AddGenerationPrompt: g.AddGenerationPrompt,
		Special: g.Special, Vars: g.Vars, Now: goldenNow}
}

// differs renders a case and says how it differs from Jinja2's result, "" if it does not.
func (c goldenCase) differs(src string, ctx Context) string {
	t, err := Parse(src)
	if err != nil {
		if c.Output != nil {
			return "refused: " + err.Error()
		}
		return ""
	}
	segs, err := t.Render(ctx, Limits{})
	got := Join(segs)
	switch {
	case err != nil && c.Output != nil:
		return "error: " + err.Error()
	case err == nil && c.Output == nil:
		return "rendered, but Jinja2 raised " + c.Error + ": " + got
	case err == nil && got != *c.Output:
		return "got  " + got + "\nwant " + *c.Output
	}
	return ""
}

func readGolden(t testing.TB) golden {
	t.Helper()
	data, err := os.ReadFile("testdata/golden.json")
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(data, &g); err != nil {
		t.Fatalf("testdata/golden.json: %v", err)
	}
	return g
}

func (g golden) source(c goldenCase) string {
	if src, ok := g.Templates[c.Template]; ok {
		return src
	}
	return c.Template
}

func TestGolden(t *testing.T) {
	g := readGolden(t)
	if len(g.Cases) < 600 {
		t.Fatalf("testdata/golden.json holds %d cases, want 600 or more", len(g.Cases))
	}
	for _, c := range g.Cases {
		if diff := c.differs(g.source(c), g.Contexts[c.Context].context()); diff != "" {
			t.Errorf("%s with %s: %s", c.Template, c.Context, diff)
		}
	}
}

// TestGoldenTemplates holds golden.json to the files it was made from.
func TestGoldenTemplates(t *testing.T) {
	g := readGolden(t)
	files, err := filepath.Glob("testdata/templates/*.jinja")
	if err != nil || len(files) < 5 {
		t.Fatalf("testdata/templates: %d files, %v", len(files), err)
	}
	for _, path := range files {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if g.Templates[filepath.Base(path)] != string(data) {
			t.Errorf("%s: golden.json was made from another text; run testdata/gen.py", path)
		}
	}
}
