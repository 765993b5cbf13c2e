//go:build cgo

package main

// The last error belongs to the thread of the app that made the call: that is
// where a goroutine that C calls runs until it returns.

/*
#include <stdlib.h>
#include <string.h>

static _Thread_local char *slmrt_thread_error;

static void slmrt_keep_error(const char *text, size_t length) {
	char *copy = realloc(slmrt_thread_error, length + 1);
	if (copy == NULL) {
		return;
	}
	memcpy(copy, text, length);
	copy[length] = 0;
	slmrt_thread_error = copy;
}

static const char *slmrt_kept_error(void) {
	return slmrt_thread_error == NULL ? "" : slmrt_thread_error;
}
*/
import "C"

import (
	"strings"
	"unsafe"
)

// keepError remembers what went wrong for the calling thread.
func keepError(err error) {
	text := strings.ReplaceAll(err.Error(), "\x00", "\\0")
	C.slmrt_keep_error((*C.char)(unsafe.Pointer(unsafe.StringData(text))), C.size_t(len(text)))
}

// keptError is what keepError remembered for the calling thread.
func keptError() unsafe.Pointer { return unsafe.Pointer(C.slmrt_kept_error()) }
