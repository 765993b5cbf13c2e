package pipeline_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"slmc/formats"
	"slmc/internal/pipeline"
)

// withTokens copies assistant-tiny, its tokenizer changed by edit.
func withTokens(t *testing.T, edit func(tok map[string]any)) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} {
		data, err := os.ReadFile(testdata("assistant-tiny", name))
		if err != nil {
			t.Fatal(err)
		}
		if name == "tokenizer.json" {
			var tok map[string]any
			if err := json.Unmarshal(data, &tok); err != nil {
				t.Fatal(err)
			}
			edit(tok)
			if data, err = json.Marshal(tok); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A tokenizer may have added tokens beyond the embedding, as Gemma 3's has, but
// no others, and none that the chat template writes.
func TestTokensWithoutRows(t *testing.T) {
	added := func(content string) func(map[string]any) {
		return func(tok map[string]any) {
			tok["added_tokens"] = append(tok["added_tokens"].([]any), map[string]any{"id": 2048, "content": content, "special": true,
				"single_word": false, "lstrip": false, "rstrip": false, "normalized": false})
		}
	}
	o := open(t, withTokens(t, added("<image_soft_token>")))
	tok, err := o.Tokenizer()
	if err != nil || tok.VocabSize() != 2049 {
		t.Fatalf("%v", err)
	}
	path, r := exported(t, o, pipeline.ExportOptions{Type: "f32"})
	if !strings.Contains(strings.Join(r.Notes, "\n"), "left out: <image_soft_token>") {
		t.Errorf("notes: %v", r.Notes)
	}
	if tok, err = open(t, path).Tokenizer(); err != nil || tok.VocabSize() != 2048 {
		t.Errorf("the export's tokenizer: %v", err)
	}
	for want, edit := range map[string]func(map[string]any){
		`template writes "<|user|"`: added("<|user|"),
		"2049 tokens": func(tok map[string]any) {
			tok["model"].(map[string]any)["vocab"].(map[string]any)["zzzz"] = 2048
		},
	} {
		_, err := pipeline.Open(t.Context(), withTokens(t, edit), pipeline.Env{})
		if !errors.Is(err, formats.ErrCorrupt) || !strings.Contains(err.Error(), want) {
			t.Errorf("want %s, got %v", want, err)
		}
	}
}
