// Package serve answers an OpenAI-compatible API with a model that runs here,
// and hands off to a large model elsewhere what the policy says. It reads no
// environment and no key files: whoever starts it hands those in.
package serve

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"slmc/internal/audit"
	slmrt "slmc/runtime"
)

// ErrConfig is a configuration that cannot be served.
var ErrConfig = errors.New("configuration")

// Secret is a key. It prints as a placeholder, so that no log or error can carry
// it.
type Secret string

const hidden = "(secret)"

// String implements fmt.Stringer.
func (Secret) String() string { return hidden }

// GoString implements fmt.GoStringer.
func (Secret) GoString() string { return hidden }

// LogValue implements slog.LogValuer.
func (Secret) LogValue() slog.Value { return slog.StringValue(hidden) }

// MarshalText implements encoding.TextMarshaler.
func (Secret) MarshalText() ([]byte, error) { return []byte(hidden), nil }

// Config is what a server is made of.
type Config struct {
	Model   *slmrt.Model
	Digest  string // of the bundle, for the log
	Options slmrt.Options
	// Speculate opens what proposes tokens for one session, which closes it; nil, or
	// nil from it: nothing. It changes no answer.
	Speculate func() (*slmrt.Speculator, error)
	Policy    slmrt.Policy
	Upstream  *Upstream // nil: there is none, and nothing is handed off
	// Device reports the state of the device before each decision; nil: unknown.
	Device func() (slmrt.Device, error)
	Token  Secret   // demanded of clients; empty: none
	Hosts  []string // names, beside localhost and addresses, by which clients may call this server
	Limits Limits
	Log    *audit.Writer // nil: none
	// LogText keeps queries and answers in the log, but never those of a class that
	// may not leave the device.
	LogText bool
	// AuditRate is the share of queries whose answer here is compared with the large
	// model's afterwards. Rand draws them; it is used by one goroutine at a time.
	AuditRate float64
	Rand      *rand.Rand
	Logger    *slog.Logger
}

// Limits bound what clients can take. A zero field has the default.
type Limits struct {
	Sessions    int           // generations at once, each with a cache of its own
	Queue       int           // requests that wait for one; more get 429
	QueueWait   time.Duration // after which a waiting request gets 503
	Remote      int           // calls of the large model at once
	Requests    int           // requests at once, in any state; more get 429
	Connections int           // more wait to be accepted
	Body        int64         // bytes of a request
	Tokens      int           // generated for one request
	Answer      int           // bytes of one answer
	Read        time.Duration // for a request to arrive
	Write       time.Duration // for a client to take each piece of an answer
	Idle        time.Duration // for a connection between requests
	Shutdown    time.Duration // for requests to end when the server stops
}

// DefaultLimits suit one machine of a few cores.
func DefaultLimits() Limits {
	return Limits{
		Sessions: 1, Queue: 256, QueueWait: 30 * time.Second, Remote: 64, Requests: 512, Connections: 1024,
		Body: 1 << 20, Tokens: 4096, Answer: 1 << 20,
		Read: 30 * time.Second, Write: 30 * time.Second, Idle: 2 * time.Minute, Shutdown: 30 * time.Second,
	}
}

// fill puts defaults where l says nothing.
func (l Limits) fill() Limits {
	d := DefaultLimits()
	for _, f := range []struct{ have, want *int }{
		{&l.Sessions, &d.Sessions}, {&l.Queue, &d.Queue}, {&l.Remote, &d.Remote}, {&l.Requests, &d.Requests},
		{&l.Connections, &d.Connections}, {&l.Tokens, &d.Tokens}, {&l.Answer, &d.Answer},
	} {
		if *f.have == 0 {
			*f.have = *f.want
		}
	}
	for _, f := range []struct{ have, want *time.Duration }{
		{&l.QueueWait, &d.QueueWait}, {&l.Read, &d.Read}, {&l.Write, &d.Write}, {&l.Idle, &d.Idle}, {&l.Shutdown, &d.Shutdown},
	} {
		if *f.have == 0 {
			*f.have = *f.want
		}
	}
	if l.Body == 0 {
		l.Body = d.Body
	}
	return l
}

// check reports limits that leave nothing.
func (l Limits) check() error {
	for _, f := range []struct {
		name string
		n    int64
	}{
		{"sessions", int64(l.Sessions)}, {"queue", int64(l.Queue)}, {"remote", int64(l.Remote)}, {"requests", int64(l.Requests)},
		{"connections", int64(l.Connections)}, {"body", l.Body}, {"tokens", int64(l.Tokens)}, {"answer", int64(l.Answer)},
		{"queue wait", int64(l.QueueWait)}, {"read", int64(l.Read)}, {"write", int64(l.Write)}, {"idle", int64(l.Idle)}, {"shutdown", int64(l.Shutdown)},
	} {
		if f.n <= 0 {
			return fmt.Errorf("%w: limit of %s is %d, want more than 0", ErrConfig, f.name, f.n)
		}
	}
	return nil
}
