package phone

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"slmc/formats"
	"slmc/formats/bundle"
	slmrt "slmc/runtime"
)

// RemoteError is a failure that slmrt on the device reported; Code is its exit
// code, which means what slmc's does.
type RemoteError struct {
	Code int
	Text string
}

func (e *RemoteError) Error() string {
	return fmt.Sprintf("slmrt on the device: exit code %d: %s", e.Code, e.Text)
}

// Result is what became of one bundle on one device: a file that verify and
// bench write and that Report reads.
type Result struct {
	Version int           `json:"slmc_phone"` // ResultVersion
	Device  Device        `json:"device"`
	Bundle  Subject       `json:"bundle"`
	Runtime string        `json:"runtime_sha256"`
	Verify  *Verification `json:"verify,omitempty"`
	Bench   *Bench        `json:"bench,omitempty"`
}

// ResultVersion is that of Result's form.
const ResultVersion = 1

// Subject says which bundle it was.
type Subject struct {
	Name       string  `json:"name"`
	Digest     string  `json:"digest"`
	Bytes      int64   `json:"bytes"`
	Parameters int64   `json:"parameters"`
	BPW        float64 `json:"bpw"`
	// LogitsDigest is that of the golden vectors which the bundle holds.
	LogitsDigest string `json:"logits_digest"`
	Golden       int    `json:"golden"`
}

// Verification is a replay on the device.
type Verification struct {
	OK           bool        `json:"ok"`
	Digest       string      `json:"digest"`
	LogitsDigest string      `json:"logits_digest"`
	Error        string      `json:"error,omitempty"`
	Differs      *Difference `json:"differs,omitempty"` // where it leaves this machine's path
}

// Difference is the first spot, in prompt order, at which the device computes
// something else than this machine.
type Difference struct {
	Prompt int `json:"prompt"`
	slmrt.Place
	Greedy bool `json:"greedy"` // the position is one of the decoded tokens
}

func (d Difference) String() string {
	what := "prompt"
	if d.Greedy {
		what = "greedy token of prompt"
	}
	return fmt.Sprintf("%s %d, position %d, %s: %s, this machine has %s", what, d.Prompt, d.Position, d.Layer, d.Got, d.Want)
}

// Describe says what the report needs of a bundle.
func Describe(b *bundle.Bundle) (Subject, error) {
	m := b.Manifest()
	s := Subject{Name: b.Name(), Digest: b.Digest().String(), Bytes: b.Size(), Parameters: m.Parameters, BPW: m.BPW}
	g, err := b.Golden()
	if err == nil && g != nil && len(g.Prompts) > 0 {
		s.LogitsDigest, s.Golden = g.Digest().String(), len(g.Prompts)
	}
	return s, err
}

// slmrt runs the pushed runtime in its folder and decodes the object that it
// prints. A failure of slmrt itself is *RemoteError; what it printed is decoded
// all the same.
func (p *Phone) slmrt(ctx context.Context, v any, args ...string) error {
	for i, a := range args {
		args[i] = quote(a)
	}
	out, code, err := p.shell(ctx, fmt.Sprintf("cd %s && ./%s %s 2>slmrt.err", quote(p.o.Dir), Runtime, strings.Join(args, " ")))
	if err != nil {
		return err
	}
	var failed error
	if code != 0 {
		failed = &RemoteError{code, p.said(ctx, out)}
	}
	if err := json.Unmarshal([]byte(out), v); err != nil && failed == nil {
		failed = fmt.Errorf("slmrt on the device printed no JSON object: %w: %s", err, lastLines(out))
	}
	return failed
}

// said is what slmrt wrote to its standard error.
func (p *Phone) said(ctx context.Context, out string) string {
	text, code, err := p.shell(ctx, fmt.Sprintf("cat %s", quote(p.o.Dir+"/slmrt.err")))
	if err != nil || code != 0 || strings.TrimSpace(text) == "" {
		return lastLines(out)
	}
	return lastLines(text)
}

// Verify replays a pushed bundle's golden vectors and compares the digests with
// those of the bundle here, which is open as b. flags are passed to slmrt, such
// as --threads 1. Where the device computes something else, the first layer that
// differs is looked for, and the error is of kind formats.ErrCorrupt.
func (p *Phone) Verify(ctx context.Context, b *bundle.Bundle, name string, flags ...string) (*Verification, error) {
	want, err := Describe(b)
	if err != nil {
		return nil, err
	}
	var got slmrt.Verified
	err = p.slmrt(ctx, &got, append([]string{"verify", name, "--json"}, flags...)...)
	v := &Verification{OK: got.OK, Digest: got.Digest, LogitsDigest: got.LogitsDigest, Error: got.Error}
	if err != nil {
		v.OK = false
		if v.Error == "" {
			v.Error = err.Error()
		}
	}
	switch {
	case got.Digest == "": // it did not come so far
		return v, err
	case got.Digest != want.Digest:
		err = formats.Corrupt(want.Name, "", -1, "digest on the device %s, here %s", got.Digest, want.Digest)
	case got.LogitsDigest != "" && got.LogitsDigest != want.LogitsDigest:
		if v.Differs, err = p.locate(ctx, b, name, flags); err != nil {
			return v, fmt.Errorf("the device computes other logits, and where they part was not found: %w", err)
		}
		where := "no layer differs when they are traced"
		if v.Differs != nil {
			where = v.Differs.String()
		}
		err = formats.Corrupt(want.Name, "", -1, "logits_digest on the device %s, the bundle has %s; first difference: %s", got.LogitsDigest, want.LogitsDigest, where)
	}
	if err != nil {
		v.OK, v.Error = false, err.Error()
	}
	return v, err
}

// locate traces the golden prompts on both machines until they part.
func (p *Phone) locate(ctx context.Context, b *bundle.Bundle, name string, flags []string) (*Difference, error) {
	g, err := b.Golden()
	if err != nil {
		return nil, err
	}
	m, err := slmrt.FromBundle(b)
	if err != nil {
		return nil, err
	}
	for n, prompt := range g.Prompts {
		want, err := m.Trace(ctx, g, n, slmrt.Options{})
		if err != nil {
			return nil, err
		}
		var got slmrt.Trace
		if err := p.slmrt(ctx, &got, append([]string{"trace", name, "--golden", fmt.Sprint(n)}, flags...)...); err != nil {
			return nil, err
		}
		if place, differ := slmrt.FirstDifference(got.Steps, want); differ {
			return &Difference{Prompt: n, Place: place, Greedy: place.Position >= len(prompt.IDs)}, nil
		}
	}
	return nil, nil
}

// Bench is what slmrt bench measured on the device, and its battery.
type Bench struct {
	slmrt.BenchResult
	Battery *Drain  `json:"battery,omitempty"`
	Celsius float64 `json:"celsius,omitempty"` // of the battery at the end
}

// Drain is what the battery gave during a bench: all of the device, the screen
// included.
type Drain struct {
	Percent  int     `json:"percent"` // at the end
	Powered  bool    `json:"powered"` // by a cable: then nothing can be measured
	Joules   float64 `json:"joules"`
	JPerTok  float64 `json:"joules_per_token"` // of prompt and decoded tokens alike
	Tokens   int     `json:"tokens"`
	Resolved bool    `json:"resolved"` // the counter moved by at least ten of its steps
}

// Bench times a pushed bundle; repetitions is what flags ask of slmrt bench.
func (p *Phone) Bench(ctx context.Context, name string, repetitions int, flags ...string) (*Bench, error) {
	before, err := p.battery(ctx)
	if err != nil {
		return nil, err
	}
	b := &Bench{}
	args := append([]string{"bench", name, "--json", "--repetitions", fmt.Sprint(repetitions)}, flags...)
	if err := p.slmrt(ctx, &b.BenchResult, args...); err != nil {
		return nil, err
	}
	after, err := p.battery(ctx)
	if err != nil {
		return nil, err
	}
	if after.known {
		b.Celsius = after.celsius
		b.Battery = drain(before, after, repetitions*(b.PromptTokens+b.DecodeTokens))
	}
	return b, nil
}

func drain(before, after battery, tokens int) *Drain {
	d := &Drain{Percent: after.percent, Powered: before.powered || after.powered, Tokens: tokens, Joules: joules(before, after)}
	if tokens > 0 {
		d.JPerTok = d.Joules / float64(tokens)
	}
	// Counters count in steps of about 1 mAh, 14 J.
	d.Resolved = before.microAh-after.microAh >= 10_000 && d.Joules > 0
	return d
}
