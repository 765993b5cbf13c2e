package pytorch

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"

	"github.com/nlpodyssey/gopickle/types"

	"slmc/formats"
)

// Bounds on the walk over an unpickled value. A few hundred bytes of tuples
// that hold each other twice make a tree without end, so what counts is what
// the walk visits, not what the stream holds.
const (
	maxNodes   = 1 << 18
	maxNesting = 32
	maxName    = 1 << 10
)

// separator joins the keys of nested dicts to the name of a tensor. torch
// allows no module a name with a dot, and none in practice has a slash.
const separator = "/"

// flattener splits a value into tensors by name and everything else.
type flattener struct {
	file  string
	nodes int
	names []string
	refs  []*tensorRef
	seen  map[string]bool
}

// flatten walks the top value of a checkpoint, which must be a dict.
func flatten(file string, v any) (*flattener, map[string]any, error) {
	f := &flattener{file: file, seen: map[string]bool{}}
	if _, _, ok := items(v); !ok {
		return nil, nil, formats.Unsupported(file, "", -1, "the checkpoint is %s, wanted a dict of tensors", kindOf(v))
	}
	meta, _, err := f.walk(v, nil)
	if err != nil {
		return nil, nil, err
	}
	m, _ := meta.(map[string]any)
	return f, m, nil
}

// items returns the keys and values of a dict in order.
func items(v any) (keys, values []any, ok bool) {
	switch d := v.(type) {
	case *types.Dict:
		return dictItems(*d)
	case *namespace:
		return dictItems(d.Dict)
	case *types.OrderedDict:
		for e := d.List.Front(); e != nil; e = e.Next() {
			entry := e.Value.(*types.OrderedDictEntry)
			keys, values = append(keys, entry.Key), append(values, entry.Value)
		}
		return keys, values, true
	}
	return nil, nil, false
}

func dictItems(d types.Dict) (keys, values []any, ok bool) {
	for _, e := range d {
		keys, values = append(keys, e.Key), append(values, e.Value)
	}
	return keys, values, true
}

// walk collects the tensors of v, whose place is path, and returns the rest of
// v as plain data. ok is false if nothing but tensors was there.
func (f *flattener) walk(v any, path []string) (out any, ok bool, err error) {
	if f.nodes++; f.nodes > maxNodes {
		return nil, false, formats.Corrupt(f.file, "", -1, "more than %d values in the checkpoint", maxNodes)
	}
	if len(path) > maxNesting {
		return nil, false, formats.Corrupt(f.file, "", -1, "values nested deeper than %d", maxNesting)
	}
	if keys, values, isDict := items(v); isDict {
		return f.walkDict(keys, values, path)
	}
	switch x := v.(type) {
	case *tensorRef:
		return nil, false, f.add(x, path)
	case *types.List:
		return f.walkList(*x, path)
	case *types.Tuple:
		return f.walkList(*x, path)
	case nil, bool, int, float64, string:
		return x, true, nil
	case []byte:
		return append([]byte(nil), x...), true, nil
	case *big.Int:
		return x.String(), true, nil
	case *dtype:
		return x.name, true, nil
	}
	// A class or a storage by itself: nothing to tell of it.
	return nil, false, nil
}

func (f *flattener) walkDict(keys, values []any, path []string) (any, bool, error) {
	out := map[string]any{}
	tensors := len(f.refs)
	for i, k := range keys {
		name, err := keyName(k)
		if err != nil {
			return nil, false, formats.Unsupported(f.file, "", -1, "%s: %v", strings.Join(path, separator), err)
		}
		v, ok, err := f.walk(values[i], append(path, name))
		if err != nil {
			return nil, false, err
		}
		if ok {
			out[name] = v
		}
	}
	return out, len(out) > 0 || len(f.refs) == tensors || len(path) == 0, nil
}

func (f *flattener) walkList(values []any, path []string) (any, bool, error) {
	out := make([]any, 0, min(len(values), 64))
	tensors := len(f.refs)
	for i, v := range values {
		v, ok, err := f.walk(v, append(path, strconv.Itoa(i)))
		if err != nil {
			return nil, false, err
		}
		if ok {
			out = append(out, v)
		}
	}
	return out, len(out) > 0 || len(f.refs) == tensors, nil
}

// keyName returns the name that a dict key stands for.
func keyName(k any) (string, error) {
	switch k := k.(type) {
	case string:
		return k, nil
	case int:
		return strconv.Itoa(k), nil
	case nil, bool, float64:
		return fmt.Sprint(k), nil
	}
	return "", fmt.Errorf("a key of a dict is %s, wanted a string or a number", kindOf(k))
}

// add records a tensor under its path.
func (f *flattener) add(t *tensorRef, path []string) error {
	name := strings.Join(path, separator)
	if len(name) > maxName {
		return formats.Corrupt(f.file, "", -1, "tensor name of %d bytes, at most %d are read", len(name), maxName)
	}
	if f.seen[name] {
		return formats.Corrupt(f.file, name, -1, "the name appears twice")
	}
	f.seen[name] = true
	f.names, f.refs = append(f.names, name), append(f.refs, t)
	return nil
}
