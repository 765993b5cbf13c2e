package pipeline

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"

	slmrt "slmc/runtime"
)

// Sample lets the model write about n tokens of text for calibration, where no
// examples are at hand (LLM-QAT, arXiv 2305.17888, section 3.1). Each sample
// starts from BOS, or from a token drawn from the vocabulary where the model has
// no BOS, and ends where the model ends it for the second time, since a chat model
// ends the user's turn first, or the context is full. All tokens are drawn; the
// paper takes the likeliest for the first few, which makes samples start alike.
// A sample has the seed of c plus its number. progress hears the tokens so far.
func Sample(ctx context.Context, m *slmrt.Model, o slmrt.Options, n int, c slmrt.Sampling, progress func(done int)) ([]Row, error) {
	s, err := m.NewSession(o)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	first := rand.New(rand.NewPCG(c.Seed, 1))
	var rows []Row
	for done := 0; done < n; {
		start := m.BOS
		if start < 0 {
			start = first.Int32N(int32(m.Graph.Vocab))
		}
		s.Truncate(0)
		row := Row{Line: len(rows) + 1, Tokens: []int32{start}}
		for turn := 0; turn < 2 && s.Room() > 1; turn++ {
			res, err := s.Generate(ctx, slmrt.Request{Prompt: row.Tokens[len(row.Tokens)-1:], Sampling: c}, nil)
			if err != nil {
				return nil, fmt.Errorf("sample %d: %w", row.Line, err)
			}
			row.Tokens = append(row.Tokens, res.IDs...)
			row.Text = strings.TrimSpace(row.Text + "\n" + res.Text)
		}
		c.Seed++
		rows, done = append(rows, row), done+len(row.Tokens)
		progress(min(done, n))
	}
	return rows, nil
}

// tokenRow is a row of JSONL that holds tokens; text is for people.
type tokenRow struct {
	Tokens []int32 `json:"tokens"`
	Text   string  `json:"text,omitempty"`
}

// WriteRows writes rows of tokens as JSONL that ReadRows reads.
func WriteRows(w io.Writer, rows []Row) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for _, r := range rows {
		if err := enc.Encode(tokenRow{r.Tokens, r.Text}); err != nil {
			return err
		}
	}
	return nil
}
