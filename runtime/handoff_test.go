package slmrt_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"slmc/internal/deferral"
	slmrt "slmc/runtime"
)

func ptr[T any](v T) *T { return &v }

var (
	sure     = &slmrt.Judgement{Point: deferral.Pre, Score: 0.1, Threshold: 0.5}
	doubtful = &slmrt.Judgement{Point: deferral.Pre, Score: 0.7, Threshold: 0.5, Defer: true}
	strange  = &slmrt.Judgement{Point: deferral.Pre, Score: 0.1, Threshold: 0.5, OOD: 1, OODLimit: 0.9, Unfamiliar: true}
)

// One row for each way a decision can go, under a policy that has every rule.
func TestDecide(t *testing.T) {
	p := slmrt.DefaultPolicy()
	p.Battery.Below, p.Battery.AbstainBelow = 0.2, 0.05
	p.Thermal.At, p.Thermal.AbstainAt = slmrt.ThermalSerious, slmrt.ThermalCritical
	p.Latency.ObjectiveMS = 1000
	p.Budget.Calls, p.Budget.Tokens = 10, 1000
	p.Unsent.AbstainAbove = 0.9
	hopeless := &slmrt.Judgement{Score: 0.95, Threshold: 0.5, Defer: true}
	nan := &slmrt.Judgement{Score: float32(math.NaN()), Threshold: 0.5}
	low, empty, full := slmrt.Device{Battery: ptr[float32](0.1)}, slmrt.Device{Battery: ptr[float32](0.01)}, slmrt.Device{Battery: ptr[float32](1)}
	type situation = slmrt.Situation
	for _, c := range []struct {
		name    string
		s       situation
		outcome slmrt.Outcome
		reason  slmrt.Reason
	}{
		{"a low score stays", situation{Judgement: sure}, slmrt.Local, slmrt.ReasonScore},
		{"a high one goes", situation{Judgement: doubtful}, slmrt.Defer, slmrt.ReasonScore},
		{"a strange query goes", situation{Judgement: strange}, slmrt.Defer, slmrt.ReasonUnfamiliar},
		{"a score that is no number goes", situation{Judgement: nan}, slmrt.Defer, slmrt.ReasonScore},
		{"no score", situation{}, slmrt.Defer, slmrt.ReasonUnscored},
		{"a query too long for this model", situation{Unable: true, Judgement: sure}, slmrt.Defer, slmrt.ReasonUnable},
		{"private and sure", situation{Class: "private", Judgement: sure}, slmrt.Local, slmrt.ReasonScore},
		{"private and doubtful", situation{Class: "private", Judgement: doubtful}, slmrt.LocalWithWarning, slmrt.ReasonPrivacy},
		{"private and hopeless", situation{Class: "private", Judgement: hopeless}, slmrt.Abstain, slmrt.ReasonPrivacy},
		{"private and no number", situation{Class: "private", Judgement: nan}, slmrt.Abstain, slmrt.ReasonPrivacy},
		{"private and impossible here", situation{Class: "private", Unable: true}, slmrt.Abstain, slmrt.ReasonPrivacy},
		{"privacy before offline", situation{Class: "private", Device: slmrt.Device{Offline: true}, Judgement: doubtful}, slmrt.LocalWithWarning, slmrt.ReasonPrivacy},
		{"offline", situation{Device: slmrt.Device{Offline: true}, Judgement: doubtful}, slmrt.LocalWithWarning, slmrt.ReasonOffline},
		{"offline before battery", situation{Device: slmrt.Device{Offline: true, Battery: low.Battery}, Judgement: doubtful}, slmrt.LocalWithWarning, slmrt.ReasonOffline},
		{"low battery sends what is sure", situation{Device: low, Judgement: sure}, slmrt.Defer, slmrt.ReasonBattery},
		{"but not on the charger", situation{Device: slmrt.Device{Battery: low.Battery, Charging: true}, Judgement: sure}, slmrt.Local, slmrt.ReasonScore},
		{"nor a private one", situation{Class: "private", Device: low, Judgement: sure}, slmrt.Local, slmrt.ReasonScore},
		{"empty battery, private", situation{Class: "private", Device: empty, Judgement: sure}, slmrt.Abstain, slmrt.ReasonBattery},
		{"full battery", situation{Device: full, Judgement: sure}, slmrt.Local, slmrt.ReasonScore},
		{"hot", situation{Device: slmrt.Device{Thermal: slmrt.ThermalSerious}, Judgement: sure}, slmrt.Defer, slmrt.ReasonThermal},
		{"warm", situation{Device: slmrt.Device{Thermal: slmrt.ThermalFair}, Judgement: sure}, slmrt.Local, slmrt.ReasonScore},
		{"critical and offline", situation{Device: slmrt.Device{Thermal: slmrt.ThermalCritical, Offline: true}, Judgement: sure}, slmrt.Abstain, slmrt.ReasonThermal},
		{"battery before thermal", situation{Device: slmrt.Device{Battery: low.Battery, Thermal: slmrt.ThermalCritical}}, slmrt.Defer, slmrt.ReasonBattery},
		{"slow here", situation{Local: 2 * time.Second, Remote: time.Second, Judgement: sure}, slmrt.Defer, slmrt.ReasonLatency},
		{"slow there", situation{Local: time.Second, Remote: 2 * time.Second, Judgement: doubtful}, slmrt.LocalWithWarning, slmrt.ReasonLatency},
		{"slow both", situation{Local: 2 * time.Second, Remote: 2 * time.Second, Judgement: doubtful}, slmrt.Defer, slmrt.ReasonScore},
		{"time unknown", situation{Local: 2 * time.Second, Judgement: sure}, slmrt.Local, slmrt.ReasonScore},
		{"thermal before latency", situation{Device: slmrt.Device{Thermal: slmrt.ThermalSerious}, Local: 1, Remote: 2 * time.Second}, slmrt.Defer, slmrt.ReasonThermal},
		{"calls spent", situation{Calls: 10, Judgement: doubtful}, slmrt.LocalWithWarning, slmrt.ReasonBudget},
		{"tokens spent", situation{Tokens: 1000, Judgement: doubtful}, slmrt.LocalWithWarning, slmrt.ReasonBudget},
		{"one call left", situation{Calls: 9, Tokens: 999, Judgement: doubtful}, slmrt.Defer, slmrt.ReasonScore},
		{"latency before budget", situation{Local: 2 * time.Second, Remote: time.Second, Calls: 10}, slmrt.Defer, slmrt.ReasonLatency},
		{"spent, but sure", situation{Calls: 10, Judgement: sure}, slmrt.Local, slmrt.ReasonScore},
	} {
		d := p.Decide(c.s)
		if d.Outcome != c.outcome || d.Reason != c.reason {
			t.Errorf("%s: %s by %s, wanted %s by %s", c.name, d.Outcome, d.Reason, c.outcome, c.reason)
		}
	}
	p.Unsent.Then = slmrt.ActAbstain
	if d := p.Decide(situation{Class: "secret", Judgement: doubtful}); d.Outcome != slmrt.Abstain || d.Reason != slmrt.ReasonPrivacy {
		t.Errorf("%+v, wanted to abstain for privacy", d)
	}
	p.Score.Unscored = slmrt.ActLocal
	if d := p.Decide(situation{}); d.Outcome != slmrt.Local || d.Reason != slmrt.ReasonUnscored {
		t.Errorf("%+v, wanted an unscored local answer", d)
	}
	p.Battery.Then = slmrt.ActLocal
	if d := p.Decide(situation{Device: low, Judgement: doubtful}); d.Outcome != slmrt.Abstain || d.Reason != slmrt.ReasonBattery {
		t.Errorf("%+v, wanted to be kept for the battery", d)
	}
}

func policies() *rapid.Generator[slmrt.Policy] {
	return rapid.Custom(func(t *rapid.T) slmrt.Policy {
		p := slmrt.DefaultPolicy()
		share := rapid.Float32Range(0, 1)
		acts := func(of ...slmrt.Act) slmrt.Act { return rapid.SampledFrom(of).Draw(t, "act") }
		heat := rapid.SampledFrom([]slmrt.Thermal{"", slmrt.ThermalNominal, slmrt.ThermalFair, slmrt.ThermalSerious, slmrt.ThermalCritical})
		p.Privacy.MayLeave = rapid.SliceOfN(rapid.SampledFrom([]string{"public", "work"}), 0, 2).Draw(t, "may leave")
		p.Battery.Below, p.Battery.AbstainBelow, p.Battery.Then = share.Draw(t, "below"), share.Draw(t, "abstain below"), acts(slmrt.ActDefer, slmrt.ActLocal)
		p.Thermal.At, p.Thermal.AbstainAt, p.Thermal.Then = heat.Draw(t, "at"), heat.Draw(t, "abstain at"), acts(slmrt.ActDefer, slmrt.ActLocal)
		p.Latency.ObjectiveMS = rapid.IntRange(0, 20).Draw(t, "objective")
		p.Budget.Calls, p.Budget.Tokens = rapid.IntRange(0, 3).Draw(t, "calls"), rapid.IntRange(0, 3).Draw(t, "tokens")
		p.Score.Unscored, p.Unsent.Then = acts(slmrt.ActDefer, slmrt.ActLocal), acts(slmrt.ActWarn, slmrt.ActAbstain)
		p.Unsent.AbstainAbove = share.Draw(t, "abstain above")
		return p
	})
}

func situations() *rapid.Generator[slmrt.Situation] {
	return rapid.Custom(func(t *rapid.T) slmrt.Situation {
		s := slmrt.Situation{
			Class:  rapid.SampledFrom([]string{"", "public", "work", "private"}).Draw(t, "class"),
			Local:  time.Duration(rapid.IntRange(-1, 30).Draw(t, "local")) * time.Millisecond,
			Remote: time.Duration(rapid.IntRange(-1, 30).Draw(t, "remote")) * time.Millisecond,
			Calls:  rapid.IntRange(0, 5).Draw(t, "calls"), Tokens: rapid.IntRange(0, 5).Draw(t, "tokens"),
			Unable: rapid.Bool().Draw(t, "unable"),
		}
		s.Device.Offline, s.Device.Charging = rapid.Bool().Draw(t, "offline"), rapid.Bool().Draw(t, "charging")
		s.Device.Thermal = rapid.SampledFrom([]slmrt.Thermal{"", slmrt.ThermalNominal, slmrt.ThermalFair, slmrt.ThermalSerious, slmrt.ThermalCritical, "molten"}).Draw(t, "thermal")
		if rapid.Bool().Draw(t, "has battery") {
			s.Device.Battery = ptr(rapid.Float32().Draw(t, "battery"))
		}
		if rapid.Bool().Draw(t, "has score") {
			row := deferral.Row{Pre: rapid.Float32Range(0, 2).Draw(t, "threshold"), OOD: rapid.Float32Range(0, 2).Draw(t, "ood threshold")}
			x := deferral.Reading{Checkpoint: deferral.Pre, Score: rapid.Float32().Draw(t, "score"), OOD: rapid.Float32Range(0, 1).Draw(t, "ood")}
			s.Judgement = slmrt.Judge(0, row, x)
		}
		return s
	})
}

// What holds whatever the policy and the situation.
func TestDecideProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p, s := policies().Draw(t, "policy"), situations().Draw(t, "situation")
		d := p.Decide(s)
		if !slices.Contains(slmrt.Outcomes(), d.Outcome) || !slices.Contains(slmrt.Reasons(), d.Reason) {
			t.Fatalf("%+v is no decision", d)
		}
		if !cmp.Equal(d, p.Decide(s)) {
			t.Fatal("the same situation was decided twice")
		}
		if d.Outcome == slmrt.Defer && (!p.MayLeave(s.Class) || s.Device.Offline) {
			t.Fatalf("%+v: a query that must not leave was handed off", d)
		}
		if s.Unable && d.Outcome != slmrt.Defer && d.Outcome != slmrt.Abstain {
			t.Fatalf("%+v of a query that this model cannot take", d)
		}
		if d.Outcome == slmrt.Local && s.Judgement != nil && (s.Judgement.Defer || s.Judgement.Unfamiliar) {
			t.Fatalf("%+v: a doubtful answer without a warning", d)
		}
		if e, ok := p.Early(s); ok && !cmp.Equal(e, d) {
			t.Fatalf("%+v without the score, %+v with it", e, d)
		}
		// A rule that decided is not overruled by a later one or by the score.
		if _, ok := p.Early(s); ok {
			other := s
			other.Judgement = nil
			if again := p.Decide(other); again.Outcome != d.Outcome || again.Reason != d.Reason {
				t.Fatalf("the score turned %+v to %+v", d, again)
			}
		}
		if !p.MayLeave(s.Class) && (d.Outcome == slmrt.LocalWithWarning || d.Outcome == slmrt.Abstain && d.Reason != slmrt.ReasonBattery && d.Reason != slmrt.ReasonThermal) &&
			d.Reason != slmrt.ReasonPrivacy {
			t.Fatalf("%+v: privacy is asked first", d)
		}
	})
}

// A higher score never brings a query back.
func TestDecideIsMonotone(t *testing.T) {
	weight := map[slmrt.Outcome]int{slmrt.Local: 0, slmrt.LocalWithWarning: 1, slmrt.Abstain: 2, slmrt.Defer: 3}
	rapid.Check(t, func(t *rapid.T) {
		p, s := policies().Draw(t, "policy"), situations().Draw(t, "situation")
		row := deferral.Row{Pre: 0.5, OOD: deferral.Never}
		a, b := rapid.Float32Range(0, 1).Draw(t, "lower"), rapid.Float32Range(0, 1).Draw(t, "higher")
		if a > b {
			a, b = b, a
		}
		s.Judgement = slmrt.Judge(0, row, deferral.Reading{Checkpoint: deferral.Pre, Score: a})
		low := p.Decide(s)
		s.Judgement = slmrt.Judge(0, row, deferral.Reading{Checkpoint: deferral.Pre, Score: b})
		if high := p.Decide(s); weight[high.Outcome] < weight[low.Outcome] {
			t.Fatalf("score %g gives %s, %g gives %s", a, low.Outcome, b, high.Outcome)
		}
	})
}

func TestParsePolicy(t *testing.T) {
	p, err := slmrt.ParsePolicy([]byte(`{"version": 1, "privacy": {"may_leave": ["public", "work"]}, "handoff": {"hold": false, "partial": true}}`))
	if err != nil {
		t.Fatal(err)
	}
	want := slmrt.DefaultPolicy()
	want.Privacy.MayLeave = []string{"public", "work"}
	want.Handoff.Hold, want.Handoff.Partial = false, true
	if diff := cmp.Diff(want, p); diff != "" {
		t.Error(diff)
	}
	for _, c := range []struct{ text, says string }{
		{`{}`, "version is 0"},
		{`{"version": 2}`, "version is 2"},
		{`{"version": 1, "privaci": {}}`, `unknown key "privaci"`},
		{`{"version": 1, "Privacy": {"may_leave": []}}`, `unknown key "Privacy"`},
		{`{"version": 1, "privacy": {"may_leaf": []}}`, `unknown key "privacy.may_leaf"`},
		{`{"version": 1, "version": 1}`, "twice"},
		{`{"version": 1, "privacy": {"default": {"a": 1}}}`, "unknown key"},
		{`{"version": 1, "privacy": {"may_leave": [["public"]]}}`, "list of lists"},
		{`{"version": 1, "privacy": {"default": ""}}`, "without a name"},
		{`{"version": 1} {}`, "more than one"},
		{`{"version": 1, "battery": {"below": 2}}`, "battery.below is 2"},
		{`{"version": 1, "battery": {"then": "warn"}}`, "battery.then"},
		{`{"version": 1, "thermal": {"at": "hot"}}`, "thermal.at"},
		{`{"version": 1, "budget": {"calls": -1}}`, "budget.calls"},
		{`{"version": 1, "budget": {"calls": 1, "window_s": 0}}`, "window_s"},
		{`{"version": 1, "handoff": {"hold": false}}`, "neither hold nor partial"},
		{`{"version": 1`, "unexpected EOF"},
		{`[]`, "JSON object"},
		{``, "JSON object"},
		{`{"version": "1"}`, "version"},
		{`{"version": 1, "privacy": {"default": "` + strings.Repeat("x", 70000) + `"}}`, "bytes"},
	} {
		if _, err := slmrt.ParsePolicy([]byte(c.text)); !errors.Is(err, slmrt.ErrPolicy) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%.80s: error %v, wanted one with %q", c.text, err, c.says)
		}
	}
}

// The policy that docs/serving.md shows is the default one.
func TestDocumentedPolicy(t *testing.T) {
	text, err := os.ReadFile("../docs/serving.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "```json\n")
	block, _, _ := strings.Cut(rest, "```")
	p, err := slmrt.ParsePolicy([]byte(block))
	if err != nil {
		t.Fatalf("%s: %v", block, err)
	}
	if diff := cmp.Diff(slmrt.DefaultPolicy(), p); diff != "" {
		t.Error(diff)
	}
	all, err := json.Marshal(slmrt.DefaultPolicy())
	if err != nil {
		t.Fatal(err)
	}
	var shown bytes.Buffer
	if err := json.Compact(&shown, []byte(block)); err != nil || shown.String() != string(all) {
		t.Errorf("docs show %s, all keys are %s (%v)", &shown, all, err)
	}
}

// A policy that is taken can be written, read back and applied.
func FuzzParsePolicy(f *testing.F) {
	text, err := json.Marshal(slmrt.DefaultPolicy())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add([]byte(`{"version":1,"privacy":{"may_leave":[]},"battery":{"below":0.2,"then":"local"},"thermal":{"at":"fair","abstain_at":"critical"}}`))
	f.Add([]byte(`{"version":1,"version":1,"a":[[[{}]]]}`))
	f.Add([]byte(`{"":{"":[]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := slmrt.ParsePolicy(data)
		if err != nil {
			if !errors.Is(err, slmrt.ErrPolicy) {
				t.Fatalf("error %v is no ErrPolicy", err)
			}
			return
		}
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		again, err := slmrt.ParsePolicy(text)
		if err != nil {
			t.Fatalf("%s: %v", text, err)
		}
		s := slmrt.Situation{Class: "private", Device: slmrt.Device{Battery: ptr[float32](0), Thermal: slmrt.ThermalCritical}, Judgement: doubtful}
		d := p.Decide(s)
		if !cmp.Equal(d, again.Decide(s)) {
			t.Fatalf("%+v, read back %+v", d, again.Decide(s))
		}
		if d.Outcome == slmrt.Defer && !slices.Contains(p.Privacy.MayLeave, "private") {
			t.Fatalf("%+v under %s", d, text)
		}
	})
}

func TestParseDevice(t *testing.T) {
	d, err := slmrt.ParseDevice([]byte(`{"offline": true, "battery": 0.25, "thermal": "fair"}`))
	if err != nil || !d.Offline || d.Battery == nil || *d.Battery != 0.25 || d.Charging || d.Thermal != slmrt.ThermalFair {
		t.Errorf("%+v, %v", d, err)
	}
	for _, text := range []string{`{"battery": 2}`, `{"battery": -0.1}`, `{"thermal": "molten"}`, `{"batery": 1}`, `{"battery": 1`, ``, `{} {}`} {
		if _, err := slmrt.ParseDevice([]byte(text)); err == nil {
			t.Errorf("%s was taken", text)
		}
	}
}

func FuzzParseDevice(f *testing.F) {
	f.Add([]byte(`{"offline":true,"battery":0.25,"charging":false,"thermal":"critical"}`))
	f.Add([]byte(`{"battery":1e999}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := slmrt.ParseDevice(data)
		if err != nil {
			return
		}
		text, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		again, err := slmrt.ParseDevice(text)
		if err != nil || !cmp.Equal(d, again) {
			t.Fatalf("%s: %+v, %v", text, again, err)
		}
	})
}
