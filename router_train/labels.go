// Package routertrain makes deferral routers: it labels queries by running the
// compressed model as it ships, trains heads on what the runtime computes,
// certifies thresholds on queries that training has not seen, and measures the
// result. It stands above runtime, by intent: a router is trained on the very
// states that a phone will read.
package routertrain

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"slmc/formats/bundle"
)

// The failures that callers tell apart with errors.Is.
var (
	ErrLabels   = errors.New("label file")
	ErrMismatch = errors.New("labels and bundle do not belong together")
)

// Header is the first line of a label file that Labeller wrote: what the labels
// were made with. A file of ready-made labels has none.
type Header struct {
	Version     int           `json:"slmc_labels"`
	Bundle      bundle.Digest `json:"bundle"`  // identity of the small model's bundle
	Weights     bundle.Digest `json:"weights"` // root of its weights, which a router is tied to
	Scorer      string        `json:"scorer"`
	Samples     int           `json:"samples"`
	Temperature float32       `json:"temperature"`
	MaxTokens   int           `json:"max_tokens"`
	Seed        uint64        `json:"seed"`
	Large       string        `json:"large"` // who gave the large model's answers
	Redaction   Redaction     `json:"redaction"`
}

// labelVersion is that of the file format.
const labelVersion = 1

// Label is one query with what came of it. Scores lie in 0..1.
type Label struct {
	ID     string   `json:"id"` // QueryID of the query, redacted or not
	Source string   `json:"source,omitempty"`
	Query  string   `json:"query,omitempty"` // empty when it was dropped
	Small  Outcome  `json:"small"`
	Large  *Outcome `json:"large,omitempty"` // nil: nobody asked
}

// Outcome is a model's answer and what it is worth.
type Outcome struct {
	Answer  string    `json:"answer,omitempty"`
	Score   float64   `json:"score"`
	Samples []float64 `json:"samples,omitempty"` // scores of answers drawn at a temperature
	Tokens  int       `json:"tokens,omitempty"`  // generated, or billed
}

// UnmarshalJSON also takes a bare true, false or number: a ready-made label.
func (o *Outcome) UnmarshalJSON(text []byte) error {
	switch t := bytes.TrimSpace(text); {
	case len(t) == 0:
		return errors.New("empty outcome")
	case t[0] == 't' || t[0] == 'f':
		var right bool
		if err := json.Unmarshal(t, &right); err != nil {
			return err
		}
		*o = Outcome{}
		if right {
			o.Score = 1
		}
		return nil
	case t[0] != '{':
		*o = Outcome{}
		return json.Unmarshal(t, &o.Score)
	}
	type plain Outcome
	return json.Unmarshal(text, (*plain)(o))
}

func (o *Outcome) check() error {
	for _, s := range append([]float64{o.Score}, o.Samples...) {
		if !(s >= 0 && s <= 1) {
			return fmt.Errorf("score %g, want 0 to 1", s)
		}
	}
	return nil
}

// QueryID names a query: the first 16 bytes of its SHA-256, hexadecimal.
func QueryID(query string) string {
	sum := sha256.Sum256([]byte(query))
	return hex.EncodeToString(sum[:16])
}

// Labels is a label file.
type Labels struct {
	Header Header // zero for ready-made labels
	Rows   []Label
	Digest bundle.Digest // of the file's bytes
}

// maxLine bounds one line of a label file, maxLabels the rows.
const (
	maxLine   = 4 << 20
	maxLabels = 1 << 24
)

// ReadLabels reads a label file: a header and labels, or ready-made labels
// {"query", "small", "large"}, one object a line. Errors are of kind ErrLabels
// and name the file and the line.
func ReadLabels(path string) (*Labels, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	sum := sha256.New()
	l, _, err := parseLabels(io.TeeReader(f, sum), filepath.Base(path))
	if err != nil {
		return nil, err
	}
	l.Digest = bundle.Digest(sum.Sum(nil))
	return l, nil
}

// parseLabels reads labels and returns with them how many bytes of whole,
// valid lines they took.
func parseLabels(r io.Reader, name string) (l *Labels, size int64, err error) {
	l = &Labels{}
	in := bufio.NewReaderSize(r, 1<<16)
	for n := 1; ; n++ {
		line, err := readLine(in)
		if err == io.EOF {
			return l, size, nil
		}
		if err != nil {
			return l, size, fmt.Errorf("%w %s: line %d: %w", ErrLabels, name, n, err)
		}
		if len(bytes.TrimSpace(line)) > 0 {
			if err := l.add(line, n == 1); err != nil {
				return l, size, fmt.Errorf("%w %s: line %d: %w", ErrLabels, name, n, err)
			}
		}
		size += int64(len(line))
	}
}

// readLine returns a line with its end; io.EOF when nothing is left.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := in.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > maxLine:
			return nil, fmt.Errorf("longer than %d bytes", maxLine)
		case err == nil:
			return line, nil
		case errors.Is(err, bufio.ErrBufferFull):
		case err == io.EOF && len(line) > 0:
			return line, nil
		default:
			return nil, err
		}
	}
}

// add takes one line.
func (l *Labels) add(line []byte, first bool) error {
	if first {
		var h Header
		if json.Unmarshal(line, &h) == nil && h.Version != 0 {
			if h.Version != labelVersion {
				return fmt.Errorf("labels of version %d, this reader knows %d", h.Version, labelVersion)
			}
			l.Header = h
			return nil
		}
	}
	if len(l.Rows) >= maxLabels {
		return fmt.Errorf("more than %d labels", maxLabels)
	}
	var raw struct {
		Label
		Small *Outcome `json:"small"`
	}
	if err := json.Unmarshal(line, &raw); err != nil {
		return err
	}
	if raw.Small == nil {
		return errors.New(`no "small"`)
	}
	row := raw.Label
	row.Small = *raw.Small
	if err := row.Small.check(); err != nil {
		return fmt.Errorf("small: %w", err)
	}
	if row.Large != nil {
		if err := row.Large.check(); err != nil {
			return fmt.Errorf("large: %w", err)
		}
	}
	if row.ID == "" {
		if row.Query == "" {
			return errors.New("neither id nor query")
		}
		row.ID = QueryID(row.Query)
	}
	l.Rows = append(l.Rows, row)
	return nil
}

// Large reports whether every row has the large model's score.
func (l *Labels) Large() bool {
	for i := range l.Rows {
		if l.Rows[i].Large == nil {
			return false
		}
	}
	return len(l.Rows) > 0
}

// Wrong is how wrong the small model's answer is, Gain what the large model's
// is worth more: the two targets of a router, and Gain its loss when the query
// is answered here.
func (r *Label) Wrong() float64 { return 1 - r.Small.Score }

// Gain is max(0, large - small); without the large model's score as if it were
// always right.
func (r *Label) Gain() float64 { return max(0, r.large()-r.Small.Score) }

func (r *Label) large() float64 {
	if r.Large == nil {
		return 1
	}
	return r.Large.Score
}

// binary reports whether all scores are 0 or 1.
func (l *Labels) binary() bool {
	for i := range l.Rows {
		for _, s := range []float64{l.Rows[i].Small.Score, l.Rows[i].large()} {
			if s != math.Trunc(s) {
				return false
			}
		}
	}
	return true
}
