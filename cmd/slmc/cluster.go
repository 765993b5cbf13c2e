package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"strings"

	"github.com/urfave/cli/v2"

	"slmc/internal/audit"
	routertrain "slmc/router_train"
)

func clusterCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "cluster",
		Usage: "group the queries of a server's log, to label and train on next",
		Description: "LOG is what serve --log --log-text wrote. Each query is taken once; groups are of like words.\n" +
			"--output has a row for each query whose large model's answer the log has, which takes the place of\n" +
			"the right answer: {\"query\", \"call\", \"source\": \"cluster-N\"}, as label and build --router read it.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write rows for label to `FILE`"},
			&cli.StringFlag{Name: "unanswered", Usage: "write the queries that the large model did not answer to `FILE`"},
			&cli.IntFlag{Name: "clusters", DefaultText: "about sqrt(queries/2)", Usage: "make `K` groups"},
			&cli.StringFlag{Name: "redact", Value: "none", Usage: "keep of texts: none (all), mask (addresses and numbers replaced)"},
			seedFlag(), jsonFlag(),
		},
		Action: runCluster,
	}, "slmc cluster decisions.jsonl -o queries.jsonl --redact mask", "LOG")
}

// clusterRow is a query as label reads it.
type clusterRow struct {
	Query   string  `json:"query"`
	Call    *string `json:"call,omitempty"`
	Source  string  `json:"source"`
	Cluster int     `json:"cluster"`
	Count   int     `json:"count"`
	Small   string  `json:"small_answer,omitempty"`
}

func runCluster(c *cli.Context) error {
	redaction, err := routertrain.ParseRedaction(c.String("redact"))
	if err != nil || redaction == routertrain.RedactDrop {
		return usageError(fmt.Sprintf("--redact %q: want none or mask", c.String("redact")))
	}
	if k := c.Int("clusters"); k < 0 || k > audit.MaxClusters {
		return usageError(fmt.Sprintf("--clusters is %d, want 1 to %d", k, audit.MaxClusters))
	}
	var bad audit.Bad
	qs, err := withFile(c.Args().First(), func(r io.Reader) (qs []audit.Query, err error) {
		qs, bad, err = audit.Queries(r, redaction.Text)
		return qs, err
	})
	if err != nil {
		return err
	}
	if bad.Lines > 0 {
		logger(c).Warn("lines could not be read", "lines", bad.Lines, "first", bad.First)
	}
	groups, err := audit.MakeClusters(c.Context, qs, c.Int("clusters"), rand.New(rand.NewPCG(c.Uint64("seed"), 0)))
	if err != nil {
		return err
	}
	var answered, open []clusterRow
	for _, q := range qs {
		row := clusterRow{Query: q.Text, Source: fmt.Sprintf("cluster-%d", q.Cluster), Cluster: q.Cluster, Count: q.Count, Small: q.Small}
		if q.Large != "" {
			large := strings.TrimSpace(q.Large)
			row.Call = &large
			answered = append(answered, row)
		} else {
			open = append(open, row)
		}
	}
	for path, rows := range map[string][]clusterRow{c.String("output"): answered, c.String("unanswered"): open} {
		if path != "" {
			if err := writeRows(path, rows); err != nil {
				return err
			}
		}
	}
	if c.Bool("json") {
		return printJSON(c, map[string]any{"queries": len(qs), "answered": len(answered), "unanswered": len(open), "clusters": groups})
	}
	if err := printf(c, "%d queries in %d groups, %d with an answer of the large model\n", len(qs), len(groups), len(answered)); err != nil {
		return err
	}
	for _, g := range groups {
		if err := printf(c, "%4d  %6d times, %5.1f %% handed off  %s\n", g.ID, g.Count, 100*g.Deferred, strings.Join(g.Terms, ", ")); err != nil {
			return err
		}
	}
	return nil
}
