// Package jinja renders chat templates: the part of Jinja2 that language-model folders use, in a sandbox with limits, and with a
// record of which text the template wrote and which came from the caller.
//
// The language is Jinja 3.1 as transformers configures it for chat templates: ImmutableSandboxedEnvironment, trim_blocks,
// lstrip_blocks, the loopcontrols extension, {% generation %}, raise_exception, strftime_now, and a tojson that is json.dumps with
// ensure_ascii off. It is pinned by testdata/golden.json, which Jinja2 itself wrote (testdata/gen.py).
//
// Provenance. Every string carries the origin of each of its bytes through concatenation, slicing, trimming, replacing, case mapping,
// joining and formatting. Literals and text of the template, and strings marked Trusted, are the template's; any other string of the
// Context is data. Rendering returns Segments, and an encoder must find control tokens in trusted segments only, so that a user who
// types "<|end|>" sends nine characters. JSON and Python representations of containers are data throughout, save strings in them that
// are the template's. Comparing ignores origin.
//
// We differ from the reference where it would hurt a phone, and nowhere silently:
//   - an unknown tag, filter, test, function or method is an error of Parse, even in a branch that never runs;
//   - rendering is bounded by Limits; integers are 64 bits wide and overflow is an error;
//   - the clock is Context.Now, nothing else;
//   - list.append, extend, insert and pop work on lists that the template made (the reference refuses them all); data stays immutable;
//   - values whose text would be an address (functions, generators) cannot be printed.
package jinja

import (
	"fmt"
	"sort"
	"strings"
	"unicode/utf8"
)

// MaxSource is the longest template source in bytes that Parse accepts. Published templates are below 32 KiB.
const MaxSource = 256 << 10

// Template is a parsed and checked template. It is immutable and safe for concurrent use. Its serialised form is its Source.
type Template struct {
	src  string
	body []*node
	free []string
}

// Segment is a run of rendered text of one origin. The concatenation of all segments is exactly what the reference renders.
//
// Segments are about control tokens, not about word boundaries: an encoder looks for control tokens inside trusted segments (adjacent
// ones are merged, so a token the template writes in two pieces is found) and then encodes the text between control tokens as one piece,
// across segments, because the reference tokenizes the whole string.
type Segment struct {
	Text    string
	Trusted bool // written by the template (or Trusted), so control tokens in it count
}

// Parse compiles a template. Errors match ErrSyntax, ErrUnsupported or ErrLimit and start with line:column.
func Parse(src string) (*Template, error) {
	if len(src) > MaxSource {
		return nil, &Error{Kind: ErrLimit, Msg: fmt.Sprintf("template of %d bytes, at most %d are accepted", len(src), MaxSource)}
	}
	if !utf8.ValidString(src) {
		return nil, &Error{Kind: ErrSyntax, Msg: "template is not valid UTF-8"}
	}
	toks, norm, err := lex(src)
	if err != nil {
		return nil, locate(norm, err)
	}
	p := &parser{toks: toks}
	body, err := p.parseTemplate()
	if err != nil {
		return nil, locate(norm, err)
	}
	c := newChecker()
	if err := c.check(body); err != nil {
		return nil, locate(norm, err)
	}
	return &Template{src: norm, body: body, free: c.free()}, nil
}

// Source returns the template's text with newlines normalised and one trailing newline removed, as the reference reads it. Parsing it
// again gives an equal template.
func (t *Template) Source() string {
	if strings.HasSuffix(t.src, "\n") {
		return t.src + "\n" // Parse drops one
	}
	return t.src
}

// Variables lists, sorted, the names that the template reads and never sets: what a Context may define for it.
func (t *Template) Variables() []string { return append([]string(nil), t.free...) }

// Info says what a template does with a conversation, found by rendering probes under DefaultLimits.
type Info struct {
	System           bool // a leading system message is accepted and appears in the text
	Tools            bool // tools change the text
	GenerationPrompt bool // AddGenerationPrompt changes the text
	Parts            bool // a content that is a list of {type, text} is accepted and its text appears
}

// Describe probes the template. special holds bos_token and so on, as in Context.
func (t *Template) Describe(special map[string]string) Info {
	const system, user, tool = "SYSTEM-PROBE", "USER-PROBE", "TOOL-PROBE"
	render := func(c Context) (string, bool) {
		c.Special = special
		c.Now = probeTime
		segs, err := t.Render(c, DefaultLimits)
		return Join(segs), err == nil
	}
	ask := []Value{Text("user", user)}
	plain, ok := render(Context{Messages: ask})
	if !ok {
		return Info{}
	}
	var info Info
	text, ok := render(Context{Messages: append([]Value{Text("system", system)}, ask...)})
	info.System = ok && strings.Contains(text, system)
	text, ok = render(Context{Messages: ask, AddGenerationPrompt: true})
	info.GenerationPrompt = ok && text != plain
	text, ok = render(Context{Messages: ask, Tools: []Value{probeTool(tool)}})
	info.Tools = ok && strings.Contains(text, tool)
	part := Object(Field{"type", Data("text")}, Field{"text", Data(user)})
	text, ok = render(Context{Messages: []Value{Object(Field{"role", Data("user")}, Field{"content", Array(part)})}})
	info.Parts = ok && strings.Contains(text, user) && !strings.Contains(text, "'type'")
	return info
}

func probeTool(name string) Value {
	params := Object(Field{"type", Data("object")}, Field{"properties", Object()}, Field{"required", Array()})
	fn := Object(Field{"name", Data(name)}, Field{"description", Data("a probe")}, Field{"parameters", params})
	return Object(Field{"type", Data("function")}, Field{"function", fn})
}

// Join returns the text of segments, origins forgotten.
func Join(segs []Segment) string {
	var b strings.Builder
	for _, s := range segs {
		b.WriteString(s.Text)
	}
	return b.String()
}

func sortedKeys(m map[string]bool) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	sort.Strings(keys)
	return keys
}
