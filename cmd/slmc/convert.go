package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"slmc/internal/pipeline"
)

// convertOnly are the flags of convert that quantize does not have.
var convertOnly = []string{"dtype", "shard-size"}

func convertCommand() *cli.Command {
	flags := slices.DeleteFunc(buildFlags("f16"), func(f cli.Flag) bool { return f.Names()[0] == "output" })
	return command(&cli.Command{
		Name:  "convert",
		Usage: "write a Hugging Face folder, or an unquantized bundle",
		Description: "Writes config.json, safetensors and the tokenizer's files into a new folder. With an\n" +
			"output that ends in .slmb it makes a bundle, as quantize does, of float16 weights.\n" +
			"The folder is opened again and compared with the model before it gets its name.",
		Flags: join([]cli.Flag{
			outputFlag("DIR"),
			&cli.StringFlag{Name: "dtype", DefaultText: "that of the source", Usage: "store weights as `TYPE`: " + strings.Join(pipeline.HFTypes(), ", ")},
			&cli.StringFlag{Name: "shard-size", DefaultText: "5GB", Usage: "begin another file of weights after `SIZE`"},
		}, flags),
		Action: runConvert,
	}, "slmc convert assistant.slmb -o assistant-hf --dtype bf16", "SOURCE_OR_BUNDLE")
}

func runConvert(c *cli.Context) error {
	if filepath.Ext(c.String("output")) == ".slmb" {
		for _, name := range convertOnly {
			if c.IsSet(name) {
				return usageError(fmt.Sprintf("--%s is for a folder, the output is a bundle", name))
			}
		}
		return runQuantize(c)
	}
	for _, f := range buildFlags("f16") {
		if name := f.Names()[0]; c.IsSet(name) && !slices.Contains([]string{"output", "json", "dry-run", "ignore-config"}, name) {
			return usageError(fmt.Sprintf("--%s is for a bundle, the output is a folder; end it in .slmb for a bundle", name))
		}
	}
	shard, err := parseSize(c.String("shard-size"))
	if err != nil {
		return err
	}
	opts := pipeline.HFOptions{DType: c.String("dtype"), ShardBytes: shard, IgnoreKeys: c.StringSlice("ignore-config"), DryRun: c.Bool("dry-run")}
	o, err := pipeline.Open(c.Context, c.Args().First(), env(c))
	if err != nil {
		return err
	}
	bars := newBars(c)
	r, err := pipeline.ConvertHF(c.Context, o, c.String("output"), opts, logger(c), func(done, total int64) { bars.set("convert", done, total) })
	bars.finish()
	if err = errors.Join(err, o.Close()); err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c, r)
	}
	return printConverted(c, r)
}

func printConverted(c *cli.Context, r pipeline.HFReport) error {
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	if len(r.Files) == 0 {
		fmt.Fprintf(w, "would write\t%s\n", r.Output)
	} else {
		fmt.Fprintf(w, "wrote\t%s: %s\n", r.Output, strings.Join(r.Files, ", "))
	}
	fmt.Fprintf(w, "model\t%s, %d parameters\n", r.Architecture, r.Parameters)
	fmt.Fprintf(w, "weights\t%s, %s\n", r.DType, megabytes(r.FileBytes))
	switch {
	case len(r.Files) == 0:
	case r.Exact:
		fmt.Fprintf(w, "values\texactly those of the model\n")
	default:
		fmt.Fprintf(w, "values\toff by at most %.3g\n", r.MaxError)
	}
	return w.Flush()
}
