package pipeline

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unicode/utf8"

	"slmc/internal/eval"
	slmrt "slmc/runtime"
	"slmc/tokenizer/jinja"
)

// Fields names the fields of a JSONL row that hold the prompt and its answer;
// an empty one is either of the usual ones: query or prompt, call or answer.
type Fields struct {
	Prompt string `json:"prompt,omitempty" yaml:"prompt,omitempty"`
	Answer string `json:"answer,omitempty" yaml:"answer,omitempty"`
}

// Row is one example: a prompt with its answer, a whole chat, tokens as they
// are, or plain text.
type Row struct {
	Line           int
	Prompt, Answer string
	Messages       []jinja.Value // nil unless the row has messages; Answer is the assistant's, if it comes last
	Tokens         []int32       // nil unless the row has tokens; Text then only says what they are
	Text           string
	Source         string // the row's "source", for figures by source
}

// pairs lists the fields that a row may have, the first that are there count.
func (f Fields) pairs() []Fields {
	switch {
	case f == Fields{}:
		return []Fields{{"query", "call"}, {"prompt", "answer"}}
	case f.Prompt == "":
		return []Fields{{"query", f.Answer}, {"prompt", f.Answer}}
	case f.Answer == "":
		return []Fields{{f.Prompt, "call"}, {f.Prompt, "answer"}}
	}
	return []Fields{f}
}

// maxRow bounds a line of JSONL.
const maxRow = 16 << 20

// ReadRows reads a file of examples: JSONL, or plain text as one row. A line
// that is no JSON object, or has none of the fields, is ErrUsage naming it.
func ReadRows(path string, fields Fields) ([]Row, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return parseRows(filepath.Base(path), data, fields)
}

// parseRows is ReadRows of a file's bytes.
func parseRows(name string, data []byte, fields Fields) ([]Row, error) {
	data = bytes.TrimPrefix(data, []byte("\ufeff"))
	switch trimmed := bytes.TrimSpace(data); {
	case len(trimmed) == 0:
		return nil, fmt.Errorf("%w: %s is empty", ErrUsage, name)
	case trimmed[0] == '[' && json.Valid(trimmed):
		return nil, fmt.Errorf("%w: %s is one JSON array; want JSONL, an object a line", ErrUsage, name)
	case trimmed[0] != '{' && filepath.Ext(name) != ".jsonl":
		if at := notText(data); at >= 0 {
			return nil, fmt.Errorf("%w: %s is no text: byte %d is %#02x, not UTF-8; want text or JSONL", ErrUsage, name, at, data[at])
		}
		return []Row{{Line: 1, Text: string(data)}}, nil
	}
	var rows []Row
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, maxRow)
	for n := 1; lines.Scan(); n++ {
		if len(bytes.TrimSpace(lines.Bytes())) == 0 {
			continue
		}
		row, err := parseRow(lines.Bytes(), fields)
		if err != nil {
			return nil, fmt.Errorf("%w: %s: line %d: %w", ErrUsage, name, n, err)
		}
		row.Line = n
		rows = append(rows, row)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return rows, nil
}

// notText is the place of the first byte that no text has, -1 if there is none.
func notText(data []byte) int {
	for i := 0; i < len(data); {
		r, n := utf8.DecodeRune(data[i:])
		if r == 0 || r == utf8.RuneError && n == 1 {
			return i
		}
		i += n
	}
	return -1
}

func parseRow(line []byte, fields Fields) (Row, error) {
	var all map[string]json.RawMessage
	if err := json.Unmarshal(line, &all); err != nil {
		return Row{}, fmt.Errorf("not a JSON object: %w", err)
	}
	var r Row
	if raw := all["source"]; raw != nil {
		_ = json.Unmarshal(raw, &r.Source) // only for grouping: another type is no group
	}
	// read takes a field that is there, and reports whether it is.
	read := func(name string, to any) (bool, error) {
		raw := all[name]
		if raw == nil || string(raw) == "null" {
			return false, nil
		}
		if err := json.Unmarshal(raw, to); err != nil {
			return true, fmt.Errorf("field %q: %w", name, err)
		}
		return true, nil
	}
	pairs := fields.pairs()
	for _, p := range pairs {
		prompted, err := read(p.Prompt, &r.Prompt)
		if err != nil {
			return r, err
		}
		answered, err := read(p.Answer, &r.Answer)
		if err != nil {
			return r, err
		}
		if prompted && answered {
			return r, nil
		}
		r.Prompt, r.Answer = "", ""
	}
	if fields != (Fields{}) {
		var names []string
		for _, p := range pairs {
			names = append(names, fmt.Sprintf("%q and %q", p.Prompt, p.Answer))
		}
		return r, fmt.Errorf("has no fields %s", strings.Join(names, ", nor "))
	}
	for _, f := range []struct {
		name  string
		to    any
		empty func() bool
	}{
		{"messages", &r.Messages, func() bool { return len(r.Messages) == 0 }},
		{"tokens", &r.Tokens, func() bool { return len(r.Tokens) == 0 }},
		{"text", &r.Text, func() bool { return r.Text == "" }},
	} {
		if found, err := read(f.name, f.to); err != nil {
			return r, err
		} else if found && f.empty() {
			return r, fmt.Errorf("has no %s", f.name)
		} else if found {
			r.Answer = lastAnswer(all["messages"])
			return r, nil
		}
	}
	return r, errors.New("has neither query and call, prompt and answer, messages, tokens nor text")
}

// lastAnswer is the text of the assistant's message that ends a chat, "" if none
// does.
func lastAnswer(messages json.RawMessage) string {
	var all []struct {
		Role    string
		Content any
	}
	if json.Unmarshal(messages, &all) != nil || len(all) == 0 {
		return ""
	}
	last := all[len(all)-1]
	text, _ := last.Content.(string)
	if last.Role != "assistant" {
		return ""
	}
	return text
}

// Sequences turns examples into token sequences of at most size tokens, as the
// model would meet them: chats through its template, answer included; text in
// windows that start with BOS. It also says how many were cut to size.
func Sequences(m *slmrt.Model, rows []Row, size int) (seqs [][]int32, cut int, err error) {
	for _, r := range rows {
		if r.Tokens != nil {
			for _, id := range r.Tokens {
				if id < 0 || int(id) >= m.Graph.Vocab {
					return nil, 0, fmt.Errorf("%w: line %d has token %d, the vocabulary %d tokens", ErrUsage, r.Line, id, m.Graph.Vocab)
				}
			}
			ids := r.Tokens
			if len(ids) > size {
				ids, cut = ids[:size], cut+1
			}
			seqs = append(seqs, ids)
			continue
		}
		if r.Text != "" {
			if m.Tokenizer == nil {
				return nil, 0, fmt.Errorf("%w: the model has no tokenizer", ErrUsage)
			}
			ids, err := m.Tokenizer.Encode(r.Text, false)
			if err != nil {
				return nil, 0, fmt.Errorf("line %d: %w", r.Line, err)
			}
			seqs = append(seqs, eval.Windows(ids, size, m.BOS)...)
			continue
		}
		chat := slmrt.Chat{Messages: r.Messages, Complete: true}
		if chat.Messages == nil {
			chat.Messages = []jinja.Value{slmrt.Say("user", r.Prompt), slmrt.Say("assistant", r.Answer)}
		}
		ids, err := m.EncodeChat(chat)
		if err != nil {
			return nil, 0, fmt.Errorf("line %d: %w", r.Line, err)
		}
		if len(ids) > size {
			ids, cut = ids[:size], cut+1
		}
		seqs = append(seqs, ids)
	}
	if len(seqs) == 0 {
		return nil, 0, fmt.Errorf("%w: no examples", ErrUsage)
	}
	return seqs, cut, nil
}

// answered reports whether a row can be scored: a prompt with its answer.
func (r Row) answered() bool { return (r.Prompt != "" || len(r.Messages) > 1) && r.Answer != "" }

// asked is what a model is to answer in a row that is answered.
func (r Row) asked() slmrt.Chat {
	if r.Messages != nil {
		return slmrt.Chat{Messages: r.Messages[:len(r.Messages)-1]}
	}
	return slmrt.Chat{Messages: []jinja.Value{slmrt.Say("user", r.Prompt)}}
}

// right is exact match, spaces at the ends aside.
func (r Row) right(answer string) bool {
	return strings.TrimSpace(answer) == strings.TrimSpace(r.Answer)
}
