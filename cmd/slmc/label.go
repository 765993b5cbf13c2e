package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"slmc/formats/bundle"
	"slmc/internal/pipeline"
	routertrain "slmc/router_train"
	slmrt "slmc/runtime"
)

// largeFlags say who the large model is.
func largeFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "large", Usage: "the large model: a bundle, a `SOURCE`, a .jsonl file of answers, or the URL of an OpenAI-compatible endpoint, whose key is read from " + keyVariable},
		&cli.StringFlag{Name: "large-model", Usage: "ask the endpoint for the model `NAME`"},
		&cli.StringFlag{Name: "large-key-file", Usage: "read the endpoint's key from `FILE`"},
		&cli.BoolFlag{Name: "large-plain-key", Usage: "show it the key even on an unencrypted connection to another machine"},
		&cli.IntFlag{Name: "large-parallel", Value: 4, Usage: "keep `N` requests to the endpoint in flight"},
		&cli.Float64Flag{Name: "large-rate", Usage: "send the endpoint at most `N` requests a second"},
		&cli.DurationFlag{Name: "large-timeout", Value: time.Minute, Usage: "give up an attempt after `T`"},
		&cli.IntFlag{Name: "large-attempts", Value: 6, Usage: "try `N` times, waiting longer each time"},
		&cli.Float64Flag{Name: "large-prompt-price", Usage: "a million prompt tokens cost `P`"},
		&cli.Float64Flag{Name: "large-answer-price", Usage: "a million answer tokens cost `P`"},
	}
}

// largeOf reads largeFlags.
func largeOf(c *cli.Context) (pipeline.Large, error) {
	e := routertrain.DefaultEndpoint()
	e.Model, e.Timeout, e.Attempts = c.String("large-model"), c.Duration("large-timeout"), c.Int("large-attempts")
	e.PerSecond, e.PromptPrice, e.AnswerPrice = c.Float64("large-rate"), c.Float64("large-prompt-price"), c.Float64("large-answer-price")
	key, err := secret(c.String("large-key-file"), keyVariable)
	if err != nil {
		return pipeline.Large{}, err
	}
	e.Key, e.PlainKey = string(key), c.Bool("large-plain-key")
	if e.Attempts < 1 || e.Timeout <= 0 || c.Int("large-parallel") < 1 {
		return pipeline.Large{}, usageError("--large-attempts, --large-timeout and --large-parallel must be positive")
	}
	return pipeline.Large{From: c.String("large"), Endpoint: e, Parallel: c.Int("large-parallel")}, nil
}

// fieldFlags name the fields of rows.
func fieldFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "prompt-field", Usage: "rows hold the query in `NAME` (default: query, else prompt)"},
		&cli.StringFlag{Name: "answer-field", Usage: "rows hold the right answer in `NAME` (default: call, else answer)"},
	}
}

func labelCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "label",
		Usage: "let a bundle and a large model answer queries, and score both: what a router is trained on",
		Description: "Each query is answered greedily by the bundle, as a phone would, and by the large model;\n" +
			"both are scored against the row's right answer. --samples draws more answers of each at a\n" +
			"temperature, for soft labels. A run that was stopped continues where it was. Where\n" +
			"nobody answers for --large, that is found out first.",
		Flags: join([]cli.Flag{
			outputFlag("LABELS.jsonl"),
			&cli.StringFlag{Name: "scorer", Value: "exact_match", Usage: "score by `RULE`: exact_match, multiple_choice, numeric, token_f1, rouge_l, judge (asks --judge)"},
			&cli.StringFlag{Name: "judge", Usage: "the judge: as --large"},
			&cli.IntFlag{Name: "samples", Usage: "also draw `N` answers of each model"},
			&cli.Float64Flag{Name: "temperature", Value: 1, Usage: "of samples"},
			&cli.BoolFlag{Name: "large-once", Usage: "draw no samples of the large model"},
			&cli.IntFlag{Name: "max-tokens", Value: routertrain.DefaultConfig().MaxTokens, Usage: "end answers after `N` tokens"},
			&cli.StringFlag{Name: "redact", Value: "none", Usage: "keep of texts: none (all), mask (addresses and numbers replaced), drop (nothing)"},
			seedFlag(), jsonFlag(),
		}, largeFlags(), fieldFlags(), computeFlags(), sourceFlags()),
		Action: runLabel,
	}, "slmc label assistant.slmb queries.jsonl --large cloud.slmb -o labels.jsonl", "BUNDLE", "QUERIES.jsonl")
}

func runLabel(c *cli.Context) (err error) {
	redaction, err := routertrain.ParseRedaction(c.String("redact"))
	if err != nil {
		return usageError(err.Error())
	}
	if c.Int("samples") < 0 || c.Int("max-tokens") < 1 || !(c.Float64("temperature") > 0) {
		return usageError("--samples must not be negative, --max-tokens and --temperature must be positive")
	}
	queries, err := pipeline.ReadQueries(c.Args().Get(1), pipeline.Fields{Prompt: c.String("prompt-field"), Answer: c.String("answer-field")})
	if err != nil {
		return err
	}
	o, err := computeOptions(c)
	if err != nil {
		return err
	}
	b, err := bundle.Open(c.Args().First(), bundle.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	m, err := slmrt.FromBundle(b)
	if err != nil {
		return err
	}
	h := pipeline.LabelHeader(b)
	h.Scorer, h.Samples, h.Temperature, h.MaxTokens = c.String("scorer"), c.Int("samples"), float32(c.Float64("temperature")), c.Int("max-tokens")
	h.Seed, h.Redaction = c.Uint64("seed"), redaction
	cfg := routertrain.LabelConfig{Header: h, LargeSamples: !c.Bool("large-once"), Threads: threadsOf(c), Session: o}
	score, end, err := scoring(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, end()) }()
	cfg.Score = score
	var usage func() *routertrain.Usage
	if c.String("large") != "" {
		large, err := openLarge(c, h.MaxTokens, h.Temperature, h.Seed)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, large.Close()) }()
		cfg.Large, cfg.Parallel, usage = large, large.Parallel, large.Usage
	}
	set, finish := progress(c, "label", int64(len(queries)), "rows")
	cfg.Progress = func(done int) { set(int64(done)) }
	err = routertrain.WriteLabels(c.Context, m, queries, c.String("output"), cfg)
	finish()
	if err != nil {
		return err
	}
	return printLabels(c, usage)
}

// openLarge opens --large, after trying whether anybody answers there.
func openLarge(c *cli.Context, maxTokens int, temperature float32, seed uint64) (*pipeline.OpenedLarge, error) {
	l, err := largeOf(c)
	if err != nil {
		return nil, err
	}
	if err := l.Probe(c.Context, env(c)); err != nil {
		return nil, err
	}
	return pipeline.OpenLarge(c.Context, l, env(c), threadsOf(c), maxTokens, temperature, seed)
}

// scoring returns the scoring function that --scorer names, and what closes it.
func scoring(c *cli.Context) (score func(ctx context.Context, query, answer, reference string) (float64, error), end func() error, err error) {
	if c.String("scorer") != "judge" {
		s, err := routertrain.ScorerByName(c.String("scorer"))
		if err != nil {
			return nil, nil, usageError(err.Error())
		}
		return routertrain.ByRule(s), func() error { return nil }, nil
	}
	if c.String("judge") == "" {
		return nil, nil, usageError("--scorer judge wants --judge")
	}
	l, err := largeOf(c)
	if err != nil {
		return nil, nil, err
	}
	l.From = c.String("judge")
	j, err := pipeline.OpenLarge(c.Context, l, env(c), threadsOf(c), 32, 1, c.Uint64("seed"))
	if err != nil {
		return nil, nil, fmt.Errorf("judge: %w", err)
	}
	return routertrain.Judge(j), j.Close, nil
}

// printLabels sums up a label file.
func printLabels(c *cli.Context, usage func() *routertrain.Usage) error {
	l, err := routertrain.ReadLabels(c.String("output"))
	if err != nil {
		return err
	}
	out := struct {
		Labels int                `json:"labels"`
		Small  float64            `json:"small"`
		Large  *float64           `json:"large,omitempty"`
		Gain   float64            `json:"gain"` // mean of max(0, large-small)
		Usage  *routertrain.Usage `json:"usage,omitempty"`
	}{Labels: len(l.Rows)}
	large := 0.0
	for i := range l.Rows {
		r := &l.Rows[i]
		out.Small += r.Small.Score
		out.Gain += r.Gain()
		if r.Large != nil {
			large += r.Large.Score
		}
	}
	for _, x := range []*float64{&out.Small, &out.Gain, &large} {
		*x /= float64(max(1, len(l.Rows)))
	}
	if l.Large() {
		out.Large = &large
	}
	if usage != nil {
		out.Usage = usage()
	}
	if c.Bool("json") {
		return printJSON(c, out)
	}
	if err := printf(c, "%d labels  small %.2f %%", out.Labels, 100*out.Small); err != nil {
		return err
	}
	if out.Large != nil {
		if err := printf(c, "  large %.2f %%  only large right %.2f %%", 100*large, 100*out.Gain); err != nil {
			return err
		}
	}
	if u := out.Usage; u != nil {
		if err := printf(c, "\n%d requests, %d retries, %d prompt and %d answer tokens, cost %.4f", u.Requests, u.Retries, u.PromptTokens, u.AnswerTokens, u.Cost); err != nil {
			return err
		}
	}
	return printf(c, "\n")
}
