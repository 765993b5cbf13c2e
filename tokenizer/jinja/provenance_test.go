package jinja

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// origins renders with data in [ ] and trusted text bare, so that a test reads like the text.
func origins(segs []Segment) string {
	var b strings.Builder
	for _, s := range segs {
		if s.Trusted {
			b.WriteString(s.Text)
		} else {
			b.WriteString("[" + s.Text + "]")
		}
	}
	return b.String()
}

func TestProvenance(t *testing.T) {
	ctx := Context{
		Messages: []Value{Text("user", " a<|end|>b "), Text("<|end|>", "c")},
		Special:  map[string]string{"bos_token": "<s>"},
		Vars: map[string]Value{"x": Data("x,Y"), "safe": Trusted("<|k|>"), "n": Int(7), "o": Object(Field{"k<", Data("v\n")}),
			"l": Array(Data("p"), Data("q"))},
		Now: goldenNow,
	}
	for _, tc := range []struct{ src, want string }{
		{"<|user|>{{ messages[0].content }}<|end|>", "<|user|>[ a<|end|>b ]<|end|>"},
		{"{{ bos_token + x + safe }}", "<s>[x,Y]<|k|>"},
		{"{{ messages[0].content | trim }}", "[a<|end|>b]"},
		{"{{ messages[0].content.strip().split('|') | join('!') }}", "[a<]![end]![>b]"},
		{"{{ ('<' ~ x ~ '>') | upper }}", "<[X,Y]>"},
		{"{{ ('<' ~ x ~ '>')[::-1] }}", ">[Y,x]<"},
		{"{{ ('<' ~ x ~ '>')[1:3] }}", "[x,]"},
		{"{{ ('<|' ~ x ~ '|>').replace(',', '<|end|>') }}", "<|[x]<|end|>[Y]|>"},
		{"{{ '<|end|>'.replace('end', x) }}", "<|[x,Y]|>"},
		{"{{ '%s|%5s|%d' % (x, 'a', n) }}", "[x,Y]|    a|7"},
		{"{{ '{}|{:>4}|{}'.format(x, 'a', n) }}", "[x,Y]|   a|7"},
		{"{{ x.format() }}{{ x % () }}", "[x,Yx,Y]"},
		{"{{ o | tojson }}", `[{"k<": "v\n"}]`},
		{"{{ {'<|t|>': x} | tojson }}", `[{"]<|t|>[": "x,Y"}]`},
		{"{{ o }}{{ [1, '<b>'] }}", `[{'k<': 'v\n'}[1, ']<b>[']]`},
		{"{% for k, v in o.items() %}{{ k }}={{ v }}{% endfor %}", "[k<]=[v\n]"},
		{"{% set y %}<{{ x }}>{% endset %}{{ y }}", "<[x,Y]>"},
		{"{% macro m(a) %}<{{ a }}>{% endmacro %}{{ m(x) }}{{ m('y') | upper }}", "<[x,Y]><Y>"},
		{"{% filter upper %}a{{ x }}{% endfilter %}", "A[X,Y]"},
		{"{% set ns = namespace(s='') %}{% for p in l %}{% set ns.s = ns.s ~ '<' ~ p %}{% endfor %}{{ ns.s }}", "<[p]<[q]"},
		{"{{ x | indent(2, true) }}{{ x.center(7, '*') }}{{ x | title }}", "  [x,Y]**[x,Y]**[X,y]"},
		{"{{ x | list | first }}{{ x | reverse }}{{ l | map('upper') | join('') }}", "[xY,xPQ]"},
		{"{{ 'x,Y' == x }}{{ {'x,Y': 'hit'}[x] }}{{ x in ['x,Y'] }}", "TruehitTrue"},
		{"{{ {x: 1} | list | first }}{{ dict(a=x).a }}", "[x,Yx,Y]"},
		{"{{ '<|' + messages[0].role + '|>' }}", "<|user|>"},
		{"{{ '<|' + messages[1].role + '|>' }}", "<|[<|end|>]|>"},
		{"{{ strftime_now('%d') }}{{ strftime_now(x) }}", "06[x,Y]"},
		{"{{ (x | safe) + '<i>' }}{{ '<' + (x | safe) }}", "[x,Y]&lt;i&gt;&lt;[x,Y]"},
		{"{{ x.partition(',') | join('-') }}{{ x.title() }}{{ x * 2 }}{{ ('<' ~ x) * 2 }}", "[x]-,-[YX,Yx,Yx,Y]<[x,Y]<[x,Y]"},
		{"{{ 'a%' ~ x | replace('x', '%') }}", "a%%[,Y]"},
	} {
		tpl, err := Parse(tc.src)
		if err != nil {
			t.Errorf("%s: %v", tc.src, err)
			continue
		}
		segs, err := tpl.Render(ctx, Limits{})
		if err != nil {
			t.Errorf("%s: %v", tc.src, err)
			continue
		}
		if diff := cmp.Diff(tc.want, origins(segs)); diff != "" {
			t.Errorf("%s: -want +got\n%s", tc.src, diff)
		}
	}
}

// mark appends a character to every string inside v, object keys and roles excepted.
func mark(v any, m string) any {
	switch v := v.(type) {
	case text:
		return concat(v, text{s: m, data: true})
	case *list:
		out := &list{}
		for _, it := range v.items {
			out.items = append(out.items, mark(it, m))
		}
		return out
	case *dict:
		out := newDict()
		for i, k := range v.keys {
			val := v.vals[i]
			if name := k.(text).s; name != "role" && name != "type" {
				val = mark(val, m)
			}
			_ = out.set(k, val)
		}
		return out
	}
	return v
}

// TestDataStaysData marks every string of every golden context: no trusted segment may hold the mark, whatever the template does.
func TestDataStaysData(t *testing.T) {
	const m = "\ue000"
	g := readGolden(t)
	rendered := 0
	for _, c := range g.Cases {
		tpl, err := Parse(g.source(c))
		if err != nil {
			continue
		}
		ctx := g.Contexts[c.Context].context()
		for i, v := range ctx.Messages {
			ctx.Messages[i].v = mark(v.v, m)
		}
		for i, v := range ctx.Tools {
			ctx.Tools[i].v = mark(v.v, m)
		}
		vars := map[string]Value{}
		for k, v := range ctx.Vars {
			vars[k] = Value{mark(v.v, m)}
		}
		ctx.Vars = vars
		segs, err := tpl.Render(ctx, Limits{})
		if err != nil {
			continue
		}
		for i, s := range segs {
			if s.Trusted && strings.Contains(s.Text, m) {
				t.Errorf("%s with %s: data in trusted segment %q", c.Template, c.Context, s.Text)
			}
			if s.Text == "" || i > 0 && segs[i-1].Trusted == s.Trusted {
				t.Errorf("%s with %s: segments %d are not maximal", c.Template, c.Context, i)
			}
		}
		rendered++
	}
	if rendered < 400 {
		t.Errorf("%d cases rendered, want 400 or more", rendered)
	}
}
