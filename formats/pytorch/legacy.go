package pytorch

// The form that torch.save wrote before torch 1.6 (torch/serialization.py,
// _legacy_save): five pickle streams - a magic number, the protocol version,
// the writer's system, the object, the list of storage keys - and then, for
// every key, eight bytes of element count and the elements.

import (
	"encoding/binary"
	"math/big"

	"github.com/nlpodyssey/gopickle/types"

	"slmc/formats"
)

const (
	legacyMagic    = "1950a86a20f9469cfc6c"
	legacyProtocol = 1001
)

// legacy reads the streams of a legacy file one after the other.
type legacy struct {
	file *formats.File
	head []byte // the first bytes of the file: all its pickle streams
	pos  int
}

// next unpickles the stream at pos.
func (l *legacy) next(persistent func(any) (any, error)) (any, error) {
	v, n, err := unpickle(l.file.Name(), l.head[l.pos:], int64(l.pos), persistent)
	if err == nil {
		l.pos += n
	}
	return v, err
}

// loadLegacy reads a legacy file.
func loadLegacy(f *formats.File) (any, error) {
	l := &legacy{file: f, head: make([]byte, min(f.Size(), maxPickle))}
	if err := f.ReadFull("", 0, l.head); err != nil {
		return nil, err
	}
	if err := l.preamble(); err != nil {
		return nil, err
	}
	r := newResolver(f.Name(), f.Size(), true)
	v, err := l.next(r.resolve)
	if err != nil {
		return nil, err
	}
	at := int64(l.pos)
	keys, err := l.next(nil)
	if err != nil {
		return nil, err
	}
	list, ok := keys.(*types.List)
	if !ok {
		return nil, formats.Corrupt(f.Name(), "", at, "storage keys are %s, wanted a list", kindOf(keys))
	}
	return v, l.storages(list, r)
}

// preamble checks the streams before the object.
func (l *legacy) preamble() error {
	v, err := l.next(nil)
	if err != nil {
		return err
	}
	if magic, ok := v.(*big.Int); !ok || magic.Text(16) != legacyMagic {
		return formats.Unsupported(l.file.Name(), "", 0, "a pickle, but not one of torch.save: it begins with %s, not the magic number", kindOf(v))
	}
	at := int64(l.pos)
	if v, err = l.next(nil); err != nil {
		return err
	}
	if v != legacyProtocol {
		return formats.Unsupported(l.file.Name(), "", at, "torch protocol version %s, version %d is known", kindOf(v), legacyProtocol)
	}
	at = int64(l.pos)
	if v, err = l.next(nil); err != nil {
		return err
	}
	info, ok := v.(*types.Dict)
	if !ok {
		return formats.Corrupt(l.file.Name(), "", at, "system description is %s, wanted a dict", kindOf(v))
	}
	for _, e := range *info {
		if e.Key == "little_endian" && e.Value != true {
			return formats.Unsupported(l.file.Name(), "", at, "written on a big-endian machine")
		}
	}
	return nil
}

// storages finds the data of every key, which must be the ones that the
// object named.
func (l *legacy) storages(keys *types.List, r *resolver) error {
	name, pos := l.file.Name(), int64(l.pos)
	for _, k := range *keys {
		key, _ := k.(string)
		s := r.byKey[key]
		if s == nil {
			return formats.Corrupt(name, "", pos, "storage %s is listed, but no tensor uses it", kindOf(k))
		}
		if s.offset >= 0 {
			return formats.Corrupt(name, "", pos, "storage %s is listed twice", kindOf(k))
		}
		var count [8]byte
		if err := l.file.ReadFull("", pos, count[:]); err != nil {
			return err
		}
		n := int64(binary.LittleEndian.Uint64(count[:]))
		if n != s.elems {
			return formats.Corrupt(name, "", pos, "storage %.40q has %d elements, its tensors say %d", key, n, s.elems)
		}
		s.offset = pos + 8
		bytes := n * int64(s.elem.size)
		if bytes > l.file.Size()-s.offset {
			return formats.Corrupt(name, "", s.offset, "storage %.40q needs %d bytes, %d remain in the file", key, bytes, l.file.Size()-s.offset)
		}
		pos = s.offset + bytes
	}
	for _, key := range r.order {
		if r.byKey[key].offset < 0 {
			return formats.Corrupt(name, "", int64(l.pos), "storage %.40q is used, but not in the list of keys", key)
		}
	}
	if pos != l.file.Size() {
		return formats.Corrupt(name, "", pos, "%d bytes after the last storage", l.file.Size()-pos)
	}
	return nil
}
