package pytorch

// This file is the list of what a pickle may name. A name that is not on it is
// refused when the stream asks for it, so nothing of a stream ever runs: the
// "classes" here are Go values that build a description of a tensor or plain
// data.

import (
	"fmt"
	"strings"

	"github.com/nlpodyssey/gopickle/types"

	"slmc/formats"
	"slmc/tensor"
)

// elem is the element type of a storage. A type that is no plain float is
// listed, so that tensors of it can be, and never read.
type elem struct {
	name string // safetensors' spelling
	size int
}

// float returns the type for reading.
func (e elem) float() (tensor.DType, bool) { return formats.FloatType(e.name) }

// elems maps torch's names, of dtype objects and of storage classes.
var elems = map[string]elem{
	"float32": {"F32", 4}, "float": {"F32", 4}, "FloatStorage": {"F32", 4},
	"float16": {"F16", 2}, "half": {"F16", 2}, "HalfStorage": {"F16", 2},
	"bfloat16": {"BF16", 2}, "BFloat16Storage": {"BF16", 2},
	"float64": {"F64", 8}, "double": {"F64", 8}, "DoubleStorage": {"F64", 8},
	"int64": {"I64", 8}, "long": {"I64", 8}, "LongStorage": {"I64", 8},
	"int32": {"I32", 4}, "int": {"I32", 4}, "IntStorage": {"I32", 4},
	"int16": {"I16", 2}, "short": {"I16", 2}, "ShortStorage": {"I16", 2},
	"int8": {"I8", 1}, "CharStorage": {"I8", 1},
	"uint8": {"U8", 1}, "ByteStorage": {"U8", 1},
	"uint16": {"U16", 2}, "uint32": {"U32", 4}, "uint64": {"U64", 8},
	"bool": {"BOOL", 1}, "BoolStorage": {"BOOL", 1},
	"complex64": {"C64", 8}, "ComplexFloatStorage": {"C64", 8},
	"complex128": {"C128", 16}, "ComplexDoubleStorage": {"C128", 16},
	"float8_e4m3fn": {"F8_E4M3", 1}, "float8_e5m2": {"F8_E5M2", 1},
	"QInt8Storage": {"QINT8", 1}, "QUInt8Storage": {"QUINT8", 1}, "QInt32Storage": {"QINT32", 4},
	"UntypedStorage": {untyped, 1}, "_UntypedStorage": {untyped, 1},
}

// untyped marks storages whose element type only the tensor knows.
const untyped = "untyped"

// storageClass is a torch.*Storage class, as a persistent id names it.
type storageClass struct{ elem elem }

// dtype is a torch.dtype object.
type dtype struct {
	name string
	elem elem
}

// storage is what a persistent id refers to: a run of bytes in the file, not
// located until the file's own list of storages was read.
type storage struct {
	key    string
	elem   elem
	elems  int64
	offset int64 // byte offset in the file; negative until known
	// Old legacy files name a part of a storage: elems elements of parent
	// from element first on.
	parent *storage
	first  int64
}

// place returns the byte offset of the storage in the file, negative if the
// file does not hold it.
func (s *storage) place() int64 {
	if s.parent == nil {
		return s.offset
	}
	at := s.parent.offset
	if at >= 0 {
		at += s.first * int64(s.elem.size)
	}
	return at
}

// tensorRef is a tensor of a checkpoint: a strided view of a storage.
type tensorRef struct {
	storage *storage
	elem    elem
	offset  int64 // elements
	shape   []int
	stride  []int
}

// namespace is an argparse.Namespace: attributes in the order of the stream.
type namespace struct{ types.Dict }

// PyDictSet implements types.PyDictSettable.
func (n *namespace) PyDictSet(key, value any) error {
	n.Set(key, value)
	return nil
}

type namespaceClass struct{}

// PyNew implements types.PyNewable.
func (namespaceClass) PyNew(args ...any) (any, error) {
	if len(args) != 0 {
		return nil, fmt.Errorf("argparse.Namespace with %d arguments, wanted none", len(args))
	}
	return &namespace{}, nil
}

// callable is a function of the list; it implements types.Callable.
type callable struct {
	name string
	call func(args []any) (any, error)
}

// Call implements types.Callable.
func (c *callable) Call(args ...any) (any, error) {
	v, err := c.call(args)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", c.name, err)
	}
	return v, nil
}

// forbidden is the error for a class that is not on the list.
type forbidden struct{ class string }

func (f *forbidden) Error() string {
	return fmt.Sprintf("class %q may not stand in a checkpoint", f.class)
}

// findClass resolves the classes of the list. gopickle itself resolves
// collections.OrderedDict, __builtin__.object and copy_reg._reconstructor
// before it asks; the latter two can only make what findClass gives.
func findClass(module, name string) (any, error) {
	full := module + "." + name
	switch full {
	case "torch._utils._rebuild_tensor":
		return &callable{full, rebuildTensor}, nil
	case "torch._utils._rebuild_tensor_v2":
		return &callable{full, rebuildTensorV2}, nil
	case "torch._utils._rebuild_tensor_v3":
		return &callable{full, rebuildTensorV3}, nil
	case "torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state":
		return &callable{full, rebuildParameter}, nil
	case "torch.Size":
		return &callable{full, oneTuple}, nil
	case "torch.device":
		return &callable{full, device}, nil
	case "argparse.Namespace":
		return namespaceClass{}, nil
	}
	if e, ok := elems[name]; ok {
		switch storage := strings.HasSuffix(name, "Storage"); {
		case storage && (module == "torch" || module == "torch.cuda" || module == "torch.storage"):
			return &storageClass{e}, nil
		case !storage && module == "torch":
			return &dtype{full, e}, nil
		}
	}
	return nil, &forbidden{fmt.Sprintf("%.100s", full)}
}

// rebuildTensor: (storage, offset, size, stride).
func rebuildTensor(args []any) (any, error) {
	if len(args) != 4 {
		return nil, fmt.Errorf("%d arguments, wanted 4", len(args))
	}
	return newTensor(args, nil)
}

// rebuildTensorV2: (storage, offset, size, stride, requires_grad,
// backward_hooks[, metadata]).
func rebuildTensorV2(args []any) (any, error) {
	if len(args) != 6 && len(args) != 7 {
		return nil, fmt.Errorf("%d arguments, wanted 6 or 7", len(args))
	}
	if err := noMetadata(args[6:]); err != nil {
		return nil, err
	}
	return newTensor(args, nil)
}

// rebuildTensorV3: (storage, offset, size, stride, requires_grad,
// backward_hooks, dtype[, metadata]), for types without a storage class.
func rebuildTensorV3(args []any) (any, error) {
	if len(args) != 7 && len(args) != 8 {
		return nil, fmt.Errorf("%d arguments, wanted 7 or 8", len(args))
	}
	if err := noMetadata(args[7:]); err != nil {
		return nil, err
	}
	d, ok := args[6].(*dtype)
	if !ok {
		return nil, fmt.Errorf("argument 7 is %s, wanted a dtype", kindOf(args[6]))
	}
	return newTensor(args, d)
}

// noMetadata refuses the conjugate and negative bits: the stored numbers would
// not be the tensor's.
func noMetadata(rest []any) error {
	if len(rest) == 0 || rest[0] == nil {
		return nil
	}
	if d, ok := rest[0].(*types.Dict); ok && d.Len() == 0 {
		return nil
	}
	return fmt.Errorf("tensor metadata is %s, wanted none", kindOf(rest[0]))
}

func rebuildParameter(args []any) (any, error) {
	if len(args) != 3 && len(args) != 4 {
		return nil, fmt.Errorf("%d arguments, wanted 3 or 4", len(args))
	}
	if _, ok := args[0].(*tensorRef); !ok {
		return nil, fmt.Errorf("argument 1 is %s, wanted a tensor", kindOf(args[0]))
	}
	return args[0], nil
}

func oneTuple(args []any) (any, error) {
	if len(args) != 1 {
		return nil, fmt.Errorf("%d arguments, wanted 1", len(args))
	}
	if _, ok := args[0].(*types.Tuple); !ok {
		return nil, fmt.Errorf("argument 1 is %s, wanted a tuple", kindOf(args[0]))
	}
	return args[0], nil
}

func device(args []any) (any, error) {
	if len(args) == 0 || len(args) > 2 {
		return nil, fmt.Errorf("%d arguments, wanted 1 or 2", len(args))
	}
	name, ok := args[0].(string)
	if !ok {
		return nil, fmt.Errorf("argument 1 is %s, wanted a string", kindOf(args[0]))
	}
	return name, nil
}

// newTensor checks (storage, offset, size, stride) and that every element lies
// inside the storage. d is nil where the storage knows its type.
func newTensor(args []any, d *dtype) (*tensorRef, error) {
	st, ok := args[0].(*storage)
	if !ok {
		return nil, fmt.Errorf("argument 1 is %s, wanted a storage", kindOf(args[0]))
	}
	t := &tensorRef{storage: st, elem: st.elem}
	if d != nil {
		t.elem = d.elem
	}
	if t.elem.name == untyped {
		return nil, fmt.Errorf("storage %q has no element type", st.key)
	}
	off, ok := args[1].(int)
	if !ok || off < 0 {
		return nil, fmt.Errorf("storage offset is %s, wanted 0 or more", kindOf(args[1]))
	}
	t.offset = int64(off)
	var err error
	if t.shape, err = ints("size", args[2]); err != nil {
		return nil, err
	}
	if t.stride, err = ints("stride", args[3]); err != nil {
		return nil, err
	}
	return t, t.check(st.elems * int64(st.elem.size) / int64(t.elem.size))
}

// check holds shape and strides against a storage of have elements.
func (t *tensorRef) check(have int64) error {
	if len(t.shape) != len(t.stride) {
		return fmt.Errorf("size %v and stride %v differ in length", t.shape, t.stride)
	}
	elems, err := tensor.Elems(t.shape)
	if err != nil {
		return err
	}
	if elems == 0 {
		return nil
	}
	last := t.offset
	for i, d := range t.shape {
		stride := int64(t.stride[i])
		if stride < 0 {
			return fmt.Errorf("negative stride in %v", t.stride)
		}
		if d == 1 {
			continue // its stride is never used
		}
		if stride == 0 {
			return fmt.Errorf("stride 0 in %v: expanded views are not supported", t.stride)
		}
		if last >= have || int64(d-1) > (have-1-last)/stride {
			return fmt.Errorf("size %v with stride %v from element %d leaves the storage of %d elements", t.shape, t.stride, t.offset, have)
		}
		last += int64(d-1) * stride
	}
	if last >= have {
		return fmt.Errorf("element %d wanted, the storage has %d", last, have)
	}
	if int64(elems) > have { // rows that overlap, as unfold makes them
		return fmt.Errorf("size %v has %d elements, the storage %d: overlapping views are not supported", t.shape, elems, have)
	}
	return nil
}

// ints reads a tuple of integers; torch's limit is 64 dimensions.
func ints(what string, v any) ([]int, error) {
	t, ok := v.(*types.Tuple)
	if !ok {
		return nil, fmt.Errorf("%s is %s, wanted a tuple", what, kindOf(v))
	}
	if t.Len() > 64 {
		return nil, fmt.Errorf("%s has %d dimensions, at most 64 are read", what, t.Len())
	}
	out := make([]int, t.Len())
	for i := range out {
		if out[i], ok = t.Get(i).(int); !ok {
			return nil, fmt.Errorf("%s has %s, wanted integers", what, kindOf(t.Get(i)))
		}
	}
	return out, nil
}

// kindOf describes a value for an error without printing what it holds.
func kindOf(v any) string {
	switch v := v.(type) {
	case nil:
		return "None"
	case int:
		return fmt.Sprint(v)
	case string:
		return fmt.Sprintf("string %.40q", v)
	}
	return strings.TrimPrefix(fmt.Sprintf("%T", v), "*")
}
