package pipeline_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"slmc/internal/pipeline"
	"slmc/kvshare"
	"slmc/qat"
)

// A section of a recipe keeps its defaults where the file says nothing.
func TestRecipeDefaults(t *testing.T) {
	read := func(text string) pipeline.Recipe {
		path := filepath.Join(t.TempDir(), "recipe.yaml")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		r, err := pipeline.ReadRecipe(path)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		return r
	}
	training := qat.DefaultConfig()
	training.Epochs, training.Blocks.Epochs = 0, 1
	r := read("qat: {blocks: {epochs: 1}, epochs: 0}")
	if d := cmp.Diff(&pipeline.Training{Config: training}, r.QAT); d != "" {
		t.Error(d)
	}
	if r.Calibrate != nil || r.Share != nil {
		t.Errorf("sections that the file does not have: %+v, %+v", r.Calibrate, r.Share)
	}
	calibration := pipeline.DefaultCalibration()
	calibration.Algorithm = "gptq"
	if d := cmp.Diff(&calibration, read("calibrate: {algorithm: gptq}").Calibrate); d != "" {
		t.Error(d)
	}
	match, heal := kvshare.DefaultMatch(), pipeline.DefaultHeal()
	match.Epochs, heal.LR = 1, 0.5
	want := &pipeline.Sharing{Plan: "5:3", Match: &match, Heal: &heal}
	if d := cmp.Diff(want, read("share: {plan: '5:3', match: {epochs: 1}, heal: {lr: 0.5}}").Share); d != "" {
		t.Error(d)
	}
}
