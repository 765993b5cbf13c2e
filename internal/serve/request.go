package serve

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	slmrt "slmc/runtime"
	"slmc/tokenizer/jinja"
)

// The models that a client can name.
const (
	modelAuto   = "auto"   // this model, or the large one where the policy says so
	modelLocal  = "local"  // this model
	modelRemote = "remote" // the large model
)

// The endpoints.
const (
	endpointChat       = "chat"
	endpointCompletion = "completion"
)

// query is a request of a client.
type query struct {
	endpoint string
	model    string
	raw      body // as it came, for the large model
	messages []message
	prompt   string
	begun    string // text that the answer is to go on from
	stream   bool
	usage    bool // wanted at the end of a stream
	most     int  // tokens wanted at most; 0: no wish
	stop     []string
	sampling slmrt.Sampling
	class    string // privacy class
	// foreign are the fields that this model cannot honour.
	foreign []string
}

// message is one of a chat, its content as text.
type message struct {
	role, content string
	plain         bool // it has nothing else
}

// fields is what a request may set. Pointers tell absent from zero.
type fields struct {
	Model         string          `json:"model"`
	Messages      []rawMessage    `json:"messages"`
	Prompt        json.RawMessage `json:"prompt"`
	Stream        bool            `json:"stream"`
	StreamOptions *streamOptions  `json:"stream_options"`
	MaxTokens     *int            `json:"max_tokens"`
	MaxCompletion *int            `json:"max_completion_tokens"`
	Temperature   *float64        `json:"temperature"`
	TopP          *float64        `json:"top_p"`
	TopK          *int            `json:"top_k"`
	MinP          *float64        `json:"min_p"`
	Repetition    *float64        `json:"repetition_penalty"`
	Seed          *int64          `json:"seed"`
	Stop          json.RawMessage `json:"stop"`
	N             *int            `json:"n"`
	AddPrompt     *bool           `json:"add_generation_prompt"`
	Continue      bool            `json:"continue_final_message"`
	Slmc          *own            `json:"slmc"`
}

type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

// own are slmc's fields.
type own struct {
	Privacy string `json:"privacy"`
}

type rawMessage struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

// neutral lists the fields that change no answer of this model at the values
// given, null aside; nil means any value. A field that is neither here nor in
// fields is left to the large model.
var neutral = map[string][]string{
	"user": nil, "metadata": nil, "store": nil, "service_tier": nil, "safety_identifier": nil, "prompt_cache_key": nil,
	"prompt_cache_retention": nil, "parallel_tool_calls": nil, "stream_options": nil, "slmc": nil,
	"model": nil, "messages": nil, "prompt": nil, "stream": nil, "max_tokens": nil, "max_completion_tokens": nil,
	"temperature": nil, "top_p": nil, "top_k": nil, "min_p": nil, "repetition_penalty": nil, "seed": nil, "stop": nil, "n": nil,
	"add_generation_prompt": nil, "continue_final_message": nil,
	"presence_penalty": {"0", "0.0"}, "frequency_penalty": {"0", "0.0"}, "logit_bias": {"{}"}, "logprobs": {"false"},
	"top_logprobs": {"0"}, "tools": {"[]"}, "tool_choice": {`"none"`, `"auto"`}, "functions": {"[]"}, "function_call": {`"none"`, `"auto"`},
	"response_format": {`{"type":"text"}`}, "modalities": {`["text"]`}, "best_of": {"1"}, "echo": {"false"}, "suffix": {`""`},
	"reasoning_effort": {`"none"`},
}

// badRequest is an error in a request, with the field it is in.
type badRequest struct {
	param, msg string
}

func (e *badRequest) Error() string { return e.msg }

func bad(param, format string, args ...any) error {
	return &badRequest{param, fmt.Sprintf(format, args...)}
}

// parseQuery reads a request of an endpoint.
func parseQuery(endpoint string, r io.Reader) (*query, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	q := &query{endpoint: endpoint}
	var syntax *json.SyntaxError
	if err := json.Unmarshal(data, &q.raw); errors.As(err, &syntax) {
		return nil, bad("", "the body is not JSON: at byte %d: %v", syntax.Offset, err)
	} else if err != nil || q.raw == nil {
		return nil, bad("", "the body is not a JSON object")
	}
	// The decoder takes "Messages" for messages; what is sent on would hold both.
	for _, k := range slices.Sorted(maps.Keys(q.raw)) {
		for name := range neutral {
			if k != name && strings.EqualFold(k, name) {
				return nil, bad(k, "%q is no field; %q is", k, name)
			}
		}
	}
	var f fields
	if err := json.Unmarshal(data, &f); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return nil, bad(wrong.Field, "%s is a %s", wrong.Field, wrong.Value)
		}
		return nil, bad("", "%v", err)
	}
	q.model, q.stream = f.Model, f.Stream
	q.usage = f.StreamOptions != nil && f.StreamOptions.IncludeUsage
	if f.Slmc != nil {
		q.class = f.Slmc.Privacy
	}
	if f.N != nil && *f.N != 1 {
		return nil, bad("n", "n is %d: one answer a request is all there is", *f.N)
	}
	if q.stop, err = texts("stop", f.Stop); err != nil {
		return nil, err
	}
	if len(q.stop) > maxStops {
		return nil, bad("stop", "%d stop texts, at most %d", len(q.stop), maxStops)
	}
	if err := q.setTokens(f); err != nil {
		return nil, err
	}
	if err := q.setSampling(f); err != nil {
		return nil, err
	}
	for _, k := range slices.Sorted(maps.Keys(q.raw)) {
		values, known := neutral[k]
		v := compact(q.raw[k])
		if !known || values != nil && v != "null" && !slices.Contains(values, v) {
			q.foreign = append(q.foreign, k)
		}
	}
	if endpoint == endpointChat {
		return q, q.setMessages(f)
	}
	return q, q.setPrompt(f)
}

// maxStops is the most stop texts of a request.
const maxStops = 16

func compact(raw json.RawMessage) string {
	var out bytes.Buffer
	if json.Compact(&out, raw) != nil {
		return ""
	}
	return out.String()
}

// texts reads a string or a list of them.
func texts(param string, raw json.RawMessage) ([]string, error) {
	if len(raw) == 0 || string(raw) == "null" {
		return nil, nil
	}
	var one string
	if json.Unmarshal(raw, &one) == nil {
		return []string{one}, nil
	}
	var list []string
	if json.Unmarshal(raw, &list) != nil {
		return nil, bad(param, "%s is neither a text nor a list of texts", param)
	}
	return list, nil
}

func (q *query) setTokens(f fields) error {
	for name, v := range map[string]*int{"max_tokens": f.MaxTokens, "max_completion_tokens": f.MaxCompletion} {
		switch {
		case v == nil:
		case *v < 1:
			return bad(name, "%s is %d, want 1 or more", name, *v)
		case q.most == 0 || *v < q.most:
			q.most = *v
		}
	}
	return nil
}

// setSampling reads how to choose tokens. Without a temperature the likeliest
// token is taken, as the certificate's answers were made.
func (q *query) setSampling(f fields) error {
	set := func(to *float32, from *float64) {
		if from != nil {
			*to = float32(*from)
		}
	}
	s := &q.sampling
	set(&s.Temperature, f.Temperature)
	set(&s.TopP, f.TopP)
	set(&s.MinP, f.MinP)
	set(&s.RepetitionPenalty, f.Repetition)
	if f.TopK != nil {
		s.TopK = max(0, *f.TopK) // -1 means all elsewhere
	}
	s.Seed = 1
	if f.Seed != nil {
		s.Seed = uint64(*f.Seed)
	}
	if s.Temperature > 2 || math.IsNaN(float64(s.Temperature)) {
		return bad("temperature", "temperature is %g, want 0 to 2", s.Temperature)
	}
	if err := s.Check(); err != nil {
		return bad("", "%v", err)
	}
	return nil
}

// greedy reports whether the likeliest token is taken each time.
func (q *query) greedy() bool {
	return q.sampling.Temperature == 0 && (q.sampling.RepetitionPenalty == 0 || q.sampling.RepetitionPenalty == 1)
}

func (q *query) setPrompt(f fields) error {
	list, err := texts("prompt", f.Prompt)
	switch {
	case err != nil:
		return err
	case len(list) != 1:
		return bad("prompt", "%d prompts, want one text", len(list))
	case f.Messages != nil:
		return bad("messages", "a completion has a prompt, a chat has messages")
	}
	q.prompt = list[0]
	return nil
}

func (q *query) setMessages(f fields) error {
	if len(f.Messages) == 0 {
		return bad("messages", "there are no messages")
	}
	for i, m := range f.Messages {
		if m.Role == "" {
			return bad("messages", "message %d has no role", i)
		}
		text, plain, err := messageText(m.Content)
		if err != nil {
			return bad("messages", "message %d: %v", i, err)
		}
		if !slices.Contains([]string{"system", "developer", "user", "assistant"}, m.Role) {
			plain = false
		}
		if m.Role == "developer" {
			m.Role = "system" // the newer name
		}
		if !plain {
			q.foreign = append(q.foreign, "messages")
		}
		q.messages = append(q.messages, message{m.Role, text, plain})
	}
	slices.Sort(q.foreign)
	q.foreign = slices.Compact(q.foreign)
	if !f.Continue {
		return nil
	}
	last := q.messages[len(q.messages)-1]
	if last.role != "assistant" || f.AddPrompt == nil || *f.AddPrompt {
		return bad("continue_final_message", "continue_final_message wants a last message of the assistant, and add_generation_prompt false")
	}
	q.begun, q.messages = last.content, q.messages[:len(q.messages)-1]
	return nil
}

// messageText is the content of a message: a text or a list of parts; plain is
// false when there is something that is not text.
func messageText(raw json.RawMessage) (text string, plain bool, err error) {
	if len(raw) == 0 || string(raw) == "null" {
		return "", false, nil
	}
	if json.Unmarshal(raw, &text) == nil {
		return text, true, nil
	}
	var parts []struct {
		Type string  `json:"type"`
		Text *string `json:"text"`
	}
	if json.Unmarshal(raw, &parts) != nil {
		return "", false, errors.New("its content is neither a text nor a list of parts")
	}
	plain = true
	for _, p := range parts {
		if p.Type != "text" || p.Text == nil {
			plain = false
			continue
		}
		text += *p.Text
	}
	return text, plain, nil
}

// single is the text of a query that is one message of the user, or a raw prompt.
func (q *query) single() (string, bool) {
	if q.endpoint == endpointCompletion {
		return q.prompt, true
	}
	if len(q.messages) == 1 && q.messages[0].role == "user" && q.messages[0].plain && q.begun == "" {
		return q.messages[0].content, true
	}
	return "", false
}

// chat is the conversation for a template.
func (q *query) chat() slmrt.Chat {
	var c slmrt.Chat
	for _, m := range q.messages {
		c.Messages = append(c.Messages, jinja.Text(m.role, m.content))
	}
	return c
}

// remote is the body for the large model, which is to go on from a text that the
// answer has already, after so many tokens.
func (q *query) remote(begun string, tokens int) (body, error) {
	b := body{}
	for k, v := range q.raw {
		if k != "slmc" {
			b[k] = v
		}
	}
	if begun == "" {
		return b, nil
	}
	for _, k := range []string{"max_tokens", "max_completion_tokens"} {
		if b[k] != nil && q.most > 0 {
			if err := b.set(k, max(1, q.most-tokens)); err != nil {
				return nil, err
			}
		}
	}
	if q.endpoint == endpointCompletion {
		return b, b.set("prompt", q.prompt+begun)
	}
	var list []json.RawMessage
	if err := json.Unmarshal(b["messages"], &list); err != nil {
		return nil, err
	}
	if q.begun != "" { // the last message is the answer already
		list = list[:len(list)-1]
	}
	last, err := json.Marshal(map[string]string{"role": "assistant", "content": q.begun + begun})
	if err != nil {
		return nil, err
	}
	return b, errors.Join(b.set("messages", append(list, last)), b.set("continue_final_message", true), b.set("add_generation_prompt", false))
}
