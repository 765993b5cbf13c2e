package routertrain

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	slmrt "slmc/runtime"
)

// LocalModel answers with a model on this machine.
type LocalModel struct {
	m           *slmrt.Model
	name        string
	maxTokens   int
	temperature float32
	seed        uint64
	sessions    chan *slmrt.Session
}

// NewLocalModel returns an Answerer with that many sessions.
func NewLocalModel(m *slmrt.Model, name string, o slmrt.Options, sessions, maxTokens int, temperature float32, seed uint64) (*LocalModel, error) {
	l := &LocalModel{m, name, maxTokens, temperature, seed, make(chan *slmrt.Session, max(1, sessions))}
	o.Threads = 1
	for range cap(l.sessions) {
		s, err := m.NewSession(o)
		if err != nil {
			l.Close()
			return nil, err
		}
		l.sessions <- s
	}
	return l, nil
}

// Close ends the sessions; nobody may be answering.
func (l *LocalModel) Close() {
	for range len(l.sessions) {
		(<-l.sessions).Close()
	}
}

// Name implements Answerer.
func (l *LocalModel) Name() string { return l.name }

// Answer implements Answerer.
func (l *LocalModel) Answer(ctx context.Context, query string, sample int) (Reply, error) {
	ids, err := encodeQuery(l.m, query)
	if err != nil {
		return Reply{}, err
	}
	s := <-l.sessions
	defer func() { l.sessions <- s }()
	s.Truncate(0)
	r := slmrt.Request{Prompt: ids, MaxTokens: l.maxTokens}
	if sample > 0 {
		r.Sampling = slmrt.Sampling{Temperature: l.temperature, Seed: uint64(sample) + uint64(1e9*draw("sample", l.seed, QueryID(query)))}
	}
	res, err := s.Generate(ctx, r, nil)
	return Reply{Text: res.Text, Tokens: len(ids) + res.Tokens}, err
}

// AnswerFile answers from a file.
type AnswerFile struct {
	name    string
	answers map[string]Reply
}

// ReadAnswers reads JSONL rows {"query", "answer"} or {"query", "score"}, or a
// label file, whose large answers count.
func ReadAnswers(path string) (*AnswerFile, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	a := &AnswerFile{filepath.Base(path), map[string]Reply{}}
	in := bufio.NewReader(f)
	for n := 1; ; n++ {
		line, err := readLine(in)
		if err == io.EOF {
			return a, nil
		}
		if err == nil {
			err = a.add(line)
		}
		if err != nil {
			return nil, fmt.Errorf("%w %s: line %d: %w", ErrLabels, a.name, n, err)
		}
	}
}

func (a *AnswerFile) add(line []byte) error {
	var head struct {
		Version int `json:"slmc_labels"`
	}
	if json.Unmarshal(line, &head) == nil && head.Version != 0 {
		return nil
	}
	var row struct {
		ID     string   `json:"id"`
		Query  string   `json:"query"`
		Answer *string  `json:"answer"`
		Score  *float64 `json:"score"`
		Large  *Outcome `json:"large"`
	}
	if err := json.Unmarshal(line, &row); err != nil {
		return err
	}
	if row.ID == "" {
		row.ID = QueryID(row.Query)
	}
	switch {
	case row.Large != nil:
		score := row.Large.Score
		a.answers[row.ID] = Reply{Text: row.Large.Answer, Score: &score}
	case row.Score != nil:
		if !(*row.Score >= 0 && *row.Score <= 1) {
			return fmt.Errorf("score %g, want 0 to 1", *row.Score)
		}
		a.answers[row.ID] = Reply{Score: row.Score}
	case row.Answer != nil:
		a.answers[row.ID] = Reply{Text: *row.Answer}
	default:
		return errors.New(`neither "answer", "score" nor "large"`)
	}
	return nil
}

// Name implements Answerer.
func (a *AnswerFile) Name() string { return a.name }

// Answer implements Answerer. A query that the file lacks is an error; a file
// has no samples.
func (a *AnswerFile) Answer(_ context.Context, query string, draw int) (Reply, error) {
	r, ok := a.answers[QueryID(query)]
	switch {
	case !ok:
		return r, fmt.Errorf("%w %s: no answer to the query %.60q", ErrLabels, a.name, query)
	case draw > 0:
		return r, fmt.Errorf("%w %s: a file of answers has no samples", ErrLabels, a.name)
	}
	return r, nil
}
