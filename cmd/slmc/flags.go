package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/urfave/cli/v2"

	"slmc/internal/exec"
	"slmc/internal/kernel"
	"slmc/internal/pipeline"
	slmrt "slmc/runtime"
)

func jsonFlag() cli.Flag {
	return &cli.BoolFlag{Name: "json", Usage: "print one JSON object instead of text"}
}

func dryRunFlag() cli.Flag {
	return &cli.BoolFlag{Name: "dry-run", Usage: "say what would be made, its size and the memory to expect, and stop"}
}

func outputFlag(what string) cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write `" + what + "`", Required: true}
}

// sourceFlags are those of every command that opens a SOURCE.
func sourceFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringSliceFlag{Name: "ignore-config", Usage: "accept the unknown config `KEY`, whatever it means"},
	}
}

// computeFlags are those of every command that runs a model.
func computeFlags() []cli.Flag {
	return []cli.Flag{
		threadsFlag("a result"),
		&cli.StringFlag{Name: "kernel", Usage: "force the kernels `NAME`: scalar, avx2, avx512, avx512gfni, neon, neondot, neoni8mm; never changes a result"},
	}
}

// threads is the value of --threads: a number, 0 for auto, which each command
// resolves: a session by slmrt.DefaultThreads, what computes weights by all CPUs.
type threads int

func (t *threads) Set(s string) error {
	n, err := slmrt.ParseThreads(s)
	*t = threads(n)
	return err
}

func (t *threads) Get() any       { return int(*t) }
func (t *threads) String() string { return strconv.Itoa(int(*t)) }

func threadsFlag(never string) cli.Flag {
	return &cli.GenericFlag{Name: "threads", Value: new(threads), DefaultText: "auto: a session takes one a physical core, the rest all CPUs",
		Usage: "use `N` threads, or auto; never changes " + never}
}

// sessionFlags are those of commands that make a session.
func sessionFlags() []cli.Flag {
	return append(computeFlags(),
		&cli.IntFlag{Name: "context", DefaultText: "the model's", Usage: "make room for `N` positions"},
		&cli.StringFlag{Name: "kv", DefaultText: "the model's", Usage: "cache format `F`: kv8, f16 or f32"},
		&cli.IntFlag{Name: "batch", Usage: "prompt tokens of a step (`N`); never changes a result"},
		&cli.StringFlag{Name: "memory", Usage: "refuse to run when more than `SIZE` is needed, such as 200MB"},
	)
}

// samplingFlags choose tokens.
func samplingFlags() []cli.Flag {
	return []cli.Flag{
		&cli.IntFlag{Name: "max-tokens", Aliases: []string{"n"}, DefaultText: "when the context is full", Usage: "stop after `N` tokens"},
		&cli.Float64Flag{Name: "temperature", Usage: "0 takes the likeliest token"},
		&cli.IntFlag{Name: "top-k", Usage: "sample from the `K` likeliest tokens"},
		&cli.Float64Flag{Name: "top-p", Usage: "sample from the likeliest tokens that have `P` of the probability"},
		&cli.Float64Flag{Name: "min-p", Usage: "drop tokens below `P` of the likeliest one's probability"},
		&cli.Float64Flag{Name: "repetition-penalty", Usage: "divide the logits of seen tokens by `X`"},
		&cli.StringSliceFlag{Name: "stop", Usage: "end before `TEXT`; may be repeated"},
		seedFlag(),
	}
}

// speculationFlags go faster to the same tokens.
func speculationFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "draft", DefaultText: "the recipe's", Usage: "let the smaller model in `BUNDLE` propose tokens; never changes a result"},
		&cli.IntFlag{Name: "lookup", DefaultText: "the recipe's", Usage: "propose what followed the last `N` tokens before, 0 for no proposals; never changes a result"},
		&cli.IntFlag{Name: "proposals", DefaultText: "4", Usage: "propose up to `N` tokens at once"},
	}
}

// speculation reads speculationFlags.
func speculation(c *cli.Context) (slmrt.Wish, error) {
	w := slmrt.Wish{Draft: c.String("draft"), Lookup: c.Int("lookup"), Tokens: c.Int("proposals"), Said: c.IsSet("draft") || c.IsSet("lookup")}
	if err := (slmrt.SpeculationHint{Lookup: w.Lookup, Tokens: w.Tokens}).Check(); err != nil {
		return w, usageError(err.Error())
	}
	return w, nil
}

func seedFlag() cli.Flag {
	return &cli.Uint64Flag{Name: "seed", Value: 1, Usage: "the `N` that all randomness starts from"}
}

func sampling(c *cli.Context) slmrt.Sampling {
	return slmrt.Sampling{
		Temperature: float32(c.Float64("temperature")), TopK: c.Int("top-k"), TopP: float32(c.Float64("top-p")),
		MinP: float32(c.Float64("min-p")), RepetitionPenalty: float32(c.Float64("repetition-penalty")), Seed: c.Uint64("seed"),
	}
}

// env collects what packages must not read themselves.
func env(c *cli.Context) pipeline.Env {
	return pipeline.Env{
		HFHome: hfHome(), Threads: c.Int("threads"), Kernel: c.String("kernel"),
		IgnoreKeys: c.StringSlice("ignore-config"),
	}
}

// hfHome is the folder of Hugging Face's cache, by its own rules.
func hfHome() string {
	if dir := os.Getenv("HF_HOME"); dir != "" {
		return dir
	}
	base := os.Getenv("XDG_CACHE_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return ""
		}
		base = filepath.Join(home, ".cache")
	}
	return filepath.Join(base, "huggingface")
}

// computeOptions reads computeFlags.
func computeOptions(c *cli.Context) (slmrt.Options, error) {
	o := slmrt.Options{Threads: c.Int("threads"), Kernel: c.String("kernel")}
	if _, err := kernel.Select(o.Kernel); err != nil {
		return o, usageError(err.Error())
	}
	return o, nil
}

// sessionOptions reads sessionFlags.
func sessionOptions(c *cli.Context) (slmrt.Options, error) {
	o, err := computeOptions(c)
	if err != nil {
		return o, err
	}
	o.Context, o.Batch = c.Int("context"), c.Int("batch")
	if o.Context < 0 || o.Batch < 0 {
		return o, usageError("--context and --batch must not be negative")
	}
	if name := c.String("kv"); name != "" {
		kv, err := exec.ParseKV(name)
		if err != nil {
			return o, usageError(err.Error())
		}
		o.KV = kv
	}
	o.Budget, err = parseSize(c.String("memory"))
	return o, err
}

// parseSize reads a number of bytes with a unit: B, kB, MB, GB, or KiB, MiB,
// GiB. An empty string is 0.
func parseSize(s string) (int64, error) {
	if s == "" {
		return 0, nil
	}
	text, unit := s, int64(1)
	for _, u := range []struct {
		suffix string
		bytes  int64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"kB", 1e3}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}} {
		if n, ok := strings.CutSuffix(s, u.suffix); ok {
			text, unit = n, u.bytes
			break
		}
	}
	var n float64
	var rest string
	if k, _ := fmt.Sscanf(strings.TrimSpace(text)+" .", "%g %s", &n, &rest); k != 2 || rest != "." || !(n > 0 && n*float64(unit) <= 1<<60) {
		return 0, usageError(fmt.Sprintf("size %q: want a number with B, kB, MB, GB, KiB, MiB or GiB", s))
	}
	return int64(n * float64(unit)), nil
}

// megabytes prints bytes for people.
func megabytes(n int64) string {
	switch {
	case n < 10_000:
		return fmt.Sprintf("%d B", n)
	case n < 10_000_000:
		return fmt.Sprintf("%.1f kB", float64(n)/1e3)
	}
	return fmt.Sprintf("%.1f MB", float64(n)/1e6)
}
