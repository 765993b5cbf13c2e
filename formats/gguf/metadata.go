// Metadata: key-value pairs with Go values, and accessors that say what was
// found where something else was wanted.

package gguf

import (
	"errors"
	"fmt"
	"math"

	"slmc/formats"
)

// ErrMissing is in the error of an accessor whose key is absent; errors.Is
// tells it apart from a value of the wrong type.
var ErrMissing = errors.New("missing")

// KV is one metadata entry. Value is a uint8, int8, uint16, int16, uint32,
// int32, uint64, int64, float32, float64, bool or string, a slice of one of
// these, or, for an array of arrays, []any of slices.
type KV struct {
	Key   string
	Value any
}

// Metadata holds the entries of a file in its order.
type Metadata struct {
	file  string
	kvs   []KV
	index map[string]int
}

// KVs returns all entries in the order of the file. They must not be changed.
func (m *Metadata) KVs() []KV { return m.kvs }

// Has reports whether key is present.
func (m *Metadata) Has(key string) bool {
	_, ok := m.index[key]
	return ok
}

// Value returns the value of key as KV describes it, nil if it is absent.
func (m *Metadata) Value(key string) any {
	i, ok := m.index[key]
	if !ok {
		return nil
	}
	return m.kvs[i].Value
}

func (m *Metadata) missing(key string) error {
	return &formats.Error{File: m.file, Offset: -1, Kind: formats.ErrCorrupt, Msg: fmt.Sprintf("metadata key %q", key), Err: ErrMissing}
}

func (m *Metadata) wrongType(key, want string, found any) error {
	return formats.Corrupt(m.file, "", -1, "metadata key %q is of type %s, wanted %s", key, typeName(found), want)
}

// get returns key as a T, which want names.
func get[T any](m *Metadata, key, want string) (T, error) {
	var zero T
	i, ok := m.index[key]
	if !ok {
		return zero, m.missing(key)
	}
	v, ok := m.kvs[i].Value.(T)
	if !ok {
		return zero, m.wrongType(key, want, m.kvs[i].Value)
	}
	return v, nil
}

// String returns a string.
func (m *Metadata) String(key string) (string, error) { return get[string](m, key, "string") }

// Bool returns a boolean.
func (m *Metadata) Bool(key string) (bool, error) { return get[bool](m, key, "bool") }

// Strings returns an array of strings; it must not be changed.
func (m *Metadata) Strings(key string) ([]string, error) {
	return get[[]string](m, key, "array of strings")
}

// Float32s returns an array of float32; it must not be changed.
func (m *Metadata) Float32s(key string) ([]float32, error) {
	return get[[]float32](m, key, "array of float32")
}

// Int returns an integer of any width.
func (m *Metadata) Int(key string) (int64, error) {
	if !m.Has(key) {
		return 0, m.missing(key)
	}
	v := m.Value(key)
	n, ok := integer(v)
	if !ok {
		return 0, m.wrongType(key, "integer", v)
	}
	return n, nil
}

// Uint returns an integer of any width that is not negative and fits an int.
func (m *Metadata) Uint(key string) (int, error) {
	n, err := m.Int(key)
	if err != nil {
		return 0, err
	}
	if n < 0 || n > math.MaxInt {
		return 0, formats.Corrupt(m.file, "", -1, "metadata key %q is %d, wanted a count", key, n)
	}
	return int(n), nil
}

// Float returns a float32 or float64.
func (m *Metadata) Float(key string) (float64, error) {
	if !m.Has(key) {
		return 0, m.missing(key)
	}
	switch v := m.Value(key).(type) {
	case float32:
		return float64(v), nil
	case float64:
		return v, nil
	default:
		return 0, m.wrongType(key, "float", v)
	}
}

// Ints returns an array of integers or booleans of any width, or a single
// integer as an array of one, which is how llama.cpp writes settings that may
// differ from layer to layer.
func (m *Metadata) Ints(key string) ([]int64, error) {
	if !m.Has(key) {
		return nil, m.missing(key)
	}
	v := m.Value(key)
	if n, ok := integer(v); ok {
		return []int64{n}, nil
	}
	switch v := v.(type) {
	case []bool:
		out := make([]int64, len(v))
		for i, b := range v {
			if b {
				out[i] = 1
			}
		}
		return out, nil
	case []uint8:
		return widen(v), nil
	case []int8:
		return widen(v), nil
	case []uint16:
		return widen(v), nil
	case []int16:
		return widen(v), nil
	case []uint32:
		return widen(v), nil
	case []int32:
		return widen(v), nil
	case []int64:
		return v, nil
	}
	return nil, m.wrongType(key, "array of integers", v)
}

func widen[T uint8 | int8 | uint16 | int16 | uint32 | int32](v []T) []int64 {
	out := make([]int64, len(v))
	for i, x := range v {
		out[i] = int64(x)
	}
	return out
}

// integer widens an integer; a uint64 beyond an int64 is none.
func integer(v any) (int64, bool) {
	switch v := v.(type) {
	case uint8:
		return int64(v), true
	case int8:
		return int64(v), true
	case uint16:
		return int64(v), true
	case int16:
		return int64(v), true
	case uint32:
		return int64(v), true
	case int32:
		return int64(v), true
	case int64:
		return v, true
	case uint64:
		return int64(v), v <= math.MaxInt64
	}
	return 0, false
}

// typeName names the type of a value in the words of the GGUF specification.
func typeName(v any) string {
	if arr, ok := v.([]any); ok {
		return fmt.Sprintf("array of %d arrays", len(arr))
	}
	for _, t := range valueTypes {
		if t.is(v) {
			return t.name
		}
		if t.isSlice(v) {
			return "array of " + t.name
		}
	}
	return fmt.Sprintf("%T", v)
}
