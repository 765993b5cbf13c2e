package serve

import (
	"context"
	"errors"
	"strings"
	"time"

	"slmc/internal/audit"
	slmrt "slmc/runtime"
)

// Audits. Of the queries that the certificate speaks of, a share is drawn before
// anything is known of them. Those that were handed off have no loss. For those
// answered here the large model is asked too, after the client has its answer, and
// where both say the same there is no loss either. Where they differ somebody has
// to judge (slmc audit --verdicts); until then the e-process in /metrics takes the
// large model for right, so it may raise an alarm too early and never too late.

// shadowCalls is how many audits run at once; more are skipped, so that audits
// never pile up behind a slow large model.
const shadowCalls = 4

// draw decides whether a query is audited.
func (s *Server) draw() bool {
	if s.rate == 0 {
		return false
	}
	s.randMu.Lock()
	defer s.randMu.Unlock()
	return s.rand.Float64() < s.rate
}

// audit compares the answer that was given with the large model's.
func (s *Server) audit(ctx context.Context, x *exchange) {
	if x.entry.Outcome == slmrt.Defer {
		s.metrics.audited("handed_off", false)
		return
	}
	if s.up == nil || !s.up.Up() || x.sit.Device.Offline || !s.policy.MayLeave(x.q.class) || !s.shadows.try() {
		s.metrics.audits.WithLabelValues("skipped").Inc()
		return
	}
	if !s.ledger.take() {
		s.shadows.leave()
		s.metrics.audits.WithLabelValues("skipped").Inc()
		return
	}
	s.after.Add(1)
	go func() {
		defer s.after.Done()
		defer s.shadows.leave()
		s.compare(ctx, x)
	}()
}

// compare asks the large model and logs the result.
func (s *Server) compare(ctx context.Context, x *exchange) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(s.life, cancel)()
	b, err := x.q.remote("", 0)
	if err == nil {
		var r reply
		if r, _, err = s.up.call(ctx, "chat/completions", b); err == nil {
			u := r.usage
			if u == nil {
				u = &usage{}
			}
			s.ledger.charge(u.Prompt + u.Completion)
			agree := x.small != nil && strings.TrimSpace(*x.small) == strings.TrimSpace(r.text)
			e := audit.Entry{Kind: audit.KindAudit, ID: x.entry.ID, Time: time.Now().UTC(), Bundle: s.digest, Agree: &agree, RemotePrompt: u.Prompt, RemoteTokens: u.Completion}
			if x.entry.Text != nil {
				e.Text = &audit.Text{Small: x.small, Large: &r.text}
			}
			s.append(e)
			result := "differ"
			if agree {
				result = "agree"
			}
			s.metrics.audited(result, !agree)
			return
		}
	}
	var f *Failure
	if errors.As(err, &f) && f.unsent() {
		s.ledger.refund()
	}
	s.metrics.audits.WithLabelValues("failed").Inc()
}
