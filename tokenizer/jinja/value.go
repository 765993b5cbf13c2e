package jinja

import (
	"math"
	"strconv"
	"strings"
)

// A value of a template is one of: nil (None), bool, int64, float64, bigInt, text, *list, *dict, *span (range), *stream (what filters
// such as map return: read once), *view (keys, values, items), *undefined, *namespace, *macro, *builtin, *method, *loop, *cycler, *joiner.

type list struct {
	items []any
	tuple bool
	own   bool // made by the template, so that append may change it
}

// dict keeps its keys in order of insertion, as Python does and as tojson must print them.
type dict struct {
	keys  []any
	vals  []any
	index map[any]int // hashKey of a key to its place
}

// bigInt is an integer beyond 64 bits, in decimal, from a Context: it prints and compares as itself and takes part in no arithmetic.
type bigInt string

type span struct{ start, stop, step, n int64 }

type stream struct {
	items []any
	at    int
}

// view is dict_keys, dict_values or dict_items.
type view struct {
	kind  string
	items []any
}

type undefined struct {
	msg  string
	kind error // what using it raises
}

type namespace struct{ attrs dict }

// builtin is a function that templates call by name.
type builtin struct {
	name string
	sig  signature
	call func(in *interp, a []any, rest *rest) (any, error)
}

// method is a built-in method bound to its object.
type method struct {
	recv any
	name string
	sig  signature
	call func(in *interp, recv any, a []any, rest *rest) (any, error)
}

type cycler struct {
	items []any
	at    int
}

type joiner struct {
	sep  any
	used bool
}

func undef(format string, args ...any) *undefined {
	return &undefined{msg: failure(ErrUndefined, format, args...).(*Error).Msg, kind: ErrUndefined}
}

func (u *undefined) fail() error { return failure(u.kind, "%s", u.msg) }

// typeName is the type as Python calls it, for messages.
func typeName(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case bool:
		return "bool"
	case int64, bigInt:
		return "int"
	case float64:
		return "float"
	case text:
		return "str"
	case *list:
		if v.tuple {
			return "tuple"
		}
		return "list"
	case *dict:
		return "dict"
	case *span:
		return "range"
	case *stream:
		return "generator"
	case *view:
		return "dict_" + v.kind
	case *undefined:
		return "undefined"
	case *namespace:
		return "namespace"
	case *macro:
		return "macro"
	}
	return "object"
}

func newDict() *dict { return &dict{index: map[any]int{}} }

type strKey string

// hashKey maps equal keys to one Go value: True, 1 and 1.0 are one key in Python.
func hashKey(v any) (any, error) {
	switch v := v.(type) {
	case text:
		return strKey(v.s), nil
	case bool:
		if v {
			return int64(1), nil
		}
		return int64(0), nil
	case float64:
		if v == math.Trunc(v) && math.Abs(v) < 1<<62 {
			return int64(v), nil
		}
		return v, nil
	case nil, int64, bigInt:
		return v, nil
	case *list:
		if v.tuple {
			var b strings.Builder
			for _, it := range v.items {
				k, err := hashKey(it)
				if err != nil {
					return nil, err
				}
				if _, nested := k.(tupleKey); nested {
					return nil, failure(ErrUnsupported, "nested tuple as a key")
				}
				b.WriteString(keyText(k))
			}
			return tupleKey(b.String()), nil
		}
	case *undefined:
		return undefinedKey{}, nil
	}
	return nil, failure(ErrType, "unhashable type: %s", typeName(v))
}

type (
	tupleKey     string
	undefinedKey struct{}
)

func keyText(k any) string {
	switch k := k.(type) {
	case strKey:
		return "s" + strconv.Quote(string(k))
	case int64:
		return "i" + strconv.FormatInt(k, 10)
	case float64:
		return "f" + strconv.FormatFloat(k, 'g', -1, 64)
	case bigInt:
		return "b" + string(k)
	case nil:
		return "n"
	}
	return "u"
}

func (d *dict) get(key any) (any, bool, error) {
	k, err := hashKey(key)
	if err != nil {
		return nil, false, err
	}
	if i, ok := d.index[k]; ok {
		return d.vals[i], true, nil
	}
	return nil, false, nil
}

func (d *dict) getStr(key string) (any, bool) {
	if i, ok := d.index[strKey(key)]; ok {
		return d.vals[i], true
	}
	return nil, false
}

func (d *dict) set(key, val any) error {
	k, err := hashKey(key)
	if err != nil {
		return err
	}
	if i, ok := d.index[k]; ok {
		d.vals[i] = val
		return nil
	}
	if d.index == nil {
		d.index = map[any]int{}
	}
	d.index[k] = len(d.keys)
	d.keys, d.vals = append(d.keys, key), append(d.vals, val)
	return nil
}

func (d *dict) items() []any {
	out := make([]any, len(d.keys))
	for i := range d.keys {
		out[i] = &list{items: []any{d.keys[i], d.vals[i]}, tuple: true}
	}
	return out
}

func (s *span) item(i int64) any { return s.start + i*s.step }

// truth is Python's bool().
func truth(v any) bool {
	switch v := v.(type) {
	case nil, *undefined:
		return false
	case bool:
		return v
	case int64:
		return v != 0
	case float64:
		return v != 0
	case text:
		return v.s != ""
	case *list:
		return len(v.items) > 0
	case *dict:
		return len(v.keys) > 0
	case *span:
		return v.n > 0
	case *view:
		return len(v.items) > 0
	}
	return true
}

// iterate returns the items that Python's iter would give. A stream is used up.
func (in *interp) iterate(v any) ([]any, error) {
	switch v := v.(type) {
	case *list:
		return v.items, nil
	case *dict:
		return v.keys, nil
	case *view:
		return v.items, nil
	case *stream:
		items := v.items[v.at:]
		v.at = len(v.items)
		return items, nil
	case *span:
		if err := in.slots(int(v.n)); err != nil {
			return nil, err
		}
		out := make([]any, v.n)
		for i := range out {
			out[i] = v.item(int64(i))
		}
		return out, nil
	case text:
		v.markup = false
		if err := in.alloc(textSize * len(v.s)); err != nil {
			return nil, err
		}
		runes := v.runes()
		out := make([]any, len(runes))
		for i, r := range runes {
			out[i] = r
		}
		return out, nil
	case *undefined:
		return nil, nil
	}
	return nil, failure(ErrType, "%s is not iterable", typeName(v))
}

// length is Python's len().
func length(v any) (int, error) {
	switch v := v.(type) {
	case text:
		return v.runeLen(), nil
	case *list:
		return len(v.items), nil
	case *dict:
		return len(v.keys), nil
	case *span:
		return int(v.n), nil
	case *view:
		return len(v.items), nil
	case *undefined:
		return 0, nil
	case *loop:
		return v.size()
	}
	return 0, failure(ErrType, "%s has no length", typeName(v))
}

// textSize is about what a text costs beside its bytes.
const textSize = 64
