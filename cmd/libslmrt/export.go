//go:build cgo

// Command libslmrt is the runtime as a library for apps: built with
// -buildmode=c-shared or c-archive, it offers what slmrt.h declares. It is the
// only place of slmc that uses cgo, and is left out of builds without it.
package main

/*
#include <stdlib.h>
#include <stddef.h>
#include <stdint.h>

typedef int (*slmrt_text)(void *user, const char *text, size_t length);

static inline int slmrt_call_text(slmrt_text text, void *user, const char *data, size_t length) {
	return text(user, data, length);
}
*/
import "C"

import (
	"encoding/json"
	"fmt"
	"runtime/cgo"
	"runtime/debug"
	"unsafe"
)

// abi is SLMRT_ABI of slmrt.h.
const abi = 1

func main() {}

// guarded runs one call: its error, or panic, becomes the status, and stays
// with the thread.
func guarded(f func() error) (status C.int) {
	// A fault or a bug here must not end the app.
	defer func() {
		if p := recover(); p != nil {
			keepError(fmt.Errorf("unexpected: %v\n%s", p, debug.Stack()))
			status = statusFailed
		}
	}()
	if err := f(); err != nil {
		keepError(err)
		return C.int(statusOf(err))
	}
	return statusOK
}

// modelOf finds the model of a handle that C gives back, and holds it until
// release.
func modelOf(handle C.uintptr_t) (m *model, err error) {
	defer func() {
		if recover() != nil { // cgo.Handle panics for what it did not give out
			err = fmt.Errorf("%w: model %d is not open", errUsage, uint64(handle))
		}
	}()
	m, ok := cgo.Handle(handle).Value().(*model)
	if !ok || !m.hold() {
		return nil, fmt.Errorf("%w: model %d is not open", errUsage, uint64(handle))
	}
	return m, nil
}

// give hands v to C as JSON; out may be nil.
func give(out **C.char, v any) error {
	if out == nil {
		return nil
	}
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	*out = C.CString(string(data))
	return nil
}

// text reads an argument; NULL is "".
func text(s *C.char) string {
	if s == nil {
		return ""
	}
	return C.GoString(s)
}

//export slmrt_abi
func slmrt_abi() C.int32_t { return abi }

//export slmrt_load
func slmrt_load(path, options *C.char, out *C.uintptr_t) C.int {
	return guarded(func() error {
		if path == nil || out == nil {
			return fmt.Errorf("%w: slmrt_load wants a path and a place for the model", errUsage)
		}
		*out = 0
		m, err := open(text(path), text(options))
		if err != nil {
			return err
		}
		*out = C.uintptr_t(cgo.NewHandle(m))
		return nil
	})
}

//export slmrt_generate
func slmrt_generate(handle C.uintptr_t, request *C.char, emit C.slmrt_text, user unsafe.Pointer, out **C.char) C.int {
	return guarded(func() error {
		if out != nil {
			*out = nil
		}
		m, err := modelOf(handle)
		if err != nil {
			return err
		}
		defer m.release()
		res, err := m.generate(text(request), func(piece string) error {
			if emit == nil || piece == "" {
				return nil
			}
			if C.slmrt_call_text(emit, user, (*C.char)(unsafe.Pointer(unsafe.StringData(piece))), C.size_t(len(piece))) != 0 {
				return errStopped
			}
			return nil
		})
		if err != nil {
			return err
		}
		return give(out, res)
	})
}

//export slmrt_decide
func slmrt_decide(handle C.uintptr_t, request *C.char, out **C.char) C.int {
	return guarded(func() error {
		if out == nil {
			return fmt.Errorf("%w: slmrt_decide wants a place for the decision", errUsage)
		}
		*out = nil
		m, err := modelOf(handle)
		if err != nil {
			return err
		}
		defer m.release()
		d, err := m.decide(text(request))
		if err != nil {
			return err
		}
		return give(out, d)
	})
}

//export slmrt_describe
func slmrt_describe(handle C.uintptr_t, out **C.char) C.int {
	return guarded(func() error {
		if out == nil {
			return fmt.Errorf("%w: slmrt_describe wants a place for the description", errUsage)
		}
		*out = nil
		m, err := modelOf(handle)
		if err != nil {
			return err
		}
		defer m.release()
		d, err := m.describe()
		if err != nil {
			return err
		}
		return give(out, d)
	})
}

//export slmrt_free
func slmrt_free(handle C.uintptr_t) C.int {
	return guarded(func() error {
		if handle == 0 {
			return nil
		}
		m, err := modelOf(handle)
		if err != nil {
			return err
		}
		m.release()
		if !m.end() {
			return fmt.Errorf("%w: model %d is not open", errUsage, uint64(handle))
		}
		cgo.Handle(handle).Delete()
		return m.close()
	})
}

//export slmrt_free_text
func slmrt_free_text(s *C.char) { C.free(unsafe.Pointer(s)) }

//export slmrt_last_error
func slmrt_last_error() *C.char { return (*C.char)(keptError()) }
