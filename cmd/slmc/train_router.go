package main

import (
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/urfave/cli/v2"

	"slmc/formats/bundle"
	"slmc/internal/deferral"
	"slmc/internal/pipeline"
	routertrain "slmc/router_train"
)

// certifyFlags say what table to certify.
func certifyFlags() []cli.Flag {
	d := routertrain.DefaultCertify()
	return []cli.Flag{
		&cli.Float64Flag{Name: "bound", Value: d.Bound, Usage: "the default row loses at most `B`, a share of all queries"},
		&cli.Float64Flag{Name: "delta", Value: d.Delta, Usage: "a bound may fail with probability `D`"},
		&cli.StringFlag{Name: "decide", Value: string(d.Checkpoint), Usage: "the default row decides `WHEN`: pre (before the first token) or post (when the answer stands)"},
		&cli.StringFlag{Name: "limit", DefaultText: "by the scores of the training part", Usage: "bound the loss by `RULE`: " + string(routertrain.LimitExact) + " (for scores of 0 and 1) or " + string(routertrain.LimitGraded) + " (for graded ones)"},
		&cli.Float64Flag{Name: "known", Value: d.Known, Usage: "queries stranger than this share of the known ones are deferred; 1: none are"},
	}
}

// certifyOf reads certifyFlags.
func certifyOf(c *cli.Context, d routertrain.Certify) (routertrain.Certify, error) {
	if c.IsSet("bound") {
		d.Bound = c.Float64("bound")
	}
	if c.IsSet("delta") {
		d.Delta = c.Float64("delta")
	}
	if c.IsSet("decide") {
		d.Checkpoint = deferral.Checkpoint(c.String("decide"))
	}
	if c.IsSet("limit") {
		d.Limit = routertrain.Limit(c.String("limit"))
	}
	if c.IsSet("known") {
		d.Known = c.Float64("known")
	}
	if err := d.Check(); err != nil {
		return d, usageError(err.Error())
	}
	return d, nil
}

func trainRouterCommand() *cli.Command {
	d := routertrain.DefaultConfig()
	return command(&cli.Command{
		Name:  "train-router",
		Usage: "train and certify a deferral router on a label file, and write the bundle with it",
		Description: "Heads read the states and logits that the bundle computes, before, during and after an\n" +
			"answer. Queries are split by a seeded hash into parts to train, to certify and to test on.\n" +
			"Exits with code 5 when no row keeps --bound, naming the nearest that one could.",
		Flags: join([]cli.Flag{
			outputFlag("FILE.slmb"),
			&cli.StringFlag{Name: "examples", Usage: "teach the second opinion from `FILE`, rows of queries with right answers that are not among the labels"},
			&cli.StringFlag{Name: "queries", Usage: "take the texts that a redacted label file lacks from `FILE`"},
			&cli.StringFlag{Name: "targets", Value: d.Targets, Usage: "teach the heads `WHAT`: risk, or Hybrid LLM's det, prob, trans"},
			&cli.Float64Flag{Name: "train", Value: d.Split.Train, Usage: "`SHARE` of queries to train on"},
			&cli.Float64Flag{Name: "calibrate", Value: d.Split.Cal, Usage: "`SHARE` of queries to certify on; the rest is for testing"},
			&cli.StringFlag{Name: "report", Usage: "write a self-contained HTML report to `FILE`"},
			&cli.StringFlag{Name: "split", Usage: "write the part of each query to `FILE`, JSON"},
			seedFlag(), jsonFlag(),
		}, certifyFlags(), fieldFlags(), computeFlags()),
		Action: runTrainRouter,
	}, "slmc train-router assistant.slmb labels.jsonl --examples train.jsonl -o routed.slmb --report router.html", "BUNDLE", "LABELS.jsonl")
}

// threadsOf is --threads with its default.
func threadsOf(c *cli.Context) int {
	if n := c.Int("threads"); n > 0 {
		return n
	}
	return runtime.GOMAXPROCS(0)
}

func trainConfig(c *cli.Context) (routertrain.Config, error) {
	d := routertrain.DefaultConfig()
	d.Seed, d.Split.Seed, d.Targets = c.Uint64("seed"), c.Uint64("seed"), c.String("targets")
	d.Split.Train, d.Split.Cal = c.Float64("train"), c.Float64("calibrate")
	var err error
	if d.Certify, err = certifyOf(c, d.Certify); err != nil {
		return d, err
	}
	if !slices.Contains(routertrain.Targets(), d.Targets) {
		return d, usageError(fmt.Sprintf("targets %q are unknown; have %v", d.Targets, routertrain.Targets()))
	}
	if err := d.Check(); err != nil {
		return d, usageError(err.Error())
	}
	return d, nil
}

func runTrainRouter(c *cli.Context) (err error) {
	cfg, err := trainConfig(c)
	if err != nil {
		return err
	}
	if _, err := computeOptions(c); err != nil {
		return err
	}
	in := pipeline.RouterInput{Config: cfg, Threads: threadsOf(c), Kernel: c.String("kernel")}
	if in.Labels, err = routertrain.ReadLabels(c.Args().Get(1)); err != nil {
		return err
	}
	fields := pipeline.Fields{Prompt: c.String("prompt-field"), Answer: c.String("answer-field")}
	if file := c.String("queries"); file != "" {
		if in.Queries, err = pipeline.ReadQueries(file, fields); err != nil {
			return err
		}
	}
	if file := c.String("examples"); file != "" {
		if in.Pairs, err = pipeline.ReadPairs(file, fields); err != nil {
			return err
		}
	}
	if in.Bundle, err = bundle.Open(c.Args().First(), bundle.Options{}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Bundle.Close()) }()
	set, finish := progress(c, "features", int64(len(in.Labels.Rows)), "rows")
	in.Progress = func(done int) { set(int64(done)) }
	t, err := pipeline.TrainRouter(c.Context, in, logger(c))
	finish()
	if err != nil {
		return err
	}
	if err := writeRouterFiles(c, t); err != nil {
		return err
	}
	if err := pipeline.CheckFeasible(t.Router); err != nil {
		return err
	}
	if _, err := pipeline.InstallRouter(in.Bundle, c.String("output"), t.Router, t.Report); err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c, t.Report)
	}
	return printRouter(c, &t.Report)
}

// writeRouterFiles writes what lies beside the bundle.
func writeRouterFiles(c *cli.Context, t *routertrain.Trained) error {
	if file := c.String("split"); file != "" {
		text, err := t.SplitJSON()
		if err != nil {
			return err
		}
		if err := pipeline.WriteFile(file, text, 0o644); err != nil {
			return err
		}
	}
	if file := c.String("report"); file != "" {
		page, err := routertrain.HTML(t)
		if err != nil {
			return err
		}
		return pipeline.WriteFile(file, page, 0o644)
	}
	return nil
}

// printRouter shows a report to people.
func printRouter(c *cli.Context, r *routertrain.Report) error {
	w := newTable(c)
	fmt.Fprintf(w, "checkpoint\tqueries\tentropy\tlogistic\tmlp\tkNN\tshipped\n")
	for _, x := range r.CrossValidated {
		fmt.Fprintf(w, "%s\t%d\t%s\t%s\t%s\t%s\t%s\n", x.Checkpoint, x.Queries,
			x.AUROC[routertrain.KindEntropy], x.AUROC[routertrain.KindLogistic], x.AUROC[routertrain.KindMLP], x.AUROC[routertrain.KindKNN], x.Shipped)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := printf(c, "AUROC of a wrong answer, cross-validated on the training part; %d parameters\n\n", r.Parameters); err != nil {
		return err
	}
	return printCertified(c, r.Certified)
}

func printCertified(c *cli.Context, rows []routertrain.CertifiedRow) error {
	w := newTable(c)
	fmt.Fprintf(w, "decides\tbound\tdeferred\tcalls saved\tquality\tlarge\tlimit\tn\n")
	for _, x := range rows {
		if x.Row == nil {
			fmt.Fprintf(w, "%s\t%g\tinfeasible\t\t\t\t\t\n", x.Checkpoint, x.Bound)
			continue
		}
		fmt.Fprintf(w, "%s\t%g\t%.1f %%\t%.1f %%\t%.2f %%\t%.2f %%\t%.4f\t%d\n", x.Checkpoint, x.Bound, 100*x.Row.DeferralRate, 100-100*x.Row.DeferralRate,
			100*x.Row.Quality, 100*x.Row.LargeQuality, x.Row.Bound, x.Row.N)
	}
	return w.Flush()
}
