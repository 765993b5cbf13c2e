// The table of tensor types. Ids, names and block sizes are ggml's
// (ggml/include/ggml.h, release v0.5.0); a type without decode is listed by
// File.Tensors and refused by ReadF32.

package gguf

import (
	"fmt"
	"strings"

	"slmc/tensor"
)

// Type is ggml's number of a tensor type.
type Type uint32

// The types that can be written, and those that Raw data is often in.
const (
	F32   Type = 0
	F16   Type = 1
	Q4_0  Type = 2
	Q8_0  Type = 8
	Q2_K  Type = 10
	BF16  Type = 30
	TQ2_0 Type = 35
)

// maxBlockElems is the most elements that a block of a readable type has.
const maxBlockElems = 256

// blockType is one tensor type: blocks of elems elements in bytes bytes.
type blockType struct {
	id           Type
	name         string
	elems, bytes int
	// decode fills dst, whole blocks, from src; nil: can't be read.
	decode func(dst []float32, src []byte)
	// encode fills dst with the blocks of src; nil: can't be written from
	// floats. It returns the index of the first element that the type can't
	// represent, or -1.
	encode func(dst []byte, src []float32) int
}

var blockTypes = []blockType{
	{F32, "F32", 1, 4, plain(tensor.F32), encodeF32},
	{F16, "F16", 1, 2, plain(tensor.F16), encodeF16},
	{Q4_0, "Q4_0", 32, q4_0Bytes, decodeQ4_0, encodeQ4_0},
	{3, "Q4_1", 32, q4_1Bytes, decodeQ4_1, nil},
	{6, "Q5_0", 32, q5_0Bytes, decodeQ5_0, nil},
	{7, "Q5_1", 32, q5_1Bytes, decodeQ5_1, nil},
	{Q8_0, "Q8_0", 32, q8_0Bytes, decodeQ8_0, encodeQ8_0},
	{9, "Q8_1", 32, 36, nil, nil},
	{Q2_K, "Q2_K", 256, q2kBytes, decodeQ2K, encodeQ2K},
	{11, "Q3_K", 256, q3kBytes, decodeQ3K, nil},
	{12, "Q4_K", 256, q4kBytes, decodeQ4K, nil},
	{13, "Q5_K", 256, q5kBytes, decodeQ5K, nil},
	{14, "Q6_K", 256, q6kBytes, decodeQ6K, nil},
	{15, "Q8_K", 256, 292, nil, nil},
	{16, "IQ2_XXS", 256, 66, nil, nil},
	{17, "IQ2_XS", 256, 74, nil, nil},
	{18, "IQ3_XXS", 256, 98, nil, nil},
	{19, "IQ1_S", 256, 50, nil, nil},
	{20, "IQ4_NL", 32, iq4nlBytes, decodeIQ4NL, nil},
	{21, "IQ3_S", 256, 110, nil, nil},
	{22, "IQ2_S", 256, 82, nil, nil},
	{23, "IQ4_XS", 256, 136, nil, nil},
	{24, "I8", 1, 1, nil, nil},
	{25, "I16", 1, 2, nil, nil},
	{26, "I32", 1, 4, nil, nil},
	{27, "I64", 1, 8, nil, nil},
	{28, "F64", 1, 8, plain(tensor.F64), nil},
	{29, "IQ1_M", 256, 56, nil, nil},
	{BF16, "BF16", 1, 2, plain(tensor.BF16), encodeBF16},
	{34, "TQ1_0", 256, 54, nil, nil},
	{TQ2_0, "TQ2_0", 256, tq2Bytes, decodeTQ2, encodeTQ2},
	{39, "MXFP4", 32, 17, nil, nil},
	{40, "NVFP4", 64, 36, nil, nil},
	{41, "Q1_0", 128, 18, nil, nil},
	{42, "Q2_0", 64, 18, nil, nil},
}

func typeByID(id uint32) *blockType {
	for i := range blockTypes {
		if blockTypes[i].id == Type(id) {
			return &blockTypes[i]
		}
	}
	return nil
}

// TypeByName returns the type of a name such as "Q8_0"; case does not matter.
func TypeByName(name string) (Type, error) {
	for i := range blockTypes {
		if strings.EqualFold(blockTypes[i].name, name) {
			return blockTypes[i].id, nil
		}
	}
	return 0, fmt.Errorf("no GGUF tensor type %q", name)
}

// String returns ggml's name in capitals, for example "Q4_K".
func (t Type) String() string {
	if b := typeByID(uint32(t)); b != nil {
		return b.name
	}
	return fmt.Sprintf("Type(%d)", uint32(t))
}

// Block returns the elements and the bytes of a block; rows are whole blocks.
// Both are 0 for an unknown type.
func (t Type) Block() (elems, bytes int) {
	if b := typeByID(uint32(t)); b != nil {
		return b.elems, b.bytes
	}
	return 0, 0
}

func readableTypes() string {
	var names []string
	for i := range blockTypes {
		if blockTypes[i].decode != nil {
			names = append(names, blockTypes[i].name)
		}
	}
	return strings.Join(names, ", ")
}

// Decode dequantizes whole blocks of type t; len(src) must be the bytes of
// len(dst) elements.
func Decode(dst []float32, src []byte, t Type) error {
	b := typeByID(uint32(t))
	if b == nil || b.decode == nil {
		return fmt.Errorf("gguf: type %s can't be read", t)
	}
	if len(dst)%b.elems != 0 || len(src) != len(dst)/b.elems*b.bytes {
		return fmt.Errorf("gguf: %d bytes for %d elements of %s", len(src), len(dst), t)
	}
	b.decode(dst, src)
	return nil
}

// Encode rounds len(src) elements, whole blocks, to type t as llama.cpp's
// reference quantizer does, but Q2_K and TQ2_0 to less squared error, and fills
// dst. A NaN, an Inf or a value beyond the
// type's range is an error that names its index in src; llama.cpp would write
// a file with an infinite scale.
func Encode(dst []byte, src []float32, t Type) error {
	b := typeByID(uint32(t))
	if b == nil || b.encode == nil {
		return fmt.Errorf("gguf: type %s can't be written from floats", t)
	}
	if len(src)%b.elems != 0 || len(dst) != len(src)/b.elems*b.bytes {
		return fmt.Errorf("gguf: %d bytes for %d elements of %s", len(dst), len(src), t)
	}
	if i := b.encode(dst, src); i >= 0 {
		return &RangeError{Type: t, Index: i, Value: src[i]}
	}
	return nil
}

// RangeError says that an element can't be represented.
type RangeError struct {
	Type  Type
	Index int
	Value float32
}

func (e *RangeError) Error() string {
	return fmt.Sprintf("element %d is %g, which %s can't represent", e.Index, e.Value, e.Type)
}

// plain decodes a type whose elements are floats of their own.
func plain(d tensor.DType) func(dst []float32, src []byte) {
	return func(dst []float32, src []byte) {
		if err := tensor.Decode(dst, src, d); err != nil {
			panic("gguf: " + err.Error())
		}
	}
}
