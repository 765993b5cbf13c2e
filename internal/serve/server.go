package serve

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	mathrand "math/rand/v2"
	"mime"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"slmc/internal/audit"
	"slmc/internal/deferral"
	slmrt "slmc/runtime"
)

// The paths.
const (
	pathChat       = "/v1/chat/completions"
	pathCompletion = "/v1/completions"
	pathModels     = "/v1/models"
	pathHealth     = "/healthz"
	pathMetrics    = "/metrics"
)

// Server answers with one model, and perhaps a large one behind it.
type Server struct {
	model       *slmrt.Model
	digest      string
	fingerprint string
	policy      slmrt.Policy
	router      *deferral.Router // nil: no scores
	row         deferral.Row
	rowIndex    int
	promise     float64 // bound on the loss that the row is certified for
	up          *Upstream
	device      func() (slmrt.Device, error)
	token       *[sha256.Size]byte
	hosts       []string
	limits      Limits
	entries     *audit.Writer
	logText     bool
	rate        float64
	randMu      sync.Mutex
	rand        *mathrand.Rand
	log         *slog.Logger

	pool    *pool
	remote  *gate
	shadows *gate
	ledger  *ledger
	speeds  *speeds
	metrics *metrics
	busy    atomic.Int64
	closing atomic.Bool
	after   sync.WaitGroup // audits
	life    context.Context
	die     context.CancelFunc // ends audits
	started time.Time
}

// New makes a server. A bound that the bundle's certificate cannot keep is a
// deferral.ErrInfeasible, anything else wrong an ErrConfig.
func New(c Config) (*Server, error) {
	c.Limits = c.Limits.fill()
	if err := c.Limits.check(); err != nil {
		return nil, err
	}
	if err := c.Policy.Check(); err != nil {
		return nil, err
	}
	switch {
	case c.Model == nil || c.Model.Tokenizer == nil:
		return nil, fmt.Errorf("%w: a model with a tokenizer is needed", ErrConfig)
	case !(c.AuditRate >= 0 && c.AuditRate <= 1):
		return nil, fmt.Errorf("%w: the audit rate is %g, want 0 to 1", ErrConfig, c.AuditRate)
	case c.AuditRate > 0 && c.Rand == nil:
		return nil, fmt.Errorf("%w: audits need a source of randomness", ErrConfig)
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{
		model: c.Model, digest: c.Digest, fingerprint: "slmc-" + c.Digest[:min(12, len(c.Digest))], policy: c.Policy, router: c.Model.Router(),
		up: c.Upstream, device: c.Device, hosts: c.Hosts, limits: c.Limits, entries: c.Log, logText: c.LogText,
		rate: c.AuditRate, rand: c.Rand, log: c.Logger, started: time.Now(),
	}
	if c.Token != "" {
		sum := sha256.Sum256([]byte(c.Token))
		s.token = &sum
	}
	if err := s.chooseRow(); err != nil {
		return nil, err
	}
	s.pool = newPool(c)
	s.remote = newGate(c.Limits.Remote, c.Limits.Queue, c.Limits.QueueWait)
	s.shadows = newGate(shadowCalls, 0, 0)
	s.ledger = newLedger(c.Policy, time.Now)
	s.speeds = &speeds{}
	s.life, s.die = context.WithCancel(context.Background())
	s.metrics = newMetrics(s)
	// What cannot be allocated should show now, not at the first request.
	if err := s.pool.with(context.Background(), func(*seat) error { return nil }); err != nil {
		return nil, err
	}
	return s, nil
}

// chooseRow finds the row of the certified table that the policy asks for.
func (s *Server) chooseRow() error {
	if s.router == nil {
		if s.policy.Score.Bound > 0 {
			return fmt.Errorf("%w: the policy asks for a bound of %g, but the bundle has no router", ErrConfig, s.policy.Score.Bound)
		}
		return nil
	}
	t := s.router.Table()
	var err error
	if s.promise = t.Bound; s.policy.Score.Bound > 0 {
		s.promise = s.policy.Score.Bound
		s.row, err = t.Pick(t.Checkpoint, s.promise)
	} else {
		s.row, err = t.Default()
	}
	if err != nil {
		return err
	}
	s.rowIndex = slices.Index(t.Rows, s.row)
	return nil
}

// Row is the row of the certified table that decides; ok is false without a
// router.
func (s *Server) Row() (n int, row deferral.Row, ok bool) { return s.rowIndex, s.row, s.router != nil }

func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	only := func(method, path string, h http.HandlerFunc) {
		mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
			if r.Method != method && !(method == http.MethodGet && r.Method == http.MethodHead) {
				w.Header().Set("Allow", method)
				(&apiError{status: http.StatusMethodNotAllowed, kind: kindMethod, msg: path + " takes " + method}).write(w, nil)
				return
			}
			h(w, r)
		})
	}
	only(http.MethodPost, pathChat, func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, endpointChat) })
	only(http.MethodPost, pathCompletion, func(w http.ResponseWriter, r *http.Request) { s.serve(w, r, endpointCompletion) })
	only(http.MethodGet, pathModels, s.models)
	only(http.MethodGet, pathModels+"/{id}", s.models)
	only(http.MethodGet, pathHealth, s.health)
	only(http.MethodGet, pathMetrics, s.metrics.handler().ServeHTTP)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		(&apiError{status: http.StatusNotFound, kind: kindPath, msg: "there is no such path"}).write(w, nil)
	})
	return s.guard(mux)
}

// Serve answers on l until ctx ends; then it takes no more requests, lets those
// that run end within the time of the limits, and cancels the rest. All that it
// started has ended when it returns.
func (s *Server) Serve(ctx context.Context, l net.Listener) error {
	base, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	h := &http.Server{
		Handler: s.handler(), BaseContext: func(net.Listener) context.Context { return base },
		ReadHeaderTimeout: s.limits.Read, IdleTimeout: s.limits.Idle, MaxHeaderBytes: 32 << 10,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	failed := make(chan error, 1)
	go func() { failed <- h.Serve(limit(l, s.limits.Connections)) }()
	var err error
	select {
	case err = <-failed:
	case <-ctx.Done():
		s.closing.Store(true)
		patient, stop := context.WithTimeout(context.WithoutCancel(ctx), s.limits.Shutdown)
		if h.Shutdown(patient) != nil {
			cancel(errShutdown)
			late, stop := context.WithTimeout(context.WithoutCancel(ctx), s.limits.Write)
			_ = h.Shutdown(late) // they have been told
			stop()
		}
		stop()
		<-failed
	}
	err = errors.Join(ignore(err, http.ErrServerClosed), ignore(h.Close(), net.ErrClosed))
	cancel(errShutdown)
	s.die()
	s.after.Wait()
	for s.busy.Load() > 0 { // handlers whose connection was closed under them
		time.Sleep(time.Millisecond)
	}
	err = errors.Join(err, s.pool.close())
	if s.up != nil {
		s.up.Close()
	}
	return err
}

func ignore(err, known error) error {
	if errors.Is(err, known) {
		return nil
	}
	return err
}

// serve answers one request of the API and logs it.
func (s *Server) serve(w http.ResponseWriter, r *http.Request, endpoint string) {
	x := &exchange{s: s, q: &query{endpoint: endpoint}}
	x.entry = audit.Entry{Kind: audit.KindAnswer, ID: newID(endpoint), Time: time.Now().UTC(), Endpoint: endpoint, Bundle: s.digest, Status: http.StatusOK, Model: "none"}
	if s.router != nil {
		x.entry.Router = s.router.ID()
	}
	x.c = &whole{writer: s.writer(w, x)}
	err := s.read(w, r, x)
	if err == nil {
		if x.q.stream {
			x.c = &streamed{writer: s.writer(w, x)}
		}
		err = x.answer(r.Context())
	}
	if err != nil {
		s.fail(r.Context(), x, err)
	}
	s.finish(r.Context(), x, err)
}

func (s *Server) writer(w http.ResponseWriter, x *exchange) writer {
	return writer{w: w, ctl: http.NewResponseController(w), patient: s.limits.Write, x: x, most: s.limits.Answer}
}

// read reads the request and the device's state.
func (s *Server) read(w http.ResponseWriter, r *http.Request, x *exchange) error {
	// Content-Type makes browsers ask before they send another site's request.
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return &apiError{status: http.StatusUnsupportedMediaType, kind: kindType, msg: "the Content-Type must be application/json"}
	}
	ctl := http.NewResponseController(w)
	if err := ctl.SetReadDeadline(time.Now().Add(s.limits.Read)); err != nil {
		return err
	}
	q, err := parseQuery(x.q.endpoint, http.MaxBytesReader(w, r.Body, s.limits.Body))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &apiError{status: http.StatusRequestTimeout, kind: kindSlow, msg: "the request did not arrive in time"}
	}
	if err != nil {
		return err
	}
	if err := ctl.SetReadDeadline(time.Time{}); err != nil {
		return err
	}
	x.q = q
	if err := s.identify(r, x); err != nil {
		return err
	}
	if s.device != nil {
		d, err := s.device()
		if err != nil {
			s.log.Warn("the device's state is unknown", "error", err)
			d = slmrt.Device{}
		}
		x.sit.Device = d
	}
	x.sit.Class = q.class
	if q.model != modelRemote {
		x.sit.Device.Offline = x.sit.Device.Offline || s.up == nil || !s.up.Up()
	}
	_, single := q.single()
	x.entry.Covered = s.router != nil && q.model == modelAuto && q.endpoint == endpointChat && single && q.greedy() && len(q.stop) == 0 && len(q.foreign) == 0
	x.entry.Sampled = x.entry.Covered && s.draw()
	return nil
}

// identify settles which model and privacy class a request has.
func (s *Server) identify(r *http.Request, x *exchange) error {
	q := x.q
	if q.model == "" {
		q.model = modelAuto
	}
	if !slices.Contains(s.modelNames(), q.model) && q.model != modelRemote {
		return &apiError{status: http.StatusNotFound, kind: kindModel, param: "model", msg: fmt.Sprintf("the model %.100q is unknown; there are auto, local and remote", q.model)}
	}
	x.entry.Model = q.model
	head := r.Header.Get("X-Slmc-Privacy")
	if head != "" && q.class != "" && head != q.class {
		return bad("slmc", "the head says privacy %.50q, the body %.50q", head, q.class)
	}
	if q.class == "" {
		q.class = head
	}
	if len(q.class) > maxClass {
		return bad("slmc", "a privacy class of %d bytes, at most %d", len(q.class), maxClass)
	}
	x.entry.Class, x.entry.Stream = q.class, q.stream
	return nil
}

// maxClass bounds the name of a privacy class, which goes to the log.
const maxClass = 64

// fail tells the client.
func (s *Server) fail(ctx context.Context, x *exchange, err error) {
	e := asAPI(ctx, err)
	x.entry.Status, x.entry.Error = e.status, e.kind
	if e.kind == kindInternal {
		s.log.Error("request failed", "id", x.entry.ID, "error", err)
	}
	if e.status != statusGone {
		x.c.fail(e)
	}
}

// finish logs and counts a request, and audits its answer.
func (s *Server) finish(ctx context.Context, x *exchange, err error) {
	e := &x.entry
	e.MS = milliseconds(time.Since(e.Time))
	if err != nil {
		e.Covered, e.Certified = false, false
	}
	s.text(x)
	s.metrics.done(e)
	audits := e.Sampled && e.Certified && err == nil
	e.Sampled = audits
	s.append(*e)
	if audits {
		s.audit(context.WithoutCancel(ctx), x)
	}
}

// text adds what was said to the log's entry, where that is wanted and allowed.
func (s *Server) text(x *exchange) {
	if !s.logText || !s.policy.MayLeave(x.q.class) || x.entry.Model == "none" {
		return
	}
	t := &audit.Text{Answer: x.c.said(), Small: x.small, Large: x.large}
	if text, ok := x.q.single(); ok {
		t.Query = text
	} else {
		t.Messages = x.q.raw["messages"]
	}
	x.entry.Text = t
}

func (s *Server) append(e audit.Entry) {
	if s.entries == nil {
		return
	}
	if err := s.entries.Append(e); err != nil {
		s.metrics.logErrors.Inc()
		s.log.Error("the log could not be written", "error", err)
	}
}

// newID names a request, and its answer.
func newID(endpoint string) string {
	if endpoint == endpointCompletion {
		return "cmpl-" + rand.Text()
	}
	return "chatcmpl-" + rand.Text()
}

func (s *Server) modelNames() []string {
	if s.up == nil {
		return []string{modelAuto, modelLocal}
	}
	return []string{modelAuto, modelLocal, modelRemote}
}

func (s *Server) models(w http.ResponseWriter, r *http.Request) {
	object := func(id string) any {
		return map[string]any{"id": id, "object": "model", "created": s.started.Unix(), "owned_by": "slmc"}
	}
	if id := r.PathValue("id"); id != "" {
		if !slices.Contains(s.modelNames(), id) {
			(&apiError{status: http.StatusNotFound, kind: kindModel, param: "model", msg: "there is no such model"}).write(w, nil)
			return
		}
		writeJSON(w, http.StatusOK, object(id))
		return
	}
	list := []any{}
	for _, id := range s.modelNames() {
		list = append(list, object(id))
	}
	writeJSON(w, http.StatusOK, map[string]any{"object": "list", "data": list})
}

func (s *Server) health(w http.ResponseWriter, r *http.Request) {
	if s.closing.Load() {
		writeJSON(w, http.StatusServiceUnavailable, map[string]string{"status": "stopping"})
		return
	}
	writeJSON(w, http.StatusOK, map[string]string{"status": "ok"})
}
