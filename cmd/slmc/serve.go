package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	goruntime "runtime"
	"strings"
	"sync"
	"time"

	"github.com/urfave/cli/v2"

	"slmc/internal/audit"
	"slmc/internal/origin"
	"slmc/internal/pipeline"
	"slmc/internal/serve"
	slmrt "slmc/runtime"
)

// The environment variables that hold keys; files can too.
const (
	tokenVariable = "SLMC_TOKEN"
	keyVariable   = "SLMC_UPSTREAM_KEY"
)

func serveCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "serve",
		Usage: "answer an OpenAI-compatible API, and hand off what the policy says",
		Description: "Serves /v1/chat/completions, /v1/completions, /v1/models, /healthz and /metrics. The model\n" +
			"\"local\" is SOURCE_OR_BUNDLE, \"remote\" the one behind --upstream, \"auto\" whichever the policy\n" +
			"and the bundle's router choose. Keys come from files or from the environment: " + keyVariable + "\n" +
			"for the upstream, " + tokenVariable + " for this server's clients. See docs/serving.md.",
		Flags: join([]cli.Flag{
			&cli.StringFlag{Name: "listen", Value: "127.0.0.1:8080", Usage: "listen on `ADDRESS`; one that other machines reach needs a token"},
			&cli.StringFlag{Name: "token-file", Usage: "clients must show the token in `FILE`"},
			&cli.StringSliceFlag{Name: "allow-host", Usage: "also answer to the `NAME` in a request's Host; addresses and localhost are"},
			&cli.StringFlag{Name: "upstream", Usage: "hand off to the OpenAI-compatible API at `URL`"},
			&cli.StringFlag{Name: "upstream-model", DefaultText: "local if it has one, else its first", Usage: "ask it for the model `NAME`"},
			&cli.StringFlag{Name: "upstream-key-file", Usage: "show it the key in `FILE`"},
			&cli.StringFlag{Name: "upstream-ca", Usage: "trust the certificates in `FILE` (PEM), and no others, for it"},
			&cli.BoolFlag{Name: "upstream-plain-key", Usage: "show it the key even on an unencrypted connection to another machine"},
			&cli.DurationFlag{Name: "upstream-timeout", Value: 30 * time.Second, Usage: "give up when nothing of a stream comes for `T`, or no whole answer for 4 T"},
			&cli.IntFlag{Name: "upstream-calls", Value: serve.DefaultLimits().Remote, Usage: "make at most `N` calls at once"},
			&cli.StringFlag{Name: "policy", DefaultText: "the score decides", Usage: "the JSON policy in `FILE`"},
			&cli.Float64Flag{Name: "bound", DefaultText: "the bundle's", Usage: "hold the loss within `X` (0.02 is two points), in place of the policy's"},
			&cli.StringFlag{Name: "device", Usage: "read the device's state before each decision from the JSON `FILE`"},
			&cli.StringFlag{Name: "log", Usage: "append each decision to the JSONL `FILE`"},
			&cli.BoolFlag{Name: "log-text", Usage: "keep queries and answers in it, but for classes that may not leave"},
			&cli.Float64Flag{Name: "audit-rate", Usage: "ask the large model too for a share `P` of what is answered here, to watch the certificate"},
			&cli.IntFlag{Name: "sessions", DefaultText: "one a CPU, up to 8", Usage: "generate `N` answers at once"},
			&cli.IntFlag{Name: "queue", Value: serve.DefaultLimits().Queue, Usage: "let `N` requests wait for that; more get 429"},
			&cli.IntFlag{Name: "max-tokens", Aliases: []string{"n"}, Value: serve.DefaultLimits().Tokens, Usage: "end each answer after `N` tokens at most"},
			&cli.StringFlag{Name: "max-body", Value: "1MiB", Usage: "refuse requests above `SIZE`"},
			&cli.DurationFlag{Name: "client-timeout", Value: serve.DefaultLimits().Write, Usage: "drop clients that take nothing, or send nothing, for `T`"},
			&cli.DurationFlag{Name: "grace", Value: serve.DefaultLimits().Shutdown, Usage: "let answers end for `T` when stopped"},
			&cli.BoolFlag{Name: "check", Usage: "check every byte of a bundle before running it"},
			seedFlag(), jsonFlag(),
		}, speculationFlags(), sessionFlags(), sourceFlags()),
		Action: runServe,
	}, "slmc serve assistant.slmb --upstream https://cloud.example/v1 --policy policy.json --log decisions.jsonl", "SOURCE_OR_BUNDLE")
}

func runServe(c *cli.Context) error {
	o, err := sessionOptions(c)
	if err != nil {
		return err
	}
	config, err := serveConfig(c)
	if err != nil {
		return err
	}
	if config.Upstream != nil {
		defer config.Upstream.Close()
	}
	wish, err := speculation(c)
	if err != nil {
		return err
	}
	listen := c.String("listen")
	if err := checkListen(listen, config.Token != ""); err != nil {
		return err
	}
	return withOpened(c, c.Args().First(), o.Context, func(m *slmrt.Model, from *pipeline.Opened) (err error) {
		if path := c.String("log"); path != "" {
			if config.Log, err = audit.OpenWriter(path); err != nil {
				return err
			}
			defer func() { err = errors.Join(err, config.Log.Close()) }()
		}
		if config.Digest = "checkpoint"; from.Bundle != nil {
			config.Digest = from.Bundle.Digest().String()
		}
		if o.Threads == 0 { // sessions share the CPUs
			o.Threads = max(1, goruntime.GOMAXPROCS(0)/config.Limits.Sessions)
		}
		config.Model, config.Options = m, o
		share, err := shareOf(m, o, config.Limits.Sessions)
		if err != nil {
			return err
		}
		var once sync.Once
		config.Speculate = func() (*slmrt.Speculator, error) {
			return slmrt.OpenSpeculator(m, from.Bundle, from.Path, wish, share, func(text string) { once.Do(func() { logger(c).Warn(text) }) })
		}
		s, err := serve.New(config)
		if err != nil {
			return err
		}
		l, err := new(net.ListenConfig).Listen(c.Context, "tcp", listen)
		if err != nil {
			return err
		}
		if err := announce(c, s, l.Addr(), config.Upstream != nil); err != nil {
			return errors.Join(err, l.Close())
		}
		return s.Serve(c.Context, l)
	})
}

// announce says that requests can come, and by which row they are decided.
func announce(c *cli.Context, s *serve.Server, at net.Addr, upstream bool) error {
	n, row, ok := s.Row()
	if c.Bool("json") {
		out := map[string]any{"url": "http://" + at.String(), "upstream": upstream, "router": ok}
		if ok {
			out["row"], out["bound"], out["deferral_rate"] = n, row.Bound, row.DeferralRate
		}
		return printJSON(c, out)
	}
	if err := printf(c, "listening on http://%s\n", at); err != nil || !ok {
		return err
	}
	return printf(c, "row %d of the certificate: loss at most %.2f %% at delta %.2g, %.1f %% handed off\n", n, 100*row.Bound, row.Delta, 100*row.DeferralRate)
}

// serveConfig reads all flags that need no model.
func serveConfig(c *cli.Context) (serve.Config, error) {
	out := serve.Config{Policy: slmrt.DefaultPolicy(), Hosts: c.StringSlice("allow-host"), LogText: c.Bool("log-text"), AuditRate: c.Float64("audit-rate"),
		Rand: rand.New(rand.NewPCG(c.Uint64("seed"), uint64(time.Now().UnixNano()))), Logger: logger(c)} // audits must not repeat after a restart
	var err error
	if path := c.String("policy"); path != "" {
		data, err := readSmall(path)
		if err != nil {
			return out, err
		}
		if out.Policy, err = slmrt.ParsePolicy(data); err != nil {
			return out, fmt.Errorf("%s: %w", path, err)
		}
	}
	if c.IsSet("bound") {
		out.Policy.Score.Bound = c.Float64("bound")
	}
	if out.LogText && c.String("log") == "" {
		return out, usageError("--log-text wants --log FILE")
	}
	if out.Limits, err = serveLimits(c); err != nil {
		return out, err
	}
	if out.Token, err = secret(c.String("token-file"), tokenVariable); err != nil {
		return out, err
	}
	if path := c.String("device"); path != "" {
		out.Device = func() (slmrt.Device, error) { return readDevice(path) }
		if _, err := readDevice(path); err != nil {
			return out, err
		}
	}
	out.Upstream, err = upstreamOf(c)
	return out, err
}

func serveLimits(c *cli.Context) (serve.Limits, error) {
	l := serve.Limits{
		Sessions: c.Int("sessions"), Queue: c.Int("queue"), Remote: c.Int("upstream-calls"), Tokens: c.Int("max-tokens"),
		Read: c.Duration("client-timeout"), Write: c.Duration("client-timeout"), Shutdown: c.Duration("grace"),
	}
	if l.Sessions == 0 {
		l.Sessions = min(8, goruntime.GOMAXPROCS(0))
	}
	for name, n := range map[string]int{"sessions": l.Sessions, "queue": l.Queue, "upstream-calls": l.Remote, "max-tokens": l.Tokens} {
		if n < 1 {
			return l, usageError(fmt.Sprintf("--%s is %d, want 1 or more", name, n))
		}
	}
	if l.Read <= 0 || l.Shutdown <= 0 {
		return l, usageError("--client-timeout and --grace must be positive")
	}
	l.Requests = l.Queue + l.Sessions + l.Remote
	l.Connections = 2 * l.Requests
	var err error
	l.Body, err = parseSize(c.String("max-body"))
	return l, err
}

// upstreamOf reads the flags of the large model; nil without one.
func upstreamOf(c *cli.Context) (*serve.Upstream, error) {
	url := c.String("upstream")
	if url == "" {
		for _, f := range []string{"upstream-model", "upstream-key-file", "upstream-ca"} {
			if c.IsSet(f) {
				return nil, usageError("--" + f + " wants --upstream URL")
			}
		}
		if c.Float64("audit-rate") > 0 {
			return nil, usageError("--audit-rate wants --upstream URL")
		}
		return nil, nil
	}
	if c.Duration("upstream-timeout") <= 0 {
		return nil, usageError("--upstream-timeout must be positive")
	}
	u := serve.UpstreamConfig{URL: url, Model: c.String("upstream-model"), PlainKey: c.Bool("upstream-plain-key"), Proxy: http.ProxyFromEnvironment,
		FirstByte: c.Duration("upstream-timeout"), Whole: 4 * c.Duration("upstream-timeout"), Stall: c.Duration("upstream-timeout")}
	var err error
	if u.Key, err = secret(c.String("upstream-key-file"), keyVariable); err != nil {
		return nil, err
	}
	if path := c.String("upstream-ca"); path != "" {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		u.Roots = x509.NewCertPool()
		if !u.Roots.AppendCertsFromPEM(data) {
			return nil, usageError(path + " has no certificate in PEM form")
		}
	}
	return serve.NewUpstream(u)
}

// secret reads a key from a file, or else from the environment.
func secret(path, variable string) (serve.Secret, error) {
	if path == "" {
		return serve.Secret(strings.TrimSpace(os.Getenv(variable))), nil
	}
	data, err := readSmall(path)
	if err != nil {
		return "", err
	}
	key := strings.TrimSpace(string(data))
	if key == "" {
		return "", usageError(path + " has no key in it")
	}
	return serve.Secret(key), nil
}

// readSmall reads a file that has no reason to be long.
func readSmall(path string) ([]byte, error) {
	const most = 1 << 20
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && len(data) > most {
		err = usageError(fmt.Sprintf("%s is longer than %d bytes", path, most))
	}
	return data, err
}

// readDevice reads the state that another program writes.
func readDevice(path string) (slmrt.Device, error) {
	data, err := readSmall(path)
	if err != nil {
		return slmrt.Device{}, err
	}
	d, err := slmrt.ParseDevice(data)
	if err != nil {
		return d, fmt.Errorf("%s: %w", path, err)
	}
	return d, nil
}

// checkListen refuses to serve other machines without a token.
func checkListen(address string, token bool) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return usageError(fmt.Sprintf("--listen %q: %v", address, err))
	}
	if token || origin.Loopback(host) {
		return nil
	}
	return usageError(fmt.Sprintf("other machines reach %s: give --token-file, or set %s", address, tokenVariable))
}

// shareOf holds all sessions to the budget, the weights there once, and returns the
// options with the part of it that one session and what proposes tokens to it may take.
func shareOf(m *slmrt.Model, o slmrt.Options, sessions int) (slmrt.Options, error) {
	if o.Budget == 0 {
		return o, nil
	}
	mem, err := m.Memory(o)
	if err != nil {
		return o, err
	}
	total := mem.Weights + int64(sessions)*(mem.Cache+mem.Work)
	if total > o.Budget {
		return o, fmt.Errorf("%w: %d sessions take %d bytes with the weights, the budget is %d", slmrt.ErrMemory, sessions, total, o.Budget)
	}
	o.Budget = mem.Total + (o.Budget-total)/int64(sessions)
	return o, nil
}
