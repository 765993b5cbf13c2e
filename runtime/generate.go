package slmrt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"slmc/internal/deferral"
	"slmc/tokenizer"
)

// Why a generation ended.
const (
	StopToken   = "eos"     // the model ended its text
	StopString  = "stop"    // a stop string appeared
	StopLength  = "length"  // MaxTokens were generated
	StopContext = "context" // the session is full
	StopHandoff = "handoff" // Request.OnReading took it away before it ended
)

// Request is what to generate.
type Request struct {
	Prompt    []int32  // fed to the session first; not empty
	MaxTokens int      // 0: as many as fit
	Stop      []string // end, and cut the text, where one of these appears
	Sampling  Sampling
	// Begun is the number of ids at the end of Prompt whose text the answer goes
	// on from. It isn't repeated, but it is no start of a text either, where
	// tokenizers drop a blank.
	Begun int
	// OnReading, if it is not nil and the model has a router, is called with the
	// router's reading at each checkpoint: after the prompt, after every
	// deferral.MidEvery tokens, and at the end, when all text has been emitted.
	// It returns true to hand the query off; before the end that stops the
	// generation there. Readings are of the prompt fed by this request, not of
	// what the session held before, and the certificate is for greedy answers.
	OnReading func(deferral.Reading) bool
	// Speculate, if it is not nil, proposes tokens to go faster. It changes no
	// token, text, reading or state of the session.
	Speculate *Speculator
}

// Result is what was generated. Tokens counts the generated ids, the one that
// stopped included.
type Result struct {
	Text         string  `json:"text"`
	PromptTokens int     `json:"prompt_tokens"`
	Tokens       int     `json:"tokens"`
	Stop         string  `json:"stop"`
	IDs          []int32 `json:"-"`
	// Handoff says that OnReading returned true, at the last of Readings.
	Handoff  bool               `json:"handoff,omitempty"`
	Readings []deferral.Reading `json:"readings,omitempty"`
	// Signals are those of the answer that need no training, when readings were
	// made.
	Signals deferral.Signals `json:"-"`
	// Speculation tells how the proposals of Request.Speculate fared.
	Speculation *Speculated `json:"speculation,omitempty"`
}

// Generate feeds the prompt and samples until something stops it. emit, which
// may be nil, receives the text in pieces of whole characters; together they
// are Result.Text. The session's tokenizer may be nil: then only ids come out.
func (s *Session) Generate(ctx context.Context, r Request, emit func(text string) error) (Result, error) {
	if err := r.Sampling.Check(); err != nil {
		return Result{}, err
	}
	if len(r.Prompt) == 0 {
		return Result{}, errors.New("the prompt is empty")
	}
	if emit == nil {
		emit = func(string) error { return nil }
	}
	res := Result{PromptTokens: len(r.Prompt)}
	if r.Begun < 0 || r.Begun > len(r.Prompt) {
		return Result{}, fmt.Errorf("%d ids of a prompt of %d are said to begin the answer", r.Begun, len(r.Prompt))
	}
	out := newStopper(s.m.Tokenizer, r.Stop, emit)
	out.skip(r.Prompt[len(r.Prompt)-r.Begun:])
	sampler := NewSampler(r.Sampling)
	room := s.Room()
	if r.MaxTokens > 0 {
		room = min(room, len(r.Prompt)+r.MaxTokens)
	}
	seen := append(make([]int32, 0, len(r.Prompt)+min(max(room-len(r.Prompt), 0), 4096)+1), r.Prompt...)
	res.IDs = make([]int32, 0, cap(seen)-len(seen))
	d := s.startReader(r)
	defer d.end()
	feed := decoder{s, r.Speculate}
	defer feed.end()
	z, err := feed.start(ctx, r.Prompt)
	res.Handoff = err == nil && d.prompt(z)
	for err == nil {
		if res.Handoff {
			res.Stop = StopHandoff
			break
		}
		id := sampler.Next(z, seen)
		d.token(z, id)
		res.IDs, seen = append(res.IDs, id), append(seen, id)
		var stopped bool
		stopped, err = out.push(id)
		switch {
		case err != nil:
		case stopped:
			res.Stop = StopString
		case slices.Contains(s.m.Stops, id):
			res.Stop = StopToken
		case len(res.IDs) == r.MaxTokens:
			res.Stop = StopLength
		case feed.room() == 0:
			res.Stop = StopContext
		default:
			if len(res.IDs)%deferral.MidEvery == 0 {
				res.Handoff = d.read(deferral.Mid, false)
			}
			if !res.Handoff {
				z, err = feed.step(ctx, seen, sampler, max(0, r.MaxTokens-len(res.IDs)))
			}
			continue
		}
		break
	}
	if err != nil {
		return res, err
	}
	res.Tokens = len(res.IDs)
	if r.Speculate != nil {
		sum := r.Speculate.sum
		res.Speculation = &sum
	}
	if res.Handoff {
		// Whoever goes on from the text gets what is certain: no half of a
		// character, no beginning of a stop string.
		res.Text = out.text()
	} else {
		res.Text, err = out.finish()
	}
	if err == nil && !res.Handoff {
		res.Handoff = d.read(deferral.Post, res.Stop == StopToken)
	}
	res.Readings, res.Signals = d.readings()
	return res, err
}

// stopper decodes ids and holds back text that may become a stop string. What
// it emits are parts of one growing text, so a token allocates nothing.
type stopper struct {
	stream *tokenizer.Stream
	stop   []string
	emit   func(string) error
	all    strings.Builder // emitted, then held back
	sent   int             // bytes of all that are emitted
	ended  bool
}

// text is what was emitted.
func (s *stopper) text() string { return s.all.String()[:s.sent] }

func newStopper(t *tokenizer.Tokenizer, stop []string, emit func(string) error) *stopper {
	s := &stopper{emit: emit, stop: slices.DeleteFunc(slices.Clone(stop), func(x string) bool { return x == "" })}
	if t != nil {
		s.stream = t.NewStream(true)
	}
	return s
}

// skip takes ids whose text is out already.
func (s *stopper) skip(ids []int32) {
	for _, id := range ids {
		if s.stream != nil {
			s.stream.Push(id)
		}
	}
}

// push adds a token and reports whether a stop string is complete.
func (s *stopper) push(id int32) (bool, error) {
	if s.stream == nil {
		return false, nil
	}
	return s.add(s.stream.Push(id), false)
}

func (s *stopper) add(text string, last bool) (bool, error) {
	s.all.WriteString(text)
	held := s.all.String()[s.sent:]
	cut := -1
	for _, x := range s.stop {
		if i := strings.Index(held, x); i >= 0 && (cut < 0 || i < cut) {
			cut = i
		}
	}
	out := held
	if cut >= 0 {
		s.ended = true
		out = held[:cut]
	} else if !last {
		out = held[:len(held)-s.pending(held)]
	}
	s.sent += len(out)
	if out == "" {
		return s.ended, nil
	}
	return s.ended, s.emit(out)
}

// pending is the length of the longest end of the held text that begins a stop
// string.
func (s *stopper) pending(held string) int {
	most := 0
	for _, x := range s.stop {
		for n := min(len(x)-1, len(held)); n > most; n-- {
			if strings.HasSuffix(held, x[:n]) {
				most = n
			}
		}
	}
	return most
}

// finish flushes the rest and returns the whole text.
func (s *stopper) finish() (string, error) {
	if s.stream != nil && !s.ended {
		if _, err := s.add(s.stream.Flush(), true); err != nil {
			return "", err
		}
	}
	return s.text(), nil
}

// EncodeText returns the ids of raw text as the tokenizer's post-processor
// would have them.
func (m *Model) EncodeText(text string) ([]int32, error) {
	if m.Tokenizer == nil {
		return nil, ErrNoTokenizer
	}
	ids, err := m.Tokenizer.Encode(text, true)
	if err != nil {
		return nil, fmt.Errorf("tokenize: %w", err)
	}
	return ids, nil
}
