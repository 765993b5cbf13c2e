//go:build cgo

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"slmc/formats"
	"slmc/formats/bundle"
	"slmc/internal/deferral"
	"slmc/internal/exec"
	slmrt "slmc/runtime"
	"slmc/tokenizer/jinja"
)

var (
	errUsage   = errors.New("usage")
	errStopped = errors.New("the callback ended the generation")
)

// The codes of slmrt.h, which are the exit codes of slmrt.
const (
	statusOK      = 0
	statusFailed  = 1
	statusStopped = 8
)

// statuses maps kinds of errors to codes; the first that matches counts.
var statuses = []struct {
	kind error
	code int
}{
	{errStopped, statusStopped}, {formats.ErrVersion, 7}, {slmrt.ErrMemory, 6}, {formats.ErrCorrupt, 4}, {exec.ErrNotFinite, 4},
	{formats.ErrUnsupported, 3}, {slmrt.ErrNoTemplate, 3}, {errUsage, 2}, {slmrt.ErrContext, 2}, {slmrt.ErrToken, 2},
	{slmrt.ErrPolicy, 2}, {jinja.ErrRaised, 2}, {deferral.ErrInfeasible, 2},
}

func statusOf(err error) int {
	for _, s := range statuses {
		if errors.Is(err, s.kind) {
			return s.code
		}
	}
	return statusFailed
}

// model is what a handle stands for.
type model struct {
	path    string
	m       *slmrt.Model
	b       *bundle.Bundle
	options slmrt.Options
	wish    slmrt.Wish

	mu    sync.Mutex
	freed bool
	calls sync.WaitGroup // under way
	idle  *worker        // one is kept: the next call need not make its cache
}

// worker is what one call computes with.
type worker struct {
	s  *slmrt.Session
	sp *slmrt.Speculator // may be nil
}

func (w *worker) close() error {
	w.s.Close()
	if w.sp != nil {
		return w.sp.Close()
	}
	return nil
}

// decode reads a JSON object; an unknown key is refused, since a setting that
// is misspelt would not hold. An empty text is an empty object.
func decode(what, text string, v any) error {
	if text == "" {
		return nil
	}
	d := json.NewDecoder(bytes.NewReader([]byte(text)))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%w: %s: %w", errUsage, what, err)
	}
	if d.More() {
		return fmt.Errorf("%w: %s: more than one object", errUsage, what)
	}
	return nil
}

func open(path, options string) (*model, error) {
	var o struct {
		Threads   int    `json:"threads"`
		Context   int    `json:"context"`
		Memory    int64  `json:"memory"`
		Check     bool   `json:"check"`
		PublicKey string `json:"public_key"`
		Draft     string `json:"draft"`
		Lookup    *int   `json:"lookup"`
	}
	if err := decode("options", options, &o); err != nil {
		return nil, err
	}
	if o.Threads < 0 || o.Context < 0 || o.Memory < 0 {
		return nil, fmt.Errorf("%w: options: numbers must not be negative", errUsage)
	}
	m := &model{
		path: path, options: slmrt.Options{Threads: o.Threads, Context: o.Context, Budget: o.Memory},
		wish: slmrt.Wish{Draft: o.Draft, Said: o.Draft != "" || o.Lookup != nil},
	}
	if o.Lookup != nil {
		m.wish.Lookup = *o.Lookup
	}
	var load slmrt.LoadOptions
	var err error
	if o.PublicKey != "" {
		if load.PublicKey, err = bundle.ReadPublicKey(o.PublicKey); err != nil {
			return nil, err
		}
	}
	if m.m, m.b, err = slmrt.Load(path, load); err != nil {
		return nil, err
	}
	if o.Check {
		err = m.b.Check(context.Background(), nil)
	}
	if err == nil {
		// What the options ask for is refused here, not in the first call.
		m.idle, err = m.worker()
	}
	if err != nil {
		return nil, errors.Join(err, m.m.Close())
	}
	return m, nil
}

func (m *model) worker() (*worker, error) {
	s, err := m.m.NewSession(m.options)
	if err != nil {
		return nil, err
	}
	sp, err := slmrt.OpenSpeculator(m.m, m.b, m.path, m.wish, m.options, func(string) {})
	if err != nil {
		s.Close()
		return nil, err
	}
	return &worker{s, sp}, nil
}

// hold marks a call as under way; false when the model is freed.
func (m *model) hold() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.freed {
		return false
	}
	m.calls.Add(1)
	return true
}

func (m *model) release() { m.calls.Done() }

// end lets no further call in; false when that was said before.
func (m *model) end() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	first := !m.freed
	m.freed = true
	return first
}

// close waits for the calls and gives everything back.
func (m *model) close() error {
	m.calls.Wait()
	var err error
	if m.idle != nil {
		err = m.idle.close()
	}
	return errors.Join(err, m.m.Close())
}

// take gives the caller a worker of its own.
func (m *model) take() (*worker, error) {
	m.mu.Lock()
	w := m.idle
	m.idle = nil
	m.mu.Unlock()
	if w != nil {
		return w, nil
	}
	return m.worker()
}

// put keeps the worker for the next call, or closes it.
func (m *model) put(w *worker) error {
	m.mu.Lock()
	keep := m.idle == nil
	if keep {
		m.idle = w
	}
	m.mu.Unlock()
	if keep {
		return nil
	}
	return w.close()
}

// message is one of a conversation.
type message struct {
	Role    string `json:"role"`
	Content string `json:"content"`
}

// answer is what a generation gives back.
type answer struct {
	slmrt.Result
	Decision *slmrt.Decision `json:"decision,omitempty"`
}

func (m *model) generate(request string, emit func(string) error) (a answer, err error) {
	var q struct {
		Prompt    string          `json:"prompt"`
		User      string          `json:"user"`
		Messages  []message       `json:"messages"`
		MaxTokens int             `json:"max_tokens"`
		Stop      []string        `json:"stop"`
		Readings  bool            `json:"readings"`
		Handoff   json.RawMessage `json:"handoff"`
		slmrt.Sampling
	}
	if err := decode("request", request, &q); err != nil {
		return a, err
	}
	if err := q.Sampling.Check(); err != nil {
		return a, fmt.Errorf("%w: request: %w", errUsage, err)
	}
	if q.MaxTokens < 0 {
		return a, fmt.Errorf("%w: request: max_tokens is %d", errUsage, q.MaxTokens)
	}
	ids, err := m.encode(q.Prompt, q.User, q.Messages)
	if err != nil {
		return a, err
	}
	r := slmrt.Request{Prompt: ids, MaxTokens: q.MaxTokens, Stop: q.Stop, Sampling: q.Sampling}
	if q.Readings {
		r.OnReading = func(deferral.Reading) bool { return false }
	}
	if q.Handoff != nil {
		j, err := m.judge(string(q.Handoff))
		if err != nil {
			return a, err
		}
		a.Decision = &j.last
		if j.early() {
			a.PromptTokens, a.Stop, a.Handoff = len(ids), slmrt.StopHandoff, true
			return a, nil
		}
		r.OnReading = j.read
	}
	w, err := m.take()
	if err != nil {
		return a, err
	}
	defer func() { err = errors.Join(err, m.put(w)) }()
	w.s.Truncate(0)
	r.Speculate = w.sp
	a.Result, err = w.s.Generate(context.Background(), r, emit)
	return a, err
}

func (m *model) encode(prompt, user string, messages []message) ([]int32, error) {
	given := 0
	for _, is := range []bool{prompt != "", user != "", len(messages) > 0} {
		if is {
			given++
		}
	}
	if given != 1 {
		return nil, fmt.Errorf("%w: request: want one of prompt, user and messages, found %d", errUsage, given)
	}
	if prompt != "" {
		return m.m.EncodeText(prompt)
	}
	if user != "" {
		messages = []message{{"user", user}}
	}
	chat := slmrt.Chat{Now: time.Now()}
	for _, x := range messages {
		chat.Messages = append(chat.Messages, slmrt.Say(x.Role, x.Content))
	}
	return m.m.EncodeChat(chat)
}

// judge decides about one query.
type judge struct {
	policy    slmrt.Policy
	situation slmrt.Situation
	router    bool
	row       deferral.Row // of the certified table; none without a router
	rowIndex  int
	last      slmrt.Decision
}

// judge reads {"policy", "situation", "reading"} and decides on that.
func (m *model) judge(request string) (*judge, error) {
	var q struct {
		Policy    json.RawMessage   `json:"policy"`
		Situation slmrt.Situation   `json:"situation"`
		Reading   *deferral.Reading `json:"reading"`
	}
	if err := decode("request", request, &q); err != nil {
		return nil, err
	}
	j := &judge{policy: slmrt.DefaultPolicy(), situation: q.Situation}
	if q.Policy != nil {
		var err error
		if j.policy, err = slmrt.ParsePolicy(q.Policy); err != nil {
			return nil, err
		}
	}
	if r := m.m.Router(); r != nil {
		t := r.Table()
		var err error
		if j.row, err = t.Default(); j.policy.Score.Bound > 0 {
			j.row, err = t.Pick(t.Checkpoint, j.policy.Score.Bound)
		}
		if err != nil {
			return nil, err
		}
		j.router, j.rowIndex = true, slices.Index(t.Rows, j.row)
	} else if q.Reading != nil {
		return nil, fmt.Errorf("%w: a reading, but the bundle has no router", errUsage)
	}
	if q.Reading != nil {
		j.situation.Judgement = slmrt.Judge(j.rowIndex, j.row, *q.Reading)
	}
	j.last = j.policy.Decide(j.situation)
	return j, nil
}

func away(d slmrt.Decision) bool { return d.Outcome == slmrt.Defer || d.Outcome == slmrt.Abstain }

// early reports whether the query is not answered here, whatever its score:
// then nothing is computed.
func (j *judge) early() bool {
	if d, ok := j.policy.Early(j.situation); ok {
		j.last = d
		return away(d)
	}
	return !j.router && away(j.last)
}

// read decides on a reading; true takes the query away.
func (j *judge) read(x deferral.Reading) bool {
	h := j.policy.Handoff
	if x.Checkpoint == deferral.Mid && !h.Mid || x.Checkpoint == deferral.Post && !h.Post {
		return false
	}
	j.situation.Judgement = slmrt.Judge(j.rowIndex, j.row, x)
	d := j.policy.Decide(j.situation)
	if j.last.Judgement != nil && j.last.Outcome == slmrt.LocalWithWarning && d.Outcome == slmrt.Local {
		return false // a later, better score does not take a warning back
	}
	j.last = d
	return away(d)
}

func (m *model) decide(request string) (slmrt.Decision, error) {
	j, err := m.judge(request)
	if err != nil {
		return slmrt.Decision{}, err
	}
	return j.last, nil
}

func (m *model) describe() (map[string]any, error) {
	man := m.b.Manifest()
	mem, err := m.m.Memory(m.options)
	if err != nil {
		return nil, err
	}
	return map[string]any{
		"digest": m.b.Digest().String(), "architecture": man.Graph.Arch, "parameters": man.Parameters, "bpw": man.BPW,
		"file_bytes": m.b.Size(), "context": man.Context, "memory": mem, "router": m.m.Router() != nil, "tool_version": man.ToolVersion,
	}, nil
}
