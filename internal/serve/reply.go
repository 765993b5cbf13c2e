package serve

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"slmc/internal/audit"
	slmrt "slmc/runtime"
)

// report is the decision as a response carries it, in its field "slmc".
type report struct {
	ID        string           `json:"id"`
	Outcome   slmrt.Outcome    `json:"outcome"`
	Reason    slmrt.Reason     `json:"reason"`
	Served    string           `json:"served,omitempty"`
	Judgement *slmrt.Judgement `json:"judgement,omitempty"`
	// Certified says that the bundle's certificate speaks of this decision.
	Certified   bool   `json:"certified"`
	RemoteError string `json:"remote_error,omitempty"`
}

func reportOf(e *audit.Entry) report {
	return report{e.ID, e.Outcome, e.Reason, e.Served, e.Judged, e.Certified, e.RemoteError}
}

// headers are the decision in the response's head. A stream's head is sent with
// its first text: the field of its last chunk has the last word.
func (r report) headers(h http.Header) {
	h.Set("X-Slmc-Id", r.ID)
	if r.Outcome == "" {
		return
	}
	h.Set("X-Slmc-Outcome", string(r.Outcome))
	h.Set("X-Slmc-Reason", string(r.Reason))
	if r.Served != "" {
		h.Set("X-Slmc-Served", r.Served)
	}
	if j := r.Judgement; j != nil {
		h.Set("X-Slmc-Point", string(j.Point))
		h.Set("X-Slmc-Score", strconv.FormatFloat(float64(j.Score), 'g', -1, 32))
		h.Set("X-Slmc-Row", strconv.Itoa(j.Row))
	}
}

// client is the one who waits for an answer: at once in whole, or in pieces.
type client interface {
	// text gives the next piece of the answer, other the fields of a delta that are
	// no text.
	text(s string) error
	other(delta map[string]json.RawMessage) error
	// message gives an answer of the large model as it is.
	message(m map[string]json.RawMessage)
	// said is the text given so far; sent is whether anything of the answer is out.
	said() string
	sent() bool
	// finish ends the answer, refuse says that there is none, fail that it broke.
	finish(reason string, u usage) error
	refuse(why string, u usage) error
	fail(e *apiError)
}

// writer is what both clients are made of.
type writer struct {
	w       http.ResponseWriter
	ctl     *http.ResponseController
	patient time.Duration // with a client that takes nothing
	x       *exchange
	given   strings.Builder
	most    int // bytes of an answer
}

// within sets the time until which the client must have taken the next write.
func (w *writer) within() error { return w.ctl.SetWriteDeadline(time.Now().Add(w.patient)) }

func (w *writer) said() string { return w.given.String() }

// add counts text against the limit of an answer.
func (w *writer) add(s string) error {
	if w.given.Len()+len(s) > w.most {
		return &Failure{Kind: failTooLong, Err: errTooLong}
	}
	w.given.WriteString(s)
	return nil
}

// frame is what every object of an answer begins with.
func (w *writer) frame(object string) map[string]any {
	return map[string]any{
		"id": w.x.entry.ID, "object": object, "created": w.x.entry.Time.Unix(), "model": w.x.modelName(),
		"system_fingerprint": w.x.s.fingerprint,
	}
}

// whole answers with one object.
type whole struct {
	writer
	delta map[string]json.RawMessage
}

func (c *whole) text(s string) error                    { return c.add(s) }
func (c *whole) other(map[string]json.RawMessage) error { return nil } // message brings them
func (c *whole) message(m map[string]json.RawMessage)   { c.delta = m }
func (c *whole) sent() bool                             { return false }
func (c *whole) refuse(why string, u usage) error       { return c.send("stop", u, &why) }
func (c *whole) finish(reason string, u usage) error    { return c.send(reason, u, nil) }

func (c *whole) send(reason string, u usage, refusal *string) error {
	var out map[string]any
	first := map[string]any{"index": 0, "logprobs": nil, "finish_reason": reason}
	if c.x.q.endpoint == endpointChat {
		out = c.frame("chat.completion")
		m := map[string]any{"role": "assistant", "content": c.said(), "refusal": nil}
		for k, v := range c.delta {
			m[k] = v
		}
		if refusal != nil {
			m["content"], m["refusal"] = nil, *refusal
		}
		first["message"] = m
	} else {
		out = c.frame("text_completion")
		first["text"] = c.said()
	}
	out["choices"], out["usage"], out["slmc"] = []any{first}, u, reportOf(&c.x.entry)
	data, err := json.Marshal(out)
	if err != nil {
		return err
	}
	if err := c.within(); err != nil {
		return fmt.Errorf("%w: %w", errClient, err)
	}
	reportOf(&c.x.entry).headers(c.w.Header())
	c.w.Header().Set("Content-Type", "application/json")
	c.w.Header().Set("Content-Length", strconv.Itoa(len(data)+1))
	if _, err := c.w.Write(append(data, '\n')); err != nil {
		return fmt.Errorf("%w: %w", errClient, err)
	}
	if err := c.ctl.Flush(); err != nil {
		return fmt.Errorf("%w: %w", errClient, err)
	}
	return nil
}

func (c *whole) fail(e *apiError) {
	if c.within() == nil {
		reportOf(&c.x.entry).headers(c.w.Header())
		e.write(c.w, map[string]any{"slmc": reportOf(&c.x.entry)})
	}
}

// streamed answers with server-sent events.
type streamed struct {
	writer
	begun bool
}

func (c *streamed) sent() bool                         { return c.begun }
func (c *streamed) message(map[string]json.RawMessage) {}
func (c *streamed) object() string {
	if c.x.q.endpoint == endpointChat {
		return "chat.completion.chunk"
	}
	return "text_completion"
}

// begin sends the head of the response, and who speaks.
func (c *streamed) begin() error {
	if c.begun {
		return nil
	}
	c.begun = true
	h := c.w.Header()
	reportOf(&c.x.entry).headers(h)
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // a proxy that waits for the whole answer makes streaming pointless
	if c.x.q.endpoint != endpointChat {
		return nil
	}
	return c.chunk(map[string]any{"role": "assistant", "content": ""}, nil, nil)
}

// chunk sends one event; reason is nil before the end.
func (c *streamed) chunk(delta map[string]any, reason *string, extra map[string]any) error {
	out := c.frame(c.object())
	first := map[string]any{"index": 0, "logprobs": nil, "finish_reason": reason}
	if c.x.q.endpoint == endpointChat {
		first["delta"] = delta
	} else {
		text, _ := delta["content"].(string)
		first["text"] = text
	}
	out["choices"] = []any{first}
	for k, v := range extra {
		out[k] = v
	}
	return c.event(out)
}

func (c *streamed) event(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.raw(data)
}

func (c *streamed) raw(data []byte) error {
	if err := c.within(); err != nil {
		return fmt.Errorf("%w: %w", errClient, err)
	}
	if _, err := fmt.Fprintf(c.w, "data: %s\n\n", data); err != nil {
		return fmt.Errorf("%w: %w", errClient, err)
	}
	if err := c.ctl.Flush(); err != nil {
		return fmt.Errorf("%w: %w", errClient, err)
	}
	return nil
}

func (c *streamed) text(s string) error {
	if s == "" {
		return nil
	}
	if err := c.add(s); err != nil {
		return err
	}
	if err := c.begin(); err != nil {
		return err
	}
	return c.chunk(map[string]any{"content": s}, nil, nil)
}

func (c *streamed) other(delta map[string]json.RawMessage) error {
	if len(delta) == 0 || c.x.q.endpoint != endpointChat {
		return nil
	}
	if err := c.begin(); err != nil {
		return err
	}
	d := map[string]any{}
	for k, v := range delta {
		d[k] = v
	}
	return c.chunk(d, nil, nil)
}

func (c *streamed) refuse(why string, u usage) error {
	if err := c.begin(); err != nil {
		return err
	}
	if err := c.chunk(map[string]any{"refusal": why}, nil, nil); err != nil {
		return err
	}
	return c.finish("stop", u)
}

func (c *streamed) finish(reason string, u usage) error {
	if err := c.begin(); err != nil {
		return err
	}
	if err := c.chunk(map[string]any{}, &reason, map[string]any{"slmc": reportOf(&c.x.entry)}); err != nil {
		return err
	}
	if c.x.q.usage {
		out := c.frame(c.object())
		out["choices"], out["usage"] = []any{}, u
		if err := c.event(out); err != nil {
			return err
		}
	}
	return c.raw([]byte("[DONE]"))
}

// fail answers with an error while nothing is out; afterwards it sends an error
// event, and no "[DONE]", so that no client takes the text for whole.
func (c *streamed) fail(e *apiError) {
	if !c.begun {
		if c.within() == nil {
			reportOf(&c.x.entry).headers(c.w.Header())
			e.write(c.w, map[string]any{"slmc": reportOf(&c.x.entry)})
		}
		return
	}
	_ = c.event(map[string]any{"error": e.object(), "slmc": reportOf(&c.x.entry)})
}
