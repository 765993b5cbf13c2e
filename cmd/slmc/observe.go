package main

import (
	"errors"
	"fmt"

	"github.com/urfave/cli/v2"

	"slmc/calibrate"
	"slmc/internal/pipeline"
)

func observeCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "observe",
		Usage: "write activation statistics that build --calibrate takes in place of examples",
		Description: "Runs the examples through the float model and keeps, for the input of every matrix,\n" +
			"its mean, mean square, largest value and second moments: what imatrix and GPTQ need,\n" +
			"without the text. The file is tied to the model's weights. Calibration on the\n" +
			"examples themselves does better at 2 bits, since it can follow the quantized model.",
		Flags: join([]cli.Flag{
			outputFlag("FILE.stats"),
			&cli.StringFlag{Name: "calibrate", Usage: "observe the examples in `FILE`: text, or JSONL rows put through the chat template", Required: true},
			&cli.IntFlag{Name: "tokens", Value: calibrate.DefaultTokens, Usage: "use about `N` tokens of them; 0 uses all"},
			&cli.StringFlag{Name: "prompt-field", Usage: "rows hold the prompt in `NAME` (default: query, else prompt)"},
			&cli.StringFlag{Name: "answer-field", Usage: "rows hold the answer in `NAME` (default: call, else answer)"},
			jsonFlag(),
		}, computeFlags(), sourceFlags()),
		Action: runObserve,
	}, "slmc observe testdata/assistant-tiny -o assistant.stats --calibrate testdata/requests.jsonl\n"+
		"slmc build testdata/assistant-tiny -o assistant.slmb --weights w4 --calibrate assistant.stats", "SOURCE")
}

func runObserve(c *cli.Context) error {
	if n := c.Int("tokens"); n < 0 {
		return usageError(fmt.Sprintf("--tokens is %d, want 1 or more, or 0 for all", n))
	}
	o, err := pipeline.Open(c.Context, c.Args().First(), env(c))
	if err != nil {
		return err
	}
	fields := pipeline.Fields{Prompt: c.String("prompt-field"), Answer: c.String("answer-field")}
	r, err := pipeline.Observe(c.Context, o, c.String("calibrate"), fields, c.Int("tokens"), c.String("output"), env(c))
	if err = errors.Join(err, o.Close()); err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c, r)
	}
	return printf(c, "wrote     %s\nsize      %s, %d inputs\nexamples  %d tokens\n", r.Output, megabytes(r.Bytes), r.Inputs, r.Tokens)
}
