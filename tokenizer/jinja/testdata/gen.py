#!/usr/bin/env python3
"""Writes golden.json: renderings of the templates in templates/ and of the expressions below by Jinja2 itself.

Jinja2 is configured as transformers configures it for chat templates (transformers/utils/chat_template_utils.py): immutable sandbox,
trim_blocks, lstrip_blocks, loopcontrols, {% generation %}, a tojson that is json.dumps with ensure_ascii off, raise_exception and
strftime_now. Needs Debian's python3-jinja2 (3.1.2). Run:  /usr/bin/python3 tokenizer/jinja/testdata/gen.py
"""

import datetime
import glob
import json
import os

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = os.path.dirname(os.path.abspath(__file__))
NOW = datetime.datetime(2024, 7, 6, 9, 3, 5)


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(lineno)

    def _render(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


ENV = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
ENV.filters["tojson"] = tojson
ENV.globals["raise_exception"] = raise_exception
ENV.globals["strftime_now"] = NOW.strftime


def render(template, context):
    names = {
        "messages": context.get("messages", []),
        "tools": context.get("tools"),
        "documents": context.get("documents"),
        "add_generation_prompt": context.get("add_generation_prompt", False),
    }
    names.update(context.get("special", {}))
    names.update(context.get("vars", {}))
    try:
        return ENV.from_string(template).render(**names), ""
    except Exception as e:  # a golden error is as good as a golden text
        return None, type(e).__name__


TOOLS = [
    {"type": "function", "function": {"name": "set_lamp", "description": "Switch a \"lamp\" – on or off", "parameters": {
        "type": "object", "properties": {
            "room": {"type": "string", "enum": ["kitchen", "hall"]}, "on": {"type": "boolean", "default": True},
            "level": {"type": ["number", "null"]}, "tags": {"type": "array", "items": {"type": "string"}}},
        "required": ["room"]}}},
    {"type": "function", "function": {"name": "time", "description": "", "parameters": {"type": "object", "properties": {}}}},
]
CALL = {"id": "c1", "type": "function", "function": {"name": "set_lamp", "arguments": {"room": "hall <x>\n", "on": True, "level": 1.0, "tags": ["a", None]}}}
CONVERSATIONS = {
    "user": [{"role": "user", "content": "Is 2 < 3? <|end|> & \"so\" </s>  "}],
    "system": [{"role": "system", "content": " Be brief.\n"}, {"role": "user", "content": "hi"}],
    "turns": [{"role": "system", "content": "S"}, {"role": "user", "content": "one"}, {"role": "assistant", "content": "<think>\nx\n</think>\n\n two "},
              {"role": "user", "content": "three"}, {"role": "assistant", "content": "four", "reasoning_content": "five"}],
    "alternation": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
    "parts": [{"role": "system", "content": [{"type": "text", "text": "S"}]},
              {"role": "user", "content": [{"type": "text", "text": "see "}, {"type": "image"}, {"type": "text", "text": "this"}]}],
    "tools": [{"role": "user", "content": "lamp"}, {"role": "assistant", "content": None, "tool_calls": [CALL, dict(CALL, id="c2")]},
              {"role": "tool", "name": "set_lamp", "tool_call_id": "c1", "content": "ok <1>"},
              {"role": "tool", "name": "set_lamp", "tool_call_id": "c2", "content": "{\"a\": 1}"}, {"role": "user", "content": "thanks"}],
    "unicode": [{"role": "user", "content": "naïve ☃ 𝄞\u2028 日本\u00a0"}, {"role": "assistant", "content": "\u3000ß İ ΑΣ\t"}],
    "empty": [],
}

# Expressions on V, one golden case each: rendered as {{ EXPRESSION }}.
V = {"s": "Hello World", "u": "naïve ☃ 𝄞 ß", "i": 7, "n": -3, "f": 2.5, "big": 1e16, "t": True, "none": None, "e": "", "ml": "a\nb\n\nc\r\nd", "sp": "  x y  ",
     "l": [3, 1, 2], "w": ["b", "A", "c", "a"], "d": {"b": 1, "a": [1, {"x": None}], "items": 5, "C": "z"}, "nested": [[1, 2], [3, 4]],
     "objs": [{"k": "x", "v": 1, "ok": True}, {"k": "Y", "v": 2, "ok": False}, {"k": "x", "v": 3}], "q": "it's \"q\"", "ctl": "\x00\x1f\x7f\u00ad\u200b", "num": "42", "badnum": "4x"}

EXPRESSIONS = r"""
s|upper ; s|lower ; s|title ; s|capitalize ; u|upper ; u|title ; 'ΑΣ ΑΣΑ'|lower ; s|length ; u|length ; l|length ; d|length ; sp|trim ; 'xxaxx'|trim('x') ; s|replace('l','L') ; s|replace('l','L',1) ; 'abc'|replace('','-')
s|first ; s|last ; l|first ; l|last ; []|first ; e|last ; l|sort ; w|sort ; w|sort(case_sensitive=true) ; w|sort(reverse=true) ; l|sum ; l|min ; l|max ; w|min ; []|max ; l|join(',') ; w|join ; objs|join('-', attribute='k') ; nested|sum(start=[])
objs|map(attribute='k')|list ; objs|map(attribute='zz', default='d')|list ; w|map('upper')|join ; w|map('replace', 'a', 'Q')|list ; objs|selectattr('ok')|list|length ; objs|selectattr('ok','defined')|map(attribute='v')|list ; objs|rejectattr('ok')|map(attribute='v')|list ; objs|selectattr('k','equalto','x')|map(attribute='v')|list ; l|select('odd')|list ; l|reject('odd')|list ; l|select('gt', 1)|list ; l|select|list ; objs|map(attribute='k')|unique|list
l|reverse|list ; s|reverse ; u|reverse ; d|items|list ; d|dictsort ; d|dictsort(true) ; d|dictsort(reverse=true) ; l|list ; 'añb'|list ; l|batch(2)|list ; l|batch(2,'x')|list ; [1,2,3,4,5]|slice(3)|list ; [1,2,3,4,5]|slice(3,'x')|list
d|tojson ; d|tojson(indent=2) ; d|tojson(indent=0) ; d|tojson(sort_keys=true) ; d|tojson(separators=(',',':')) ; u|tojson ; u|tojson(ensure_ascii=true) ; ctl|tojson ; q|tojson ; f|tojson ; big|tojson ; [1.0,-0.5,1e-7,true,none]|tojson ; []|tojson(indent=2) ; {}|tojson(indent=2) ; {1:2,none:3,true:4,1.5:5}|tojson ; (1,'a')|tojson ; missing|tojson
f|int ; num|int ; badnum|int ; badnum|int(9) ; '42.9'|int ; '0x1F'|int(0,16) ; 'ff'|int(base=16) ; none|int ; num|float ; badnum|float ; badnum|float(1.5) ; n|abs ; f|round ; 2.5|round ; 3.5|round ; 42.55|round(1) ; 42.55|round(1,'floor') ; 42.51|round(1,'ceil') ; i|round ; 1234|round(-2) ; 0.1+0.2 ; t|int ; t+1
missing|default('x') ; e|default('x') ; e|default('x',true) ; none|default('x') ; missing|d ; missing|length ; missing|upper ; missing|list ; missing|join ; missing|first ; missing|items|list ; missing|string ; missing|trim ; missing|int ; missing|abs ; missing + 1 ; missing.a ; missing['a'] ; missing() ; s.nothing ; s.nothing.more ; none.x ; none.x.y ; none['x'] ; none[0] ; l[9] ; l['x'] ; l.x ; i.x ; d.nope ; d['nope'] ; d['items'] ; d.get('b') ; d.get('zz') ; d.get('zz', 3) ; d.keys() ; d.values() ; d.items() ; d.items()|list ; d.a[1].x ; d.a[1]['x']
s[0] ; s[-1] ; s[99] ; s[1:3] ; s[::-1] ; s[:-1] ; s[6:] ; u[5:8] ; u[::2] ; l[1:] ; l[::-1] ; l[-2:] ; l[5:] ; l[::-2] ; l[2:0:-1] ; (1,2,3)[1:] ; d.a[1].x[1:] ; d[1:] ; missing[1:] ; s['0'] ; l[true] ; l[1.0] ; range(10)[2:8:3] ; range(5)[1] ; range(5)[-1]
s.split() ; s.split('o') ; s.split('o',1) ; sp.split() ; sp.split(' ') ; ' a b c '.split(none,1) ; ' a b c '.rsplit(none,1) ; 'a,b,c'.rsplit(',',1) ; ''.split() ; ''.split(',') ; 'x'.split('') ; ml.splitlines() ; ml.splitlines(true) ; s.strip('Hd') ; s.lstrip('He') ; s.rstrip('dl') ; sp.strip() ; sp.lstrip() ; sp.rstrip() ; s.startswith('He') ; s.startswith(('x','H')) ; s.endswith('ld') ; s.startswith('W',6) ; s.find('o') ; s.find('zz') ; s.rfind('o') ; s.find('o',5) ; u.find('☃') ; s.index('W') ; s.index('zz') ; s.count('o') ; 'aaa'.count('aa') ; s.partition(' ') ; s.rpartition('o') ; s.partition('zz') ; s.removeprefix('Hello ') ; s.removesuffix('World') ; '-'.join(w) ; '-'.join(l) ; s.replace('o','0') ; s.replace('o','0',1) ; s.title() ; "they're bill's".title() ; s.swapcase() ; 'x'.center(6,'*') ; 'ab'.center(5) ; 'x'.ljust(3) + '|' ; 'x'.rjust(3) ; '-42'.zfill(6) ; '٣'.isdigit() ; 'a1'.isalnum() ; 'abc'.isalpha() ; ' '.isspace() ; ''.isspace() ; 'ab'.islower() ; 'A1'.isupper() ; s.capitalize() ; s.nosuch()
'%s and %r' % ('a','b') ; '%d%%' % 5 ; '%05.1f|%-6s|%+d' % (3.14159,'ab',7) ; '%(a)s' % {'a': 1} ; '%s' % l ; '%x %X %o' % (255,255,8) ; '%e %g %G' % (12345.678,0.00001,1e20) ; '%s %s' % ('a',) ; '%s' % ('a','b') ; '%s-%s'|format('a',1) ; '{} {}'.format('a',1) ; '{1} {0}'.format('a','b') ; '{x} {y!r}'.format(x=1,y='q') ; '{:>5}|{:<5}|{:^5}|{:05d}|{:.2f}|{:,}'.format('a','b','c',42,3.14159,1234567) ; '{0[a]}'.format({'a':1}) ; '{0.a}'.format({'a':1}) ; '{{}}'.format() ; '{}'.format() ; '{:*^9}'.format('mid') ; '{!s}'.format(none) ; '{:e}'.format(12345.678) ; '{:x}'.format(255) ; '{:%}'.format(0.25)
1 + 2 * 3 ; 7 // 2 ; -7 // 2 ; 7 % 3 ; -7 % 3 ; 7 % -3 ; 7.5 // 2 ; -7.5 % 2 ; 2 ** 10 ; 2 ** -1 ; -2 ** 2 ; 2 ** 3 ** 2 ; 7 / 2 ; 6 / 2 ; 1 / 0 ; 1 % 0 ; 1.5 + 1 ; 'a' + 'b' ; 'a' + 1 ; 'ab' * 3 ; 3 * 'ab' ; [1] * 2 ; [1] + [2] ; (1,) + (2,) ; [1] + (2,) ; 'a' ~ 1 ~ none ~ true ~ 2.0 ; 1 ~ 2 + 3 ; -i ; +i ; not i ; - 'a' ; 1_000 ; 0x1f ; 0b101 ; 0o17 ; 1e3 ; 1.5e-7 ; 123456789.0 ; 1e22 ; 0.1 ; 100000000000000000000.0 ; true + true ; 5 - true
1 < 2 < 3 ; 1 < 2 > 3 ; 1 == 1.0 ; true == 1 ; 'a' < 'b' ; 'a' < 1 ; [1,2] < [1,3] ; (1,2) == [1,2] ; [1,2] == [1,2] ; {'a':1} == {'a':1.0} ; none == missing ; missing == missing2 ; missing != none ; missing < 1 ; 'a' in 'abc' ; 'z' not in 'abc' ; 1 in l ; 'b' in d ; 1 in 'abc' ; 'a' in none ; 'a' in missing ; none in [none] ; not 'a' in 'abc' ; 1 == 1 == true ; 1 in [1.0] ; true in [1]
s if t else e ; s if e else 'no' ; s if e ; (s if e) is defined ; 'a' if false else 'b' if false else 'c' ; 1 and 2 ; 0 and 2 ; 0 or 'x' ; '' or none ; t and not e ; 1 or missing.x ; (1,) ; () ; (1) ; [1,[2,'a']] ; {'a':1,'b':[none,true]} ; {'a':1,'a':2} ; [1,] ; {'a':1,} ; q ; [q] ; ["it's"] ; ['\\ \n \t \x7f é \u200b ☃'] ; [ctl] ; [u] ; [1.0,1e16,1e-5,-0.0] ; [(1,),()] ; [missing] ; none ; missing ; true ; [true,none] ; f ; big ; -0.0 ; '\u00e9\x41\101\q\n' ; "a" "b" ; 'tab\there'
i is odd ; i is even ; i is divisibleby 7 ; i is divisibleby(2) ; s is string ; u is not string ; i is integer ; f is float ; t is boolean ; t is integer ; t is number ; none is none ; missing is none ; missing is defined ; missing is undefined ; d is mapping ; l is sequence ; d is sequence ; s is sequence ; l is iterable ; i is iterable ; none is iterable ; missing is iterable ; missing is sequence ; d.items() is sequence ; t is true ; 1 is true ; t is sameas true ; i is eq 7 ; i is equalto(7) ; i is ne 7 ; i is gt 3 ; i is lt 3 ; i is ge 7 ; i is le 7 ; i is in [7] ; s is upper ; 'ab' is lower ; 'ABC' is upper ; range is callable ; s is callable ; s is escaped ; 'upper' is filter ; 'nosuch' is filter ; 'odd' is test ; i is not odd and true ; not i is odd ; i + 1 is odd ; none is not none ; x is defined and x
range(3)|list ; range(1,4)|list ; range(5,0,-2)|list ; range(3) ; range(0)|list ; range(1,10,3) ; range(200000) ; dict(a=1,b=2) ; dict([('a',1)]) ; dict({'a':1},b=2) ; dict(1) ; namespace(a=1).a ; namespace({'b':2}).b ; namespace().zz ; raise_exception('boom') ; strftime_now('%d %b %Y') ; strftime_now('%Y-%m-%d %H:%M:%S %A %B %j %p %I %y %%') ; strftime_now('%-d/%-m %e') ; cycler('a','b').next() ; joiner('|')() ; nosuch(1) ; s|nosuch ; s is nosuch ; s() ; l.append(1) ; d.update({}) ; d.pop('b') ; [1,2]|first|string ; -1|abs ; 'a'|upper~'b' ; 'a,b'.split(',')[1] ; s.upper().lower().split(' ')|last ; (s|length) * 2 ; l|map('string')|join('+') ; w|map('length')|sum
s|safe ; '<b>'|safe ; ('<b>'|safe) + '<i>' ; ('<b>'|safe) ~ '<i>' ; '<i>' + ('<b>'|safe) ; ('<b>'|safe)|upper ; ml|indent ; ml|indent(2,true) ; ml|indent('> ') ; ml|indent(2,blank=true) ; ''|indent ; 5|indent ; 'foo bar baz qux'|truncate(9) ; 'foo bar baz qux'|truncate(9,true) ; 'foo bar baz qux'|truncate(11) ; 'foo bar baz qux'|truncate(11,false,'',0) ; 'one two-three, four'|wordcount ; 'x'|center(5) ; d|attr('items') is defined ; s|attr('nope') is defined ; ['a','b']|string ; 3|string ; none|string ; 3|upper ; none|trim ; 3|length ; none|length ; l|upper ; 1.5|lower ; 'a-b (c) d_e'|title ; w|map('nosuch')|list ; w|select('nosuch')|list ; nested|map('first')|list ; nested|map(attribute=1)|list ; nested|map('join','-')|list ; d|map('upper')|list ; s|map('upper')|join ; 'abc'|sort(reverse=true)|join ; [1,'a']|sort ; objs|sort(attribute='k')|map(attribute='v')|list ; objs|sort(attribute='k,v')|map(attribute='v')|list ; objs|map(attribute='v')|sum ; objs|sum('v') ; objs|max(attribute='v') ; l|unique|list ; ['a','A','b']|unique|list ; ['a','A','b']|unique(true)|list
"""


def main():
    """golden.json: contexts and templates by name, and a case a line that refers to them."""
    contexts, templates, cases = {"V": {"vars": V}}, {}, []
    for name, messages in CONVERSATIONS.items():
        for prompt in (False, True):
            for tools in (None, TOOLS):
                c = {"messages": messages, "add_generation_prompt": prompt, "special": {"bos_token": "<s>", "eos_token": "</s>"}}
                if tools:
                    c.update(tools=tools, vars={"enable_thinking": False})
                contexts[name + ("+prompt" if prompt else "") + ("+tools" if tools else "")] = c
    for path in sorted(glob.glob(os.path.join(HERE, "templates", "*.jinja"))):
        with open(path, newline="") as f:
            templates[os.path.basename(path)] = f.read()
    with open(os.path.join(HERE, "../../../testdata/assistant-tiny/tokenizer_config.json")) as f:
        templates["assistant-tiny"] = json.load(f)["chat_template"]
    for t in templates:
        for c in contexts:
            if c != "V":
                add(cases, t, templates[t], c, contexts[c])
    for line in EXPRESSIONS.strip().split("\n"):
        for expression in line.split(" ; "):
            add(cases, "{{ " + expression.strip() + " }}", "{{ " + expression.strip() + " }}", "V", contexts["V"])
    with open(os.path.join(HERE, "golden.json"), "w") as f:
        f.write('{"contexts": {\n' + lines('%s: %s' % (dump(k), dump(c)) for k, c in contexts.items()))
        f.write('},\n"templates": {\n' + lines('%s: %s' % (dump(k), dump(t)) for k, t in templates.items()))
        f.write('},\n"cases": [\n' + lines(map(dump, cases)) + ']}\n')
    print(len(cases), "cases,", sum(c["output"] is None for c in cases), "of them errors")


def dump(v):
    return json.dumps(v, ensure_ascii=False)


def lines(items):
    return ",\n".join(items) + "\n"


def add(cases, name, template, context_name, context):
    output, error = render(template, json.loads(json.dumps(context)))
    cases.append({"template": name, "context": context_name, "output": output, "error": error})


if __name__ == "__main__":
    main()
