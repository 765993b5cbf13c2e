package pipeline

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"

	"slmc/convert"
	"slmc/formats"
	"slmc/formats/bundle"
	"slmc/internal/exec"
	"slmc/internal/kernel"
	slmrt "slmc/runtime"
	"slmc/tokenizer/jinja"
)

// golden makes the golden vectors with the runtime, from the packed weights,
// and returns the cached file of the section's bytes.
func (b *build) golden(weights []byte) (string, error) {
	key, err := Key("golden", goldenVersion, struct {
		Sources []convert.FileDigest
		Recipe  Recipe
		Tool    string
	}{b.digests, b.recipe, ToolVersion})
	if err != nil {
		return "", err
	}
	path, err := b.stage("golden", key, func(path string) error {
		g, err := b.makeGolden(b.student(weights))
		if err != nil {
			return err
		}
		data, err := g.Encode(b.source.Graph().Vocab)
		if err != nil {
			return err
		}
		return os.WriteFile(path, data, 0o600)
	})
	if err != nil {
		return "", err
	}
	return path, b.summarise(path)
}

// student is the model as the bundle will hold it.
func (b *build) student(weights []byte) *slmrt.Model {
	g, text := b.model.Graph, b.source.text
	p := &exec.Params{Mats: make([]exec.Matrix, len(g.Weights)), Vecs: make([][]float32, len(g.Weights))}
	for _, s := range b.plan.Stored {
		w, data := g.Weights[s.Weight], weights[s.Offset:s.Offset+s.Bytes]
		if w.Role.Matrix() {
			p.Mats[s.Weight] = exec.Matrix{Format: s.Format, Rows: w.Shape[0], Cols: w.Shape[1], Panels: data}
			continue
		}
		v := make([]float32, w.Shape[0])
		for i := range v {
			v[i] = math.Float32frombits(binary.LittleEndian.Uint32(data[4*i:]))
		}
		p.Vecs[s.Weight] = v
	}
	for _, r := range g.Ropes {
		cos, sin := r.Tables(b.recipe.Context)
		p.Cos, p.Sin = append(p.Cos, cos), append(p.Sin, sin)
	}
	return &slmrt.Model{
		Graph: g, Params: p, Context: b.recipe.Context, KV: exec.KVFormat(b.recipe.KV),
		Tokenizer: text.Tokenizer, Template: text.Template, Special: text.Special,
		BOS: text.BOS, Stops: text.Stops,
	}
}

// makeGolden samples or reads the prompts, records what the student answers
// and what the teacher thinks.
func (b *build) makeGolden(m *slmrt.Model) (_ *bundle.Golden, err error) {
	s, err := m.NewSession(slmrt.Options{Threads: b.cfg.Env.Threads, Kernel: b.cfg.Env.Kernel})
	if err != nil {
		return nil, err
	}
	defer s.Close()
	out := &bundle.Golden{Origin: "sampled", Seed: b.recipe.Seed}
	prompts, err := b.samplePrompts(m, s)
	if b.cfg.GoldenFile != "" {
		out.Origin = "given"
		prompts, err = readPrompts(b.cfg.GoldenFile, m, b.recipe)
	}
	if err != nil {
		return nil, err
	}
	for i, ids := range prompts {
		p, err := s.RecordGolden(b.ctx, ids, b.recipe.Golden.Greedy)
		if err != nil {
			return nil, fmt.Errorf("golden prompt %d: %w", i, err)
		}
		out.Prompts = append(out.Prompts, p)
		b.cfg.Progress("golden", int64(i+1), int64(2*len(prompts)))
	}
	return out, b.teach(out)
}

// samplePrompts lets the model write its own prompts, from BOS, or from a
// random token where there is none, at temperature 1.
func (b *build) samplePrompts(m *slmrt.Model, s *slmrt.Session) ([][]int32, error) {
	if b.cfg.GoldenFile != "" {
		return nil, nil
	}
	var out [][]int32
	r := rand.New(rand.NewPCG(b.recipe.Seed, 1))
	for i := range b.recipe.Golden.Prompts {
		ids := []int32{m.BOS}
		if m.BOS < 0 {
			ids[0] = int32(r.IntN(m.Graph.Vocab))
		}
		s.Truncate(0)
		sampler := slmrt.NewSampler(slmrt.Sampling{Temperature: 1, Seed: b.recipe.Seed + uint64(i)})
		for len(ids) < b.recipe.Golden.PromptTokens {
			z, err := s.Feed(b.ctx, ids[len(ids)-1:])
			if err != nil {
				return nil, fmt.Errorf("sample golden prompt %d: %w", i, err)
			}
			ids = append(ids, sampler.Next(z, nil))
		}
		out = append(out, ids)
	}
	return out, nil
}

// readPrompts reads one prompt a line: JSONL with "text" (raw) or "query" (put
// through the chat template), or plain text.
func readPrompts(path string, m *slmrt.Model, r Recipe) ([][]int32, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out [][]int32
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, 1<<20)
	for n := 1; lines.Scan(); n++ {
		line := bytes.TrimSpace(lines.Bytes())
		if len(line) == 0 {
			continue
		}
		ids, err := promptIDs(m, line)
		if err != nil {
			return nil, fmt.Errorf("%s: line %d: %w", path, n, err)
		}
		if len(ids) > r.Context-r.Golden.Greedy {
			return nil, fmt.Errorf("%w: %s: line %d has %d tokens, with %d greedy ones they do not fit %d positions", ErrUsage, path, n, len(ids), r.Golden.Greedy, r.Context)
		}
		out = append(out, ids)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: %s holds no prompt", ErrUsage, path)
	}
	return out, nil
}

func promptIDs(m *slmrt.Model, line []byte) ([]int32, error) {
	if line[0] != '{' {
		return m.EncodeText(string(line))
	}
	var row struct {
		Text  *string `json:"text"`
		Query *string `json:"query"`
	}
	if err := json.Unmarshal(line, &row); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUsage, err)
	}
	switch {
	case row.Text != nil:
		return m.EncodeText(*row.Text)
	case row.Query != nil:
		return m.EncodeChat(slmrt.Chat{Messages: []jinja.Value{slmrt.Say("user", *row.Query)}})
	}
	return nil, fmt.Errorf(`%w: neither "text" nor "query"`, ErrUsage)
}

// teach adds the float teacher's view of every prompt.
func (b *build) teach(g *bundle.Golden) (err error) {
	m, err := b.source.Runtime(b.recipe.Context)
	if err != nil {
		return fmt.Errorf("teacher: %w", err)
	}
	s, err := m.NewSession(slmrt.Options{Threads: b.cfg.Env.Threads, Kernel: b.cfg.Env.Kernel})
	if err != nil {
		return fmt.Errorf("teacher: %w", err)
	}
	defer s.Close()
	for i := range g.Prompts {
		if g.Prompts[i].Teacher, err = teacherSteps(b.ctx, s, b.kernel, &g.Prompts[i]); err != nil {
			return fmt.Errorf("teacher: golden prompt %d: %w", i, err)
		}
		b.cfg.Progress("golden", int64(len(g.Prompts)+i+1), int64(2*len(g.Prompts)))
	}
	return nil
}

func teacherSteps(ctx context.Context, s *slmrt.Session, f *kernel.Funcs, p *bundle.GoldenPrompt) ([]bundle.TeacherStep, error) {
	if len(p.Greedy) == 0 {
		return nil, nil
	}
	var ids []int32
	for _, id := range p.IDs {
		ids = append(ids, int32(id))
	}
	follow := append(slices.Clone(p.IDs[1:]), p.Greedy[0])
	var out []bundle.TeacherStep
	var scratch []float32
	s.Truncate(0)
	err := s.Logits(ctx, ids, func(i int, z []float32) error {
		scratch = slices.Grow(scratch[:0], len(z))[:len(z)]
		lse := f.LogSumExp(z, scratch)
		step := bundle.TeacherStep{NLL: short(max(0, lse-z[follow[i]]))}
		for _, id := range largest(z, 5) {
			step.Top = append(step.Top, bundle.TokenLogProb{ID: id, LogProb: short(min(0, z[id]-lse))})
		}
		out = append(out, step)
		return nil
	})
	return out, err
}

// short rounds nats to four decimals: the teacher's view is for people, and the
// section is text.
func short(x float32) float32 { return float32(math.RoundToEven(float64(x)*1e4) / 1e4) }

// largest returns the indices of the n largest elements, the first of equals
// before the others.
func largest(z []float32, n int) []int {
	ids := make([]int, len(z))
	for i := range ids {
		ids[i] = i
	}
	slices.SortFunc(ids, func(a, b int) int { return cmp.Or(cmp.Compare(z[b], z[a]), cmp.Compare(a, b)) })
	return ids[:min(n, len(ids))]
}

// summarise notes the teacher's loss on the golden prompts for the report.
func (b *build) summarise(path string) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	g, err := bundle.DecodeGolden(data, b.source.Graph().Vocab, false)
	if err != nil {
		return &formats.Error{File: path, Offset: -1, Kind: formats.ErrCorrupt, Msg: "cached golden vectors", Err: err}
	}
	sum, n := 0.0, 0
	for _, p := range g.Prompts {
		for _, t := range p.Teacher {
			sum, n = sum+float64(t.NLL), n+1
		}
	}
	if n > 0 {
		mean := sum / float64(n)
		b.report.TeacherNLL = &mean
	}
	return nil
}
