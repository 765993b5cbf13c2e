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

// pool lends sessions, made when they are first needed and used again.
type pool struct {
	*gate
	m    *slmrt.Model
	o    slmrt.Options
	free chan *slmrt.Session
}

func newPool(m *slmrt.Model, o slmrt.Options, l Limits) *pool {
	return &pool{newGate(l.Sessions, l.Queue, l.QueueWait), m, o, make(chan *slmrt.Session, l.Sessions)}
}

// with calls f with an empty session.
func (p *pool) with(ctx context.Context, f func(*slmrt.Session) error) error {
	if err := p.enter(ctx); err != nil {
		return err
	}
	defer p.leave()
	var s *slmrt.Session
	select {
	case s = <-p.free:
	default:
		var err error
		if s, err = p.m.NewSession(p.o); err != nil {
			return err
		}
	}
	defer func() { p.free <- s }()
	s.Truncate(0)
	return f(s)
}

// close ends the sessions; nobody may be inside.
func (p *pool) close() {
	for {
		select {
		case s := <-p.free:
			s.Close()
		default:
			return
		}
	}
}
