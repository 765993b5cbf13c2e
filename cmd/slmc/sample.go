package main

import (
	"fmt"
	"os"

	"github.com/urfave/cli/v2"

	"slmc/formats"
	"slmc/internal/pipeline"
	slmrt "slmc/runtime"
)

func sampleCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "sample",
		Usage: "let a model write text to calibrate it on, where there are no examples",
		Description: "Draws texts from the model itself and writes them as JSONL rows of tokens, which\n" +
			"build --calibrate reads. The same model, settings and seed write the same bytes.",
		Flags: join([]cli.Flag{
			outputFlag("FILE.jsonl"),
			&cli.IntFlag{Name: "tokens", Value: 32768, Usage: "write about `N` tokens"},
			&cli.Float64Flag{Name: "temperature", Value: 1, Usage: "1 draws as the model says; lower keeps to what is likely"},
			&cli.IntFlag{Name: "top-k", Usage: "draw from the `K` likeliest tokens"},
			seedFlag(), jsonFlag(),
		}, sessionFlags(), sourceFlags()),
		Action: runSample,
	}, "slmc sample testdata/assistant-tiny -o own.jsonl --tokens 4096\n"+
		"slmc build testdata/assistant-tiny -o assistant.slmb --weights w2 --calibrate own.jsonl", "SOURCE_OR_BUNDLE")
}

func runSample(c *cli.Context) error {
	o, err := sessionOptions(c)
	if err != nil {
		return err
	}
	n := c.Int("tokens")
	if n < 1 {
		return usageError(fmt.Sprintf("--tokens is %d, want 1 or more", n))
	}
	if err := sampling(c).Check(); err != nil {
		return usageError(err.Error())
	}
	return withModel(c, c.Args().First(), o.Context, func(m *slmrt.Model) error {
		set, finish := progress(c, "sample", int64(n), "tok")
		rows, err := pipeline.Sample(c.Context, m, o, n, sampling(c), func(done int) { set(int64(done)) })
		finish()
		if err != nil {
			return err
		}
		path := c.String("output")
		if err := formats.ReplaceFile(path, 0o644, func(f *os.File) error { return pipeline.WriteRows(f, rows) }); err != nil {
			return err
		}
		tokens := 0
		for _, r := range rows {
			tokens += len(r.Tokens)
		}
		if c.Bool("json") {
			return printJSON(c, struct {
				Output  string `json:"output"`
				Samples int    `json:"samples"`
				Tokens  int    `json:"tokens"`
			}{path, len(rows), tokens})
		}
		return printf(c, "wrote     %s\nsamples   %d, %d tokens\n", path, len(rows), tokens)
	})
}
