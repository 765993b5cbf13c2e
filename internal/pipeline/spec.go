package pipeline

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"

	"slmc/convert"
	"slmc/formats/bundle"
	"slmc/internal/exec"
	"slmc/model"
	"slmc/quant"
	slmrt "slmc/runtime"
)

// memoryThreads is the number of threads for which a bundle's memory formula
// counts scratch space: more than a phone spends on one model.
const memoryThreads = 8

// spec is the bundle but for weights and golden vectors.
func (b *build) spec() (bundle.Spec, error) {
	g, text := b.model.Graph, b.source.text
	recipe, err := json.Marshal(b.recipe)
	if err != nil {
		return bundle.Spec{}, fmt.Errorf("recipe: %w", err)
	}
	kv := exec.KVFormat(b.recipe.KV)
	m := bundle.Manifest{
		ToolVersion: ToolVersion, Graph: *g, KVFormat: b.recipe.KV, Context: b.recipe.Context,
		Kernels:   slmrt.RequiredKernels(matrixFormats(g, b.formats), kv),
		Memory:    memoryFormula(g, b.formats, kv, b.recipe.Context),
		Tokenizer: bundle.Tokenizer{BOS: int(text.BOS), EOS: ints(text.EOS), Stop: ints(without(text.Stops, text.EOS))},
		Provenance: bundle.Provenance{
			Recipe: recipe,
			Seeds:  []bundle.Seed{{Stage: "golden", Seed: b.recipe.Seed}},
		},
	}
	spec := bundle.Spec{Formats: b.formats, MinTool: ToolVersion}
	if text.Tokenizer != nil {
		m.Tokenizer.Kind = slmrt.TokenizerKind
		spec.Sections = append(spec.Sections, bundle.Data{Name: bundle.SectionTokenizer, Required: true, Bytes: text.Tokenizer.Marshal()})
	}
	if text.Template != nil {
		spec.Sections = append(spec.Sections, bundle.Data{Name: bundle.SectionTemplate, Required: true, Bytes: []byte(text.Template.Source())})
	}
	if m.Provenance.Sources, err = sources(b.digests); err != nil {
		return bundle.Spec{}, err
	}
	if m.Provenance.Reports, err = b.stageReports(); err != nil {
		return bundle.Spec{}, err
	}
	spec.Manifest = m
	return spec, nil
}

// stageReports are the deterministic facts of the stages.
func (b *build) stageReports() ([]bundle.StageReport, error) {
	c := b.source.Checkpoint
	report, err := json.Marshal(struct {
		Form   string              `json:"form"`
		Arch   string              `json:"architecture"`
		Types  []convert.TypeCount `json:"types"`
		Scales string              `json:"scales"`
	}{c.Form, c.Model.Arch, c.Types, "rtn"})
	if err != nil {
		return nil, fmt.Errorf("report: %w", err)
	}
	out := []bundle.StageReport{{Stage: "pack", Version: fmt.Sprint(packVersion), Report: report}}
	for _, r := range b.shareReports {
		out = append(out, bundle.StageReport{Stage: r.stage, Version: ToolVersion, Report: r.json})
	}
	if len(b.stageReport) > 0 {
		out = append(out, bundle.StageReport{Stage: b.chosenBy, Version: ToolVersion, Report: bytes.Clone(b.stageReport)})
	}
	return out, nil
}

// memoryFormula is the line through the memory that sessions take, from no
// context and batch on: exact in the cache, with the scratch of memoryThreads.
func memoryFormula(g *model.Graph, all []quant.Format, kv exec.KVFormat, context int) bundle.Memory {
	format := func(w int) quant.Format { return all[w] }
	work := func(T, capacity int) int64 {
		return int64(exec.WorkBytes(g, format, T, slmrt.LogitRows(T, g.Vocab), capacity, memoryThreads))
	}
	perToken := (work(slmrt.DefaultBatch, context) - work(1, context)) / (slmrt.DefaultBatch - 1)
	scratch := work(1, 1) - work(1, 0) // of a position
	return bundle.Memory{
		Fixed:       work(1, 0) - perToken,
		PerPosition: int64(exec.KVBytesPerToken(g, kv)) + scratch,
		PerToken:    perToken,
	}
}

func matrixFormats(g *model.Graph, all []quant.Format) []quant.Format {
	var out []quant.Format
	for i, w := range g.Weights {
		if w.Role.Matrix() {
			out = append(out, all[i])
		}
	}
	return out
}

func sources(files []convert.FileDigest) ([]bundle.SourceFile, error) {
	var out []bundle.SourceFile
	for _, f := range files {
		s := bundle.SourceFile{Name: f.Name, Bytes: f.Bytes}
		if err := s.SHA256.UnmarshalText([]byte(f.SHA256)); err != nil {
			return nil, fmt.Errorf("digest of %s: %w", f.Name, err)
		}
		out = append(out, s)
	}
	return out, nil
}

func ints(ids []int32) []int {
	out := []int{}
	for _, id := range ids {
		out = append(out, int(id))
	}
	return out
}

// without returns the ids that are not in drop.
func without(ids, drop []int32) []int32 {
	return slices.DeleteFunc(slices.Clone(ids), func(id int32) bool { return slices.Contains(drop, id) })
}
