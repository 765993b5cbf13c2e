package jinja

// objectMethods are methods of values that are neither strings, lists nor mappings.
var objectMethods = map[string]bool{"cycle": true, "changed": true, "next": true, "reset": true}

var tupleMethods = map[string]bool{"index": true, "count": true}

// listMethods: those that change a list work on the template's own lists only; the reference's sandbox refuses them all.
var listMethods = map[string]*methodDef{
	"index":  {sig: sig("value start=None end=None"), call: listIndex},
	"count":  {sig: sig("value"), call: listCount},
	"copy":   {sig: sig(""), call: listCopy},
	"append": {sig: sig("object"), call: listAppend, mutates: true},
	"extend": {sig: sig("iterable"), call: listExtend, mutates: true},
	"insert": {sig: sig("index object"), call: listInsert, mutates: true},
	"pop":    {sig: sig("index=-1"), call: listPop, mutates: true},
	"remove": {}, "reverse": {}, "sort": {}, "clear": {},
}

var dictMethods = map[string]*methodDef{
	"get":    {sig: sig("key default=None"), call: dictGet},
	"items":  {sig: sig(""), call: dictItems},
	"keys":   {sig: sig(""), call: dictKeys},
	"values": {sig: sig(""), call: dictValues},
	"copy":   {sig: sig(""), call: dictCopy},
	"clear":  {}, "pop": {}, "popitem": {}, "setdefault": {}, "update": {},
	"fromkeys": {refused: "no use in a chat template"},
}

func listIndex(in *interp, recv any, a []any, _ *rest) (any, error) {
	items := recv.(*list).items
	at, err := sliceBounds([3]any{a[1], a[2], nil}, len(items))
	if err != nil {
		return nil, err
	}
	for i := at.start; i < at.stop; i++ {
		if eq, err := in.equal(items[i], a[0], 0); eq || err != nil {
			return int64(i), err
		}
	}
	return nil, failure(ErrType, "value is not in the list")
}

func listCount(in *interp, recv any, a []any, _ *rest) (any, error) {
	n := int64(0)
	for _, it := range recv.(*list).items {
		eq, err := in.equal(it, a[0], 0)
		if err != nil {
			return nil, err
		}
		if eq {
			n++
		}
	}
	return n, nil
}

func listCopy(in *interp, recv any, _ []any, _ *rest) (any, error) {
	items := recv.(*list).items
	return &list{items: append([]any(nil), items...), own: true}, in.slots(len(items))
}

func listAppend(in *interp, recv any, a []any, _ *rest) (any, error) {
	l := recv.(*list)
	l.items = append(l.items, a[0])
	return nil, in.slots(1)
}

func listExtend(in *interp, recv any, a []any, _ *rest) (any, error) {
	items, err := in.each(a[0])
	if err != nil {
		return nil, err
	}
	l := recv.(*list)
	l.items = append(l.items, items...)
	return nil, nil
}

func listInsert(in *interp, recv any, a []any, _ *rest) (any, error) {
	l := recv.(*list)
	i, err := toInt(a[0])
	if err != nil {
		return nil, err
	}
	n := int64(len(l.items))
	if i < 0 {
		i = max(0, i+n)
	}
	i = min(i, n)
	l.items = append(l.items, nil)
	copy(l.items[i+1:], l.items[i:])
	l.items[i] = a[1]
	return nil, in.slots(1 + len(l.items)/8)
}

func listPop(in *interp, recv any, a []any, _ *rest) (any, error) {
	l := recv.(*list)
	i, err := toInt(a[0])
	if err != nil {
		return nil, err
	}
	at, ok := index(i, len(l.items))
	if !ok {
		return nil, failure(ErrType, "pop index out of range")
	}
	v := l.items[at]
	l.items = append(l.items[:at], l.items[at+1:]...)
	return v, in.spend(1 + len(l.items)/8)
}

func dictGet(_ *interp, recv any, a []any, _ *rest) (any, error) {
	v, ok, err := recv.(*dict).get(a[0])
	if !ok {
		v = a[1]
	}
	return v, err
}

func dictItems(in *interp, recv any, _ []any, _ *rest) (any, error) {
	d := recv.(*dict)
	return &view{kind: "items", items: d.items()}, in.slots(3 * len(d.keys))
}

func dictKeys(_ *interp, recv any, _ []any, _ *rest) (any, error) {
	return &view{kind: "keys", items: recv.(*dict).keys}, nil
}

func dictValues(_ *interp, recv any, _ []any, _ *rest) (any, error) {
	return &view{kind: "values", items: recv.(*dict).vals}, nil
}

func dictCopy(in *interp, recv any, _ []any, _ *rest) (any, error) {
	d := recv.(*dict)
	c := newDict()
	for i, k := range d.keys {
		if err := c.set(k, d.vals[i]); err != nil {
			return nil, err
		}
	}
	return c, in.slots(2 * len(d.keys))
}
