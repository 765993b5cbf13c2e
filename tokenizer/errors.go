package tokenizer

import (
	"errors"
	"fmt"
)

// Kinds of errors, to be tested with errors.Is.
var (
	// ErrCorrupt: the data contradicts itself or its own format.
	ErrCorrupt = errors.New("corrupt tokenizer")
	// ErrUnsupported: the data asks for something this package does not do,
	// or that would take unbounded time or memory.
	ErrUnsupported = errors.New("unsupported tokenizer")
)

func errUnknown(s string) error {
	return fmt.Errorf("%w: text %q has no token and the vocabulary no unknown token", ErrUnsupported, s)
}
