package serve

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"net/http"
	"strconv"
	"time"

	slmrt "slmc/runtime"
	"slmc/tokenizer/jinja"
)

// apiError is what a client learns of a failure, in the API's form.
type apiError struct {
	status int
	kind   string // for the log and metrics: of a closed set
	param  string
	msg    string
	retry  time.Duration // 0: no advice
}

func (e *apiError) Error() string { return e.msg }

// The kinds beside those of the large model's failures.
const (
	kindRequest  = "bad_request"
	kindContext  = "context"
	kindModel    = "model_not_found"
	kindPrivacy  = "privacy"
	kindBudget   = "budget"
	kindOffline  = "offline"
	kindQueue    = "queue_full"
	kindWait     = "queue_wait"
	kindShutdown = "shutdown"
	kindClient   = "client_gone"
	kindInternal = "internal"
	kindSize     = "too_large"
	kindSlow     = "slow_request"
	kindDenied   = "unauthorized"
	kindHost     = "host"
	kindOrigin   = "origin"
	kindType     = "content_type"
	kindMethod   = "method"
	kindPath     = "not_found"
)

// errShutdown ends requests that outlive the time that a stop gives them.
var errShutdown = errors.New("the server is shutting down")

// errClient is a client that went away or takes nothing.
var errClient = errors.New("the client does not take its answer")

// statusGone is logged for a client that went away; nobody receives it.
const statusGone = 499

// asAPI finds out what to tell a client of an error.
func asAPI(ctx context.Context, err error) *apiError {
	var e *apiError
	var wrong *badRequest
	var large *http.MaxBytesError
	var f *Failure
	cause := context.Cause(ctx)
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(cause, errShutdown):
		return &apiError{http.StatusServiceUnavailable, kindShutdown, "", errShutdown.Error(), time.Second}
	case errors.Is(err, errClient), cause != nil:
		return &apiError{statusGone, kindClient, "", errClient.Error(), 0}
	case errors.As(err, &f):
		return ofFailure(f)
	case errors.As(err, &wrong):
		return &apiError{http.StatusBadRequest, kindRequest, wrong.param, wrong.msg, 0}
	case errors.As(err, &large):
		return &apiError{http.StatusRequestEntityTooLarge, kindSize, "", "the request is longer than " + strconv.FormatInt(large.Limit, 10) + " bytes", 0}
	case errors.Is(err, errQueueFull):
		return &apiError{http.StatusTooManyRequests, kindQueue, "", err.Error(), time.Second}
	case errors.Is(err, errQueueWait):
		return &apiError{http.StatusServiceUnavailable, kindWait, "", err.Error(), time.Second}
	case errors.Is(err, slmrt.ErrContext):
		return &apiError{http.StatusBadRequest, kindContext, "messages", err.Error(), 0}
	case errors.Is(err, jinja.ErrRaised), errors.Is(err, slmrt.ErrNoTemplate):
		return &apiError{http.StatusBadRequest, kindRequest, "messages", err.Error(), 0}
	}
	return &apiError{http.StatusInternalServerError, kindInternal, "", "the answer could not be computed", 0}
}

// ofFailure passes on how the large model failed, without its own words: they may
// say more about it than this server's clients should learn.
func ofFailure(f *Failure) *apiError {
	e := &apiError{http.StatusBadGateway, f.Kind, "", "the large model failed: " + f.Kind, 0}
	switch f.Kind {
	case failBusy:
		e.status, e.retry = http.StatusTooManyRequests, max(time.Second, f.RetryAfter)
	case failTimeout:
		e.status = http.StatusGatewayTimeout
	case failRefused:
		e.msg = "the large model refused the request with status " + strconv.Itoa(f.Status)
		if f.Status == http.StatusBadRequest {
			e.status = f.Status
		}
	}
	return e
}

// object is the error as the API has it.
func (e *apiError) object() map[string]any {
	kind := "invalid_request_error"
	switch {
	case e.status == http.StatusTooManyRequests:
		kind = "rate_limit_error"
	case e.status == http.StatusUnauthorized:
		kind = "authentication_error"
	case e.status >= 500:
		kind = "server_error"
	}
	var param any
	if e.param != "" {
		param = e.param
	}
	return map[string]any{"message": e.msg, "type": kind, "param": param, "code": e.kind}
}

// write sends the error as a response of its own.
func (e *apiError) write(w http.ResponseWriter, extra map[string]any) {
	h := w.Header()
	if e.retry > 0 {
		h.Set("Retry-After", strconv.Itoa(int(math.Ceil(e.retry.Seconds()))))
	}
	out := map[string]any{"error": e.object()}
	for k, v := range extra {
		out[k] = v
	}
	writeJSON(w, e.status, out)
}

// writeJSON sends v. Errors show in the connection, which net/http ends.
func writeJSON(w http.ResponseWriter, status int, v any) {
	data, err := json.Marshal(v)
	if err != nil {
		data, status = []byte(`{"error":{"message":"internal","type":"server_error","param":null,"code":"internal"}}`), http.StatusInternalServerError
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(data, '\n'))
}
