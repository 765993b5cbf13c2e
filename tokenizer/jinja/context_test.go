package jinja

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestValueFromJSON(t *testing.T) {
	var v Value
	if err := json.Unmarshal([]byte(`{"z": 1, "a": [1.0, 12345678901234567890, null, true, "\u00e9\ud800"], "z": 2}`), &v); err != nil {
		t.Fatal(err)
	}
	tpl, err := Parse("{{ v | tojson }}{{ v.a[1] + 0 if false }}{{ v.a[1] }}")
	if err != nil {
		t.Fatal(err)
	}
	segs, err := tpl.Render(Context{Vars: map[string]Value{"v": v}}, Limits{})
	want := "{\"z\": 2, \"a\": [1.0, 12345678901234567890, null, true, \"é\uFFFD\"]}12345678901234567890"
	if err != nil || Join(segs) != want {
		t.Errorf("got %q, %v\nwant %q", Join(segs), err, want)
	}
	for _, bad := range []string{`{"a"`, `[1] 2`, strings.Repeat("[", 200) + strings.Repeat("]", 200), `{"a":1e999999}x`} {
		if err := new(Value).UnmarshalJSON([]byte(bad)); err == nil {
			t.Errorf("%.20q was accepted", bad)
		}
	}
}

// TestContextNames: the names and their kinds are those of transformers: tools is None, not undefined; an absent token is undefined.
func TestContextNames(t *testing.T) {
	tpl, err := Parse("{{ tools is none }}{{ documents is none }}{{ bos_token is defined }}{{ eos_token }}{{ add_generation_prompt }}{{ messages | length }}")
	if err != nil {
		t.Fatal(err)
	}
	segs, err := tpl.Render(Context{Special: map[string]string{"eos_token": "</s>"}, AddGenerationPrompt: true}, Limits{})
	if err != nil || Join(segs) != "TrueTrueFalse</s>True0" {
		t.Errorf("got %q, %v", Join(segs), err)
	}
}

func TestDescribe(t *testing.T) {
	g := readGolden(t)
	for _, tc := range []struct {
		name string
		want Info
	}{
		{"turns.jinja", Info{System: true, GenerationPrompt: true, Parts: true}},
		{"toolcalls.jinja", Info{System: true, Tools: true, GenerationPrompt: true, Parts: true}},
		{"assistant-tiny", Info{GenerationPrompt: true}},
	} {
		tpl, err := Parse(g.Templates[tc.name])
		if err != nil {
			t.Fatal(err)
		}
		if got := tpl.Describe(map[string]string{"bos_token": "<s>", "eos_token": "</s>"}); got != tc.want {
			t.Errorf("%s: got %+v, want %+v", tc.name, got, tc.want)
		}
	}
}

func TestSourceAndVariables(t *testing.T) {
	for _, src := range []string{"a\r\nb\n", "a\n\n", "a", "", "{{ x }}\n\n\n"} {
		a, err := Parse(src)
		if err != nil {
			t.Fatal(err)
		}
		b, err := Parse(a.Source())
		if err != nil || a.Source() != b.Source() || a.src != b.src {
			t.Errorf("%q: source %q is not stable: %q, %v", src, a.Source(), b.Source(), err)
		}
	}
	tpl, err := Parse("{% set a = b %}{% for c in messages if d %}{{ c.e }}{{ loop.index }}{% endfor %}{{ enable_thinking }}{{ range(h) }}{{ a }}")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(tpl.Variables(), " "); got != "b d enable_thinking h messages" {
		t.Errorf("variables %q", got)
	}
}
