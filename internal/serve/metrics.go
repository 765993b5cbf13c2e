package serve

import (
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"slmc/internal/audit"
	"slmc/internal/deferral"
)

// metrics are the figures of one server. Labels come from closed sets only.
type metrics struct {
	registry      *prometheus.Registry
	requests      *prometheus.CounterVec
	decisions     *prometheus.CounterVec
	tokens        *prometheus.CounterVec
	proposals     *prometheus.CounterVec
	remoteCalls   *prometheus.CounterVec
	refused       *prometheus.CounterVec
	audits        *prometheus.CounterVec
	logErrors     prometheus.Counter
	seconds       *prometheus.HistogramVec
	queued        prometheus.Histogram
	remoteSeconds prometheus.Histogram
	scores        *prometheus.HistogramVec
	drift         *drift
}

func newMetrics(s *Server) *metrics {
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "slmc", Name: name, Help: help}, labels)
	}
	times := prometheus.ExponentialBuckets(0.001, 2, 18) // 1 ms to 131 s
	m := &metrics{
		registry:    prometheus.NewRegistry(),
		requests:    counter("requests_total", "Requests by endpoint, model asked for and HTTP status.", "endpoint", "model", "code"),
		decisions:   counter("decisions_total", "Decisions by outcome and the rule that made them.", "outcome", "reason"),
		tokens:      counter("tokens_total", "Tokens by who computed them (local, remote) and kind (prompt, completion).", "side", "kind"),
		proposals:   counter("proposals_total", "Tokens that speculation proposed, by result: accepted, dropped.", "result"),
		remoteCalls: counter("upstream_calls_total", "Calls of the large model by result: ok, or a kind of failure.", "result"),
		refused:     counter("refused_total", "Requests that were turned away before they were looked at, by reason.", "reason"),
		audits:      counter("audits_total", "Audited queries by result: agree, differ, handed_off, skipped, failed.", "result"),
		logErrors:   prometheus.NewCounter(prometheus.CounterOpts{Namespace: "slmc", Name: "log_errors_total", Help: "Lines that could not be written to the log."}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "slmc", Name: "request_seconds", Help: "Time of a request, the client's included.",
			Buckets: times}, []string{"outcome"}),
		queued: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "slmc", Name: "queue_seconds", Help: "Time that requests waited for a session.", Buckets: times}),
		remoteSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{Namespace: "slmc", Name: "upstream_seconds", Help: "Time of a call of the large model, retries included.",
			Buckets: times}),
		scores: prometheus.NewHistogramVec(prometheus.HistogramOpts{Namespace: "slmc", Name: "score", Help: "The router's scores by checkpoint.",
			Buckets: prometheus.LinearBuckets(0.05, 0.05, 20)}, []string{"checkpoint"}),
		drift: &drift{at: audit.Points(s.router, s.row)},
	}
	if s.router != nil && s.promise > 0 && s.promise < 1 {
		m.drift.promise = audit.NewEProcess(s.promise)
	}
	gauge := func(name, help string, labels prometheus.Labels, f func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Namespace: "slmc", Name: name, Help: help, ConstLabels: labels}, f)
	}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}),
		m.requests, m.decisions, m.tokens, m.proposals, m.remoteCalls, m.refused, m.audits, m.logErrors, m.seconds, m.queued, m.remoteSeconds, m.scores,
		gauge("sessions_busy", "Generations that run now.", nil, func() float64 { return float64(s.pool.inside()) }),
		gauge("requests_busy", "Requests in hand, in any state.", nil, func() float64 { return float64(s.busy.Load()) }),
		gauge("queue_length", "Requests that wait for a session.", nil, func() float64 { return float64(s.pool.waiting.Load()) }),
		gauge("upstream_busy", "Calls of the large model that run now.", nil, func() float64 { return float64(s.remote.inside()) }),
		gauge("upstream_up", "1 if the large model counts as reachable.", nil, func() float64 {
			if s.up != nil && s.up.Up() {
				return 1
			}
			return 0
		}))
	for c := range m.drift.at {
		l := prometheus.Labels{"checkpoint": string(c)}
		m.registry.MustRegister(
			gauge("score_psi", "Population stability index of the latest scores against the certificate's.", l, func() float64 { return m.drift.psi(c) }),
			gauge("score_window", "Scores that the index is of.", l, func() float64 { return float64(m.drift.n(c)) }))
	}
	if m.drift.promise != nil {
		m.registry.MustRegister(
			gauge("audit_ln_e", "Natural logarithm of the e-process against the certificate's bound, answers that differ counted as losses.", nil,
				func() float64 { return m.drift.wealth((*audit.EProcess).LogWealth) }),
			gauge("audit_ln_e_max", "Its largest value: the bound is refuted at level alpha from -ln alpha on.", nil,
				func() float64 { return m.drift.wealth((*audit.EProcess).LogMax) }))
	}
	return m
}

// drift guards what compares this server's queries with the certificate's.
type drift struct {
	mu      sync.Mutex
	at      map[deferral.Checkpoint]*audit.Drift
	promise *audit.EProcess // nil: there is no certificate
}

func (d *drift) psi(c deferral.Checkpoint) float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.at[c].PSI()
}

func (d *drift) n(c deferral.Checkpoint) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.at[c].N()
}

func (d *drift) wealth(f func(*audit.EProcess) float64) float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	if w := f(d.promise); !math.IsInf(w, 0) {
		return w
	}
	return 0
}

// audited takes the result of an audit.
func (m *metrics) audited(result string, loss bool) {
	m.audits.WithLabelValues(result).Inc()
	d := m.drift
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.promise != nil {
		d.promise.Add(loss)
	}
}

func (m *metrics) reading(r deferral.Reading) {
	m.scores.WithLabelValues(string(r.Checkpoint)).Observe(float64(r.Score))
}

// done counts a request that has ended.
func (m *metrics) done(e *audit.Entry) {
	m.requests.WithLabelValues(e.Endpoint, e.Model, strconv.Itoa(e.Status)).Inc()
	if e.Outcome != "" {
		m.decisions.WithLabelValues(string(e.Outcome), string(e.Reason)).Inc()
	}
	m.seconds.WithLabelValues(string(e.Outcome)).Observe(e.MS / 1000)
	m.queued.Observe((time.Duration(e.QueuedMS * float64(time.Millisecond))).Seconds())
	if !e.Covered {
		return
	}
	m.drift.mu.Lock()
	defer m.drift.mu.Unlock()
	audit.Watch(m.drift.at, e.Readings)
}

func (m *metrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 10 * time.Second})
}
