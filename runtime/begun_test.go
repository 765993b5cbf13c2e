package slmrt_test

import (
	"strings"
	"testing"

	slmrt "slmc/runtime"
)

// An answer cut anywhere between two of its tokens and gone on with is the same
// text, blanks at the cut included.
func TestBegunAnswerGoesOn(t *testing.T) {
	m := load(t)
	s := session(t, m, slmrt.Options{})
	for _, r := range requests(t)[:20] {
		chat := slmrt.Chat{Messages: slmrt.Chat{}.Messages}
		chat.Messages = append(chat.Messages, slmrt.Say("user", r.Query))
		prompt, err := m.EncodeChat(chat)
		if err != nil {
			t.Fatal(err)
		}
		whole := generate(t, s, slmrt.Request{Prompt: prompt})
		for n := 1; n < whole.Tokens; n++ {
			begun := generate(t, s, slmrt.Request{Prompt: prompt, MaxTokens: n}).Text
			ids, k, err := m.EncodeBegun(chat, begun)
			if err != nil {
				t.Fatal(err)
			}
			if k != n {
				continue // the text has another, shorter spelling: another answer is right
			}
			rest := generate(t, s, slmrt.Request{Prompt: ids, Begun: k})
			if begun+rest.Text != whole.Text {
				t.Errorf("%q: after %q came %q, wanted %q in all", r.Query, begun, rest.Text, whole.Text)
			}
		}
	}
}

// A raw text keeps the blank before what follows it.
func TestBegunRawTextKeepsItsBlank(t *testing.T) {
	m := load(t)
	s := session(t, m, slmrt.Options{})
	ids, err := m.EncodeText("set a timer for")
	if err != nil {
		t.Fatal(err)
	}
	bare := generate(t, s, slmrt.Request{Prompt: ids, MaxTokens: 4})
	got := generate(t, s, slmrt.Request{Prompt: ids, MaxTokens: 4, Begun: len(ids)})
	if want := strings.TrimPrefix(m.Tokenizer.Decode(append(ids, bare.IDs...), true), m.Tokenizer.Decode(ids, true)); got.Text != want {
		t.Errorf("text %q, wanted %q", got.Text, want)
	}
	if got.Text == bare.Text {
		t.Errorf("%q has no blank in front: the test shows nothing", got.Text)
	}
}
