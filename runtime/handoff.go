package slmrt

import (
	"slices"
	"time"

	"slmc/internal/deferral"
)

// The handoff: whether the small model's answer stands, or the query goes to a
// large model. The rules are asked in one fixed order
//
//	privacy -> offline -> battery -> thermal -> latency -> budget -> score
//
// and the first that speaks decides. A rule may keep the query here (from then
// on nothing sends it away), send it on unless it is kept, or refuse to answer
// a kept query. The score decides what no rule decided: whether a query that
// may go goes, and how one that is kept is answered. Decide is a function of its
// arguments alone, so a log line with a Situation replays to its Decision.

// Outcome is what to do with a query.
type Outcome string

// The outcomes. LocalWithWarning is an answer of the small model that would have
// been handed off, had that been possible; Abstain is no answer.
const (
	Local            Outcome = "LOCAL"
	Defer            Outcome = "DEFER"
	Abstain          Outcome = "ABSTAIN"
	LocalWithWarning Outcome = "LOCAL_WITH_WARNING"
)

// Outcomes lists every outcome.
func Outcomes() []Outcome { return []Outcome{Local, Defer, Abstain, LocalWithWarning} }

// Reason is the rule that decided.
type Reason string

// The reasons. ReasonScore is the score against the threshold of the chosen row,
// ReasonUnfamiliar the out-of-distribution score against its limit,
// ReasonUnscored that there was no score, ReasonUnable that this model cannot take
// the query at all, and ReasonUpstream that the large model failed.
// ReasonAsked is for callers that let the user choose the model.
const (
	ReasonPrivacy    Reason = "privacy"
	ReasonOffline    Reason = "offline"
	ReasonBattery    Reason = "battery"
	ReasonThermal    Reason = "thermal"
	ReasonLatency    Reason = "latency"
	ReasonBudget     Reason = "budget"
	ReasonScore      Reason = "score"
	ReasonUnfamiliar Reason = "unfamiliar"
	ReasonUnscored   Reason = "unscored"
	ReasonUnable     Reason = "unable"
	ReasonUpstream   Reason = "upstream"
	ReasonAsked      Reason = "asked"
)

// Reasons lists every reason.
func Reasons() []Reason {
	return []Reason{ReasonPrivacy, ReasonOffline, ReasonBattery, ReasonThermal, ReasonLatency, ReasonBudget,
		ReasonScore, ReasonUnfamiliar, ReasonUnscored, ReasonUnable, ReasonUpstream, ReasonAsked}
}

// Thermal is how hot the device is, in the steps that phones report.
type Thermal string

// The steps, coolest first; empty means unknown.
const (
	ThermalNominal  Thermal = "nominal"
	ThermalFair     Thermal = "fair"
	ThermalSerious  Thermal = "serious"
	ThermalCritical Thermal = "critical"
)

// thermals orders the steps.
var thermals = []Thermal{ThermalNominal, ThermalFair, ThermalSerious, ThermalCritical}

// reaches reports whether t is as hot as limit; unknown is not, and no limit is
// never reached.
func (t Thermal) reaches(limit Thermal) bool {
	at, want := slices.Index(thermals, t), slices.Index(thermals, limit)
	return want >= 0 && at >= want
}

// Device is the state of the phone. Its zero value knows nothing, and then no
// rule about it speaks.
type Device struct {
	Offline  bool     `json:"offline,omitempty"`
	Battery  *float32 `json:"battery,omitempty"` // 0 to 1; nil unknown
	Charging bool     `json:"charging,omitempty"`
	Thermal  Thermal  `json:"thermal,omitempty"`
}

// Judgement is a router's reading held against a row of the certified table.
type Judgement struct {
	Point      deferral.Checkpoint `json:"point"`
	Tokens     int                 `json:"tokens"` // generated so far
	Row        int                 `json:"row"`    // of the table
	Score      float32             `json:"score"`
	Threshold  float32             `json:"threshold"`
	OOD        float32             `json:"ood"`
	OODLimit   float32             `json:"ood_limit"`
	Defer      bool                `json:"defer"`      // the score reaches its threshold
	Unfamiliar bool                `json:"unfamiliar"` // the query is too far from what the certificate covers
}

// Judge holds a reading against row number n of the table.
func Judge(n int, r deferral.Row, x deferral.Reading) *Judgement {
	return &Judgement{
		Point: x.Checkpoint, Tokens: x.Tokens, Row: n, Score: x.Score, Threshold: r.Threshold(x.Checkpoint),
		OOD: x.OOD, OODLimit: r.OOD, Defer: r.Scored(x), Unfamiliar: r.Strange(x),
	}
}

// Situation is everything that a decision depends on, besides the policy.
type Situation struct {
	Class  string        `json:"class"` // privacy class; empty: the policy's default
	Device Device        `json:"device"`
	Local  time.Duration `json:"local"`  // expected time of an answer here, 0 unknown
	Remote time.Duration `json:"remote"` // and from the large model
	Calls  int           `json:"calls"`  // handed off within the budget's window
	Tokens int           `json:"tokens"` // that the large model took and gave within it
	// Unable is set when this model cannot take the query: too long, or in a form
	// that its template refuses.
	Unable    bool       `json:"unable,omitempty"`
	Judgement *Judgement `json:"judgement,omitempty"` // nil: there is no score
}

// Decision is an outcome and the rule that made it.
type Decision struct {
	Outcome   Outcome    `json:"outcome"`
	Reason    Reason     `json:"reason"`
	Judgement *Judgement `json:"judgement,omitempty"`
}

// effect is what a rule says.
type effect int

const (
	silent effect = iota // nothing
	keep                 // the query must not be handed off
	send                 // hand it off, unless it is kept
	refuse               // do not answer a query that is kept
)

// rules are asked in this order.
var rules = []struct {
	reason Reason
	says   func(Policy, Situation) effect
}{
	{ReasonPrivacy, Policy.privacy},
	{ReasonOffline, func(_ Policy, s Situation) effect { return when(s.Device.Offline, keep) }},
	{ReasonBattery, Policy.battery},
	{ReasonThermal, Policy.thermal},
	{ReasonLatency, Policy.latency},
	{ReasonBudget, Policy.budget},
}

func when(yes bool, e effect) effect {
	if yes {
		return e
	}
	return silent
}

// Decide applies the policy.
func (p Policy) Decide(s Situation) Decision {
	d, kept, done := p.ask(s)
	if done {
		return d
	}
	d.Reason = p.doubt(s)
	switch {
	case d.Reason == "":
		d.Outcome, d.Reason = Local, ReasonScore
		if s.Judgement == nil {
			d.Reason = ReasonUnscored
		}
	case kept == "":
		d.Outcome = Defer
	default:
		d.Outcome, d.Reason = p.unsent(s), kept
	}
	return d
}

// Early is the decision of a rule that needs no score; ok is false when the
// score counts.
func (p Policy) Early(s Situation) (d Decision, ok bool) {
	d, _, ok = p.ask(s)
	return d, ok
}

// Kept is the rule that forbids to hand the query off; empty when none does.
func (p Policy) Kept(s Situation) Reason {
	_, kept, _ := p.ask(s)
	return kept
}

// ask goes through the rules: the decision, if one makes it, or the first that
// keeps the query.
func (p Policy) ask(s Situation) (d Decision, kept Reason, done bool) {
	d.Judgement = s.Judgement
	for _, r := range rules {
		switch r.says(p, s) {
		case keep:
			if kept == "" {
				kept = r.reason
			}
		case send:
			if kept == "" {
				d.Outcome, d.Reason = Defer, r.reason
				return d, "", true
			}
		case refuse:
			if kept != "" {
				d.Outcome, d.Reason = Abstain, r.reason
				return d, kept, true
			}
		}
	}
	return d, kept, false
}

// doubt is why the answer of this model would not do; empty when it does.
func (p Policy) doubt(s Situation) Reason {
	switch j := s.Judgement; {
	case s.Unable:
		return ReasonUnable
	case j == nil:
		if p.Score.Unscored == ActDefer {
			return ReasonUnscored
		}
		return ""
	case j.Unfamiliar:
		return ReasonUnfamiliar
	case j.Defer, j.Score != j.Score: // a score that is no number vouches for nothing
		return ReasonScore
	}
	return ""
}

// unsent is what becomes of a query that should have been handed off and must
// not be.
func (p Policy) unsent(s Situation) Outcome {
	j := s.Judgement
	above := j != nil && p.Unsent.AbstainAbove > 0 && !(j.Score <= p.Unsent.AbstainAbove)
	if s.Unable || p.Unsent.Then == ActAbstain || above {
		return Abstain
	}
	return LocalWithWarning
}

func (p Policy) privacy(s Situation) effect { return when(!p.MayLeave(s.Class), keep) }

// MayLeave reports whether queries of a privacy class may be handed off. A class
// that the policy does not name may not.
func (p Policy) MayLeave(class string) bool {
	if class == "" {
		class = p.Privacy.Default
	}
	return slices.Contains(p.Privacy.MayLeave, class)
}

func (p Policy) battery(s Situation) effect {
	b := s.Device.Battery
	if b == nil || s.Device.Charging {
		return silent
	}
	return strain(*b < p.Battery.AbstainBelow, *b < p.Battery.Below, p.Battery.Then, s, p)
}

func (p Policy) thermal(s Situation) effect {
	t := s.Device.Thermal
	return strain(t.reaches(p.Thermal.AbstainAt), t.reaches(p.Thermal.At), p.Thermal.Then, s, p)
}

// strain is the effect of a device that should compute less: an answer that
// must come from here is refused past the harder limit, others are sent on, or
// kept where the radio costs more than the model.
func strain(hard, soft bool, then Act, s Situation, p Policy) effect {
	switch {
	case hard && (s.Device.Offline || !p.MayLeave(s.Class)):
		return refuse
	case hard || soft:
		if then == ActLocal {
			return keep
		}
		return send
	}
	return silent
}

// latency speaks when one side is expected to keep the objective and the other
// is not.
func (p Policy) latency(s Situation) effect {
	goal := time.Duration(p.Latency.ObjectiveMS) * time.Millisecond
	if goal <= 0 || s.Local <= 0 || s.Remote <= 0 {
		return silent
	}
	switch here, there := s.Local <= goal, s.Remote <= goal; {
	case there && !here:
		return send
	case here && !there:
		return keep
	}
	return silent
}

func (p Policy) budget(s Situation) effect {
	b := p.Budget
	return when(b.Calls > 0 && s.Calls >= b.Calls || b.Tokens > 0 && s.Tokens >= b.Tokens, keep)
}
