package jinja

import (
	"errors"
	"fmt"
	"strings"
)

// Kinds of errors, for errors.Is. ErrSyntax and ErrUnsupported come from Parse (ErrUnsupported also from Render, where only a value
// shows that a construct is out of reach); the others come from Render. ErrSteps, ErrOutput, ErrDepth and ErrMemory are all ErrLimit.
var (
	ErrSyntax      = errors.New("syntax error")
	ErrUnsupported = errors.New("unsupported construct")
	ErrType        = errors.New("operation not defined for these values")
	ErrUndefined   = errors.New("undefined value used")
	ErrSandbox     = errors.New("refused by the sandbox")
	ErrRaised      = errors.New("raised by the template")
	ErrLimit       = errors.New("limit exceeded")
	ErrSteps       = fmt.Errorf("%w: steps", ErrLimit)
	ErrOutput      = fmt.Errorf("%w: output", ErrLimit)
	ErrDepth       = fmt.Errorf("%w: depth", ErrLimit)
	ErrMemory      = fmt.Errorf("%w: memory", ErrLimit)
)

// Error is an error at a place of a template. Line and Col count from 1, Col in characters; 0 means that no place is known.
type Error struct {
	Line, Col int
	Kind      error // one of the Err values
	Msg       string

	pos int // byte offset, -1 or 0 before a place is known
	set bool
}

func (e *Error) Error() string {
	var b strings.Builder
	if e.Line > 0 {
		fmt.Fprintf(&b, "%d:%d: ", e.Line, e.Col)
	}
	fmt.Fprintf(&b, "%v: %s", e.Kind, e.Msg)
	return b.String()
}

func (e *Error) Unwrap() error { return e.Kind }

// failure makes an error whose place the surrounding expression fills in.
func failure(kind error, format string, args ...any) error {
	return &Error{Kind: kind, Msg: fmt.Sprintf(format, args...)}
}

func failAt(pos int, kind error, format string, args ...any) error {
	return &Error{Kind: kind, Msg: fmt.Sprintf(format, args...), pos: pos, set: true}
}

// at gives err the place pos unless an inner expression has given it one.
func at(pos int, err error) error {
	if e, ok := err.(*Error); ok && !e.set {
		e.pos, e.set = pos, true
	}
	return err
}

// locate turns the byte offset of err into line and column of src.
func locate(src string, err error) error {
	e, ok := err.(*Error)
	if !ok || !e.set || e.Line > 0 {
		return err
	}
	pos := min(max(e.pos, 0), len(src))
	before := src[:pos]
	e.Line = strings.Count(before, "\n") + 1
	e.Col = len([]rune(before[strings.LastIndexByte(before, '\n')+1:])) + 1
	return e
}
