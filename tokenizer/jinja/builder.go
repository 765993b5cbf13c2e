package jinja

import "strings"

// builder puts a text together.
type builder struct {
	b    strings.Builder
	runs []run
}

func (b *builder) str(s string, data bool) {
	if s == "" {
		return
	}
	b.b.WriteString(s)
	if n := len(b.runs); n > 0 && b.runs[n-1].data == data {
		b.runs[n-1].end = b.b.Len()
		return
	}
	b.runs = append(b.runs, run{b.b.Len(), data})
}

func (b *builder) add(t text) { t.each(b.str) }

func (b *builder) len() int { return b.b.Len() }

func (b *builder) text() text {
	t := text{s: b.b.String()}
	if len(b.runs) == 1 {
		t.data = b.runs[0].data
	} else if len(b.runs) > 1 {
		t.runs = b.runs
	}
	return t
}

// segments returns what has been built as the public form.
func (b *builder) segments() []Segment {
	var out []Segment
	b.text().each(func(s string, data bool) { out = append(out, Segment{Text: s, Trusted: !data}) })
	return out
}

func concat(parts ...text) text {
	var b builder
	for _, p := range parts {
		b.add(p)
	}
	return b.text()
}
