package serve

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	slmrt "slmc/runtime"
)

// Why a request could not get in.
var (
	errQueueFull = errors.New("too many requests are waiting")
	errQueueWait = errors.New("no room became free in time")
)

// gate lets a number of holders in at once and a number wait, in order of
// arrival, for some time.
type gate struct {
	slots   chan struct{}
	waiting atomic.Int64
	queue   int64
	wait    time.Duration
}

func newGate(slots, queue int, wait time.Duration) *gate {
	return &gate{slots: make(chan struct{}, slots), queue: int64(queue), wait: wait}
}

// enter returns nil when the caller is in and must leave. Otherwise the error
// is errQueueFull, errQueueWait, or the context's.
func (g *gate) enter(ctx context.Context) error {
	select {
	case g.slots <- struct{}{}:
		return nil
	default:
	}
	defer g.waiting.Add(-1)
	if g.waiting.Add(1) > g.queue {
		return errQueueFull
	}
	late := time.NewTimer(g.wait)
	defer late.Stop()
	select {
	case g.slots <- struct{}{}:
		return nil
	case <-late.C:
		return errQueueWait
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// try enters if there is room now.
func (g *gate) try() bool {
	select {
	case g.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

func (g *gate) leave() { <-g.slots }

func (g *gate) inside() int { return len(g.slots) }

// seat is a session, and what proposes tokens to it; nil for nothing.
type seat struct {
	*slmrt.Session
	proposals *slmrt.Speculator
}

func (s *seat) close() error {
	s.Close()
	if s.proposals == nil {
		return nil
	}
	return s.proposals.Close()
}

// pool lends seats, made when they are first needed and used again.
type pool struct {
	*gate
	m         *slmrt.Model
	o         slmrt.Options
	speculate func() (*slmrt.Speculator, error)
	free      chan *seat
}

func newPool(c Config) *pool {
	l := c.Limits
	return &pool{newGate(l.Sessions, l.Queue, l.QueueWait), c.Model, c.Options, c.Speculate, make(chan *seat, l.Sessions)}
}

func (p *pool) open() (*seat, error) {
	session, err := p.m.NewSession(p.o)
	if err != nil {
		return nil, err
	}
	s := &seat{Session: session}
	if p.speculate != nil {
		if s.proposals, err = p.speculate(); err != nil {
			session.Close()
			return nil, err
		}
	}
	return s, nil
}

// with calls f with a seat whose session is empty.
func (p *pool) with(ctx context.Context, f func(*seat) error) error {
	if err := p.enter(ctx); err != nil {
		return err
	}
	defer p.leave()
	var s *seat
	select {
	case s = <-p.free:
	default:
		var err error
		if s, err = p.open(); err != nil {
			return err
		}
	}
	defer func() { p.free <- s }()
	s.Truncate(0)
	return f(s)
}

// close ends the sessions; nobody may be inside.
func (p *pool) close() (err error) {
	for {
		select {
		case s := <-p.free:
			err = errors.Join(err, s.close())
		default:
			return err
		}
	}
}
