package main

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"slmc/internal/pipeline"
)

func exportCommand() *cli.Command {
	types := strings.Join(pipeline.ExportTypes(), ", ")
	return command(&cli.Command{
		Name:  "export",
		Usage: "write a GGUF file that llama.cpp loads",
		Description: "Norms and biases are F32. A bundle's W8 and W4 codes become Q8_0 and Q4_0 blocks as they\n" +
			"are; everything else is rounded from float. The file is read back and compared before it\n" +
			"gets its name. Where llama.cpp computes or splits text differently, a warning says so;\n" +
			"what it can not compute is refused.",
		Flags: join([]cli.Flag{
			outputFlag("FILE.gguf"),
			&cli.StringFlag{Name: "type", Value: "f16", Usage: "store matrices as `TYPE`: " + types},
			&cli.StringFlag{Name: "embeddings", DefaultText: "as the others; q8_0 for q4_0", Usage: "store embedding and output as `TYPE`"},
			&cli.StringFlag{Name: "fallback", DefaultText: "refuse", Usage: "store matrices whose rows are not whole blocks of 32 as `TYPE`: f16, bf16 or f32"},
			dryRunFlag(), jsonFlag(),
		}, sourceFlags()),
		Action: runExport,
	}, "slmc export assistant.slmb -o assistant.gguf --type q8_0 --fallback f16", "SOURCE_OR_BUNDLE")
}

func runExport(c *cli.Context) error {
	o, err := pipeline.Open(c.Context, c.Args().First(), env(c))
	if err != nil {
		return err
	}
	opts := pipeline.ExportOptions{Type: c.String("type"), Embeddings: c.String("embeddings"), Fallback: c.String("fallback"), DryRun: c.Bool("dry-run")}
	bars := newBars(c)
	r, err := pipeline.Export(c.Context, o, c.String("output"), opts, logger(c), func(done, total int64) { bars.set("export", done, total) })
	bars.finish()
	if err = errors.Join(err, o.Close()); err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c, r)
	}
	return printExport(c, r)
}

func printExport(c *cli.Context, r pipeline.ExportReport) error {
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	if r.SHA256 == "" {
		fmt.Fprintf(w, "would write\t%s\n", r.Output)
	} else {
		fmt.Fprintf(w, "wrote\t%s\n", r.Output)
		fmt.Fprintf(w, "sha256\t%s\n", r.SHA256)
	}
	fmt.Fprintf(w, "size\t%s, %.2f bits per weight in the whole file\n", megabytes(r.FileBytes), r.FileBPW)
	fmt.Fprintf(w, "model\t%s, %d parameters; tokenizer %s\n", r.Architecture, r.Parameters, r.Tokenizer)
	for _, t := range r.Types {
		fmt.Fprintf(w, "  %s\t%d tensors, %s; off by at most %.3g, %.3g of the values' size\n", t.Type, t.Tensors, megabytes(t.Bytes), t.MaxError, t.RMSError)
	}
	if r.Embeddings != r.Type {
		fmt.Fprintf(w, "embeddings\t%s, as are the rows of the output\n", r.Embeddings)
	}
	if r.Exact {
		fmt.Fprintf(w, "values\texactly those of the model\n")
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note\t%s\n", n)
	}
	if len(r.Fallback) > 0 {
		fmt.Fprintf(w, "\nTENSOR\tTYPE\tSHAPE\n")
		for _, t := range r.Tensors {
			fmt.Fprintf(w, "%s\t%s\t%v\n", t.Name, t.Type, t.Shape)
		}
	}
	return w.Flush()
}
