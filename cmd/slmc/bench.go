package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"slmc/internal/pipeline"
	slmrt "slmc/runtime"
)

func benchCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "bench",
		Usage: "time load, prefill and decode, beside what this machine can do",
		Description: "Runs random tokens; prints medians of the repetitions and their deviation, and the\nshare that decode and prefill reach of the memory's and the multipliers' limits,\n" +
			"measured in the same run. Prompt and generated tokens are shortened to fit the model's\ncontext. With --against, llama.cpp (bench/peer) runs a GGUF file in alternation and the\nratios are printed pair by pair.",
		Flags: join([]cli.Flag{
			&cli.IntFlag{Name: "prompt-tokens", Value: 512, Usage: "prefill `N` tokens"},
			&cli.IntFlag{Name: "decode-tokens", Value: 128, Usage: "decode `N` tokens"},
			&cli.IntFlag{Name: "repetitions", Value: 5, Usage: "repeat `N` times"},
			&cli.StringFlag{Name: "format", Value: "text", Usage: "print as `F`: " + strings.Join(slmrt.BenchFormats, ", ")},
			&cli.StringFlag{Name: "against", Usage: "compare with llama.cpp on `FILE.gguf`, or on what export makes of the bundle: gguf"},
			&cli.StringFlag{Name: "peer", Usage: "the `FOLDER` where bench/peer/install.sh put llama.cpp (default: bench/peer/.cache of this module)"},
			seedFlag(), jsonFlag(),
		}, sessionFlags(), sourceFlags()),
		Action: runBench,
	}, "slmc bench assistant.slmb --threads 1 --json", "SOURCE_OR_BUNDLE")
}

func runBench(c *cli.Context) error {
	o, err := sessionOptions(c)
	if err != nil {
		return err
	}
	b := slmrt.BenchOptions{Prompt: c.Int("prompt-tokens"), Generate: c.Int("decode-tokens"), Repetitions: c.Int("repetitions"), Seed: c.Uint64("seed")}
	if err := b.Check(); err != nil {
		return usageError(err.Error())
	}
	format := c.String("format")
	if c.Bool("json") {
		format = "json"
	}
	if !slices.Contains(slmrt.BenchFormats, format) {
		return usageError(fmt.Sprintf("--format is one of %v, not %q", slmrt.BenchFormats, format))
	}
	path, bundle := c.Args().First(), false
	begin := time.Now()
	var res slmrt.BenchResult
	err = withOpened(c, path, o.Context, func(m *slmrt.Model, opened *pipeline.Opened) error {
		load := time.Since(begin)
		b = b.Fit(orElse(o.Context, m.Context))
		if bundle = opened.Bundle != nil; bundle {
			return nil // loaded again below, from cold
		}
		res, err = m.Bench(c.Context, o, b, load)
		return err
	})
	if err != nil {
		return err
	}
	if a := c.String("against"); a != "" {
		return benchAgainst(c, path, a, o, b, format)
	}
	if bundle {
		if res, err = slmrt.BenchFile(c.Context, path, slmrt.LoadOptions{}, o, b); err != nil {
			return err
		}
	}
	text, err := res.Format(format)
	if err != nil {
		return err
	}
	return printf(c, "%s", text)
}

// orElse is n, or other if n is 0.
func orElse(n, other int) int {
	if n == 0 {
		return other
	}
	return n
}
