//go:build !linux && !darwin

package exec

import "errors"

func mapMemory(int) ([]byte, func(), error) { return nil, nil, errors.ErrUnsupported }
