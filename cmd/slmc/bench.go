package main

import (
	"time"

	"github.com/urfave/cli/v2"

	slmrt "slmc/runtime"
)

func benchCommand() *cli.Command {
	return command(&cli.Command{
		Name:        "bench",
		Usage:       "time load, prefill and decode",
		Description: "Runs random tokens; prints medians of the repetitions. Prompt and generated tokens\nare shortened to fit the model's context.",
		Flags: join([]cli.Flag{
			&cli.IntFlag{Name: "prompt-tokens", Value: 512, Usage: "prefill `N` tokens"},
			&cli.IntFlag{Name: "decode-tokens", Value: 128, Usage: "decode `N` tokens"},
			&cli.IntFlag{Name: "repetitions", Value: 5, Usage: "repeat `N` times"},
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
	begin := time.Now()
	return withModel(c, c.Args().First(), o.Context, func(m *slmrt.Model) error {
		load := time.Since(begin)
		room := m.Context
		if o.Context > 0 {
			room = o.Context
		}
		res, err := m.Bench(c.Context, o, b.Fit(room), load)
		if err != nil {
			return err
		}
		if c.Bool("json") {
			return printJSON(c, res)
		}
		return printf(c, "prefill %.1f tok/s (%d tokens)  decode %.1f tok/s (%d tokens)  load %.1f ms  first token %.1f ms  peak %s  kernel %s, %d threads\n",
			res.PrefillTokS, res.PromptTokens, res.DecodeTokS, res.DecodeTokens, res.LoadMs, res.TTFTms, megabytes(res.PeakRSS), res.Kernel, res.Threads)
	})
}
