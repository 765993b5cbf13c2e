// Command slmc turns a language-model checkpoint into a bundle that a phone
// can trust, and runs, measures and exports what it made.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/urfave/cli/v2"

	"slmc/internal/pipeline"
)

func main() { os.Exit(run(os.Args, os.Stdin, os.Stdout, os.Stderr)) }

// run is main without the process: it returns the exit code.
func run(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends what does not listen
	app := newApp(stdin, stdout, stderr)
	args, err := flagsFirst(app, args)
	if err == nil {
		err = app.RunContext(ctx, args)
	}
	if err == nil {
		return 0
	}
	code := exitCode(err)
	if !reported(err) {
		fmt.Fprintf(stderr, "slmc: %v\n", err)
	}
	if code == exitUsage {
		name := "COMMAND"
		if len(args) > 1 && args[1] != "help" && app.Command(args[1]) != nil {
			name = args[1]
		}
		fmt.Fprintf(stderr, "Run \"slmc help %s\" for its options and an example.\n", name)
	}
	return code
}

// commands is the table of what slmc does, in the order of a model's way.
func commands() []*cli.Command {
	return []*cli.Command{
		buildCommand(), convertCommand(), quantizeCommand(), sampleCommand(), observeCommand(),
		inspectCommand(), verifyCommand(),
		runCommand(), chatCommand(), evalCommand(), tokenizeCommand(), benchCommand(),
		serveCommand(), auditCommand(), clusterCommand(),
		labelCommand(), trainRouterCommand(), certifyCommand(),
		packCommand(), unpackCommand(), exportCommand(),
		keygenCommand(), signCommand(), phoneCommand(), versionCommand(),
	}
}

func newApp(stdin io.Reader, stdout, stderr io.Writer) *cli.App {
	app := &cli.App{
		Name:  "slmc",
		Usage: "compile small language models into verified bundles for phones",
		Description: "A SOURCE is a checkpoint: a Hugging Face folder or org/name in its cache, a safetensors,\n" +
			"torch, llama2.c or GGUF file. A BUNDLE is a .slmb file that slmc made.",
		Commands:               commands(),
		Reader:                 stdin,
		Writer:                 stdout,
		ErrWriter:              stderr,
		Version:                pipeline.ToolVersion,
		UseShortOptionHandling: false,
		// Errors travel to run, which prints them and chooses the exit code.
		ExitErrHandler: func(*cli.Context, error) {},
		OnUsageError:   func(_ *cli.Context, err error, _ bool) error { return usageError(err.Error()) },
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usageError(fmt.Sprintf("command %q is unknown", c.Args().First()))
			}
			return cli.ShowAppHelp(c)
		},
	}
	for _, c := range app.Commands {
		c.OnUsageError = app.OnUsageError
		for _, sub := range c.Subcommands {
			sub.OnUsageError = app.OnUsageError
		}
	}
	return app
}

// flagsFirst moves the flags of a command before its positionals, by the
// command's own table, since the flag package stops at the first positional.
// What follows "--" is positional.
func flagsFirst(app *cli.App, args []string) ([]string, error) {
	if len(args) < 2 {
		return args, nil
	}
	cmd, words := app.Command(args[1]), 2
	if cmd != nil && len(cmd.Subcommands) > 0 {
		if len(args) < 3 {
			return args, nil
		}
		i := slices.IndexFunc(cmd.Subcommands, func(c *cli.Command) bool { return c.Name == args[2] })
		if i < 0 {
			return args, nil
		}
		cmd, words = cmd.Subcommands[i], 3
	}
	if cmd == nil {
		return args, nil
	}
	takesValue := map[string]bool{}
	for _, f := range cmd.Flags {
		_, isBool := f.(*cli.BoolFlag)
		for _, n := range f.Names() {
			takesValue[n] = !isBool
		}
	}
	var flags, rest []string
	in := args[words:]
	for i := 0; i < len(in); i++ {
		a := in[i]
		if a == "--" {
			rest = append(rest, in[i+1:]...)
			break
		}
		if len(a) < 2 || a[0] != '-' {
			rest = append(rest, a)
			continue
		}
		flags = append(flags, a)
		name := strings.TrimLeft(a, "-")
		if !strings.Contains(name, "=") && takesValue[name] {
			if i++; i == len(in) {
				return nil, usageError(fmt.Sprintf("flag %s needs a value", a))
			}
			flags = append(flags, in[i])
		}
	}
	out := append(args[:words:words], flags...)
	return append(append(out, "--"), rest...), nil
}

// command completes a table entry: the number of positionals is checked
// against names, and that required flags are given, before action runs; each
// help shows an example. A name in brackets is optional, and one with dots may
// come any number of times.
func command(c *cli.Command, example string, names ...string) *cli.Command {
	c.ArgsUsage = strings.Join(names, " ")
	c.Description = strings.TrimSpace(c.Description + "\n\nExample:\n   " + strings.ReplaceAll(example, "\n", "\n   "))
	c.HideHelpCommand = true
	required := completeFlags(c)
	action := c.Action
	least := 0
	for _, n := range names {
		if !strings.HasPrefix(n, "[") {
			least++
		}
	}
	c.Action = func(ctx *cli.Context) error {
		switch n := ctx.NArg(); {
		case n < least:
			return usageError(fmt.Sprintf("%s wants %s", c.Name, c.ArgsUsage))
		case n > len(names) && !(len(names) > 0 && strings.HasSuffix(names[len(names)-1], "...]")):
			return usageError(fmt.Sprintf("%s wants no more than %s, found also %q", c.Name, orNothing(strings.Join(names, " ")), ctx.Args().Get(len(names))))
		}
		for _, f := range required {
			if !ctx.IsSet(f) {
				return usageError(fmt.Sprintf("%s wants %s", c.Name, c.ArgsUsage))
			}
		}
		return action(ctx)
	}
	return c
}

// completeFlags puts the required flags of a command into its usage line and
// returns their names: urfave/cli answers a missing one with the whole help on
// standard output. Defaults that say nothing are left out of the help.
func completeFlags(c *cli.Command) (required []string) {
	for _, f := range c.Flags {
		switch f := f.(type) {
		case *cli.BoolFlag:
			f.DisableDefaultText = true
		case *cli.StringFlag:
			if f.Required {
				f.Required = false
				required = append(required, f.Name)
				c.ArgsUsage = strings.TrimSpace(c.ArgsUsage + " --" + f.Name + " " + placeholder(f.Usage))
			}
		}
	}
	return required
}

// placeholder is what a usage text puts into back quotes.
func placeholder(usage string) string {
	_, rest, _ := strings.Cut(usage, "`")
	name, _, _ := strings.Cut(rest, "`")
	return name
}

func orNothing(s string) string {
	if s == "" {
		return "its flags"
	}
	return s
}

// logger writes progress and warnings to stderr.
func logger(c *cli.Context) *slog.Logger {
	return slog.New(slog.NewTextHandler(c.App.ErrWriter, &slog.HandlerOptions{
		ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}))
}

// printJSON writes v as one object on one line.
func printJSON(c *cli.Context, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(c.App.Writer, "%s\n", data)
	return err
}

// printf writes a result for people.
func printf(c *cli.Context, format string, args ...any) error {
	_, err := fmt.Fprintf(c.App.Writer, format, args...)
	return err
}

func versionCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "version",
		Usage: "print the tool's version",
		Flags: []cli.Flag{jsonFlag()},
		Action: func(c *cli.Context) error {
			if c.Bool("json") {
				return printJSON(c, map[string]string{"version": pipeline.ToolVersion})
			}
			return printf(c, "slmc %s\n", pipeline.ToolVersion)
		},
	}, "slmc version --json")
}

// errReported marks an error whose text the user has seen already.
type errReported struct{ error }

func (e errReported) Unwrap() error { return e.error }

// printReported prints the object that tells of err, which may be nil.
func printReported(c *cli.Context, v any, err error) error {
	if perr := printJSON(c, v); perr != nil || err == nil {
		return perr
	}
	return errReported{err}
}

func reported(err error) bool { return errors.As(err, new(errReported)) }
