// Package origin holds the rules by which a query and a key are sent to a server:
// to the one that was named, no key in the clear to another machine, and again not
// before it says.
package origin

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

var (
	// ErrRedirect is a redirection that is not followed.
	ErrRedirect = errors.New("redirected to another host")
	// ErrPlain is a key that others on the way could read.
	ErrPlain = errors.New("would travel unencrypted")
)

// Loopback reports whether a host, without a port, is this machine by its name or
// address.
func Loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// CheckKey is ErrPlain when a key sent to u could be read on the way: u is not
// encrypted and another machine.
func CheckKey(u *url.URL) error {
	if u.Scheme != "https" && !Loopback(u.Hostname()) {
		return fmt.Errorf("the key %w to %s; use https", ErrPlain, u.Host)
	}
	return nil
}

// Stay is a CheckRedirect of http.Client that follows within scheme and host only,
// and three times at most: net/http would send the key along to another scheme.
func Stay(r *http.Request, via []*http.Request) error {
	first := via[0].URL
	if r.URL.Scheme != first.Scheme || r.URL.Host != first.Host {
		return fmt.Errorf("%w: %s://%s is not followed", ErrRedirect, r.URL.Scheme, r.URL.Host)
	}
	if len(via) > 3 {
		return errors.New("redirected more than 3 times")
	}
	return nil
}

// RetryAfter reads the header of that name: seconds or a date; 0 without one.
func RetryAfter(h http.Header) time.Duration {
	s := h.Get("Retry-After")
	if n, err := strconv.ParseInt(s, 10, 32); err == nil && n > 0 {
		return time.Duration(n) * time.Second
	}
	if t, err := http.ParseTime(s); err == nil {
		return max(0, time.Until(t))
	}
	return 0
}
