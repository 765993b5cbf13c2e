package main

import (
	"errors"
	"fmt"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"slmc/formats/bundle"
	"slmc/internal/pipeline"
	routertrain "slmc/router_train"
)

func newTable(c *cli.Context) *tabwriter.Writer {
	return tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
}

func certifyCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "certify",
		Usage: "certify a bundle's router anew: for another bound, or on fresh queries",
		Description: "Without retraining: the thresholds to choose from stay those that training fixed. Labels that the\n" +
			"router was trained on are recognized by their digest, and only the part that was set aside for\n" +
			"certifying is used. Of any other label file, queries that would have fallen into the part to train\n" +
			"are left out, since it may hold the same ones; --fresh takes all. --resplits says how often the\n" +
			"bound fails when the queries are divided anew.",
		Flags: join([]cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write the bundle with the new table to `FILE.slmb`; without it, only show the table"},
			&cli.StringFlag{Name: "queries", Usage: "take the texts that a redacted label file lacks from `FILE`"},
			&cli.BoolFlag{Name: "fresh", Usage: "take all queries: the router was trained on none of them"},
			&cli.IntFlag{Name: "resplits", Usage: "divide the queries `N` times into a part to certify on and a part to test on"},
			seedFlag(), jsonFlag(),
		}, certifyFlags(), fieldFlags(), computeFlags()),
		Action: runCertify,
	}, "slmc certify routed.slmb labels.jsonl --bound 0.01 --resplits 1000", "BUNDLE", "LABELS.jsonl")
}

func runCertify(c *cli.Context) (err error) {
	if _, err := computeOptions(c); err != nil {
		return err
	}
	in := pipeline.RouterInput{Threads: threadsOf(c), Kernel: c.String("kernel")}
	if in.Labels, err = routertrain.ReadLabels(c.Args().Get(1)); err != nil {
		return err
	}
	if file := c.String("queries"); file != "" {
		if in.Queries, err = pipeline.ReadQueries(file, pipeline.Fields{Prompt: c.String("prompt-field"), Answer: c.String("answer-field")}); err != nil {
			return err
		}
	}
	if in.Bundle, err = bundle.Open(c.Args().First(), bundle.Options{}); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.Bundle.Close()) }()
	report, err := pipeline.RouterReport(in.Bundle)
	if err != nil {
		return err
	}
	if report == nil {
		return usageError(fmt.Sprintf("%s has no router; train one with train-router", c.Args().First()))
	}
	in.Config = report.Config
	if in.Config.Certify, err = certifyOf(c, in.Config.Certify); err != nil {
		return err
	}
	set, finish := progress(c, "certify", int64(len(in.Labels.Rows)), "rows")
	in.Progress = func(done int) { set(int64(done)) }
	done, err := pipeline.Recertify(c.Context, in, report, c.Bool("fresh"), c.Int("resplits"), c.Uint64("seed"))
	finish()
	if err != nil {
		return err
	}
	if c.Bool("json") {
		err = printJSON(c, done.Result)
	} else {
		err = printCertify(c, done.Result)
	}
	if err != nil || c.String("output") == "" {
		return err
	}
	if err := pipeline.CheckFeasible(done.Router); err != nil {
		return err
	}
	_, err = pipeline.InstallRouter(in.Bundle, c.String("output"), done.Router, done.Report)
	return err
}

func printCertify(c *cli.Context, r pipeline.CertifyResult) error {
	if err := printf(c, "%d queries, delta %g, limits by %s\n", r.Queries, r.Delta, r.Limit); err != nil {
		return err
	}
	if err := printCertified(c, r.Certified); err != nil {
		return err
	}
	for _, s := range r.Resplits {
		if err := printf(c, "bound %g at %s: %d resplits, %d feasible; true loss above the bound in %d, test loss in %d, its lower limit in %d\n",
			s.Bound, s.Checkpoint, s.Rounds, s.Feasible, s.Violated, s.TestAbove, s.TestSignificant); err != nil {
			return err
		}
	}
	return nil
}
