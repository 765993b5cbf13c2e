package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"slmc/internal/pipeline"
)

func exportCommand() *cli.Command {
	types := strings.Join(pipeline.ExportTypes(), ", ")
	layouts := strings.Join(pipeline.PackedLayouts(), " or ")
	return command(&cli.Command{
		Name:  "export",
		Usage: "write a GGUF file that llama.cpp loads, or a folder of packed weights",
		Description: "Norms and biases are F32. The type auto is for each matrix the smallest that holds it\n" +
			"exactly: a bundle's codes become Q8_0, Q4_0 or Q2_K blocks as they are. Another type is\n" +
			"what all matrices get: a bundle's levels and scales that it can not hold are refused\n" +
			"unless --requantize is given, and so are rows that are not whole blocks, unless --pad or\n" +
			"--fallback is. 2-bit weights fit Q2_K when they are built with --target gguf-q2k.\n" +
			"The file is read back and its values and logits are compared before it gets its name.\n" +
			"Where llama.cpp computes or splits text differently, a warning says so; what it can not\n" +
			"compute is refused.\n\n" +
			"The types " + strings.Join(pipeline.PackedLayouts(), " and ") + " write a bundle as a Hugging Face folder whose\n" +
			"matrices are packed as vLLM and MLX read them: codes and scales are the bundle's, 2-bit\n" +
			"levels become 4-bit codes in compressed-tensors, which has no half levels.",
		Flags: join([]cli.Flag{
			outputFlag("FILE.gguf or FOLDER"),
			&cli.StringFlag{Name: "type", Value: "auto", Usage: "store matrices as `TYPE`: " + types + "; or write a folder in the layout " + layouts},
			&cli.StringFlag{Name: "embeddings", DefaultText: "as the others; auto, or of a checkpoint q8_0, for 4 and 2 bits", Usage: "store embedding and output as `TYPE`"},
			&cli.StringFlag{Name: "fallback", DefaultText: "refuse", Usage: "store matrices whose rows are not whole blocks as `TYPE`: f16, bf16 or f32"},
			&cli.BoolFlag{Name: "pad", Usage: "widen the FFNs by zeros to whole blocks; changes no output"},
			&cli.BoolFlag{Name: "requantize", Usage: "round a bundle's weights again where the type does not hold them, and tell the error"},
			&cli.StringFlag{Name: "floats", DefaultText: "f32, which is exact", Usage: "in a folder, store scales and what is not packed as `TYPE`: f32 or f16"},
			dryRunFlag(), jsonFlag(),
		}, sourceFlags()),
		Action: runExport,
	}, "slmc export assistant.slmb -o assistant.gguf\nslmc export assistant.slmb -o assistant-mlx --type mlx\nslmc export assistant.slmb -o assistant.gguf --type q2_k --pad\nslmc export assistant.slmb -o assistant.gguf --type q8_0 --fallback f16", "SOURCE_OR_BUNDLE")
}

func runExport(c *cli.Context) error {
	folder := slices.Contains(pipeline.PackedLayouts(), c.String("type"))
	for _, name := range []string{"embeddings", "pad", "requantize"} {
		if folder && c.IsSet(name) {
			return usageError(fmt.Sprintf("--%s is for GGUF files, not for --type %s", name, c.String("type")))
		}
	}
	if !folder && c.IsSet("floats") {
		return usageError("--floats is for folders; --fallback says what a GGUF file's floats are")
	}
	o, err := pipeline.Open(c.Context, c.Args().First(), env(c))
	if err != nil {
		return err
	}
	if folder {
		return errors.Join(exportFolder(c, o), o.Close())
	}
	return errors.Join(exportFile(c, o), o.Close())
}

func exportFile(c *cli.Context, o *pipeline.Opened) error {
	opts := pipeline.ExportOptions{
		Type: c.String("type"), Embeddings: c.String("embeddings"), Fallback: c.String("fallback"),
		Pad: c.Bool("pad"), Requantize: c.Bool("requantize"), DryRun: c.Bool("dry-run"),
	}
	bars := newBars(c)
	r, err := pipeline.Export(c.Context, o, c.String("output"), opts, logger(c), func(done, total int64) { bars.set("export", done, total) })
	bars.finish()
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c, r)
	}
	return printExport(c, r)
}

func exportFolder(c *cli.Context, o *pipeline.Opened) error {
	opts := pipeline.PackedOptions{Layout: c.String("type"), Floats: c.String("floats"), Fallback: c.IsSet("fallback"), DryRun: c.Bool("dry-run")}
	if f := c.String("fallback"); f != "" && opts.Floats == "" {
		opts.Floats = f
	} else if f != "" && f != opts.Floats {
		return usageError(fmt.Sprintf("--fallback %s beside --floats %s: a folder has one type of floats", f, opts.Floats))
	}
	bars := newBars(c)
	r, err := pipeline.ExportPacked(c.Context, o, c.String("output"), opts, logger(c), func(done, total int64) { bars.set("export", done, total) })
	bars.finish()
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c, r)
	}
	return printPacked(c, r)
}

func printPacked(c *cli.Context, r pipeline.PackedReport) error {
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	verb := "wrote"
	if c.Bool("dry-run") {
		verb = "would write"
	}
	fmt.Fprintf(w, "%s\t%s\n", verb, r.Output)
	fmt.Fprintf(w, "size\t%s, %.2f bits per weight in the files of weights\n", megabytes(r.FileBytes), r.FileBPW)
	fmt.Fprintf(w, "model\t%s, %d parameters; %s, scales and floats %s\n", r.Architecture, r.Parameters, r.Layout, r.Floats)
	if !c.Bool("dry-run") {
		if r.Exact {
			fmt.Fprintf(w, "values\texactly those of the bundle\n")
		} else {
			fmt.Fprintf(w, "values\toff by at most %.3g\n", r.MaxError)
		}
		fmt.Fprintf(w, "logits\tof %d tokens within %.2g of the bundle's\n", r.LogitTokens, r.LogitError)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note\t%s\n", n)
	}
	fmt.Fprintf(w, "\nTENSOR\tFORMAT\tBITS\tGROUP\tSHAPE\n")
	for _, t := range r.Tensors {
		if t.Bits == 0 {
			fmt.Fprintf(w, "%s\t%s\t%s\t-\t%v\n", t.Name, t.Format, r.Floats, t.Shape)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%v\n", t.Name, t.Format, t.Bits, t.GroupSize, t.Shape)
	}
	return w.Flush()
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
	if r.SHA256 != "" {
		fmt.Fprintf(w, "logits\tof %d tokens within %.2g of the model's\n", r.LogitTokens, r.LogitError)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(w, "note\t%s\n", n)
	}
	if len(r.Fallback) > 0 || r.Type == "auto" || r.Embeddings == "auto" {
		fmt.Fprintf(w, "\nTENSOR\tTYPE\tSHAPE\n")
		for _, t := range r.Tensors {
			fmt.Fprintf(w, "%s\t%s\t%v\n", t.Name, t.Type, t.Shape)
		}
	}
	return w.Flush()
}
