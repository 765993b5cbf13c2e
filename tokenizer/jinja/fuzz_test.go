package jinja

import (
	"errors"
	"strings"
	"testing"
)

// FuzzRender parses and renders any source on a small context: no panic, limits hold, errors have a kind, and data never turns into
// trusted text.
func FuzzRender(f *testing.F) {
	g := readGolden(f)
	for _, src := range g.Templates {
		f.Add(src, "x")
	}
	for i, c := range g.Cases {
		if i%7 == 0 && g.Templates[c.Template] == "" {
			f.Add(c.Template, "a b")
		}
	}
	const mark = "\ue000"
	kinds := []error{ErrSyntax, ErrUnsupported, ErrType, ErrUndefined, ErrSandbox, ErrRaised, ErrLimit}
	lim := Limits{Steps: 20_000, Output: 1 << 16, Depth: 20, Memory: 1 << 20, Range: 1000}
	f.Fuzz(func(t *testing.T, src, data string) {
		check := func(err error) {
			for _, k := range kinds {
				if errors.Is(err, k) {
					return
				}
			}
			t.Errorf("error without a kind: %v", err)
		}
		tpl, err := Parse(src)
		if err != nil {
			check(err)
			return
		}
		s := Data(mark + data + mark)
		ctx := Context{
			Messages:            []Value{Object(Field{"role", Data("user")}, Field{"content", s}), Text("assistant", "y"+mark)},
			Tools:               []Value{probeTool("f" + mark)},
			AddGenerationPrompt: true,
			Special:             map[string]string{"bos_token": "<s>", "eos_token": "</s>"},
			Vars: map[string]Value{"s": s, "u": s, "i": Int(7), "f": Float(2.5), "t": Bool(true), "none": {}, "l": Array(Int(3), s, Int(1)),
				"d": Object(Field{"a" + mark, s}, Field{"b", Array(s)}), "w": Array(Data("b"), Data("A"))},
			Now: goldenNow,
		}
		segs, err := tpl.Render(ctx, lim)
		if err != nil {
			check(err)
			return
		}
		if n := len(Join(segs)); n > lim.Output {
			t.Errorf("%d bytes rendered, at most %d allowed", n, lim.Output)
		}
		if strings.Contains(src, mark) || strings.Contains(src, `\`) {
			return
		}
		for _, seg := range segs {
			if seg.Trusted && strings.Contains(seg.Text, mark) {
				t.Errorf("data in trusted segment %q", seg.Text)
			}
		}
	})
}

// FuzzValue: any JSON is read or refused, without a panic.
func FuzzValue(f *testing.F) {
	f.Add([]byte(`{"a": [1, 2.5, null, "x", {"b": true}]}`))
	f.Add([]byte(`[[[[`))
	tpl, err := Parse("{{ v | tojson }}{{ v }}")
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var v Value
		if v.UnmarshalJSON(data) == nil {
			if _, err := tpl.Render(Context{Vars: map[string]Value{"v": v}}, Limits{Steps: 10000, Memory: 1 << 20}); err != nil && !errors.Is(err, ErrLimit) {
				t.Errorf("%q: %v", data, err)
			}
		}
	})
}

func BenchmarkRender(b *testing.B) {
	g := readGolden(b)
	tpl, err := Parse(g.Templates["toolcalls.jinja"])
	if err != nil {
		b.Fatal(err)
	}
	ctx := g.Contexts["tools+prompt+tools"].context()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tpl.Render(ctx, Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	src := readGolden(b).Templates["toolcalls.jinja"]
	b.SetBytes(int64(len(src)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(src); err != nil {
			b.Fatal(err)
		}
	}
}
