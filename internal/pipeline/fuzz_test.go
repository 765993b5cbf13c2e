package pipeline

import (
	"errors"
	"testing"
	"unicode/utf8"
)

// Files of examples: rows that can be used, or an error of the user's.
func FuzzRows(f *testing.F) {
	for _, seed := range []string{
		"plain text\n", "", "\ufeff{\"text\": \"a\"}", `{"query": "a", "call": "b()", "source": 3}`, "{\"prompt\": \"a\", \"answer\": null}\n\n{",
		`{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}`, `{"messages": [{"role": 1}]}`,
		`{"tokens": [1, 2, 3], "text": "a"}`, `{"tokens": [-1, 1e99]}`, `[{"text": "a"}]`, "\x90\x06\x00",
	} {
		f.Add([]byte(seed), "", "")
		f.Add([]byte(seed), "query", "")
		f.Add([]byte(seed), "a", "b")
	}
	f.Fuzz(func(t *testing.T, data []byte, prompt, answer string) {
		rows, err := parseRows("rows.jsonl", data, Fields{prompt, answer})
		if err != nil {
			if !errors.Is(err, ErrUsage) {
				t.Errorf("%v: not the user's error", err)
			}
			return
		}
		for _, r := range rows {
			if r.Prompt == "" && r.Messages == nil && r.Tokens == nil && r.Text == "" {
				t.Errorf("line %d says nothing", r.Line)
			}
			if !utf8.ValidString(r.Text) {
				t.Errorf("line %d is no text", r.Line)
			}
		}
	})
}

// Recipes: one that its own YAML gives again, or an error of the user's.
func FuzzRecipe(f *testing.F) {
	for _, seed := range []string{
		"", "version: 1\nkv: kv8\n", "qat: {epochs: 4, blocks: {epochs: 1}}", "calibrate: {algorithm: gptq}", "share: {plan: '5:3', map: 6-9:5, heal: {lr: 0.1}}",
		"formats: {name: x, rules: [{format: w2g64}, {roles: [embed, head], format: w4}]}", "golden: {prompts: 1000000}", "qat: ~", "a: &x [*x, *x]", "seed: -1",
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := parseRecipe("recipe.yaml", data); err != nil && !errors.Is(err, ErrUsage) {
			t.Errorf("%v: not the user's error", err)
		}
	})
}
