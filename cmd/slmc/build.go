package main

import (
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"slmc/internal/exec"
	"slmc/internal/pipeline"
	"slmc/qat"
	routertrain "slmc/router_train"
	slmrt "slmc/runtime"
)

// buildFlags are those of build and quantize.
func buildFlags(weights string) []cli.Flag {
	return join([]cli.Flag{
		outputFlag("FILE.slmb"),
		&cli.StringFlag{Name: "weights", Value: weights, Usage: "number `FORMAT` of the matrices: w8, w4, w2, f16, bf16, f32; a GroupSize may follow: w2g128"},
		&cli.StringFlag{Name: "embeddings", DefaultText: "w8 for w8, w4 for w4 and w2, else that of --weights", Usage: "number `FORMAT` of embedding and head"},
		&cli.StringFlag{Name: "target", Usage: "keep weights to what `TARGET` holds exactly: gguf-q2k, for exports of w2 to llama.cpp's Q2_K"},
		&cli.StringFlag{Name: "kv", DefaultText: "kv8 for w2 and w4, else f16", Usage: "cache `FORMAT`: kv8 or f16"},
		shareFlag(),
		&cli.IntFlag{Name: "context", DefaultText: fmt.Sprintf("the model's, at most %d", pipeline.DefaultContext), Usage: "hold `N` positions"},
		&cli.StringFlag{Name: "recipe", Usage: "take all of these settings from `FILE.yaml`; flags given beside it win"},
		threadsFlag("a byte"),
		&cli.StringFlag{Name: "kernel", Usage: "force the kernels `NAME`; never changes a byte"},
		seedFlag(), dryRunFlag(), jsonFlag(),
	}, sourceFlags())
}

func buildCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "build",
		Usage: "make a bundle of a checkpoint, with golden vectors",
		Description: "Rounds the weights, packs them for the kernels, lets the result answer golden prompts\n" +
			"and the float model judge them, and writes one file. Finished stages are cached, so a\n" +
			"build that was stopped resumes; the same source, settings and seed give the same bytes.\n" +
			"Beside FILE.slmb it writes FILE.slmb.recipe.yaml and FILE.slmb.report.json.",
		Flags: join(buildFlags("w8"), []cli.Flag{
			healFlag(),
			&cli.StringFlag{Name: "calibrate", Usage: "calibrate and train on the examples in `FILE`: text, or JSONL rows put through the chat template"},
			&cli.StringFlag{Name: "algorithm", Usage: "choose codes by `NAME`: rtn, imatrix, gptq or gptq-refined (default: the last, with --calibrate); with --qat, training starts from them"},
			&cli.Float64Flag{Name: "bpw", Usage: "choose number formats so that the weights take `B` bits each, scales included"},
			&cli.StringFlag{Name: "max-size", Usage: "choose number formats so that the file stays within `SIZE`, such as 110MB"},
			&cli.BoolFlag{Name: "qat", Usage: "train the weights through their rounding, against the float model"},
			&cli.Float64Flag{Name: "epochs", Usage: "pass over the examples `N` times"},
			&cli.Float64Flag{Name: "lr", Usage: "learning `RATE` of weights"},
			&cli.Float64Flag{Name: "scale-lr", Usage: "learning `RATE` of scales"},
			&cli.StringFlag{Name: "prompt-field", Usage: "rows hold the prompt in `NAME` (default: query, else prompt)"},
			&cli.StringFlag{Name: "answer-field", Usage: "rows hold the answer in `NAME` (default: call, else answer)"},
			&cli.StringSliceFlag{Name: "gate", Usage: "write nothing unless `EXPR` holds on --gate-file, such as kl<0.05; of nll, ppl, kl, kl_p99, same_top1, exact_match"},
			&cli.StringFlag{Name: "gate-file", DefaultText: "that of --calibrate, which training has seen", Usage: "measure gates on the examples in `FILE`"},
			&cli.StringFlag{Name: "golden", Usage: "take the golden prompts from `FILE`, one a line or JSONL with text or query"},
			&cli.StringFlag{Name: "router", Usage: "train a deferral router on the queries with right answers in `QUERIES.jsonl`, against --large"},
			&cli.Float64Flag{Name: "router-train", Value: routertrain.DefaultSplit().Train, Usage: "train it on this `SHARE` of the queries"},
			&cli.Float64Flag{Name: "router-calibrate", Value: routertrain.DefaultSplit().Cal, Usage: "certify it on this `SHARE`; the rest is for testing"},
			&cli.StringFlag{Name: "scorer", Value: "exact_match", Usage: "score the queries' answers by `RULE`, see label"},
			&cli.StringFlag{Name: "cache", DefaultText: "slmc in the user's cache", Usage: "keep finished stages in `DIR`"},
			&cli.BoolFlag{Name: "verify", Usage: "verify the bundle when it is written"},
		}, certifyFlags(), largeFlags()),
		Action: func(c *cli.Context) error { return runBuild(c, false) },
	}, "slmc build testdata/assistant-tiny -o assistant.slmb --verify", "SOURCE")
}

func quantizeCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "quantize",
		Usage: "make a bundle quickly, without golden vectors",
		Description: "Streams the weights from the checkpoint into the bundle: little memory, no cache, no\n" +
			"golden vectors: verify can check its digests, not replay it. Use build for what you ship.",
		Flags:  buildFlags("w8"),
		Action: runQuantize,
	}, "slmc quantize testdata/assistant-tiny -o assistant.slmb --weights w4", "SOURCE")
}

// runQuantize is build without golden vectors.
func runQuantize(c *cli.Context) error { return runBuild(c, true) }

func runBuild(c *cli.Context, bare bool) error {
	recipe, err := recipeOf(c)
	if err != nil {
		return err
	}
	compute, err := computeOptions(c)
	if err != nil {
		return err
	}
	cfg := pipeline.Config{
		Source: c.Args().First(), Output: c.String("output"), Recipe: recipe,
		GoldenFile: c.String("golden"), CalibrateFile: c.String("calibrate"), Bare: bare, Env: env(c),
	}
	if !bare {
		if cfg.Env.CacheDir, err = cacheDir(c.String("cache")); err != nil {
			return err
		}
	}
	if err := withRouter(c, &cfg); err != nil {
		return err
	}
	if cfg.Accept, err = acceptance(c); err != nil {
		return err
	}
	bars := newBars(c)
	cfg.Progress = bars.set
	if c.Bool("dry-run") {
		p, err := pipeline.Preview(c.Context, cfg, logger(c))
		bars.finish()
		if err != nil {
			return err
		}
		return printPreview(c, p)
	}
	cfg.Notice = func(text string) { fmt.Fprintln(c.App.ErrWriter, text) }
	report, err := pipeline.Build(c.Context, cfg, logger(c))
	bars.finish()
	if err != nil {
		return err
	}
	if c.Bool("verify") {
		v, err := verifyPath(c, cfg.Output, slmrt.VerifyOptions{Session: compute})
		if err != nil {
			return fmt.Errorf("verify: %w", err)
		}
		report.LogitsDigest = v.LogitsDigest
	}
	if c.Bool("json") {
		return printJSON(c, report)
	}
	return printReport(c, report)
}

// withRouter adds what the flags say of a router.
func withRouter(c *cli.Context, cfg *pipeline.Config) error {
	if (c.String("router") == "") != (c.String("large") == "") {
		return usageError("a router wants both --router QUERIES and --large MODEL")
	}
	if c.String("router") == "" {
		return nil
	}
	large, err := largeOf(c)
	if err != nil {
		return err
	}
	cfg.Router = &pipeline.RouterFiles{Queries: c.String("router"), Large: large}
	r := pipeline.DefaultRouting()
	if cfg.Recipe.Router != nil {
		r = *cfg.Recipe.Router
	}
	if c.IsSet("scorer") {
		r.Scorer = c.String("scorer")
	}
	if c.IsSet("router-train") || c.IsSet("router-calibrate") {
		r.Train.Split.Train, r.Train.Split.Cal = c.Float64("router-train"), c.Float64("router-calibrate")
	}
	if c.IsSet("seed") {
		r.Train.Seed, r.Train.Split.Seed = c.Uint64("seed"), c.Uint64("seed")
	}
	if r.Train.Certify, err = certifyOf(c, r.Train.Certify); err != nil {
		return err
	}
	cfg.Recipe.Router = &r
	return nil
}

// recipeOf is the recipe file's with the flags that were given, or the preset
// that the flags name.
func recipeOf(c *cli.Context) (pipeline.Recipe, error) {
	r, err := pipeline.DefaultRecipe(c.String("weights"), c.String("embeddings"))
	if err != nil {
		return r, err
	}
	file := c.String("recipe")
	if file != "" {
		given, err := pipeline.ReadRecipe(file)
		if err != nil {
			return r, err
		}
		if c.IsSet("weights") || c.IsSet("embeddings") {
			given.Formats = r.Formats
		}
		r = given
	}
	if c.IsSet("kv") {
		r.KV = c.String("kv")
	}
	if c.IsSet("target") {
		r.Target = c.String("target")
	}
	if file == "" || c.IsSet("context") {
		r.Context = c.Int("context")
	}
	if file == "" || c.IsSet("seed") {
		r.Seed = c.Uint64("seed")
	}
	if r, err = withExamples(c, withSharing(c, withTraining(c, r))); err != nil {
		return r, err
	}
	return r, checkUsed(c, r)
}

// checkUsed refuses flags that the recipe they came to has no use for.
func checkUsed(c *cli.Context, r pipeline.Recipe) error {
	trains, shares := r.QAT != nil, r.Share != nil
	heals := shares && r.Share.Heal != nil
	examples := trains || heals || r.Calibrate != nil || shares && (r.Share.Match != nil || c.IsSet("calibrate")) || c.IsSet("gate")
	for _, f := range []struct {
		name, why string
		used      bool
	}{
		{"epochs", "is for --qat; --heal-epochs is for a shared model", trains},
		{"lr", "is for training; give --qat, or --share-kv with --calibrate", trains || heals},
		{"scale-lr", "is for training; give --qat", trains},
		{"heal-epochs", "is for a shared model; give --share-kv", shares},
		{"prompt-field", "is for rows of examples; give --calibrate", examples},
		{"answer-field", "is for rows of examples; give --calibrate", examples},
	} {
		if c.IsSet(f.name) && !f.used {
			return usageError(fmt.Sprintf("--%s %s", f.name, f.why))
		}
	}
	if n := c.Float64("heal-epochs"); !(n >= 0) {
		return usageError(fmt.Sprintf("--heal-epochs is %g, want 0 or more", n))
	}
	return nil
}

// withExamples adds what the flags say of calibration and budget.
func withExamples(c *cli.Context, r pipeline.Recipe) (pipeline.Recipe, error) {
	if c.IsSet("bpw") || c.IsSet("max-size") {
		if c.IsSet("bpw") == c.IsSet("max-size") {
			return r, usageError("give either --bpw or --max-size")
		}
		if b := c.Float64("bpw"); c.IsSet("bpw") && !(b > 0 && b <= 32) {
			return r, usageError(fmt.Sprintf("--bpw is %g, want more than 0 and at most 32", b))
		}
		size, err := parseSize(c.String("max-size"))
		if err == nil && c.IsSet("max-size") && size == 0 {
			err = usageError("--max-size is empty, want a size such as 110MB")
		}
		if err != nil {
			return r, err
		}
		r.Budget = &pipeline.Budget{BPW: c.Float64("bpw"), MaxBytes: size}
		if !c.IsSet("kv") && !c.IsSet("recipe") {
			r.KV = string(exec.KV8) // who counts bytes counts the cache's too
		}
	}
	calibrates := c.IsSet("algorithm") || c.String("calibrate") != "" && r.QAT == nil || r.Budget != nil
	if r.Calibrate == nil && calibrates {
		d := pipeline.DefaultCalibration()
		r.Calibrate = &d
	}
	if r.Calibrate == nil {
		return r, nil
	}
	d := *r.Calibrate
	if c.IsSet("algorithm") {
		d.Algorithm = c.String("algorithm")
	}
	d.Fields = fieldsOf(c, d.Fields)
	r.Calibrate = &d
	return r, nil
}

// fieldsOf are the fields of a row that the flags name, or those given.
func fieldsOf(c *cli.Context, f pipeline.Fields) pipeline.Fields {
	if c.IsSet("prompt-field") || c.IsSet("answer-field") {
		return pipeline.Fields{Prompt: c.String("prompt-field"), Answer: c.String("answer-field")}
	}
	return f
}

// withTraining adds what the training flags say.
func withTraining(c *cli.Context, r pipeline.Recipe) pipeline.Recipe {
	if c.Bool("qat") && r.QAT == nil {
		r.QAT = &pipeline.Training{Config: qat.DefaultConfig()}
		r.QAT.Seed = r.Seed
	}
	if r.QAT == nil {
		return r
	}
	t := *r.QAT
	if c.IsSet("epochs") {
		t.Epochs = c.Float64("epochs")
	}
	if c.IsSet("lr") {
		t.LR = c.Float64("lr")
	}
	if c.IsSet("scale-lr") {
		t.ScaleLR = c.Float64("scale-lr")
	}
	t.Fields = fieldsOf(c, t.Fields)
	r.QAT = &t
	return r
}

// cacheDir is where stages are kept: the flag, or the user's cache folder.
func cacheDir(flag string) (string, error) {
	if flag != "" {
		return flag, nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("no cache folder: %w; give one with --cache", err)
	}
	return filepath.Join(dir, "slmc"), nil
}

func printReport(c *cli.Context, r pipeline.Report) error {
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "wrote\t%s\n", r.Output)
	fmt.Fprintf(w, "digest\t%s\n", r.Digest)
	fmt.Fprintf(w, "size\t%s, %.2f bits per weight in the weights, %.2f in the whole file\n", megabytes(r.FileBytes), r.BPW, r.FileBPW)
	fmt.Fprintf(w, "model\t%s, %d parameters\n", r.Arch, r.Parameters)
	fmt.Fprintf(w, "memory\t%s beside the file for %d positions; cache %d bytes a token\n", megabytes(r.MemoryBytes), r.Context, r.KVPerToken)
	if r.LogitsDigest != "" {
		fmt.Fprintf(w, "verified\tlogits %s\n", r.LogitsDigest)
	}
	return w.Flush()
}

func printPreview(c *cli.Context, p pipeline.PreviewReport) error {
	if c.Bool("json") {
		return printJSON(c, p)
	}
	w := tabwriter.NewWriter(c.App.Writer, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "would write\t%s\n", p.Output)
	fmt.Fprintf(w, "model\t%s, %d parameters, %d positions\n", p.Arch, p.Parameters, p.Context)
	bound := ""
	if p.Bound {
		bound = "at most "
	}
	fmt.Fprintf(w, "weights\t%s%s, %.3f bits per weight\n", bound, megabytes(p.WeightBytes), p.BPW)
	for _, f := range p.Formats {
		fmt.Fprintf(w, "  %s\t%d weights, %s\n", f.Format, f.Weights, megabytes(f.Bytes))
	}
	if len(p.Shared) > 0 {
		printShared(w, p.Shared)
		printTrials(w, p.Trials)
	}
	fmt.Fprintf(w, "memory to build\t%s\n", megabytes(p.BuildMemory))
	fmt.Fprintf(w, "memory to run\t%s beside the file; cache %d bytes a token\n", megabytes(p.RunMemory), p.KVPerToken)
	return w.Flush()
}
