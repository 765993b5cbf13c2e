package serve

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"slmc/internal/origin"
)

// The kinds of failure of the large model: all that a log, a metric or a client
// learns of it.
const (
	failConnect   = "connect"   // no connection
	failTLS       = "tls"       // no trust
	failTimeout   = "timeout"   // too slow
	failBusy      = "busy"      // 429
	failServer    = "server"    // 5xx
	failDenied    = "denied"    // 401, 403: the key
	failRefused   = "refused"   // another 4xx: the request
	failRedirect  = "redirect"  // to another host
	failBroken    = "broken"    // ended within an answer
	failGarbage   = "garbage"   // not the protocol
	failTooLong   = "too_long"  // above MaxBytes
	failCancelled = "cancelled" // by the client or a shutdown
)

// Failure is why a call of the large model gave no whole answer.
type Failure struct {
	Kind       string
	Status     int           // of HTTP, 0 without one
	RetryAfter time.Duration // asked for
	Err        error
}

// Error implements error.
func (f *Failure) Error() string { return fmt.Sprintf("large model: %s: %v", f.Kind, f.Err) }

// Unwrap gives the cause.
func (f *Failure) Unwrap() error { return f.Err }

// again reports whether another try may help.
func (f *Failure) again() bool {
	switch f.Kind {
	case failConnect, failBusy, failServer, failBroken:
		return true
	}
	return false
}

// unsent reports that the large model did not get the query, so that it costs
// nothing.
func (f *Failure) unsent() bool { return f.Kind == failConnect || f.Kind == failTLS }

// statusFailure is the failure of an answer that is not 200. What the large model
// says of it may quote the query or the key, so nothing but a code is kept.
func statusFailure(resp *http.Response) error {
	data, _ := io.ReadAll(io.LimitReader(resp.Body, 16<<10))
	var body struct {
		Error json.RawMessage `json:"error"`
	}
	_ = json.Unmarshal(data, &body) // an answer without a code is as good
	f := &Failure{Kind: failRefused, Status: resp.StatusCode, RetryAfter: origin.RetryAfter(resp.Header), Err: fmt.Errorf("status %d%s", resp.StatusCode, codeOf(body.Error))}
	switch c := resp.StatusCode; {
	case c == http.StatusTooManyRequests:
		f.Kind = failBusy
	case c == http.StatusUnauthorized || c == http.StatusForbidden:
		f.Kind = failDenied
	case c == http.StatusRequestTimeout || c == http.StatusGatewayTimeout:
		f.Kind = failTimeout
	case c >= 500:
		f.Kind = failServer
	case c < 400:
		f.Kind = failGarbage
	}
	return f
}

// codes are those of an error object that help whoever runs this server; others
// are not kept, since any text may be a quotation.
var codes = []string{
	"invalid_api_key", "insufficient_quota", "rate_limit_exceeded", "rate_limit_error", "model_not_found", "context_length_exceeded",
	"invalid_request_error", "authentication_error", "permission_error", "server_error", "overloaded_error",
	kindRequest, kindContext, kindPrivacy, kindBudget, kindOffline, kindQueue, kindWait, kindShutdown, kindInternal, kindSize, kindDenied, kindHost,
}

// codeOf is the code or type of an error object, if it is a known one.
func codeOf(object json.RawMessage) string {
	var e struct{ Code, Type any }
	if json.Unmarshal(object, &e) != nil {
		return ""
	}
	for _, v := range []any{e.Code, e.Type} {
		if word, _ := v.(string); slices.Contains(codes, word) {
			return ", " + word
		}
	}
	return ""
}

// Causes of a cancelled call.
var (
	errSlow    = errors.New("nothing came in time")
	errTotal   = errors.New("the answer took too long")
	errTooLong = errors.New("the answer is too long")
	errBroken  = errors.New("the answer breaks off")
	errGarbage = errors.New("not an OpenAI-compatible answer")
)

// failure finds out what kind of failure err is.
func (u *Upstream) failure(ctx context.Context, err error) *Failure {
	var f *Failure
	if errors.As(err, &f) {
		return f
	}
	f = &Failure{Err: err}
	var unknown x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	var verify *tls.CertificateVerificationError
	var record tls.RecordHeaderError
	var alert tls.AlertError
	var netErr net.Error
	switch {
	case errors.Is(err, errSlow), errors.Is(err, errTotal), errors.Is(context.Cause(ctx), errTotal):
		f.Kind = failTimeout
	case ctx.Err() != nil:
		f.Kind = failCancelled
	case errors.Is(err, origin.ErrRedirect):
		f.Kind = failRedirect
	case errors.Is(err, errTooLong):
		f.Kind = failTooLong
	case errors.Is(err, errGarbage):
		f.Kind = failGarbage
	case errors.Is(err, errBroken), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		f.Kind = failBroken
	case errors.As(err, &unknown), errors.As(err, &host), errors.As(err, &invalid), errors.As(err, &verify), errors.As(err, &record), errors.As(err, &alert), isPlain(err):
		f.Kind = failTLS
	case errors.As(err, &netErr) && netErr.Timeout(), errors.Is(err, context.Canceled):
		f.Kind = failTimeout // our own timers: the caller's cancelling is handled above
	case isDial(err):
		f.Kind = failConnect
	case isProtocol(err):
		f.Kind = failGarbage
	default:
		f.Kind = failBroken
	}
	if !f.unsent() { // otherwise there is nothing that could be quoted
		f.Err = plainly[f.Kind]
	}
	return f
}

// plainly says what happened in our own words: errors of net/http and of ours
// quote what came.
var plainly = map[string]error{
	failTimeout: errSlow, failCancelled: context.Canceled, failRedirect: origin.ErrRedirect, failTooLong: errTooLong, failGarbage: errGarbage, failBroken: errBroken,
}

// isDial reports whether no connection was made.
func isDial(err error) bool {
	var op *net.OpError
	var dns *net.DNSError
	return errors.As(err, &op) && (op.Op == "dial" || op.Op == "proxyconnect") || errors.As(err, &dns)
}

// net/http has no error values for what these two find.

// isProtocol reports whether the other side speaks no HTTP.
func isProtocol(err error) bool { return strings.Contains(err.Error(), "malformed HTTP") }

// isPlain reports whether it speaks no TLS.
func isPlain(err error) bool {
	return strings.Contains(err.Error(), "server gave HTTP response to HTTPS")
}
