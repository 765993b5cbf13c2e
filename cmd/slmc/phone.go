package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/urfave/cli/v2"

	"slmc/formats"
	"slmc/formats/bundle"
	"slmc/internal/phone"
)

func phoneCommand() *cli.Command {
	return &cli.Command{
		Name:  "phone",
		Usage: "push, verify and time bundles on Android devices through adb",
		Description: "adb must be on PATH and the device must allow debugging. slmrt for the device is built by\n" +
			"CGO_ENABLED=0 GOOS=android GOARCH=arm64 go build -o slmrt-android-arm64 ./cmd/slmrt\n\n" +
			"Example:\n   slmc phone verify assistant.slmb -o pixel.json",
		HideHelpCommand: true,
		Subcommands:     []*cli.Command{phonePushCommand(), phoneVerifyCommand(), phoneBenchCommand(), phoneReportCommand()},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return usageError(fmt.Sprintf("phone has no command %q; it has push, verify, bench and report", c.Args().First()))
			}
			return usageError("phone wants push, verify, bench or report")
		},
	}
}

// phoneFlags are those of every command that reaches a device.
func phoneFlags() []cli.Flag {
	return []cli.Flag{
		&cli.StringFlag{Name: "serial", DefaultText: "the only one", Usage: "the device of serial number `S`, as adb devices lists it"},
		&cli.StringFlag{Name: "slmrt", DefaultText: "slmrt-android-arm64 or slmrt-linux-arm64 beside slmc", Usage: "the static slmrt `FILE` for the device"},
		&cli.StringFlag{Name: "dir", Value: phone.DefaultDir, Usage: "the `FOLDER` on the device"},
		jsonFlag(),
	}
}

func resultFlag() cli.Flag {
	return &cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write the result to `FILE`, for phone report"}
}

func phonePushCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "push",
		Usage: "bring slmrt and a bundle to a device",
		Description: "Both travel under temporary names, are digested on the device and then renamed: nothing\n" +
			"half-pushed ever has its final name. What is there already is not pushed again.",
		Flags: phoneFlags(),
		Action: func(c *cli.Context) error {
			return onPhone(c, func(s *visit) error {
				if c.Bool("json") {
					return printJSON(c, map[string]any{"device": s.phone.Info, "slmrt": s.runtime, "bundle": s.pushed})
				}
				for _, f := range []phone.Pushed{s.runtime, s.pushed} {
					state := "pushed"
					if f.Already {
						state = "there already"
					}
					if err := printf(c, "%-14s %s  %s  %s\n", state, f.Name, megabytes(f.Bytes), f.SHA256); err != nil {
						return err
					}
				}
				return printf(c, "on %s, %s\n", s.phone.Info.Name(), s.phone.Info.ABI)
			})
		},
	}, "slmc phone push assistant.slmb", "BUNDLE")
}

func phoneVerifyCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "verify",
		Usage: "replay a bundle's golden vectors on a device",
		Description: "Pushes what is missing, checks every digest there, replays the golden vectors and compares\n" +
			"logits_digest. Where the device computes something else, the first golden token and the\n" +
			"first layer that differ from this machine's are named.",
		Flags: join(phoneFlags(), []cli.Flag{resultFlag()}, computeFlags()),
		Action: func(c *cli.Context) error {
			if _, err := computeOptions(c); err != nil {
				return err
			}
			return onPhone(c, func(s *visit) error {
				v, err := s.phone.Verify(c.Context, s.bundle, s.pushed.Name, passed(c, "threads", "kernel")...)
				s.result.Verify = v
				if v == nil {
					return err
				}
				if werr := s.save(c); werr != nil {
					return errors.Join(err, werr)
				}
				if c.Bool("json") {
					return printReported(c, s.result, err)
				}
				if err != nil {
					return err
				}
				if s.result.Bundle.Golden == 0 {
					return printf(c, "ok  %s  %s  no golden vectors to replay\n", s.phone.Info.Name(), v.Digest)
				}
				return printf(c, "ok  %s  %s  logits %s\n", s.phone.Info.Name(), v.Digest, v.LogitsDigest)
			})
		},
	}, "slmc phone verify assistant.slmb -o pixel.json", "BUNDLE")
}

func phoneBenchCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "bench",
		Usage: "time a bundle on a device",
		Description: "Pushes what is missing, runs slmrt bench there and reads the battery before and after: energy\n" +
			"is measured only while no cable charges the device.",
		Flags: join(phoneFlags(), []cli.Flag{
			resultFlag(),
			&cli.IntFlag{Name: "prompt-tokens", Value: 512, Usage: "prefill `N` tokens"},
			&cli.IntFlag{Name: "decode-tokens", Value: 128, Usage: "decode `N` tokens"},
			&cli.IntFlag{Name: "repetitions", Value: 5, Usage: "repeat `N` times"},
			seedFlag(),
		}, sessionFlags()),
		Action: func(c *cli.Context) error {
			if _, err := sessionOptions(c); err != nil {
				return err
			}
			if c.Int("repetitions") < 1 || c.Int("prompt-tokens") < 1 || c.Int("decode-tokens") < 1 {
				return usageError("a bench wants at least one prompt token, decode token and repetition")
			}
			return onPhone(c, func(s *visit) error {
				b, err := s.phone.Bench(c.Context, s.pushed.Name, c.Int("repetitions"),
					passed(c, "threads", "kernel", "context", "kv", "prompt-tokens", "decode-tokens", "seed")...)
				if err != nil {
					return err
				}
				s.result.Bench = b
				if err := s.save(c); err != nil {
					return err
				}
				if c.Bool("json") {
					return printJSON(c, s.result)
				}
				return printf(c, "%s  prefill %.1f tok/s  decode %.1f tok/s  first token %.1f ms  peak %s, said %s  kernel %s, %d threads\n",
					s.phone.Info.Name(), b.PrefillTokS, b.DecodeTokS, b.TTFTms, megabytes(b.PeakRSS), megabytes(b.Predicted), b.Kernel, b.Threads)
			})
		},
	}, "slmc phone bench assistant.slmb --threads 4 -o pixel-bench.json", "BUNDLE")
}

func phoneReportCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "report",
		Usage: "make a matrix of bundles and devices of results",
		Description: "RESULTS are files that verify and bench wrote with -o. Says of each bundle on each device\n" +
			"whether its contract was kept, how fast it is, and what a token costs by MobileLLM's arithmetic\n" +
			"beside what was measured. FILE ends in .html or .json.",
		Flags: []cli.Flag{&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write `FILE`", Required: true}, jsonFlag()},
		Action: func(c *cli.Context) error {
			var results []phone.Result
			for _, path := range c.Args().Slice() {
				r, err := phone.ReadResult(path)
				if err != nil {
					return err
				}
				results = append(results, r)
			}
			m := phone.NewMatrix(results)
			write := m.HTML
			switch out := c.String("output"); filepath.Ext(out) {
			case ".html":
			case ".json":
				write = func(w io.Writer) error { return json.NewEncoder(w).Encode(m) }
			default:
				return usageError(fmt.Sprintf("--output %s: want a name that ends in .html or .json", out))
			}
			if err := formats.ReplaceFile(c.String("output"), 0o644, func(f *os.File) error { return write(f) }); err != nil {
				return err
			}
			if c.Bool("json") {
				return printJSON(c, m)
			}
			return printf(c, "wrote %s: %d bundles on %d devices\n", c.String("output"), len(m.Bundles), len(m.Devices))
		},
	}, "slmc phone report pixel.json pixel-bench.json -o report.html", "RESULT", "[MORE...]")
}

// visit is a bundle that lies on a connected device.
type visit struct {
	phone           *phone.Phone
	bundle          *bundle.Bundle
	runtime, pushed phone.Pushed
	result          phone.Result
}

// save writes the result if the user wants it.
func (s *visit) save(c *cli.Context) error {
	out := c.String("output")
	if out == "" {
		return nil
	}
	return formats.ReplaceFile(out, 0o644, func(f *os.File) error {
		enc := json.NewEncoder(f)
		enc.SetIndent("", "  ")
		return enc.Encode(s.result)
	})
}

// onPhone connects, pushes slmrt and the bundle of the first positional, and
// runs f.
func onPhone(c *cli.Context, f func(*visit) error) (err error) {
	path := c.Args().First()
	b, err := bundle.Open(path, bundle.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	subject, err := phone.Describe(b)
	if err != nil {
		return err
	}
	adb, err := exec.LookPath("adb")
	if err != nil {
		return fmt.Errorf("adb is not on PATH; it is in Android's platform-tools: %w", err)
	}
	p, err := phone.Connect(c.Context, phone.Options{ADB: adb, Serial: c.String("serial"), Dir: c.String("dir")})
	if err != nil {
		return err
	}
	program, err := slmrtFor(c, p)
	if err != nil {
		return err
	}
	s := &visit{phone: p, bundle: b}
	if s.runtime, err = p.Push(c.Context, program, phone.Runtime, 0o755); err != nil {
		return err
	}
	if s.pushed, err = p.Push(c.Context, path, subject.Digest[:16]+".slmb", 0o644); err != nil {
		return err
	}
	s.result = phone.Result{Version: phone.ResultVersion, Device: p.Info, Bundle: subject, Runtime: s.runtime.SHA256}
	return f(s)
}

// slmrtFor is the runtime that the user names, or one beside this program.
func slmrtFor(c *cli.Context, p *phone.Phone) (string, error) {
	if path := c.String("slmrt"); path != "" {
		return path, p.CheckRuntime(path)
	}
	exe, err := os.Executable()
	if err != nil {
		return "", err
	}
	for _, name := range p.RuntimeNames() {
		path := filepath.Join(filepath.Dir(exe), name)
		if _, err := os.Stat(path); err == nil {
			return path, p.CheckRuntime(path)
		}
	}
	return "", usageError(fmt.Sprintf("no %s beside %s; build it (slmc help phone) and give --slmrt FILE", p.RuntimeNames()[0], filepath.Base(exe)))
}

// passed are the flags that the user gave, for slmrt.
func passed(c *cli.Context, names ...string) (out []string) {
	for _, n := range names {
		if !c.IsSet(n) {
			continue
		}
		out = append(out, "--"+n, fmt.Sprint(c.Value(n)))
	}
	return out
}
