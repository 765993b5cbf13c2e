package slmrt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
)

// The policy file: JSON, every key optional but version. Unknown keys, keys in
// another case and keys given twice are refused, since a privacy rule that is
// misspelt would not hold.

// ErrPolicy is a policy that cannot be used; the error says where and why.
var ErrPolicy = errors.New("policy")

// PolicyVersion is the version that this runtime reads.
const PolicyVersion = 1

// maxPolicy bounds a policy file, in bytes.
const maxPolicy = 64 << 10

// Act is what a rule does.
type Act string

// The acts. Which of them a rule takes stands at its field.
const (
	ActDefer   Act = "defer"
	ActLocal   Act = "local"
	ActWarn    Act = "warn"
	ActAbstain Act = "abstain"
	ActError   Act = "error"
)

// Policy is the device owner's will. Its zero value is of no use: start from
// DefaultPolicy.
type Policy struct {
	Version int `json:"version"`
	// Privacy is the hard veto: queries of a class that is not in MayLeave are never
	// handed off, whatever else holds. Default is the class of a query that names none.
	Privacy struct {
		MayLeave []string `json:"may_leave"`
		Default  string   `json:"default"`
	} `json:"privacy"`
	// Battery speaks below a charge (0 to 1) while the device is not charging.
	Battery struct {
		Below        float32 `json:"below"`         // 0: never
		Then         Act     `json:"then"`          // defer, or local where the radio costs more
		AbstainBelow float32 `json:"abstain_below"` // answers that must come from here are refused
	} `json:"battery"`
	// Thermal speaks from a step on; empty: never.
	Thermal struct {
		At        Thermal `json:"at"`
		Then      Act     `json:"then"` // defer or local
		AbstainAt Thermal `json:"abstain_at"`
	} `json:"thermal"`
	// Latency is the time within which the whole answer is wanted; 0: none.
	Latency struct {
		ObjectiveMS int `json:"objective_ms"`
	} `json:"latency"`
	// Budget bounds what is handed off within a sliding window; 0: no limit.
	Budget struct {
		Calls   int `json:"calls"`
		Tokens  int `json:"tokens"`
		WindowS int `json:"window_s"`
	} `json:"budget"`
	// Score chooses the row of the certificate: the one that holds Bound (0.02 is two
	// points), or the bundle's default row for 0. Unscored is for bundles without
	// a router: defer or local.
	Score struct {
		Bound    float64 `json:"bound"`
		Unscored Act     `json:"unscored"`
	} `json:"score"`
	// Unsent is for queries that should be handed off and must not be: warn answers
	// them here, abstain does not; AbstainAbove (0: never) abstains above a score.
	Unsent struct {
		Then         Act     `json:"then"`
		AbstainAbove float32 `json:"abstain_above"`
	} `json:"unsent"`
	Handoff Handoff `json:"handoff"`
}

// Handoff says how an answer moves to the large model, and what to do when that
// fails.
type Handoff struct {
	// Hold keeps the text of this model back until its answer is accepted. Without
	// it text is streamed as it comes, and a later handoff goes on from it.
	Hold bool `json:"hold"`
	// Partial gives the large model the text so far, as the beginning of its answer.
	// It is needed when Hold is false.
	Partial bool `json:"partial"`
	// Mid and Post ask the router again, every few tokens and at the end.
	Mid  bool `json:"mid"`
	Post bool `json:"post"`
	// Failed is for a large model that gives nothing: local answers here with a
	// warning, abstain does not, error reports what happened.
	Failed Act `json:"failed"`
	// Broken is for a stream that breaks after some text was passed on: local goes on
	// from that text here, error ends the stream with an error.
	Broken Act `json:"broken"`
}

// DefaultPolicy lets the score decide: no class but "public" may leave, which
// queries are by default; nothing is said about the device, time or cost.
func DefaultPolicy() Policy {
	var p Policy
	p.Version = PolicyVersion
	p.Privacy.MayLeave, p.Privacy.Default = []string{"public"}, "public"
	p.Battery.Then, p.Thermal.Then = ActDefer, ActDefer
	p.Budget.WindowS = 3600
	p.Score.Unscored = ActDefer
	p.Unsent.Then = ActWarn
	p.Handoff = Handoff{Hold: true, Mid: true, Post: true, Failed: ActLocal, Broken: ActLocal}
	return p
}

// ParsePolicy reads a policy file over the defaults.
func ParsePolicy(data []byte) (Policy, error) {
	p := DefaultPolicy()
	if len(data) > maxPolicy {
		return p, fmt.Errorf("%w: %d bytes, at most %d are read", ErrPolicy, len(data), maxPolicy)
	}
	p.Version = 0
	if err := checkKeys(data); err != nil {
		return p, fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return p, fmt.Errorf("%w: %w", ErrPolicy, err)
	}
	return p, p.Check()
}

// Check reports a setting that makes no sense.
func (p Policy) Check() error {
	bad := func(key string, format string, args ...any) error {
		return fmt.Errorf("%w: %s %s", ErrPolicy, key, fmt.Sprintf(format, args...))
	}
	if p.Version != PolicyVersion {
		return bad("version", "is %d, this runtime reads %d", p.Version, PolicyVersion)
	}
	for _, a := range []struct {
		key  string
		have Act
		want []Act
	}{
		{"battery.then", p.Battery.Then, []Act{ActDefer, ActLocal}},
		{"thermal.then", p.Thermal.Then, []Act{ActDefer, ActLocal}},
		{"score.unscored", p.Score.Unscored, []Act{ActDefer, ActLocal}},
		{"unsent.then", p.Unsent.Then, []Act{ActWarn, ActAbstain}},
		{"handoff.failed", p.Handoff.Failed, []Act{ActLocal, ActAbstain, ActError}},
		{"handoff.broken", p.Handoff.Broken, []Act{ActLocal, ActError}},
	} {
		if !slices.Contains(a.want, a.have) {
			return bad(a.key, "is %q, want one of %q", a.have, a.want)
		}
	}
	for _, f := range []struct {
		key string
		v   float64
	}{
		{"battery.below", float64(p.Battery.Below)}, {"battery.abstain_below", float64(p.Battery.AbstainBelow)},
		{"score.bound", p.Score.Bound}, {"unsent.abstain_above", float64(p.Unsent.AbstainAbove)},
	} {
		if !(f.v >= 0 && f.v <= 1) {
			return bad(f.key, "is %g, want 0 to 1", f.v)
		}
	}
	for _, t := range []struct {
		key string
		v   Thermal
	}{{"thermal.at", p.Thermal.At}, {"thermal.abstain_at", p.Thermal.AbstainAt}} {
		if t.v != "" && !slices.Contains(thermals, t.v) {
			return bad(t.key, "is %q, want one of %q", t.v, thermals)
		}
	}
	for _, n := range []struct {
		key    string
		v, max int
	}{
		{"latency.objective_ms", p.Latency.ObjectiveMS, 1e9}, {"budget.calls", p.Budget.Calls, 1e15},
		{"budget.tokens", p.Budget.Tokens, 1e15}, {"budget.window_s", p.Budget.WindowS, 366 * 86400},
	} {
		if n.v < 0 || n.v > n.max {
			return bad(n.key, "is %d, want 0 to %d", n.v, n.max)
		}
	}
	if (p.Budget.Calls > 0 || p.Budget.Tokens > 0) && p.Budget.WindowS == 0 {
		return bad("budget.window_s", "is 0, but a budget is set")
	}
	if p.Privacy.Default == "" || slices.Contains(p.Privacy.MayLeave, "") {
		return bad("privacy", "has a class without a name")
	}
	if !p.Handoff.Hold && !p.Handoff.Partial {
		return bad("handoff", "has neither hold nor partial: text that was streamed already would be lost to the large model, and its answer begin anew")
	}
	return nil
}

// checkKeys reports keys that a Policy does not have and keys that come twice:
// encoding/json takes both, in any case.
func checkKeys(data []byte) error {
	known, err := json.Marshal(DefaultPolicy())
	if err != nil {
		return err
	}
	all, err := keyPaths(known)
	if err != nil {
		return err
	}
	got, err := keyPaths(data)
	if err != nil {
		return err
	}
	for i, k := range got {
		if !slices.Contains(all, k) {
			return fmt.Errorf("unknown key %q", k)
		}
		if slices.Contains(got[:i], k) {
			return fmt.Errorf("key %q is given twice", k)
		}
	}
	return nil
}

// keyPaths lists the keys of a JSON object in order, those of objects in it as
// "outer.inner". An object within an array is refused: a policy has none.
func keyPaths(data []byte) ([]string, error) {
	dec := json.NewDecoder(bytes.NewReader(data))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("want one JSON object")
	}
	var out, path []string
	for depth, inArray := 1, false; depth > 0; {
		t, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("at byte %d: %w", dec.InputOffset(), unexpectedEnd(err))
		}
		switch t {
		case json.Delim('}'):
			depth--
			path = path[:max(0, len(path)-1)]
			continue
		case json.Delim(']'):
			inArray = false
			path = path[:len(path)-1]
			continue
		}
		if inArray {
			if _, nested := t.(json.Delim); nested {
				return nil, fmt.Errorf("at byte %d: a list of lists or objects", dec.InputOffset())
			}
			continue
		}
		key, _ := t.(string) // the decoder gives strings for keys only here
		out = append(out, strings.Join(append(slices.Clone(path), key), "."))
		if len(out) > maxPolicyKeys {
			return nil, fmt.Errorf("more than %d keys", maxPolicyKeys)
		}
		v, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("at byte %d: %w", dec.InputOffset(), unexpectedEnd(err))
		}
		switch v {
		case json.Delim('{'):
			if depth++; depth > 2 {
				return nil, fmt.Errorf("unknown key %q", out[len(out)-1])
			}
			path = append(path, key)
		case json.Delim('['):
			inArray = true
			path = append(path, key)
		}
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, fmt.Errorf("at byte %d: more than one JSON value", dec.InputOffset())
	}
	return out, nil
}

// maxPolicyKeys is more keys than any policy has.
const maxPolicyKeys = 64

func unexpectedEnd(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// ParseDevice reads the state of a device: a JSON object with offline, battery
// (0 to 1), charging and thermal, each optional. Unknown keys are refused.
func ParseDevice(data []byte) (Device, error) {
	var d Device
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		return Device{}, fmt.Errorf("device: %w", unexpectedEnd(err))
	}
	if _, err := dec.Token(); err != io.EOF {
		return Device{}, errors.New("device: more than one JSON value")
	}
	if b := d.Battery; b != nil && !(*b >= 0 && *b <= 1) {
		return Device{}, fmt.Errorf("device: battery is %g, want 0 to 1", *b)
	}
	if d.Thermal != "" && !slices.Contains(thermals, d.Thermal) {
		return Device{}, fmt.Errorf("device: thermal is %q, want one of %q", d.Thermal, thermals)
	}
	return d, nil
}
