package slmrt

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"slmc/formats"
	"slmc/tokenizer"
	"slmc/tokenizer/jinja"
)

// ErrNoTemplate is returned when a chat is asked of a model that has no chat
// template.
var ErrNoTemplate = errors.New("the model has no chat template; use run with a raw prompt")

// ErrNoTokenizer is returned when a text is given to a model that takes ids
// only.
var ErrNoTokenizer = fmt.Errorf("the model has no tokenizer: %w", formats.ErrUnsupported)

// Chat is a conversation to render with the model's template.
type Chat struct {
	Messages []jinja.Value // objects with role and content; their text is data
	Tools    []jinja.Value
	Vars     map[string]jinja.Value
	Now      time.Time // for templates that print the date
	Complete bool      // the conversation is whole: no prompt for another answer
}

// Say is a message for Chat.Messages.
func Say(role, content string) jinja.Value { return jinja.Text(role, content) }

// EncodeChat renders the conversation, with the prompt for the next answer
// unless it is complete, and returns its ids. Only the template's own text
// yields special tokens, so a message can't forge them; the template writes BOS
// itself.
func (m *Model) EncodeChat(c Chat) ([]int32, error) {
	parts, err := m.segments(c)
	if err != nil {
		return nil, err
	}
	ids, err := m.Tokenizer.EncodeSegments(parts)
	if err != nil {
		return nil, fmt.Errorf("tokenize: %w", err)
	}
	return ids, nil
}

// segments renders the conversation.
func (m *Model) segments(c Chat) ([]tokenizer.Segment, error) {
	if m.Template == nil {
		return nil, ErrNoTemplate
	}
	if m.Tokenizer == nil {
		return nil, ErrNoTokenizer
	}
	segs, err := m.Template.Render(jinja.Context{
		Messages: c.Messages, Tools: c.Tools, Vars: c.Vars, Now: c.Now,
		AddGenerationPrompt: !c.Complete, Special: m.Special,
	}, jinja.DefaultLimits)
	if err != nil {
		return nil, fmt.Errorf("chat template: %w", err)
	}
	parts := make([]tokenizer.Segment, len(segs))
	for i, s := range segs {
		parts[i] = tokenizer.Segment{Text: s.Text, Special: s.Trusted}
	}
	return parts, nil
}

// EncodeBegun is EncodeChat for an answer that is begun already: its text, which
// is data, follows the prompt for it, and is the last n of the ids.
func (m *Model) EncodeBegun(c Chat, answer string) (ids []int32, n int, err error) {
	c.Complete = false
	prompt, err := m.EncodeChat(c)
	if err != nil || answer == "" {
		return prompt, 0, err
	}
	segs, err := m.segments(c)
	if err != nil {
		return nil, 0, err
	}
	ids, err = m.Tokenizer.EncodeSegments(append(segs, tokenizer.Segment{Text: answer}))
	if err != nil {
		return nil, 0, fmt.Errorf("tokenize: %w", err)
	}
	if len(ids) < len(prompt) || !slices.Equal(ids[:len(prompt)], prompt) {
		return nil, 0, fmt.Errorf("the template does not end its prompt with a token of its own: %w", ErrNoTemplate)
	}
	return ids, len(ids) - len(prompt), nil
}

// EncodeUser is EncodeChat for a single message of the user.
func (m *Model) EncodeUser(message string, now time.Time) ([]int32, error) {
	return m.EncodeChat(Chat{Messages: []jinja.Value{Say("user", message)}, Now: now})
}

// Answer is the greedy answer to a message of the user, from an empty session.
func (s *Session) Answer(ctx context.Context, message string) (string, error) {
	ids, err := s.m.EncodeUser(message, time.Time{})
	if err != nil {
		return "", err
	}
	s.Truncate(0)
	res, err := s.Generate(ctx, Request{Prompt: ids}, nil)
	return res.Text, err
}
