package serve

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"slmc/internal/audit"
	"slmc/internal/deferral"
	slmrt "slmc/runtime"
)

// exchange is one request on its way to an answer.
type exchange struct {
	s     *Server
	q     *query
	c     client
	entry audit.Entry // what will be logged
	sit   slmrt.Situation
	small *string // this model's whole answer, once there is one
	large *string // the large model's
	// farther is set once text of the large model is in the answer.
	farther bool
}

// modelName is what a response calls its model.
func (x *exchange) modelName() string {
	if x.entry.Served == audit.ServedRemote {
		return modelRemote
	}
	return modelLocal
}

// decided records a decision.
func (x *exchange) decided(d slmrt.Decision) {
	x.entry.Outcome, x.entry.Reason = d.Outcome, d.Reason
	if d.Judgement != nil {
		x.entry.Judged = d.Judgement
	}
	x.entry.Certified = x.entry.Covered && d.Reason == slmrt.ReasonScore && (d.Outcome == slmrt.Local || d.Outcome == slmrt.Defer)
}

// answer serves the query.
func (x *exchange) answer(ctx context.Context) error {
	switch x.q.model {
	case modelLocal:
		x.decided(slmrt.Decision{Outcome: slmrt.Local, Reason: slmrt.ReasonAsked})
		return x.here(ctx, "")
	case modelRemote:
		return x.asked(ctx)
	}
	return x.auto(ctx)
}

// asked serves a query that names the large model. The policy's hard limits hold
// for it too.
func (x *exchange) asked(ctx context.Context) error {
	stop := func(status int, kind string, reason slmrt.Reason, msg string) error {
		x.decided(slmrt.Decision{Outcome: slmrt.Abstain, Reason: reason})
		return &apiError{status: status, kind: kind, msg: msg}
	}
	switch {
	case x.s.up == nil:
		return stop(404, kindModel, slmrt.ReasonOffline, "there is no model \"remote\": the server was started without one")
	case !x.s.policy.MayLeave(x.q.class):
		return stop(403, kindPrivacy, slmrt.ReasonPrivacy, "queries of this privacy class do not leave the device")
	case x.sit.Device.Offline:
		return stop(503, kindOffline, slmrt.ReasonOffline, "the device is offline")
	case !x.s.ledger.take():
		return stop(429, kindBudget, slmrt.ReasonBudget, "the budget of the large model is spent")
	}
	x.decided(slmrt.Decision{Outcome: slmrt.Defer, Reason: slmrt.ReasonAsked})
	f, err := x.far(ctx, "", true)
	if f != nil {
		return f
	}
	return err
}

// auto lets the policy decide.
func (x *exchange) auto(ctx context.Context) error {
	x.sit.Local, x.sit.Remote = x.s.speeds.expect(x.q.most)
	if d, ok := x.s.ledger.early(x.sit); ok {
		x.decided(d)
		return x.act(ctx, &attempt{})
	}
	a, err := x.try(ctx, x.sit, false)
	if err != nil {
		return err
	}
	return x.act(ctx, a)
}

// attempt is what an answer of this model has come to.
type attempt struct {
	held strings.Builder // text that was not given to the client
	hold bool
	done bool // the answer is whole
	res  slmrt.Result
}

// act does what was decided.
func (x *exchange) act(ctx context.Context, a *attempt) error {
	switch x.entry.Outcome {
	case slmrt.Abstain:
		return x.refuse()
	case slmrt.Defer:
		return x.handOff(ctx, a)
	}
	if !a.done {
		return x.here(ctx, "")
	}
	if err := x.c.text(a.held.String()); err != nil {
		return err
	}
	return x.finish(finishOf(a.res.Stop))
}

// handOff lets the large model answer, or go on, and does without it when it
// fails.
func (x *exchange) handOff(ctx context.Context, a *attempt) error {
	begun := x.c.said()
	if a.hold && x.s.policy.Handoff.Partial && !a.done {
		begun = a.held.String()
	}
	f, err := x.far(ctx, begun, begun == x.c.said())
	if f == nil {
		return err
	}
	h := x.s.policy.Handoff
	switch sent := x.c.sent(); {
	case sent && x.farther && h.Broken == slmrt.ActError, h.Failed == slmrt.ActError && !x.farther:
		return f
	case sent:
		return x.resume(ctx, f)
	case h.Failed == slmrt.ActError:
		return f
	case h.Failed == slmrt.ActAbstain:
		x.decided(slmrt.Decision{Outcome: slmrt.Abstain, Reason: slmrt.ReasonUpstream})
		return x.refuse()
	}
	sit := x.sit
	sit.Device.Offline = true
	b, err := x.try(ctx, sit, true)
	if err != nil {
		var unable *unableError
		if errors.As(err, &unable) {
			return x.neither(f)
		}
		return err
	}
	if x.entry.Outcome == slmrt.Abstain && x.sit.Unable {
		return x.neither(f)
	}
	return x.act(ctx, b)
}

// neither ends a query that no model could answer: the large one's failure is the
// news.
func (x *exchange) neither(f *Failure) error {
	x.decided(slmrt.Decision{Outcome: slmrt.Abstain, Reason: slmrt.ReasonUpstream})
	x.entry.Served = ""
	return f
}

// resume goes on here from text that the client has already.
func (x *exchange) resume(ctx context.Context, f *Failure) error {
	d := slmrt.Decision{Outcome: slmrt.LocalWithWarning, Reason: slmrt.ReasonUpstream}
	x.decided(d)
	x.entry.Served = audit.ServedLocal
	if x.farther {
		x.entry.Served = audit.ServedRemoteLocal
	}
	err := x.here(ctx, x.c.said())
	var unable *unableError
	if errors.As(err, &unable) {
		return f
	}
	return err
}

// unableError is a query that this model cannot take.
type unableError struct{ err error }

func (e *unableError) Error() string { return e.err.Error() }
func (e *unableError) Unwrap() error { return e.err }

// here answers with this model, without asking anybody, going on from begun, which
// the client has.
func (x *exchange) here(ctx context.Context, begun string) error {
	if x.entry.Served == "" {
		x.entry.Served = audit.ServedLocal
	}
	res, err := x.generate(ctx, begun, x.c.text, nil)
	if err != nil {
		return err
	}
	if begun == "" {
		x.small = &res.Text
	}
	return x.finish(finishOf(res.Stop))
}

// try answers with this model and lets the policy decide at each of the router's
// readings. Text is held back while the answer may still be taken away. after
// says that the large model has failed.
func (x *exchange) try(ctx context.Context, sit slmrt.Situation, after bool) (*attempt, error) {
	s, a := x.s, &attempt{}
	x.entry.Served, x.entry.Outcome, x.entry.Readings = audit.ServedLocal, "", nil
	decide := func() slmrt.Decision {
		d := s.ledger.decide(sit)
		if after && (d.Reason == slmrt.ReasonOffline || d.Outcome == slmrt.Local) {
			d.Reason = slmrt.ReasonUpstream
			if d.Outcome == slmrt.Local {
				d.Outcome = slmrt.LocalWithWarning
			}
		}
		return d
	}
	if s.router == nil {
		x.decided(decide())
		return a, nil
	}
	a.hold = !x.q.stream || s.mayTakeBack(sit)
	emit := x.c.text
	if a.hold {
		emit = func(text string) error {
			if a.held.Len()+len(text) > s.limits.Answer {
				return &Failure{Kind: failTooLong, Err: errTooLong}
			}
			a.held.WriteString(text)
			return nil
		}
	}
	var warned bool
	res, err := x.generate(ctx, "", emit, func(r deferral.Reading) bool {
		x.entry.Readings = append(x.entry.Readings, r)
		s.metrics.reading(r)
		if r.Checkpoint == deferral.Mid && !s.policy.Handoff.Mid || r.Checkpoint == deferral.Post && !s.policy.Handoff.Post {
			return false
		}
		sit.Judgement = slmrt.Judge(s.rowIndex, s.row, r)
		d := decide()
		if x.c.sent() && (d.Outcome == slmrt.Abstain || d.Outcome == slmrt.Defer && r.Checkpoint == deferral.Post) {
			// All of it is out: what is left is to say that it is doubtful.
			if d.Outcome == slmrt.Defer {
				s.ledger.refund()
			}
			d.Outcome = slmrt.LocalWithWarning
		}
		if warned && d.Outcome == slmrt.Local {
			return false // a later, better score does not take a warning back
		}
		warned = d.Outcome == slmrt.LocalWithWarning
		x.decided(d)
		return d.Outcome == slmrt.Defer || d.Outcome == slmrt.Abstain
	})
	a.res = res
	var unable *unableError
	if errors.As(err, &unable) && !after {
		sit.Unable, x.sit.Unable, x.entry.Served = true, true, ""
		d := decide()
		x.decided(d)
		if d.Outcome == slmrt.Abstain {
			return nil, unable // say what is wrong with the query
		}
		return a, nil
	}
	if err != nil {
		return nil, err
	}
	if x.entry.Outcome == "" { // no head read anything
		sit.Judgement = nil
		x.decided(decide())
	}
	a.done = res.Stop != slmrt.StopHandoff
	if a.done {
		x.small = &res.Text
	}
	return a, nil
}

// mayTakeBack reports whether a later reading can still take an answer away.
func (s *Server) mayTakeBack(sit slmrt.Situation) bool {
	h := s.policy.Handoff
	later := h.Mid && s.row.Mid < deferral.Never || h.Post && s.row.Post < deferral.Never
	refuses := s.policy.Unsent.Then == slmrt.ActAbstain || s.policy.Unsent.AbstainAbove > 0
	return h.Hold && later && (s.policy.Kept(sit) == "" || refuses)
}

// generate runs this model on the query, going on from begun.
func (x *exchange) generate(ctx context.Context, begun string, emit func(string) error, on func(deferral.Reading) bool) (res slmrt.Result, err error) {
	if len(x.q.foreign) > 0 {
		return res, &unableError{bad(x.q.foreign[0], "this model does not take %s; the large one may", strings.Join(x.q.foreign, ", "))}
	}
	queued := time.Now()
	err = x.s.pool.with(ctx, func(session *seat) error {
		start := time.Now()
		x.entry.QueuedMS += milliseconds(start.Sub(queued))
		ids, n, err := x.s.encode(x.q, begun)
		if err != nil {
			return &unableError{err}
		}
		if len(ids) >= session.Room() {
			return &unableError{fmt.Errorf("%w: a prompt of %d tokens leaves no room for an answer in %d positions", slmrt.ErrContext, len(ids), session.Room())}
		}
		most := x.s.limits.Tokens
		if x.q.most > 0 {
			most = min(most, x.q.most)
		}
		used := 0
		if begun != "" {
			used = x.entry.Tokens + x.entry.RemoteTokens
		}
		res, err = session.Generate(ctx, slmrt.Request{
			Prompt: ids, Begun: n, MaxTokens: max(1, most-used), Stop: x.q.stop, Sampling: x.q.sampling, OnReading: on,
			Speculate: session.proposals,
		}, emit)
		x.entry.PromptTokens += res.PromptTokens
		x.entry.Tokens += len(res.IDs)
		x.s.metrics.tokens.WithLabelValues("local", "prompt").Add(float64(res.PromptTokens))
		x.s.metrics.tokens.WithLabelValues("local", "completion").Add(float64(len(res.IDs)))
		if sum := res.Speculation; sum != nil {
			x.s.metrics.proposals.WithLabelValues("accepted").Add(float64(sum.Accepted))
			x.s.metrics.proposals.WithLabelValues("dropped").Add(float64(sum.Proposed - sum.Accepted))
		}
		if err == nil && res.Stop != slmrt.StopHandoff {
			x.s.speeds.local(time.Since(start), len(res.IDs))
		}
		return err
	})
	return res, err
}

// encode gives the ids of a query and of the answer so far, and how many of them
// are of the text that the answer goes on from.
func (s *Server) encode(q *query, begun string) (ids []int32, n int, err error) {
	if q.endpoint == endpointCompletion {
		ids, err = s.model.EncodeText(q.prompt + begun)
		if err == nil && len(ids) == 0 {
			err = bad("prompt", "the prompt is empty")
		}
		return ids, len(ids), err
	}
	chat := q.chat()
	chat.Now = time.Now()
	return s.model.EncodeBegun(chat, q.begun+begun)
}

func (x *exchange) refuse() error {
	x.entry.Served, x.entry.Finish = "", "refusal"
	return x.c.refuse("This request was not answered: "+whyNot[x.entry.Reason]+".", x.count())
}

// whyNot says to people why there is no answer.
var whyNot = map[slmrt.Reason]string{
	slmrt.ReasonPrivacy:  "the model of this device is not sure, and the request may not leave it",
	slmrt.ReasonOffline:  "the model of this device is not sure, and the large model cannot be reached",
	slmrt.ReasonBattery:  "the battery is too low",
	slmrt.ReasonThermal:  "the device is too hot",
	slmrt.ReasonLatency:  "the model of this device is not sure, and the large model is too slow",
	slmrt.ReasonBudget:   "the model of this device is not sure, and the budget of the large model is spent",
	slmrt.ReasonUpstream: "the model of this device is not sure, and the large model failed",
}

func (x *exchange) finish(reason string) error {
	x.entry.Finish = reason
	if reason != "stop" && x.entry.Covered {
		// A cut answer is not the one that the certificate's scores are of.
		x.entry.Covered, x.entry.Certified = false, false
	}
	return x.c.finish(reason, x.count())
}

func finishOf(stop string) string {
	if slices.Contains([]string{slmrt.StopLength, slmrt.StopContext}, stop) {
		return "length"
	}
	return "stop"
}

// count is the usage that a response reports: the prompt of whoever answered,
// and the tokens of both.
func (x *exchange) count() usage {
	u := usage{Prompt: x.entry.PromptTokens, Completion: x.entry.Tokens + x.entry.RemoteTokens}
	switch x.entry.Served {
	case audit.ServedRemote:
		u.Prompt, u.Completion = x.entry.RemotePrompt, x.entry.RemoteTokens
	case audit.ServedLocal:
		u.Completion = x.entry.Tokens
	}
	u.Total = u.Prompt + u.Completion
	return u
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
