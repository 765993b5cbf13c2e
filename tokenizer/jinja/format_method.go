package jinja

import "strings"

// formatMethod is str.format.
func formatMethod(in *interp, recv any, _ []any, r *rest) (any, error) {
	t := recv.(text)
	if err := plainOnly(t, "format"); err != nil {
		return nil, err
	}
	var b builder
	auto := 0
	for i := 0; i < len(t.s); {
		c := t.s[i]
		if c != '{' && c != '}' {
			j := i + strings.IndexAny(t.s[i:], "{}")
			if j < i {
				j = len(t.s)
			}
			b.add(t.slice(i, j))
			i = j
			continue
		}
		if i+1 < len(t.s) && t.s[i+1] == c {
			b.add(t.slice(i, i+1))
			i += 2
			continue
		}
		end := strings.IndexByte(t.s[i:], '}')
		if c == '}' || end < 0 {
			return nil, failure(ErrType, "format: single %q", string(c))
		}
		field := t.s[i+1 : i+end]
		if strings.Contains(field, "{") {
			return nil, failure(ErrUnsupported, "format: nested field")
		}
		out, err := in.formatField(field, r, &auto)
		if err != nil {
			return nil, err
		}
		b.add(out)
		if err := in.alloc(len(out.s)); err != nil {
			return nil, err
		}
		i += end + 1
	}
	return b.text(), in.alloc(len(t.s))
}

// formatField lays out one "{name!r:spec}".
func (in *interp) formatField(field string, r *rest, auto *int) (text, error) {
	name, layout, _ := strings.Cut(field, ":")
	name, conv, hasConv := strings.Cut(name, "!")
	v, err := in.formatValue(name, r, auto)
	if err != nil {
		return text{}, err
	}
	if hasConv {
		switch conv {
		case "s":
			v, err = in.str(v)
		case "r":
			var b builder
			err = in.repr(&b, v, 0)
			v = b.text()
		default:
			return text{}, failure(ErrUnsupported, "format: conversion %q", conv)
		}
		if err != nil {
			return text{}, err
		}
	}
	if layout == "" {
		return in.str(v)
	}
	sp, err := parseLayout(layout)
	if err != nil {
		return text{}, err
	}
	return in.formatLayout(sp, v)
}

func (in *interp) formatValue(name string, r *rest, auto *int) (any, error) {
	head := name
	if i := strings.IndexAny(name, ".["); i >= 0 {
		head = name[:i]
	}
	var v any
	n := *auto
	switch {
	case head == "" && *auto < 0 || isDigits(head) && *auto > 0:
		return nil, failure(ErrType, "format: numbered and unnumbered fields mixed")
	case head == "":
		*auto++
	case isDigits(head):
		var err error
		if n, _, err = readInt(head); err != nil {
			return nil, err
		}
		*auto = -1
	default:
		n = -1
	}
	if n >= 0 {
		if n >= len(r.args) {
			return nil, failure(ErrType, "format: no value %d", n)
		}
		v = r.args[n]
	} else {
		found := false
		for _, k := range r.kw {
			if k.name == head {
				v, found = k.val, true
			}
		}
		if !found {
			return nil, failure(ErrType, "format: no value %q", head)
		}
	}
	return in.formatPath(v, name[len(head):])
}

// formatPath follows ".name" and "[key]" behind a field's name.
func (in *interp) formatPath(v any, path string) (any, error) {
	var err error
	for path != "" && err == nil {
		if path[0] == '.' {
			end := strings.IndexAny(path[1:], ".[") + 1
			if end == 0 {
				end = len(path)
			}
			if strings.HasPrefix(path[1:end], "_") {
				return nil, failure(ErrSandbox, "format: attribute %q", path[1:end])
			}
			v, err = in.getAttr(v, path[1:end])
			path = path[end:]
			continue
		}
		end := strings.IndexByte(path, ']')
		if path[0] != '[' || end < 2 {
			return nil, failure(ErrType, "format: bad field %q", path)
		}
		var key any = text{s: path[1:end]}
		if isDigits(path[1:end]) {
			n, _, err := readInt(path[1:end])
			if err != nil {
				return nil, err
			}
			key = int64(n)
		}
		v, err = in.getItem(v, key)
		path = path[end+1:]
	}
	return v, err
}

// parseLayout reads "[[fill]align][sign][0][width][,][.precision][type]".
func parseLayout(s string) (spec, error) {
	full := s
	sp := spec{fill: " ", prec: -1}
	isAlign := func(s string) bool { return s != "" && strings.IndexByte("<>^=", s[0]) >= 0 }
	first := byteOffset(s, 1)
	if isAlign(s[first:]) {
		sp.fill, sp.align, s = s[:first], s[first], s[first+1:]
	} else if isAlign(s) {
		sp.align, s = s[0], s[1:]
	}
	if s != "" && strings.IndexByte("+- ", s[0]) >= 0 {
		if s[0] != '-' {
			sp.sign = s[0]
		}
		s = s[1:]
	}
	if strings.HasPrefix(s, "0") {
		if sp.align == 0 {
			sp.fill, sp.align = "0", '='
		}
		s = s[1:]
	}
	var err error
	if sp.width, s, err = readInt(s); err != nil {
		return sp, err
	}
	if s != "" && (s[0] == ',' || s[0] == '_') {
		sp.comma, s = s[:1], s[1:]
	}
	if strings.HasPrefix(s, ".") {
		if len(s) < 2 || !isDigit(s[1]) {
			return sp, failure(ErrType, "format: layout %q has no precision behind the point", full)
		}
		if sp.prec, s, err = readInt(s[1:]); err != nil {
			return sp, err
		}
	}
	if len(s) == 1 {
		sp.verb, s = s[0], ""
	}
	if s != "" {
		return sp, failure(ErrUnsupported, "format: layout %q", full)
	}
	return sp, nil
}

// formatLayout is Python's format(v, spec) for strings and numbers.
func (in *interp) formatLayout(sp spec, v any) (text, error) {
	if err := firstUndefined(v); err != nil {
		return text{}, failure(ErrType, "format of an undefined value with a layout")
	}
	if t, ok := v.(text); ok {
		if sp.verb != 0 && sp.verb != 's' || sp.align == '=' && sp.fill != "0" || sp.sign != 0 || sp.comma != "" {
			return text{}, failure(ErrType, "format: layout is not one of strings")
		}
		if sp.align == 0 || sp.align == '=' {
			sp.align = '<'
		}
		return in.layoutText(sp, t)
	}
	i, f, isInt, ok := number(v)
	if _, isBool := v.(bool); !ok || isBool {
		return text{}, failure(ErrUnsupported, "format of a %s with a layout", typeName(v))
	}
	if sp.align == 0 {
		sp.align = '>'
	}
	switch {
	case strings.IndexByte("feFEgG%", sp.verb) >= 0 && sp.verb != 0:
		return in.layoutNumber(sp, f, 0, false)
	case isInt && sp.prec < 0 && (sp.verb == 0 || strings.IndexByte("dxXob", sp.verb) >= 0):
		if sp.verb == 0 {
			sp.verb = 'd'
		}
		return in.layoutNumber(sp, 0, i, true)
	case isInt && sp.prec >= 0:
		return text{}, failure(ErrType, "format: precision of an integer")
	}
	return text{}, failure(ErrUnsupported, "format: layout of a float without type")
}
