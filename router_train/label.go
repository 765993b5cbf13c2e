package routertrain

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	slmrt "slmc/runtime"
)

// Query is what is labelled: a prompt with its right answer.
type Query struct {
	Source, Text, Reference string
}

// Answerer gives the large model's answers. Draw 0 is the greedy one, others are
// samples. It is safe for concurrent use.
type Answerer interface {
	Answer(ctx context.Context, query string, draw int) (Reply, error)
	// Name says in a label file who answered.
	Name() string
}

// Reply is a large model's answer.
type Reply struct {
	Text   string
	Tokens int
	// Score is set instead of Text where only that is known.
	Score *float64
}

// LabelConfig says how queries are labelled.
type LabelConfig struct {
	Header            // Bundle, Weights, Scorer, Samples, ... as they go to the file
	Score             func(ctx context.Context, query, answer, reference string) (float64, error)
	Large             Answerer // nil: the large model is not asked
	LargeSamples      bool     // draw its samples too
	Threads, Parallel int      // sessions; queries in flight, at least Threads
	Session           slmrt.Options
	Progress          func(done int)
}

// chunk is the number of queries that are answered before their labels are
// written: what a killed run loses at most.
const chunk = 32

// WriteLabels labels queries into a file. What a stopped run with the same
// config left beside path is kept and continued; the file appears under its name
// when it is whole.
func WriteLabels(ctx context.Context, m *slmrt.Model, queries []Query, path string, c LabelConfig) error {
	c.Version = labelVersion
	if c.Large != nil {
		c.Header.Large = c.Large.Name()
	}
	part := path + ".part"
	f, done, err := resumeLabels(part, c.Header, queries)
	if err != nil {
		return err
	}
	defer f.Close()
	l := &labeller{ctx: ctx, m: m, c: c}
	for at := done; at < len(queries); at += chunk {
		rows, err := l.run(queries[at:min(at+chunk, len(queries))], at)
		if err != nil {
			return err
		}
		var out bytes.Buffer
		for _, r := range rows {
			text, err := json.Marshal(r)
			if err != nil {
				return err
			}
			out.Write(append(text, '\n'))
		}
		if _, err := f.Write(out.Bytes()); err != nil {
			return err
		}
		if c.Progress != nil {
			c.Progress(at + len(rows))
		}
	}
	if err := errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(part, path)
}

// resumeLabels opens a partly written label file behind its last whole row, or a
// new one, and returns how many queries it holds.
func resumeLabels(path string, h Header, queries []Query) (f *os.File, done int, err error) {
	if f, err = os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600); err != nil {
		return nil, 0, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	head, err := json.Marshal(h)
	if err != nil {
		return nil, 0, err
	}
	head = append(head, '\n')
	in := bufio.NewReader(f)
	first, err := readLine(in)
	if err != nil || !bytes.Equal(first, head) {
		if len(bytes.TrimSpace(first)) > 0 && bytes.HasSuffix(first, []byte("\n")) {
			return nil, 0, fmt.Errorf("%w %s: a run with other settings left it; remove it to start anew", ErrLabels, filepath.Base(path))
		}
		if err := f.Truncate(0); err != nil {
			return nil, 0, err
		}
		_, err := f.WriteAt(head, 0)
		if err == nil {
			_, err = f.Seek(0, 2)
		}
		return f, 0, err
	}
	size := int64(len(first))
	for {
		line, err := readLine(in)
		var row Label
		if err != nil || !bytes.HasSuffix(line, []byte("\n")) || json.Unmarshal(line, &row) != nil {
			break // the end, or a row that was cut
		}
		if done >= len(queries) || row.ID != QueryID(queries[done].Text) {
			return nil, 0, fmt.Errorf("%w %s: row %d is of another query; remove the file to start anew", ErrLabels, filepath.Base(path), done+1)
		}
		done++
		size += int64(len(line))
	}
	if err := f.Truncate(size); err != nil {
		return nil, 0, err
	}
	_, err = f.Seek(size, 0)
	return f, done, err
}

type labeller struct {
	ctx context.Context
	m   *slmrt.Model
	c   LabelConfig
}

// run labels consecutive queries, the first of which has that index.
func (l *labeller) run(queries []Query, first int) ([]Label, error) {
	rows := make([]Label, len(queries))
	err := parallel(max(1, l.c.Threads), len(queries), nil, func() (func(int) error, func(), error) {
		o := l.c.Session
		o.Threads = 1
		s, err := l.m.NewSession(o)
		if err != nil {
			return nil, nil, err
		}
		return func(i int) error {
			if err := l.small(s, queries[i], first+i, &rows[i]); err != nil {
				return fmt.Errorf("query %d: %w", first+i+1, err)
			}
			return nil
		}, s.Close, nil
	})
	if err != nil || l.c.Large == nil {
		return l.redact(rows), err
	}
	err = parallel(max(1, l.c.Parallel), len(queries), nil, func() (func(int) error, func(), error) {
		return func(i int) error {
			if err := l.large(queries[i], &rows[i]); err != nil {
				return fmt.Errorf("query %d: large model: %w", first+i+1, err)
			}
			return nil
		}, func() {}, nil
	})
	return l.redact(rows), err
}

func (l *labeller) redact(rows []Label) []Label {
	for i := range rows {
		r := &rows[i]
		r.Query, r.Small.Answer = l.c.Redaction.Text(r.Query), l.c.Redaction.Text(r.Small.Answer)
		if r.Large != nil {
			r.Large.Answer = l.c.Redaction.Text(r.Large.Answer)
		}
	}
	return rows
}

// small answers greedily, then draws samples.
func (l *labeller) small(s *slmrt.Session, q Query, index int, out *Label) error {
	ids, err := encodeQuery(l.m, q.Text)
	if err != nil {
		return err
	}
	*out = Label{ID: QueryID(q.Text), Source: q.Source, Query: q.Text}
	for draw := range 1 + l.c.Samples {
		r := slmrt.Request{Prompt: ids, MaxTokens: l.c.MaxTokens}
		if draw > 0 {
			r.Sampling = slmrt.Sampling{Temperature: l.c.Temperature, Seed: drawSeed(l.c.Seed, index, draw)}
		}
		s.Truncate(0)
		res, err := s.Generate(l.ctx, r, nil)
		if err != nil {
			return err
		}
		score, err := l.c.Score(l.ctx, q.Text, strings.TrimSpace(res.Text), q.Reference)
		if err != nil {
			return err
		}
		if draw == 0 {
			out.Small = Outcome{Answer: strings.TrimSpace(res.Text), Score: score, Tokens: res.Tokens}
		} else {
			out.Small.Samples = append(out.Small.Samples, score)
		}
	}
	return nil
}

// drawSeed gives each sample of each query its own seed.
func drawSeed(seed uint64, index, draw int) uint64 {
	return seed + uint64(index)*1_000_003 + uint64(draw)
}

func (l *labeller) large(q Query, out *Label) error {
	draws := 1
	if l.c.LargeSamples {
		draws += l.c.Samples
	}
	out.Large = &Outcome{}
	for draw := range draws {
		r, err := l.c.Large.Answer(l.ctx, q.Text, draw)
		if err != nil {
			return err
		}
		text := strings.TrimSpace(r.Text)
		var score float64
		if r.Score != nil {
			score = *r.Score
		} else if score, err = l.c.Score(l.ctx, q.Text, text, q.Reference); err != nil {
			return err
		}
		out.Large.Tokens += r.Tokens
		if draw == 0 {
			out.Large.Answer, out.Large.Score = text, score
		} else {
			out.Large.Samples = append(out.Large.Samples, score)
		}
	}
	return nil
}
