package serve

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"slmc/internal/origin"
)

// UpstreamConfig says where the large model is. A zero duration or number has
// the default.
type UpstreamConfig struct {
	URL   string // of an OpenAI-compatible API, such as https://host/v1; without a path, /v1 is meant
	Model string // empty: "local" if the server has one, as slmc's does, else its first
	Key   Secret // bearer token; empty: none
	// PlainKey allows the key on an unencrypted connection to another machine.
	PlainKey bool
	Roots    *x509.CertPool                        // trusted authorities; nil: the system's
	Proxy    func(*http.Request) (*url.URL, error) // nil: none

	Connect   time.Duration // for a connection and its handshake
	FirstByte time.Duration // for a stream to begin
	Whole     time.Duration // for an answer that is not streamed
	Stall     time.Duration // between two pieces of it
	Total     time.Duration // for the whole answer
	Tries     int           // calls before giving up, while nothing of an answer came
	Backoff   time.Duration // before the second try, doubled before each later one
	MaxWait   time.Duration // longest Retry-After that is waited for within a request
	MaxBytes  int64         // of one answer

	// After Failures failures in a row the large model counts as offline for
	// Cooldown, or as long as it asked for.
	Failures int
	Cooldown time.Duration
}

func (c UpstreamConfig) fill() UpstreamConfig {
	for _, f := range []struct {
		have *time.Duration
		want time.Duration
	}{
		{&c.Connect, 5 * time.Second}, {&c.FirstByte, 30 * time.Second}, {&c.Whole, 2 * time.Minute}, {&c.Stall, 30 * time.Second}, {&c.Total, 5 * time.Minute},
		{&c.Backoff, 200 * time.Millisecond}, {&c.MaxWait, 2 * time.Second}, {&c.Cooldown, 10 * time.Second},
	} {
		if *f.have == 0 {
			*f.have = f.want
		}
	}
	if c.Tries == 0 {
		c.Tries = 2
	}
	if c.Failures == 0 {
		c.Failures = 3
	}
	if c.MaxBytes == 0 {
		c.MaxBytes = 16 << 20
	}
	return c
}

// Upstream calls the large model. It is safe for concurrent use.
type Upstream struct {
	c      UpstreamConfig
	base   *url.URL
	client *http.Client
	health *health

	mu    sync.Mutex
	model string // once it is known
}

// NewUpstream checks the configuration; it does not connect.
func NewUpstream(c UpstreamConfig) (*Upstream, error) {
	c = c.fill()
	base, err := url.Parse(c.URL)
	if err != nil || (base.Scheme != "http" && base.Scheme != "https") || base.Host == "" || base.User != nil || base.RawQuery != "" || base.Fragment != "" {
		return nil, fmt.Errorf("%w: upstream %q, want http://HOST or https://HOST with a path at most", ErrConfig, redactURL(c.URL))
	}
	if strings.Trim(base.Path, "/") == "" {
		base.Path = "/v1"
	}
	if c.Key != "" && !c.PlainKey {
		if err := origin.CheckKey(base); err != nil {
			return nil, fmt.Errorf("%w: upstream: %w", ErrConfig, err)
		}
	}
	if strings.ContainsAny(string(c.Key), "\r\n\x00") {
		return nil, fmt.Errorf("%w: the upstream's key has a line feed in it", ErrConfig)
	}
	t := &http.Transport{
		Proxy:               c.Proxy,
		DialContext:         (&net.Dialer{Timeout: c.Connect}).DialContext,
		TLSClientConfig:     &tls.Config{RootCAs: c.Roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: c.Connect, ForceAttemptHTTP2: true,
		MaxIdleConnsPerHost: 16, IdleConnTimeout: time.Minute,
		MaxResponseHeaderBytes: 64 << 10, DisableCompression: true,
	}
	u := &Upstream{c: c, base: base, health: newHealth(c.Failures, c.Cooldown, time.Now), model: c.Model}
	u.client = &http.Client{Transport: t, CheckRedirect: origin.Stay}
	return u, nil
}

// redactURL hides what may be a password.
func redactURL(s string) string {
	if u, err := url.Parse(s); err == nil {
		return u.Redacted()
	}
	return "URL"
}

// Up reports whether the large model counts as reachable.
func (u *Upstream) Up() bool { return u.health.up() }

// Close ends idle connections.
func (u *Upstream) Close() { u.client.CloseIdleConnections() }

// body is the JSON object of a request, kept as it came so that fields we do not
// know reach the large model.
type body map[string]json.RawMessage

func (b body) set(key string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	b[key] = raw
	return nil
}

// post sends a request until one try succeeds: handle reads the answer, and
// reports whether anything of it was used, after which there is no other try.
// patience is for the answer to begin. The error is a *Failure.
func (u *Upstream) post(ctx context.Context, path string, b body, patience time.Duration, handle func(*http.Response) (used bool, err error)) (tries int, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, u.c.Total, errTotal)
	defer cancel()
	wait := u.c.Backoff
	for {
		tries++
		used, err := u.once(ctx, path, b, patience, handle)
		if err == nil {
			u.health.good()
			return tries, nil
		}
		f := u.failure(ctx, err)
		u.health.bad(f)
		if used || tries >= u.c.Tries || !f.again() || f.RetryAfter > u.c.MaxWait {
			return tries, f
		}
		if err := sleep(ctx, max(wait, f.RetryAfter)); err != nil {
			return tries, u.failure(ctx, err)
		}
		wait *= 2
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// once is one try.
func (u *Upstream) once(ctx context.Context, path string, b body, patience time.Duration, handle func(*http.Response) (bool, error)) (used bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	name, err := u.modelName(ctx)
	if err != nil {
		return false, err
	}
	if err := b.set("model", name); err != nil {
		return false, err
	}
	data, err := json.Marshal(b)
	if err != nil {
		return false, err
	}
	slow := time.AfterFunc(patience, func() { cancel(errSlow) })
	defer slow.Stop()
	req, err := u.request(ctx, http.MethodPost, path, bytes.NewReader(data))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := u.client.Do(req)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	slow.Stop()
	resp.Body = &watched{resp.Body, slow, u.c.Stall, u.c.MaxBytes}
	if resp.StatusCode != http.StatusOK {
		return false, statusFailure(resp)
	}
	return handle(resp)
}

func (u *Upstream) request(ctx context.Context, method, path string, data io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, u.base.JoinPath(path).String(), data)
	if err != nil {
		return nil, err
	}
	if u.c.Key != "" {
		req.Header.Set("Authorization", "Bearer "+string(u.c.Key))
	}
	return req, nil
}

// modelName asks the server for its models, once.
func (u *Upstream) modelName(ctx context.Context) (string, error) {
	u.mu.Lock()
	name := u.model
	u.mu.Unlock()
	if name != "" {
		return name, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, u.c.FirstByte, errSlow)
	defer cancel()
	req, err := u.request(ctx, http.MethodGet, "models", nil)
	if err != nil {
		return "", err
	}
	resp, err := u.client.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return "", statusFailure(resp)
	}
	var list struct {
		Data []struct {
			ID string `json:"id"`
		} `json:"data"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&list); err != nil || len(list.Data) == 0 {
		return "", &Failure{Kind: failGarbage, Status: resp.StatusCode, Err: errors.New("no list of models")}
	}
	name = list.Data[0].ID
	for _, m := range list.Data {
		if m.ID == modelLocal {
			name = m.ID
		}
	}
	u.mu.Lock()
	u.model = name
	u.mu.Unlock()
	return name, nil
}

// watched is a body whose reader is cancelled when a read takes too long, and
// which ends with an error above a number of bytes. Time that the reader spends
// elsewhere, as on a client that reads slowly, does not count.
type watched struct {
	io.ReadCloser
	slow  *time.Timer
	stall time.Duration
	left  int64
}

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	w.slow.Reset(w.stall)
	n, err := w.ReadCloser.Read(p)
	w.slow.Stop()
	if w.left -= int64(n); w.left < 0 {
		return 0, errTooLong
	}
	return n, err
}

// isType reports whether a response has that media type.
func isType(resp *http.Response, want string) bool {
	t, _, err := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	return err == nil && t == want
}
