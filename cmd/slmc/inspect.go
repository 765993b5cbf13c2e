package main

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"slmc/internal/pipeline"
)

func fileSize(path string) (int64, error) {
	st, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return st.Size(), nil
}

func inspectCommand() *cli.Command {
	return command(&cli.Command{
		Name:        "inspect",
		Usage:       "say what a checkpoint or a bundle holds",
		Description: "Reads headers and descriptions, no weights.",
		Flags:       join([]cli.Flag{&cli.BoolFlag{Name: "weights", Usage: "list every weight"}, jsonFlag()}, sourceFlags()),
		Action: func(c *cli.Context) error {
			o, err := pipeline.Open(c.Context, c.Args().First(), env(c))
			if err != nil {
				return err
			}
			in, err := o.Inspect()
			if err = errors.Join(err, o.Close()); err != nil {
				return err
			}
			if !c.Bool("weights") {
				in.Weights = nil
			}
			if c.Bool("json") {
				return printJSON(c, in)
			}
			return printInspection(c, in)
		},
	}, "slmc inspect assistant.slmb --weights", "SOURCE_OR_BUNDLE")
}

func printInspection(c *cli.Context, in pipeline.Inspection) error {
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "format\t%s\n", in.Format)
	fmt.Fprintf(w, "architecture\t%s, %d layers, hidden %d, vocabulary %d, context %d\n", in.Architecture, in.Layers, in.Hidden, in.Vocab, in.Context)
	fmt.Fprintf(w, "parameters\t%d\n", in.Parameters)
	fmt.Fprintf(w, "size\t%s, %.3f bits per weight\n", megabytes(in.FileBytes), in.BPW)
	for _, f := range in.Formats {
		fmt.Fprintf(w, "  %s\t%s in %d weights\n", f.Format, megabytes(f.Bytes), f.Weights)
	}
	shared := ""
	if in.ShareKV != "" {
		shared = "; blocks read others': " + in.ShareKV
	}
	fmt.Fprintf(w, "cache\t%d bytes a token in %s%s\n", in.KVBytesPerToken, in.KV, shared)
	fmt.Fprintf(w, "tokenizer\t%s\n", in.Tokenizer)
	fmt.Fprintf(w, "chat template\t%v\n", in.ChatTemplate)
	if in.Digest != "" {
		fmt.Fprintf(w, "digest\t%s\n", in.Digest)
		fmt.Fprintf(w, "signed by\t%s\n", cmp.Or(in.SignedBy, "nobody"))
		fmt.Fprintf(w, "made by\tslmc %s\n", in.ToolVersion)
	}
	for _, s := range in.Sections {
		fmt.Fprintf(w, "  %s\t%s at byte %d\n", s.Name, megabytes(s.Bytes), s.Offset)
	}
	for _, x := range in.Weights {
		fmt.Fprintf(w, "  %s\t%s\t%v\t%s\n", x.Name, x.Format, x.Shape, megabytes(x.Bytes))
	}
	return w.Flush()
}
