package jinja

import (
	"errors"
	"strings"
	"testing"
)

func TestParseErrors(t *testing.T) {
	for _, tc := range []struct {
		src, want string
		kind      error
	}{
		{"a\n {{ x", "2:2: syntax error: tag is not closed", ErrSyntax},
		{"{{ x | nosuch }}", `1:8: unsupported construct: unknown filter "nosuch"`, ErrUnsupported},
		{"{% if false %}\n{{ x is nosuch }}{% endif %}", `2:9: unsupported construct: unknown test "nosuch"`, ErrUnsupported},
		{"{{ x.nosuch() }}", `1:6: unsupported construct: unknown method "nosuch"`, ErrUnsupported},
		{"{{ x['nosuch']() }}", `unknown method "nosuch"`, ErrUnsupported},
		{"{{ nosuch(1) }}", `1:4: unsupported construct: unknown function "nosuch"`, ErrUnsupported},
		{"{% include 'x' %}", `1:4: unsupported construct: tag "include": a template cannot load another`, ErrUnsupported},
		{"{% import 'x' as y %}", `tag "import"`, ErrUnsupported},
		{"{% do x %}", `tag "do"`, ErrUnsupported},
		{"{% nosuch %}", `unknown tag "nosuch"`, ErrUnsupported},
		{"{% for x in y recursive %}{% endfor %}", "recursive loop", ErrUnsupported},
		{"{{ x | escape }}", `filter "escape": chat templates are not escaped`, ErrUnsupported},
		{"{{ x | map('nosuch') }}", `unknown filter "nosuch"`, ErrUnsupported},
		{"{{ x | map('e') }}", `filter "e"`, ErrUnsupported},
		{"{{ x | selectattr('a', 'nosuch') }}", `unknown test "nosuch"`, ErrUnsupported},
		{"{{ x | tojson(nosuch=1) }}", `has no parameter "nosuch"`, ErrUnsupported},
		{"{{ x | join(d=1, d=2) }}", `argument "d" twice`, ErrSyntax},
		{"{{ x.encode() }}", `method "encode"`, ErrUnsupported},
		{"{{ x.update({}) }}", `method "update": the sandbox keeps values from being changed`, ErrUnsupported},
		{"{{ x.__class__ }}", `attribute "__class__"`, ErrUnsupported},
		{"{{ strftime_now('%Q') }}", `unknown directive "%Q"`, ErrUnsupported},
		{"{{ 99999999999999999999 }}", "does not fit 64 bits", ErrUnsupported},
		{"{% break %}", "{% break %} outside of a loop", ErrSyntax},
		{"{% for x in y %}{% macro m() %}{% break %}{% endmacro %}{% endfor %}", "outside of a loop", ErrSyntax},
		{"{% if x %}", "want {% elif %} or {% else %} or {% endif %}", ErrSyntax},
		{"{% endif %}", `tag "endif" closes nothing here`, ErrSyntax},
		{"{{ }}", "want an expression", ErrSyntax},
		{"{{ x = 1 }}", "want '}}'", ErrSyntax},
		{"{% set none = 1 %}", "cannot assign", ErrSyntax},
		{"{% set x.y.z = 1 %}", "want '%}'", ErrSyntax},
		{"{{ 'x }}", "string is not closed", ErrSyntax},
		{"{{ (1] }}", `unexpected "]"`, ErrSyntax},
		{"{# x", "comment is not closed", ErrSyntax},
		{"{% raw %}x", "raw block is not closed", ErrSyntax},
		{"{{ '\\ud800' }}", "surrogate", ErrUnsupported},
		{"{{ x $ }}", "unexpected character '$'", ErrSyntax},
		{"{{ x is a is b }}", "cannot be chained", ErrSyntax},
		{"\xff", "not valid UTF-8", ErrSyntax},
		{strings.Repeat("x", MaxSource+1), "at most 262144", ErrLimit},
		{"{{ " + strings.Repeat("(", 300) + "1" + strings.Repeat(")", 300) + " }}", "nested deeper", ErrDepth},
		{"{{ " + strings.Repeat("-", 50000) + "1 }}", "nested deeper", ErrDepth},
		{"{{ " + strings.Repeat("not ", 50000) + "1 }}", "nested deeper", ErrDepth},
		{"{{ " + strings.Repeat("1+", 50000) + "1 }}", "nested deeper", ErrDepth},
		{"{{ a" + strings.Repeat(".b", 50000) + " }}", "nested deeper", ErrDepth},
		{"{{ a" + strings.Repeat("|upper", 20000) + " }}", "nested deeper", ErrDepth},
		{strings.Repeat("{% if 1 %}", 5000), "nested deeper", ErrDepth},
		{"{{ " + strings.Repeat("[", 50000) + strings.Repeat("]", 50000) + " }}", "nested deeper", ErrDepth},
	} {
		name := tc.src[:min(len(tc.src), 60)]
		_, err := Parse(tc.src)
		if err == nil || !strings.Contains(err.Error(), tc.want) || !errors.Is(err, tc.kind) {
			t.Errorf("%q: error %v, want one of kind %v with %q", name, err, tc.kind, tc.want)
		}
	}
}

func TestRenderErrors(t *testing.T) {
	small := Limits{Steps: 2000, Output: 1000, Depth: 10, Memory: 100000, Range: 100}
	for _, tc := range []struct {
		src, want string
		kind      error
	}{
		{"x\n{{ raise_exception('only ' ~ 1) }}", "2:19: raised by the template: only 1", ErrRaised},
		{"{{ nosuch.a }}", "'nosuch' is undefined", ErrUndefined},
		{"{{ 'a' + 1 }}", "str + int", ErrType},
		{"{{ 1 / 0 }}", "division by zero", ErrType},
		{"{{ 9223372036854775807 + 1 }}", "beyond 64 bits", ErrUnsupported},
		{"{{ range }}", "cannot be printed", ErrUnsupported},
		{"{{ x | map('up' ~ 'par') | list }}", `unknown filter "uppar"`, ErrUnsupported},
		{"{{ strftime_now('%Y') }}", "no time", ErrUndefined},
		{"{{ x.append(1) }}", "came from outside", ErrSandbox},
		{"{% for a in range(99) %}{% for b in range(99) %}{% endfor %}{% endfor %}", "more than 2000", ErrSteps},
		{"{% for a in range(99) %}0123456789abcdef{% endfor %}", "more than 1000 bytes", ErrOutput},
		{"{{ 'x' * 1001 }}", "more than 1000 bytes", ErrOutput},
		{"{{ 'x' * 1000000000000 }}", "repeating", ErrMemory},
		{"{{ ([1] * 1000000000)|length }}", "repeating", ErrMemory},
		{"{% set ns = namespace(s='x') %}{% for a in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}", "bytes built", ErrMemory},
		{"{{ ('x' * 999).replace('x', 'y' * 999) }}", "bytes built", ErrMemory},
		{"{% for a in range(99) %}{% set s = '%4000s' % 'x' %}{% endfor %}", "bytes built", ErrMemory},
		{"{{ range(101) }}", "at most 100", ErrMemory},
		{"{{ range(1, 10 ** 18) }}", "range to", ErrMemory},
		{"{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}", "more than 10 macro calls", ErrDepth},
		{"{% set ns = namespace(l=[]) %}{% for a in range(100) %}{% set ns.l = [[[ns.l]]] %}{% endfor %}{{ ns.l }}",
			"nested deeper", ErrDepth},
		{"{% set l = [] %}{% set _ = l.append(l) %}{{ l }}", "nested deeper", ErrDepth},
		{"{% set l = [] %}{% set k = [] %}{% set _ = l.append(k), k.append(l) %}{{ l == k }}", "nested deeper", ErrDepth},
		{"{% set l = [] %}{% set _ = l.append(l) %}{{ l | tojson }}", "nested deeper", ErrDepth},
		{"{% set l = [1] %}{% for a in l %}{% set _ = l.append(1) %}{% endfor %}", "limit exceeded", ErrLimit},
		{"{{ [1] | tojson(indent=300) }}", "indent of 300 bytes", ErrMemory},
	} {
		tpl, err := Parse(tc.src)
		if err != nil {
			t.Errorf("%s: %v", tc.src, err)
			continue
		}
		ctx := Context{Vars: map[string]Value{"x": Array(Int(1))}}
		_, err = tpl.Render(ctx, small)
		if err == nil || !strings.Contains(err.Error(), tc.want) || !errors.Is(err, tc.kind) {
			t.Errorf("%s: error %v, want one of kind %v with %q", tc.src, err, tc.kind, tc.want)
		}
		if errors.Is(tc.kind, ErrLimit) && !errors.Is(err, ErrLimit) {
			t.Errorf("%s: error %v is not ErrLimit", tc.src, err)
		}
	}
}

// TestOwnLists: what the reference refuses and we allow, on the template's own lists only.
func TestOwnLists(t *testing.T) {
	const src = `{% set ns = namespace(q=[]) %}{% for m in messages %}{% set _ = ns.q.append(m.content) %}{% endfor -%}
{% set _ = ns.q.insert(0, 'z') %}{% set _ = ns.q.extend([1, 2]) %}{{ ns.q.pop(0) }}{{ ns.q.pop() }}{{ ns.q }}`
	tpl, err := Parse(src)
	if err != nil {
		t.Fatal(err)
	}
	segs, err := tpl.Render(Context{Messages: []Value{Text("user", "a")}}, Limits{})
	if err != nil || origins(segs) != "z2[['a', 1]]" {
		t.Errorf("got %q, %v", origins(segs), err)
	}
}
