//go:build !linux

package slmrt

import "errors"

// forget is not possible here.
func forget(string) error { return errors.ErrUnsupported }
