package serve

import (
	"crypto/sha256"
	"crypto/subtle"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"
)

// guard turns away what must not reach a handler: a name that is not this
// server's, a page of another site in a browser, a client without the token,
// too many requests at once.
func (s *Server) guard(next http.Handler) http.Handler {
	cross := http.NewCrossOriginProtection()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.limits.Write))
		w.Header().Set("X-Content-Type-Options", "nosniff")
		refuse := func(e *apiError) {
			s.metrics.refused.WithLabelValues(e.kind).Inc()
			e.write(w, nil)
		}
		switch {
		case !s.knows(r.Host):
			// A name that resolves here and is not ours is a page that rebound its own
			// (DNS rebinding): it would be of the same origin as this server.
			refuse(&apiError{status: http.StatusForbidden, kind: kindHost, msg: "this server does not answer to that name"})
			return
		case cross.Check(r) != nil || r.Method == http.MethodOptions:
			refuse(&apiError{status: http.StatusForbidden, kind: kindOrigin, msg: "requests from other sites are not answered"})
			return
		case r.URL.Path != pathHealth && !s.trusts(r):
			w.Header().Set("WWW-Authenticate", "Bearer")
			refuse(&apiError{status: http.StatusUnauthorized, kind: kindDenied, msg: "the token is missing or wrong"})
			return
		}
		// Who watches a busy server must not take it for a dead one.
		watch := r.URL.Path == pathHealth || r.URL.Path == pathMetrics
		if s.busy.Add(1) > int64(s.limits.Requests) && !watch {
			s.busy.Add(-1)
			refuse(&apiError{status: http.StatusTooManyRequests, kind: kindQueue, msg: errQueueFull.Error(), retry: time.Second})
			return
		}
		defer s.busy.Add(-1)
		next.ServeHTTP(w, r)
	})
}

// knows reports whether a Host header names this server: an address, localhost, or
// a name that it was given.
func (s *Server) knows(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	host = strings.Trim(host, "[]")
	return net.ParseIP(host) != nil || strings.EqualFold(host, "localhost") ||
		slices.ContainsFunc(s.hosts, func(h string) bool { return strings.EqualFold(h, host) })
}

// trusts compares the request's token in constant time, its length included.
func (s *Server) trusts(r *http.Request) bool {
	if s.token == nil {
		return true
	}
	scheme, token, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	got := sha256.Sum256([]byte(token))
	same := subtle.ConstantTimeCompare(got[:], s.token[:]) == 1
	return same && strings.EqualFold(scheme, "Bearer")
}

// limited accepts at most a number of connections at once; the rest wait in the
// system's queue.
type limited struct {
	net.Listener
	slots chan struct{}
	done  chan struct{}
	once  sync.Once
}

func limit(l net.Listener, n int) net.Listener {
	return &limited{Listener: l, slots: make(chan struct{}, n), done: make(chan struct{})}
}

// Accept implements net.Listener.
func (l *limited) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.done:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	return &limitedConn{Conn: c, leave: func() { <-l.slots }}, nil
}

// Close implements net.Listener.
func (l *limited) Close() error {
	l.once.Do(func() { close(l.done) })
	return l.Listener.Close()
}

type limitedConn struct {
	net.Conn
	once  sync.Once
	leave func()
}

// Close implements net.Conn.
func (c *limitedConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(c.leave)
	return err
}
