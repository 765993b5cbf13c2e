// Command slmrt is the phone's side of slmc: it verifies, runs, times and
// describes bundles. It links the runtime and nothing else.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"

	"slmc/formats"
	"slmc/formats/bundle"
	"slmc/internal/exec"
	"slmc/internal/kernel"
	slmrt "slmc/runtime"
	"slmc/tokenizer/jinja"
)

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

// command is one of the things that slmrt does.
type command struct {
	name, usage string
	run         func(ctx context.Context, c *call) error
}

var commands = []command{
	{"verify", "check every byte of a bundle and replay its golden vectors", verify},
	{"run", "answer --user through the chat template, or continue --prompt", generate},
	{"bench", "time load, prefill and decode", bench},
	{"trace", "print the digests inside a golden prompt, layer by layer", trace},
	{"info", "say what a bundle holds", info},
}

// call is one invocation: the flags are the same for all commands.
type call struct {
	out, errs                   io.Writer
	path                        string
	json, quick, check          bool
	pubkey, kernel, prompt      string
	user, kv, format            string
	soak                        int
	threads, contextLen, tokens int
	golden                      int
	budget                      int64
	sampling                    slmrt.Sampling
	bench                       slmrt.BenchOptions
	wish                        slmrt.Wish
}

// The exit codes are those of slmc.
var exitCodes = []struct {
	kind error
	code int
}{
	{formats.ErrVersion, 7}, {slmrt.ErrMemory, 6}, {formats.ErrCorrupt, 4}, {exec.ErrNotFinite, 4},
	{formats.ErrUnsupported, 3}, {slmrt.ErrNoTemplate, 3}, {errUsage, 2}, {slmrt.ErrContext, 2}, {slmrt.ErrToken, 2}, {jinja.ErrRaised, 2},
}

var errUsage = errors.New("usage")

func run(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends what does not listen
	err := dispatch(ctx, args, stdout, stderr)
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "slmrt: %v\n", err)
	for _, e := range exitCodes {
		if errors.Is(err, e.kind) {
			return e.code
		}
	}
	return 1
}

func dispatch(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	if len(args) > 0 {
		for _, cmd := range commands {
			if cmd.name == args[0] {
				c, err := parse(cmd, args[1:], stdout, stderr)
				if errors.Is(err, flag.ErrHelp) {
					return nil
				}
				if err != nil {
					return err
				}
				return cmd.run(ctx, c)
			}
		}
	}
	fmt.Fprintln(stderr, "slmrt COMMAND BUNDLE [flags]")
	for _, cmd := range commands {
		fmt.Fprintf(stderr, "  %-8s%s\n", cmd.name, cmd.usage)
	}
	fmt.Fprintln(stderr, "Example:\n  slmrt verify assistant.slmb --json")
	if len(args) > 0 && args[0] != "help" && args[0] != "-h" && args[0] != "--help" {
		return fmt.Errorf("%w: command %q is unknown", errUsage, args[0])
	}
	return nil
}

// parse reads flags before and after the bundle's path.
func parse(cmd command, args []string, stdout, stderr io.Writer) (*call, error) {
	c := &call{out: stdout, errs: stderr}
	f := flag.NewFlagSet("slmrt "+cmd.name, flag.ContinueOnError)
	f.SetOutput(stderr)
	f.BoolVar(&c.json, "json", false, "print one JSON object")
	f.BoolVar(&c.quick, "quick", false, "verify: check digests only")
	f.BoolVar(&c.check, "check", false, "run, bench: check every byte of the bundle first")
	f.StringVar(&c.pubkey, "pubkey", "", "demand a signature by the key in this file")
	f.StringVar(&c.kernel, "kernel", "", "force these kernels")
	f.StringVar(&c.kv, "kv", "", "cache format: kv8 or f16 (default: the bundle's)")
	f.Func("threads", "`N` threads, or auto: one a physical core, small ones left out (default auto)", func(s string) (err error) {
		c.threads, err = slmrt.ParseThreads(s)
		return err
	})
	f.IntVar(&c.contextLen, "context", 0, "positions to make room for (default: the bundle's)")
	f.Int64Var(&c.budget, "memory", 0, "refuse to run when more bytes than this are needed")
	f.StringVar(&c.prompt, "prompt", "", "run: raw text to continue")
	f.StringVar(&c.user, "user", "", "run: message to answer")
	f.IntVar(&c.tokens, "max-tokens", 0, "run: stop after this many tokens")
	f.Uint64Var(&c.sampling.Seed, "seed", 1, "run, bench: seed of all randomness")
	f.StringVar(&c.wish.Draft, "draft", "", "run: bundle of a smaller model that proposes tokens (default: the recipe's)")
	f.IntVar(&c.wish.Lookup, "lookup", 0, "run: propose what followed the last tokens before, 0 for no proposals (default: the recipe's)")
	f.IntVar(&c.wish.Tokens, "proposals", 0, "run: propose up to this many tokens at once (default 4)")
	temperature := f.Float64("temperature", 0, "run: 0 takes the likeliest token")
	f.IntVar(&c.golden, "golden", 0, "trace: number of the golden prompt")
	f.IntVar(&c.bench.Prompt, "prompt-tokens", 512, "bench: prompt tokens")
	f.IntVar(&c.bench.Generate, "decode-tokens", 128, "bench: decoded tokens")
	f.IntVar(&c.soak, "soak", 0, "bench: instead, decode this many tokens in sessions of --decode-tokens and watch the memory")
	f.StringVar(&c.format, "format", "json", "bench: text, md, json or csv")
	f.IntVar(&c.bench.Repetitions, "repetitions", 5, "bench: repetitions")
	for len(args) > 0 {
		if err := f.Parse(args); err != nil {
			if errors.Is(err, flag.ErrHelp) {
				return nil, err
			}
			return nil, fmt.Errorf("%w: %w", errUsage, err)
		}
		if args = f.Args(); len(args) > 0 {
			if c.path != "" {
				return nil, fmt.Errorf("%w: one bundle, found also %q", errUsage, args[0])
			}
			c.path, args = args[0], args[1:]
		}
	}
	if c.path == "" {
		return nil, fmt.Errorf("%w: slmrt %s wants a BUNDLE", errUsage, cmd.name)
	}
	if c.contextLen < 0 || c.tokens < 0 || c.budget < 0 {
		return nil, fmt.Errorf("%w: numbers must not be negative", errUsage)
	}
	f.Visit(func(x *flag.Flag) { c.wish.Said = c.wish.Said || x.Name == "draft" || x.Name == "lookup" })
	if err := (slmrt.SpeculationHint{Lookup: c.wish.Lookup, Tokens: c.wish.Tokens}).Check(); err != nil {
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	if _, err := kernel.Select(c.kernel); err != nil {
		return nil, fmt.Errorf("%w: %w", errUsage, err)
	}
	c.sampling.Temperature, c.bench.Seed = float32(*temperature), c.sampling.Seed
	return c, nil
}

func (c *call) options() (slmrt.Options, error) {
	o := slmrt.Options{Threads: c.threads, Kernel: c.kernel, Context: c.contextLen, Budget: c.budget}
	if c.kv != "" {
		kv, err := exec.ParseKV(c.kv)
		if err != nil {
			return o, fmt.Errorf("%w: %w", errUsage, err)
		}
		o.KV = kv
	}
	return o, nil
}

func (c *call) load(ctx context.Context) (*slmrt.Model, *bundle.Bundle, error) {
	o, err := c.loadOptions()
	if err != nil {
		return nil, nil, err
	}
	m, b, err := slmrt.Load(c.path, o)
	if err != nil || !c.check {
		return m, b, err
	}
	if err := b.Check(ctx, nil); err != nil {
		return nil, nil, errors.Join(err, m.Close())
	}
	return m, b, nil
}

func (c *call) loadOptions() (o slmrt.LoadOptions, err error) {
	if c.pubkey != "" {
		o.PublicKey, err = bundle.ReadPublicKey(c.pubkey)
	}
	return o, err
}

func (c *call) print(v any) error {
	enc := json.NewEncoder(c.out)
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

func verify(ctx context.Context, c *call) error {
	load, err := c.loadOptions()
	if err != nil {
		return err
	}
	v, err := slmrt.Verify(ctx, c.path, slmrt.VerifyOptions{Load: load, Quick: c.quick, Session: slmrt.Options{Threads: c.threads, Kernel: c.kernel}})
	if c.json {
		if perr := c.print(v); perr != nil {
			return perr
		}
		return err
	}
	if err != nil {
		return err
	}
	if c.quick || v.Golden == 0 {
		_, err = fmt.Fprintf(c.out, "ok  %s\n", v.Digest)
	} else {
		_, err = fmt.Fprintf(c.out, "ok  %s  logits %s\n", v.Digest, v.LogitsDigest)
	}
	return err
}

func generate(ctx context.Context, c *call) (err error) {
	o, err := c.options()
	if err != nil {
		return err
	}
	if err := c.sampling.Check(); err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	if (c.prompt == "") == (c.user == "") {
		return fmt.Errorf("%w: run wants either --prompt or --user", errUsage)
	}
	m, b, err := c.load(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	ids, err := m.EncodeText(c.prompt)
	if c.user != "" {
		ids, err = m.EncodeUser(c.user, time.Now())
	}
	if err != nil {
		return err
	}
	s, err := m.NewSession(o)
	if err != nil {
		return err
	}
	defer s.Close()
	sp, err := slmrt.OpenSpeculator(m, b, c.path, c.wish, o, func(text string) { fmt.Fprintln(c.errs, "slmrt:", text) })
	if err != nil {
		return err
	}
	if sp != nil {
		defer func() { err = errors.Join(err, sp.Close()) }()
	}
	res, err := s.Generate(ctx, slmrt.Request{Prompt: ids, MaxTokens: c.tokens, Sampling: c.sampling, Speculate: sp}, func(text string) error {
		if c.json {
			return nil
		}
		_, err := io.WriteString(c.out, text)
		return err
	})
	if err != nil {
		return err
	}
	if c.json {
		return c.print(res)
	}
	_, err = fmt.Fprintln(c.out)
	return err
}

func bench(ctx context.Context, c *call) error {
	o, err := c.options()
	if err != nil {
		return err
	}
	if err := c.bench.Check(); err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	if !slices.Contains(slmrt.BenchFormats, c.format) {
		return fmt.Errorf("%w: --format is one of %v, not %q", errUsage, slmrt.BenchFormats, c.format)
	}
	// A look at what the bundle has room for; and every byte, if asked for.
	m, _, err := c.load(ctx)
	if err != nil {
		return err
	}
	room := m.Context
	if c.contextLen > 0 {
		room = c.contextLen
	}
	if c.soak > 0 {
		defer m.Close()
		res, err := m.Soak(ctx, o, slmrt.SoakOptions{Steps: c.soak, Session: min(c.bench.Generate, room), Seed: c.bench.Seed})
		if err != nil {
			return err
		}
		if c.json || c.format == "json" {
			return c.print(res)
		}
		_, err = io.WriteString(c.out, res.String())
		return err
	}
	if err := m.Close(); err != nil {
		return err
	}
	load, err := c.loadOptions()
	if err != nil {
		return err
	}
	res, err := slmrt.BenchFile(ctx, c.path, load, o, c.bench.Fit(room))
	if err != nil {
		return err
	}
	text, err := res.Format(c.format)
	if err != nil {
		return err
	}
	_, err = io.WriteString(c.out, text)
	return err
}

// trace prints one object: equal output means equal layers.
func trace(ctx context.Context, c *call) error {
	o, err := c.options()
	if err != nil {
		return err
	}
	m, b, err := c.load(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	g, err := b.Golden()
	if err != nil {
		return err
	}
	if g == nil || c.golden < 0 || c.golden >= len(g.Prompts) {
		return fmt.Errorf("%w: %s has no golden prompt %d", errUsage, b.Name(), c.golden)
	}
	steps, err := m.Trace(ctx, g, c.golden, o)
	if err != nil {
		return err
	}
	return c.print(slmrt.Trace{Golden: c.golden, Steps: steps})
}

func info(ctx context.Context, c *call) error {
	m, b, err := c.load(ctx)
	if err != nil {
		return err
	}
	defer m.Close()
	man := b.Manifest()
	o, err := c.options()
	if err != nil {
		return err
	}
	mem, err := m.Memory(o)
	if err != nil {
		return err
	}
	return c.print(map[string]any{
		"architecture": man.Graph.Arch, "parameters": man.Parameters, "bpw": man.BPW, "file_bytes": b.Size(),
		"context": man.Context, "layers": len(man.Graph.Blocks), "kv": man.KVFormat,
		"kv_bytes_per_token": exec.KVBytesPerToken(&man.Graph, exec.KVFormat(man.KVFormat)),
		"digest":             b.Digest().String(), "tool_version": man.ToolVersion, "memory": mem,
	})
}
