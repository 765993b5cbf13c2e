// Package audit keeps the log of decisions that a server writes and learns from
// it afterwards: how often queries were handed off and why, whether the scores
// still look as they did when the router was certified, whether the certificate
// still holds, and which kinds of queries there are.
package audit

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"slmc/internal/deferral"
	slmrt "slmc/runtime"
)

// Version is that of the lines; a reader refuses others.
const Version = 1

// The kinds of lines.
const (
	KindAnswer = "answer" // a request was answered, or could not be
	KindAudit  = "audit"  // an answer given here was held against the large model's
)

// Who answered.
const (
	ServedLocal       = "local"
	ServedRemote      = "remote"
	ServedLocalRemote = "local+remote" // begun here, gone on with by the large model
	ServedRemoteLocal = "remote+local" // the large model broke off
)

// Entry is one line of the log, a JSON object. It has no text of a query or an
// answer unless the server was told to keep it.
type Entry struct {
	V    int       `json:"v"`
	Kind string    `json:"kind"`
	ID   string    `json:"id"` // of the request; an audit has that of its answer
	Time time.Time `json:"time"`

	Endpoint string             `json:"endpoint,omitempty"` // chat or completion
	Model    string             `json:"model,omitempty"`    // asked for: auto, local or remote
	Served   string             `json:"served,omitempty"`
	Bundle   string             `json:"bundle,omitempty"` // digest
	Router   string             `json:"router,omitempty"` // digest of the router's section
	Class    string             `json:"class,omitempty"`  // privacy class
	Outcome  slmrt.Outcome      `json:"outcome,omitempty"`
	Reason   slmrt.Reason       `json:"reason,omitempty"`
	Judged   *slmrt.Judgement   `json:"judgement,omitempty"` // that decided
	Readings []deferral.Reading `json:"readings,omitempty"`
	// Covered says that the request has the form that the certificate was made with:
	// one message, greedy, not cut. Certified says that the score alone decided it,
	// so that the certificate speaks of it.
	Covered   bool   `json:"covered,omitempty"`
	Certified bool   `json:"certified,omitempty"`
	Stream    bool   `json:"stream,omitempty"`
	Status    int    `json:"status,omitempty"` // of HTTP
	Error     string `json:"error,omitempty"`  // kind of failure that the client saw

	PromptTokens int     `json:"prompt_tokens,omitempty"` // computed here
	Tokens       int     `json:"tokens,omitempty"`        // generated here
	RemotePrompt int     `json:"remote_prompt_tokens,omitempty"`
	RemoteTokens int     `json:"remote_tokens,omitempty"`
	RemoteTries  int     `json:"remote_tries,omitempty"`
	RemoteError  string  `json:"remote_error,omitempty"` // kind of the last failure
	Finish       string  `json:"finish,omitempty"`
	QueuedMS     float64 `json:"queued_ms"`
	MS           float64 `json:"ms"`

	Sampled bool  `json:"sampled,omitempty"` // drawn to be audited
	Agree   *bool `json:"agree,omitempty"`   // audit: both models say the same

	Text *Text `json:"text,omitempty"`
}

// Text is what was said; only in logs that were asked to keep it.
type Text struct {
	Query    string          `json:"query,omitempty"`    // the only message, or the raw prompt
	Messages json.RawMessage `json:"messages,omitempty"` // of a longer chat
	Answer   string          `json:"answer,omitempty"`   // what the client got
	Small    *string         `json:"small,omitempty"`    // the answer of this model, where it is whole
	Large    *string         `json:"large,omitempty"`    // the answer of the large model, where it is whole
}

// Writer appends lines to a log. It is safe for concurrent use.
type Writer struct {
	mu sync.Mutex
	w  io.Writer
	c  io.Closer
}

// NewWriter returns a Writer to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// OpenWriter appends to the file at path, readable by its owner alone. A last
// line that an earlier process did not finish is ended.
func OpenWriter(path string) (*Writer, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && st.Mode().IsRegular() && st.Size() > 0 {
		last := make([]byte, 1)
		if _, err = f.ReadAt(last, st.Size()-1); err == nil && last[0] != '\n' {
			_, err = f.Write([]byte{'\n'})
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", path, err), f.Close())
	}
	return &Writer{w: f, c: f}, nil
}

// Append writes one line, in one write.
func (w *Writer) Append(e Entry) error {
	e.V = Version
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err = w.w.Write(append(line, '\n'))
	return err
}

// Close closes the file.
func (w *Writer) Close() error {
	if w.c == nil {
		return nil
	}
	return w.c.Close()
}

// maxLine bounds a line of the log.
const maxLine = 4 << 20

// errLine is a line that is no entry.
var errLine = errors.New("not a line of this log")

// Bad counts lines that could not be read, as a crash or a full disk leaves
// them.
type Bad struct {
	Lines int    `json:"lines"`
	First string `json:"first,omitempty"` // where the first was, and what was wrong
}

// Read calls f for every entry of a log. A log without a single good line is an
// error, unless it is empty.
func Read(r io.Reader, f func(Entry) error) (Bad, error) {
	var bad Bad
	good := 0
	in := bufio.NewReaderSize(r, 64<<10)
	for n := 1; ; n++ {
		line, tooLong, err := readLine(in)
		if err != nil && err != io.EOF {
			return bad, fmt.Errorf("line %d: %w", n, err)
		}
		if len(bytes.TrimSpace(line)) > 0 || tooLong {
			e, perr := parse(line, tooLong)
			switch {
			case perr != nil:
				if bad.Lines++; bad.Lines == 1 {
					bad.First = fmt.Sprintf("line %d: %v", n, perr)
				}
			default:
				good++
				if err := f(e); err != nil {
					return bad, err
				}
			}
		}
		if err == io.EOF {
			break
		}
	}
	if good == 0 && bad.Lines > 0 {
		return bad, fmt.Errorf("%w: %s", errLine, bad.First)
	}
	return bad, nil
}

// readLine reads up to a line feed; of a line above maxLine it keeps nothing.
func readLine(in *bufio.Reader) (line []byte, tooLong bool, err error) {
	for {
		part, err := in.ReadSlice('\n')
		if !tooLong {
			line = append(line, part...)
		}
		if len(line) > maxLine {
			line, tooLong = nil, true
		}
		if err != bufio.ErrBufferFull {
			return line, tooLong, err
		}
	}
}

func parse(line []byte, tooLong bool) (Entry, error) {
	var e Entry
	if tooLong {
		return e, fmt.Errorf("longer than %d bytes", maxLine)
	}
	if err := json.Unmarshal(line, &e); err != nil {
		return e, err
	}
	switch {
	case e.V != Version:
		return e, fmt.Errorf("version %d, this reader knows %d", e.V, Version)
	case e.Kind != KindAnswer && e.Kind != KindAudit:
		return e, fmt.Errorf("kind %q is unknown", e.Kind)
	case e.ID == "":
		return e, errors.New("no id")
	}
	return e, nil
}
