package pytorch

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/nlpodyssey/gopickle/pickle"
	"github.com/nlpodyssey/gopickle/types"

	"slmc/formats"
)

// maxMessage cuts messages of the unpickler, which may print whole values.
const maxMessage = 200

// unpickle scans and loads the pickle stream at the start of b, which lies at
// byte base of the file, and returns its value and its length. persistent
// resolves persistent ids; nil refuses them.
func unpickle(file string, b []byte, base int64, persistent func(any) (any, error)) (v any, n int, err error) {
	n, err = scan(b)
	var r *refusal
	if errors.As(err, &r) {
		kind := formats.ErrCorrupt
		if r.unsupported {
			kind = formats.ErrUnsupported
		}
		return nil, 0, &formats.Error{File: file, Offset: base + int64(r.pos), Kind: kind, Msg: "pickle: " + r.msg}
	}
	in := bytes.NewReader(b[:n])
	defer func() {
		// The scan holds back what is known to panic but for one thing, which
		// only values can show: a list or bytes as the key of a dict.
		if p := recover(); p != nil {
			v, err = nil, formats.Corrupt(file, "", base+int64(n-in.Len()), "pickle: %.*s", maxMessage, fmt.Sprint(p))
		}
	}()
	u := pickle.NewUnpickler(in)
	u.FindClass = findClass
	u.PersistentLoad = persistent
	v, err = u.Load()
	if err == nil {
		return v, n, nil
	}
	at := base + int64(n-in.Len())
	var f *forbidden
	var known *formats.Error
	switch {
	case errors.As(err, &known):
		return nil, 0, err
	case errors.As(err, &f):
		return nil, 0, formats.Unsupported(file, "", at, "pickle: %s", f.Error())
	}
	return nil, 0, formats.Corrupt(file, "", at, "pickle: %.*s", maxMessage, err.Error())
}

// resolver turns persistent ids into storages and keeps them by key.
type resolver struct {
	file   string
	size   int64 // of the file: no storage is larger
	order  []string
	byKey  map[string]*storage
	legacy bool
}

func newResolver(file string, size int64, legacy bool) *resolver {
	return &resolver{file: file, size: size, byKey: map[string]*storage{}, legacy: legacy}
}

// resolve takes ("storage", class, key, device, elements) and, in the legacy
// form, a sixth value: None or (view key, first element, elements).
func (r *resolver) resolve(id any) (any, error) {
	t, ok := id.(*types.Tuple)
	if !ok || t.Len() < 1 {
		return nil, fmt.Errorf("persistent id is %s, wanted a tuple", kindOf(id))
	}
	if kind := t.Get(0); kind != "storage" {
		if kind == "module" {
			return nil, formats.Unsupported(r.file, "", -1, "a whole module was saved; save its state_dict instead")
		}
		return nil, fmt.Errorf("persistent id of kind %s, wanted storage", kindOf(kind))
	}
	want := 5
	if r.legacy {
		want = 6
	}
	if t.Len() != want {
		return nil, fmt.Errorf("persistent id of %d values, wanted %d", t.Len(), want)
	}
	class, isClass := t.Get(1).(*storageClass)
	key, isKey := t.Get(2).(string)
	elems, isElems := t.Get(4).(int)
	if !isClass || !isKey || !isElems {
		return nil, fmt.Errorf("persistent id (%s, %s, %s), wanted class, key and number of elements", kindOf(t.Get(1)), kindOf(t.Get(2)), kindOf(t.Get(4)))
	}
	if elems < 0 || int64(elems) > r.size/int64(class.elem.size) {
		return nil, fmt.Errorf("storage %.40q has %d elements of %d bytes, the file %d bytes", key, elems, class.elem.size, r.size)
	}
	s := r.byKey[key]
	if s == nil {
		s = &storage{key: key, elem: class.elem, elems: int64(elems), offset: -1}
		r.byKey[key] = s
		r.order = append(r.order, key)
	}
	if s.elem != class.elem || s.elems != int64(elems) {
		return nil, fmt.Errorf("storage %.40q has %d elements of %s here and %d of %s before", key, elems, class.elem.name, s.elems, s.elem.name)
	}
	if want == 6 && t.Get(5) != nil {
		return s.viewOf(t.Get(5))
	}
	return s, nil
}

// viewOf returns the part of s that a legacy view names.
func (s *storage) viewOf(v any) (*storage, error) {
	t, ok := v.(*types.Tuple)
	if !ok || t.Len() != 3 {
		return nil, fmt.Errorf("storage view is %s, wanted 3 values", kindOf(v))
	}
	first, ok1 := t.Get(1).(int)
	n, ok2 := t.Get(2).(int)
	if !ok1 || !ok2 || first < 0 || n < 0 || int64(first) > s.elems || int64(n) > s.elems-int64(first) {
		return nil, fmt.Errorf("view of elements %s and %s more, the storage %.40q has %d", kindOf(t.Get(1)), kindOf(t.Get(2)), s.key, s.elems)
	}
	return &storage{key: s.key, elem: s.elem, elems: int64(n), first: int64(first), parent: s}, nil
}
