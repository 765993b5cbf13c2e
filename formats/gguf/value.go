// The wire form of metadata values, GGUF specification, section "Metadata".
// One table serves the reader, the writer and the error messages.

package gguf

import (
	"encoding/binary"
	"fmt"
	"math"
)

// idArray and idString are the value types with a length of their own.
const (
	idString = 8
	idArray  = 9
)

// valueType is one scalar type: how it is named, told apart, read and
// written, alone and in an array.
type valueType struct {
	id      uint32
	name    string
	bytes   int // of one value; for a string its least, the length field
	is      func(v any) bool
	isSlice func(v any) bool
	read    func(c *cursor) any
	readAll func(c *cursor, n int) any
	append  func(dst []byte, v any) []byte // v is a scalar or a slice
	count   func(v any) int                // elements of a slice
}

// valueTypes lists the scalar types.
var valueTypes = []valueType{
	number(0, "uint8", 1, func(b []byte) uint8 { return b[0] }, func(dst []byte, v uint8) []byte { return append(dst, v) }),
	number(1, "int8", 1, func(b []byte) int8 { return int8(b[0]) }, func(dst []byte, v int8) []byte { return append(dst, byte(v)) }),
	number(2, "uint16", 2, le.Uint16, le.AppendUint16),
	number(3, "int16", 2, func(b []byte) int16 { return int16(le.Uint16(b)) }, func(dst []byte, v int16) []byte { return le.AppendUint16(dst, uint16(v)) }),
	number(4, "uint32", 4, le.Uint32, le.AppendUint32),
	number(5, "int32", 4, func(b []byte) int32 { return int32(le.Uint32(b)) }, func(dst []byte, v int32) []byte { return le.AppendUint32(dst, uint32(v)) }),
	number(6, "float32", 4, func(b []byte) float32 { return math.Float32frombits(le.Uint32(b)) }, func(dst []byte, v float32) []byte { return le.AppendUint32(dst, math.Float32bits(v)) }),
	booleans(),
	text(),
	number(10, "uint64", 8, le.Uint64, le.AppendUint64),
	number(11, "int64", 8, func(b []byte) int64 { return int64(le.Uint64(b)) }, func(dst []byte, v int64) []byte { return le.AppendUint64(dst, uint64(v)) }),
	number(12, "float64", 8, func(b []byte) float64 { return math.Float64frombits(le.Uint64(b)) }, func(dst []byte, v float64) []byte { return le.AppendUint64(dst, math.Float64bits(v)) }),
}

var le = binary.LittleEndian

func number[T any](id uint32, name string, size int, get func([]byte) T, put func([]byte, T) []byte) valueType {
	t := scalar[T](id, name, size)
	t.read = func(c *cursor) any { return get(c.take(size)) }
	t.readAll = func(c *cursor, n int) any { return numbers(c, n, size, get) }
	t.append = func(dst []byte, v any) []byte {
		if one, ok := v.(T); ok {
			return put(dst, one)
		}
		for _, x := range v.([]T) {
			dst = put(dst, x)
		}
		return dst
	}
	return t
}

// numbers reads n values in pieces, so that only what was really in the file
// is held twice. The caller has checked that n values remain.
func numbers[T any](c *cursor, n, size int, get func([]byte) T) []T {
	out := make([]T, n)
	for i := 0; i < n && c.err == nil; {
		piece := min(n-i, takeMax/size)
		raw := c.take(piece * size)
		for k := range piece {
			out[i+k] = get(raw[k*size:])
		}
		i += piece
	}
	return out
}

func scalar[T any](id uint32, name string, size int) valueType {
	return valueType{id: id, name: name, bytes: size,
		is:      func(v any) bool { _, ok := v.(T); return ok },
		isSlice: func(v any) bool { _, ok := v.([]T); return ok },
		count:   func(v any) int { return len(v.([]T)) },
	}
}

func booleans() valueType {
	t := number(7, "bool", 1, func(b []byte) bool { return b[0] == 1 }, func(dst []byte, v bool) []byte {
		if v {
			return append(dst, 1)
		}
		return append(dst, 0)
	})
	check := func(c *cursor, raw []byte) {
		for _, b := range raw {
			if b > 1 {
				c.fail("a bool is %d, wanted 0 or 1", b)
			}
		}
	}
	t.read = func(c *cursor) any {
		raw := c.take(1)
		check(c, raw)
		return raw[0] == 1
	}
	t.readAll = func(c *cursor, n int) any {
		return numbers(c, n, 1, func(b []byte) bool {
			check(c, b[:1])
			return b[0] == 1
		})
	}
	return t
}

func text() valueType {
	t := scalar[string](idString, "string", 8)
	t.read = func(c *cursor) any { return c.text() }
	t.readAll = func(c *cursor, n int) any {
		out := make([]string, n)
		for i := range out {
			if c.err != nil {
				break
			}
			out[i] = c.text()
		}
		return out
	}
	t.append = func(dst []byte, v any) []byte {
		if s, ok := v.(string); ok {
			return appendText(dst, s)
		}
		for _, s := range v.([]string) {
			dst = appendText(dst, s)
		}
		return dst
	}
	return t
}

func appendText(dst []byte, s string) []byte {
	return append(le.AppendUint64(dst, uint64(len(s))), s...)
}

// appendValue appends the type and the value. A value of a Go type that KV
// does not list is an error.
func appendValue(dst []byte, v any, depth int) ([]byte, error) {
	for _, t := range valueTypes {
		if t.is(v) {
			return t.append(le.AppendUint32(dst, t.id), v), nil
		}
		if t.isSlice(v) {
			return t.append(appendArray(dst, t.id, t.count(v)), v), nil
		}
	}
	arr, ok := v.([]any)
	if !ok {
		return nil, fmt.Errorf("no GGUF type for a Go %T", v)
	}
	if depth+1 >= maxDepth {
		return nil, fmt.Errorf("arrays nested over %d deep", maxDepth)
	}
	dst = appendArray(dst, idArray, len(arr))
	for _, x := range arr {
		item, err := appendValue(nil, x, depth+1)
		if err != nil {
			return nil, err
		}
		if le.Uint32(item) != idArray {
			return nil, fmt.Errorf("an array of arrays holds a %s", typeName(x))
		}
		dst = append(dst, item[4:]...) // an array's type precedes its items once
	}
	return dst, nil
}

func appendArray(dst []byte, id uint32, n int) []byte {
	return le.AppendUint64(le.AppendUint32(le.AppendUint32(dst, idArray), id), uint64(n))
}
