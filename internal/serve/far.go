package serve

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"slmc/internal/audit"
)

// far lets the large model answer, going on from begun; given says that the client
// has that text already. A failure of the large model comes back as such; any other
// error ends the request.
func (x *exchange) far(ctx context.Context, begun string, given bool) (*Failure, error) {
	s := x.s
	b, err := x.q.remote(begun, x.entry.Tokens)
	if err != nil {
		return nil, err
	}
	if err := s.remote.enter(ctx); err != nil {
		if ctx.Err() != nil {
			return nil, err
		}
		return x.failed(&Failure{Kind: failBusy, Err: err}, true), nil
	}
	defer s.remote.leave()
	x.entry.Served = audit.ServedRemote
	if begun != "" {
		x.entry.Served = audit.ServedLocalRemote
	}
	start := time.Now()
	path := "completions"
	if x.q.endpoint == endpointChat {
		path = "chat/completions"
	}
	p := passing{x: x, begun: begun, given: given, echo: echo{want: begun}, finish: "stop"}
	if x.q.stream {
		err = p.stream(ctx, path, b)
	} else {
		err = p.whole(ctx, path, b)
	}
	x.entry.RemoteTries += p.tries
	s.metrics.remoteSeconds.Observe(time.Since(start).Seconds())
	s.charge(x, p.usage, p.text.Len())
	var f *Failure
	if errors.As(err, &f) && f.Kind != failCancelled && f != errEmit {
		return x.failed(f, f.unsent()), nil
	}
	if err != nil {
		return nil, err
	}
	s.metrics.remoteCalls.WithLabelValues("ok").Inc()
	s.speeds.remote(time.Since(start))
	if begun == "" {
		large := p.text.String()
		x.large = &large
	}
	return nil, x.finish(p.finish)
}

// failed records a failure; unsent says that the large model did not get the query,
// so that it costs nothing.
func (x *exchange) failed(f *Failure, unsent bool) *Failure {
	x.entry.RemoteError = f.Kind
	x.entry.Served = ""
	x.s.metrics.remoteCalls.WithLabelValues(f.Kind).Inc()
	if unsent {
		x.s.ledger.refund()
	}
	// The error has no words of the large model, which may quote the query or the key.
	x.s.log.Warn("large model failed", "kind", f.Kind, "status", f.Status, "id", x.entry.ID, "error", f.Err)
	return f
}

// charge counts what the large model took and gave; where it does not say, a
// token is taken for four bytes.
func (s *Server) charge(x *exchange, u *usage, text int) {
	if u == nil {
		u = &usage{Completion: (text + 3) / 4}
	}
	x.entry.RemotePrompt += max(0, u.Prompt)
	x.entry.RemoteTokens += max(0, u.Completion)
	s.ledger.charge(max(0, u.Prompt) + max(0, u.Completion))
	s.metrics.tokens.WithLabelValues("remote", "prompt").Add(float64(max(0, u.Prompt)))
	s.metrics.tokens.WithLabelValues("remote", "completion").Add(float64(max(0, u.Completion)))
}

// passing passes an answer of the large model on.
type passing struct {
	x      *exchange
	begun  string
	given  bool
	echo   echo
	text   strings.Builder // of the large model, without an echo
	usage  *usage
	finish string
	tries  int
}

// give passes text on, after the text that it goes on from.
func (p *passing) give(text string) error {
	if !p.given {
		p.given = true
		if err := p.x.c.text(p.begun); err != nil {
			return err
		}
	}
	p.text.WriteString(text)
	p.x.farther = p.x.farther || text != ""
	return p.x.c.text(text)
}

func (p *passing) stream(ctx context.Context, path string, b body) (err error) {
	p.tries, err = p.x.s.up.stream(ctx, path, b, func(c piece) error {
		if c.usage != nil {
			p.usage = c.usage
		}
		if c.finish != "" {
			p.finish = c.finish
		}
		if text := p.echo.push(c.text); text != "" {
			if err := p.give(text); err != nil {
				return err
			}
		}
		return p.x.c.other(c.other)
	})
	if err != nil {
		return err
	}
	return p.give(p.echo.rest())
}

func (p *passing) whole(ctx context.Context, path string, b body) error {
	r, tries, err := p.x.s.up.call(ctx, path, b)
	p.tries = tries
	if err != nil {
		return err
	}
	p.usage, p.finish = r.usage, r.finish
	if err := p.give(p.echo.push(r.text) + p.echo.rest()); err != nil {
		return err
	}
	m := r.message
	if m != nil && p.begun != "" {
		text, err := json.Marshal(p.x.c.said())
		if err != nil {
			return err
		}
		m["content"] = text
	}
	delete(m, "role")
	p.x.c.message(m)
	return nil
}

// echo removes the text that an answer was to go on from, where a server repeats
// it instead. Short texts are left alone: an answer may well go on with what it
// began with.
type echo struct {
	want string
	held string
	over bool
}

// shortEcho is the length, in bytes, from which a repetition is no chance.
const shortEcho = 16

// push takes text and returns what is certainly no repetition.
func (e *echo) push(text string) string {
	if e.over || len(e.want) < shortEcho {
		e.over = true
		return text
	}
	e.held += text
	switch {
	case strings.HasPrefix(e.held, e.want):
		e.over = true
		text, e.held = e.held[len(e.want):], ""
		return text
	case strings.HasPrefix(e.want, e.held):
		return ""
	}
	return e.rest()
}

// rest ends the text.
func (e *echo) rest() string {
	text := e.held
	e.over, e.held = true, ""
	return text
}
