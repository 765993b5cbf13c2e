package pytorch

// This file reads a pickle stream without executing it. The unpickler of
// gopickle trusts the stream: twelve bytes (BINBYTES8 and a length) make it
// allocate 64 GiB, an odd number of items before SETITEMS and an empty LONG1
// make it panic. So every stream is walked first, and only one whose lengths,
// stack, memo and estimated memory are within bounds is handed on.
//
// The opcodes let through are those of torch's own weights-only unpickler
// (torch/_weights_only_unpickler.py) and what protocols 1, 4 and 5 use for the
// same values. Opcodes that import by another road (INST, OBJ, EXT), that
// reach outside the stream (PERSID, NEXT_BUFFER), or that torch never writes
// are refused by name.

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

const (
	// maxPickle bounds one stream. The state dict of a model with 23,000
	// tensors takes about 4 MB.
	maxPickle = 16 << 20
	// maxBudget bounds the memory that a stream makes the unpickler allocate,
	// by the estimates of the table below: 3 KB for a tensor, so 20,000 of
	// them.
	maxBudget = 64 << 20
	maxDepth  = 1 << 16 // values on the stack
	maxMarks  = 1 << 10 // nested MARKs
	maxLine   = 256     // a line of text: a module, a class, a number
	maxLong   = 64      // bytes of a long integer
)

// operand says what follows an opcode.
type operand uint8

const (
	fixed  operand = iota // n bytes
	len1                  // one byte of length, then as many bytes
	len4                  // four bytes, little-endian
	len8                  // eight bytes, little-endian
	line                  // n lines of text
	reject                // not allowed
)

// effect says what an opcode does to the stack.
type effect uint8

const (
	plain   effect = iota // takes pop values, gives push
	mark                  // MARK
	toMark                // takes everything after the last MARK, then pop more
	toPairs               // the same, and the number taken must be even
	pop                   // POP, which also removes a MARK
	get                   // pushes from the memo
	put                   // stores to the memo
	memoize               // stores to the next place of the memo
	frame                 // FRAME
	stop                  // STOP
)

type opcode struct {
	name      string
	operand   operand
	n         int
	effect    effect
	pop, push int
	cost      int // bytes that the unpickler allocates, generously
}

// opcodes lists every opcode of protocols 0 to 5. Costs count the interface
// values (16 bytes, doubled for a growing slice) and the object behind them.
var opcodes = [256]opcode{
	'(':  {name: "MARK", effect: mark, cost: 320},
	'.':  {name: "STOP", effect: stop, pop: 1},
	'0':  {name: "POP", effect: pop},
	'1':  {name: "POP_MARK", effect: toMark},
	'2':  {name: "DUP", pop: 1, push: 2, cost: 32},
	'F':  {name: "FLOAT", operand: reject},
	'I':  {name: "INT", operand: line, n: 1, push: 1, cost: 48},
	'J':  {name: "BININT", n: 4, push: 1, cost: 48},
	'K':  {name: "BININT1", n: 1, push: 1, cost: 48},
	'L':  {name: "LONG", operand: line, n: 1, push: 1, cost: 96},
	'M':  {name: "BININT2", n: 2, push: 1, cost: 48},
	'N':  {name: "NONE", push: 1, cost: 32},
	'P':  {name: "PERSID", operand: reject},
	'Q':  {name: "BINPERSID", pop: 1, push: 1, cost: 160},
	'R':  {name: "REDUCE", pop: 2, push: 1, cost: 320},
	'S':  {name: "STRING", operand: reject},
	'T':  {name: "BINSTRING", operand: len4, push: 1, cost: 64},
	'U':  {name: "SHORT_BINSTRING", operand: len1, push: 1, cost: 64},
	'V':  {name: "UNICODE", operand: reject},
	'X':  {name: "BINUNICODE", operand: len4, push: 1, cost: 64},
	'a':  {name: "APPEND", pop: 2, push: 1, cost: 32},
	'b':  {name: "BUILD", pop: 2, push: 1, cost: 256},
	'c':  {name: "GLOBAL", operand: line, n: 2, push: 1, cost: 128},
	'd':  {name: "DICT", effect: toPairs, push: 1, cost: 128},
	'}':  {name: "EMPTY_DICT", push: 1, cost: 192},
	'e':  {name: "APPENDS", effect: toMark, pop: 1, push: 1},
	'g':  {name: "GET", operand: reject},
	'h':  {name: "BINGET", n: 1, effect: get, push: 1, cost: 32},
	'i':  {name: "INST", operand: reject},
	'j':  {name: "LONG_BINGET", n: 4, effect: get, push: 1, cost: 32},
	'l':  {name: "LIST", effect: toMark, push: 1, cost: 64},
	']':  {name: "EMPTY_LIST", push: 1, cost: 128},
	'o':  {name: "OBJ", operand: reject},
	'p':  {name: "PUT", operand: reject},
	'q':  {name: "BINPUT", n: 1, effect: put, cost: 96},
	'r':  {name: "LONG_BINPUT", n: 4, effect: put, cost: 96},
	's':  {name: "SETITEM", pop: 3, push: 1, cost: itemCost},
	't':  {name: "TUPLE", effect: toMark, push: 1, cost: 64},
	')':  {name: "EMPTY_TUPLE", push: 1, cost: 64},
	'u':  {name: "SETITEMS", effect: toPairs, pop: 1, push: 1},
	'G':  {name: "BINFLOAT", n: 8, push: 1, cost: 48},
	0x80: {name: "PROTO", n: 1},
	0x81: {name: "NEWOBJ", pop: 2, push: 1, cost: 256},
	0x82: {name: "EXT1", operand: reject},
	0x83: {name: "EXT2", operand: reject},
	0x84: {name: "EXT4", operand: reject},
	0x85: {name: "TUPLE1", pop: 1, push: 1, cost: 64},
	0x86: {name: "TUPLE2", pop: 2, push: 1, cost: 80},
	0x87: {name: "TUPLE3", pop: 3, push: 1, cost: 96},
	0x88: {name: "NEWTRUE", push: 1, cost: 32},
	0x89: {name: "NEWFALSE", push: 1, cost: 32},
	0x8a: {name: "LONG1", operand: len1, push: 1, cost: 128},
	0x8b: {name: "LONG4", operand: len4, push: 1, cost: 128},
	'B':  {name: "BINBYTES", operand: len4, push: 1, cost: 64},
	'C':  {name: "SHORT_BINBYTES", operand: len1, push: 1, cost: 64},
	0x8c: {name: "SHORT_BINUNICODE", operand: len1, push: 1, cost: 64},
	0x8d: {name: "BINUNICODE8", operand: len8, push: 1, cost: 64},
	0x8e: {name: "BINBYTES8", operand: len8, push: 1, cost: 64},
	0x8f: {name: "EMPTY_SET", operand: reject},
	0x90: {name: "ADDITEMS", operand: reject},
	0x91: {name: "FROZENSET", operand: reject},
	0x92: {name: "NEWOBJ_EX", operand: reject},
	0x93: {name: "STACK_GLOBAL", pop: 2, push: 1, cost: 128},
	0x94: {name: "MEMOIZE", effect: memoize, cost: 96},
	0x95: {name: "FRAME", n: 8, effect: frame, cost: 64},
	0x96: {name: "BYTEARRAY8", operand: reject},
	0x97: {name: "NEXT_BUFFER", operand: reject},
	0x98: {name: "READONLY_BUFFER", operand: reject},
}

// itemCost is what one key and value add to an ordered dict: the entry, its
// list element and its place in the map.
const itemCost = 208

// refusal is why a stream is not unpickled. unsupported tells an opcode that
// is well-formed and not allowed from damage.
type refusal struct {
	pos         int
	unsupported bool
	msg         string
}

func (r *refusal) Error() string { return r.msg }

// scanner is the state of the walk: only depths, no values.
type scanner struct {
	b        []byte
	pos      int
	op       int // position of the current opcode
	depths   []int
	depth    int // values on the stack since the last MARK
	total    int // values on the whole stack
	memo     map[uint32]bool
	frameEnd int
	budget   int
}

// scan walks the pickle stream at the start of b and returns its length. b
// may go on after the stream's STOP. Nothing is allocated beyond the memo.
func scan(b []byte) (int, error) {
	s := &scanner{b: b, memo: map[uint32]bool{}, budget: maxBudget}
	for {
		s.op = s.pos
		head, err := s.take(1)
		if err != nil {
			return 0, err
		}
		op := opcodes[head[0]]
		switch {
		case op.name == "":
			return 0, s.damage("%#02x is no opcode", head[0])
		case op.operand == reject:
			return 0, &refusal{s.op, true, fmt.Sprintf("opcode %s has no place in a checkpoint", op.name)}
		case op.effect == stop:
			if err := s.apply(op, nil); err != nil {
				return 0, err
			}
			return s.pos, nil
		}
		arg, err := s.operand(op)
		if err != nil {
			return 0, err
		}
		if s.frameEnd > s.op && s.pos > s.frameEnd {
			return 0, s.damage("%s crosses the end of its frame at byte %d", op.name, s.frameEnd)
		}
		if err := s.apply(op, arg); err != nil {
			return 0, err
		}
		if s.budget -= op.cost; s.budget < 0 {
			return 0, s.damage("the stream would take more than %d bytes of memory", maxBudget)
		}
	}
}

func (s *scanner) damage(format string, args ...any) error {
	return &refusal{pos: s.op, msg: fmt.Sprintf(format, args...)}
}

// take returns the next n bytes.
func (s *scanner) take(n uint64) ([]byte, error) {
	if rest := uint64(len(s.b) - s.pos); n > rest {
		if s.op >= len(s.b) {
			return nil, s.damage("the stream ends without STOP")
		}
		return nil, s.damage("%s wants %d bytes, %d remain", opcodes[s.b[s.op]].name, n, rest)
	}
	out := s.b[s.pos : s.pos+int(n)]
	s.pos += int(n)
	return out, nil
}

// operand steps over the operand of op and returns it.
func (s *scanner) operand(op opcode) ([]byte, error) {
	switch op.operand {
	case fixed:
		return s.take(uint64(op.n))
	case line:
		for range op.n {
			end := bytes.IndexByte(s.b[s.pos:min(len(s.b), s.pos+maxLine)], '\n')
			if end < 0 {
				return nil, s.damage("%s: no end of line within %d bytes", op.name, maxLine)
			}
			s.pos += end + 1
		}
		return nil, nil
	}
	n, err := s.length(op.operand)
	if err != nil {
		return nil, err
	}
	if op.name == "LONG1" || op.name == "LONG4" {
		if n == 0 || n > maxLong {
			return nil, s.damage("%s of %d bytes, wanted 1 to %d", op.name, n, maxLong)
		}
	}
	arg, err := s.take(n)
	s.budget -= 2 * len(arg) // the bytes, and the string made of them
	return arg, err
}

func (s *scanner) length(kind operand) (uint64, error) {
	size := uint64(1)
	switch kind {
	case len4:
		size = 4
	case len8:
		size = 8
	}
	b, err := s.take(size)
	if err != nil {
		return 0, err
	}
	var full [8]byte
	copy(full[:], b)
	return binary.LittleEndian.Uint64(full[:]), nil
}

// apply checks and follows what op does to stack and memo.
func (s *scanner) apply(op opcode, arg []byte) error {
	switch op.effect {
	case mark:
		if len(s.depths) == maxMarks {
			return s.damage("more than %d nested MARKs", maxMarks)
		}
		s.depths, s.depth = append(s.depths, s.depth), 0
		return nil
	case toMark, toPairs:
		items, err := s.popMark(op.name)
		if err != nil {
			return err
		}
		if op.effect == toPairs {
			if items%2 != 0 {
				return s.damage("%s of %d values, wanted pairs", op.name, items)
			}
			s.budget -= items / 2 * itemCost
		}
		s.budget -= items * 32
	case pop:
		if s.depth == 0 {
			_, err := s.popMark(op.name)
			return err
		}
		s.depth--
		s.total--
		return nil
	case get, put, memoize:
		if err := s.useMemo(op, arg); err != nil {
			return err
		}
	case frame:
		n := binary.LittleEndian.Uint64(arg)
		if s.op < s.frameEnd || n > uint64(len(s.b)-s.pos) {
			return s.damage("FRAME of %d bytes, %d remain and the frame before ends at byte %d", n, len(s.b)-s.pos, s.frameEnd)
		}
		s.frameEnd = s.pos + int(n)
		s.budget -= int(n)
	}
	if op.pop > s.depth {
		return s.damage("%s takes %d values, the stack has %d", op.name, op.pop, s.depth)
	}
	s.depth += op.push - op.pop
	s.total += op.push - op.pop
	if s.total > maxDepth {
		return s.damage("more than %d values on the stack", maxDepth)
	}
	return nil
}

// popMark removes the values after the last MARK and returns their number.
func (s *scanner) popMark(name string) (int, error) {
	if len(s.depths) == 0 {
		return 0, s.damage("%s without a MARK", name)
	}
	items := s.depth
	s.total -= items
	s.depth, s.depths = s.depths[len(s.depths)-1], s.depths[:len(s.depths)-1]
	return items, nil
}

func (s *scanner) useMemo(op opcode, arg []byte) error {
	var full [4]byte
	copy(full[:], arg)
	i := binary.LittleEndian.Uint32(full[:])
	if op.effect == memoize {
		i = uint32(len(s.memo))
	}
	if op.effect == get {
		if !s.memo[i] {
			return s.damage("%s of memo %d, which was never stored", op.name, i)
		}
		return nil
	}
	if s.depth == 0 {
		return s.damage("%s with nothing on the stack", op.name)
	}
	s.memo[i] = true
	return nil
}
