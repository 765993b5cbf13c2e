package serve

import (
	"sync"
	"time"

	slmrt "slmc/runtime"
)

// ledger counts what was handed off within a sliding window, in parts of it so
// that its size does not depend on the traffic, and decides under one lock: no
// number of clients at once takes more calls than the budget has.
type ledger struct {
	mu     sync.Mutex
	policy slmrt.Policy
	part   time.Duration
	now    func() time.Time
	parts  [ledgerParts + 1]spent // one more, as the oldest is only partly within the window
}

const ledgerParts = 60

type spent struct {
	at            int64 // number of the part since the epoch
	calls, tokens int
}

func newLedger(p slmrt.Policy, now func() time.Time) *ledger {
	window := time.Duration(max(1, p.Budget.WindowS)) * time.Second
	return &ledger{policy: p, part: window / ledgerParts, now: now}
}

// current is the part of this moment.
func (l *ledger) current() *spent {
	at := l.now().UnixNano() / int64(l.part)
	p := &l.parts[at%int64(len(l.parts))]
	if p.at != at {
		*p = spent{at: at}
	}
	return p
}

func (l *ledger) total() (calls, tokens int) {
	oldest := l.current().at - ledgerParts
	for _, p := range l.parts {
		if p.at >= oldest {
			calls, tokens = calls+p.calls, tokens+p.tokens
		}
	}
	return calls, tokens
}

// early is Policy.Early with what was spent; a decision to hand off takes a call.
func (l *ledger) early(s slmrt.Situation) (slmrt.Decision, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Calls, s.Tokens = l.total()
	d, ok := l.policy.Early(s)
	if ok && d.Outcome == slmrt.Defer {
		l.current().calls++
	}
	return d, ok
}

// decide is Policy.Decide with what was spent; a decision to hand off takes a call.
func (l *ledger) decide(s slmrt.Situation) slmrt.Decision {
	l.mu.Lock()
	defer l.mu.Unlock()
	s.Calls, s.Tokens = l.total()
	d := l.policy.Decide(s)
	if d.Outcome == slmrt.Defer {
		l.current().calls++
	}
	return d
}

// take takes a call for something that the policy does not decide, unless the
// budget is spent.
func (l *ledger) take() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	calls, tokens := l.total()
	b := l.policy.Budget
	if b.Calls > 0 && calls >= b.Calls || b.Tokens > 0 && tokens >= b.Tokens {
		return false
	}
	l.current().calls++
	return true
}

// refund gives a call back that never reached the large model.
func (l *ledger) refund() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.current(); p.calls > 0 {
		p.calls--
	}
}

// charge counts the tokens of a call.
func (l *ledger) charge(tokens int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.current().tokens += tokens
}

// speeds remembers how long answers took lately, as exponential means, to
// expect how long the next will take.
type speeds struct {
	mu                    sync.Mutex
	perToken, tokens, far float64 // seconds a local token, tokens of an answer, seconds of a remote answer
}

// recent is the weight of the latest answer.
const recent = 0.1

func blend(mean *float64, x float64) {
	if *mean == 0 {
		*mean = x
		return
	}
	*mean += recent * (x - *mean)
}

func (s *speeds) local(d time.Duration, tokens int) {
	if tokens <= 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	blend(&s.perToken, d.Seconds()/float64(tokens))
	blend(&s.tokens, float64(tokens))
}

func (s *speeds) remote(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	blend(&s.far, d.Seconds())
}

// expect returns the expected time of an answer here, of at most so many tokens,
// and from the large model; 0 where nothing is known.
func (s *speeds) expect(most int) (local, remote time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := s.tokens
	if most > 0 {
		n = min(n, float64(most))
	}
	return time.Duration(n * s.perToken * float64(time.Second)), time.Duration(s.far * float64(time.Second))
}
