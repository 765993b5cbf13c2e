package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"slmc/internal/pipeline"
	slmrt "slmc/runtime"
)

func runCommand() *cli.Command {
	return command(&cli.Command{
		Name:        "run",
		Usage:       "continue a raw text",
		Description: "Feeds --prompt as it is, special tokens in it included, with what the tokenizer's\npost-processor adds, and prints what the model writes on. Use chat for a chat.",
		Flags: join([]cli.Flag{
			&cli.StringFlag{Name: "prompt", Aliases: []string{"p"}, Usage: "the `TEXT` to continue", Required: true},
			&cli.BoolFlag{Name: "check", Usage: "check every byte of a bundle before running it"},
			jsonFlag(),
		}, samplingFlags(), speculationFlags(), sessionFlags(), sourceFlags()),
		Action: func(c *cli.Context) error {
			return generate(c, func(m *slmrt.Model) ([]int32, error) { return m.EncodeText(c.String("prompt")) })
		},
	}, `slmc run assistant.slmb --prompt "Once upon a time" --max-tokens 40`, "SOURCE_OR_BUNDLE")
}

func chatCommand() *cli.Command {
	return command(&cli.Command{
		Name:        "chat",
		Usage:       "answer a message through the model's chat template",
		Description: "Renders the messages with the model's template. Text of a message never becomes a\nspecial token.",
		Flags: join([]cli.Flag{
			&cli.StringFlag{Name: "user", Aliases: []string{"u"}, Usage: "the user's `MESSAGE`", Required: true},
			&cli.StringFlag{Name: "system", Usage: "a system `MESSAGE` before it"},
			&cli.BoolFlag{Name: "check", Usage: "check every byte of a bundle before running it"},
			jsonFlag(),
		}, samplingFlags(), speculationFlags(), sessionFlags(), sourceFlags()),
		Action: func(c *cli.Context) error {
			return generate(c, func(m *slmrt.Model) ([]int32, error) {
				chat := slmrt.Chat{Now: time.Now()}
				if s := c.String("system"); s != "" {
					chat.Messages = append(chat.Messages, slmrt.Say("system", s))
				}
				chat.Messages = append(chat.Messages, slmrt.Say("user", c.String("user")))
				return m.EncodeChat(chat)
			})
		},
	}, `slmc chat assistant.slmb --user "what is the weather in paris tomorrow"`, "SOURCE_OR_BUNDLE")
}

func join(lists ...[]cli.Flag) []cli.Flag {
	var out []cli.Flag
	for _, l := range lists {
		out = append(out, l...)
	}
	return out
}

// generate opens the model of the first positional, feeds the prompt and
// prints what comes, as it comes or as one object.
func generate(c *cli.Context, encode func(*slmrt.Model) ([]int32, error)) error {
	o, err := sessionOptions(c)
	if err != nil {
		return err
	}
	if err := sampling(c).Check(); err != nil {
		return usageError(err.Error())
	}
	if c.Int("max-tokens") < 0 {
		return usageError(fmt.Sprintf("--max-tokens is %d, want 1 or more, or 0 for as many as fit", c.Int("max-tokens")))
	}
	wish, err := speculation(c)
	if err != nil {
		return err
	}
	return withOpened(c, c.Args().First(), o.Context, func(m *slmrt.Model, from *pipeline.Opened) (err error) {
		ids, err := encode(m)
		if err != nil {
			return err
		}
		s, err := m.NewSession(o)
		if err != nil {
			return err
		}
		defer s.Close()
		sp, err := slmrt.OpenSpeculator(m, from.Bundle, from.Path, wish, o, func(text string) { logger(c).Warn(text) })
		if err != nil {
			return err
		}
		if sp != nil {
			defer func() { err = errors.Join(err, sp.Close()) }()
		}
		asJSON := c.Bool("json")
		res, err := s.Generate(c.Context, slmrt.Request{
			Prompt: ids, MaxTokens: c.Int("max-tokens"), Stop: c.StringSlice("stop"), Sampling: sampling(c), Speculate: sp,
		}, func(text string) error {
			if asJSON {
				return nil
			}
			return printf(c, "%s", text)
		})
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(c, res)
		}
		return printf(c, "\n")
	})
}

// withModel opens a SOURCE or BUNDLE, makes it runnable and closes it.
func withModel(c *cli.Context, path string, positions int, f func(*slmrt.Model) error) error {
	return withOpened(c, path, positions, func(m *slmrt.Model, _ *pipeline.Opened) error { return f(m) })
}

// withOpened is withModel for those who look at the file too.
func withOpened(c *cli.Context, path string, positions int, f func(*slmrt.Model, *pipeline.Opened) error) error {
	o, err := pipeline.Open(c.Context, path, env(c))
	if err != nil {
		return err
	}
	err = func() error {
		if c.Bool("check") && o.Bundle != nil {
			if err := checkBundle(c.Context, c, o); err != nil {
				return err
			}
		}
		m, err := o.Runtime(positions)
		if err != nil {
			return err
		}
		return f(m, o)
	}()
	return errors.Join(err, o.Close())
}

// checkBundle compares every digest of an open bundle.
func checkBundle(ctx context.Context, c *cli.Context, o *pipeline.Opened) error {
	set, finish := progress(c, "check", o.Bundle.Size(), "B")
	defer finish()
	if err := o.Bundle.Check(ctx, func(done, _ int64) { set(done) }); err != nil {
		return fmt.Errorf("check: %w", err)
	}
	return nil
}
