//go:build !linux && !darwin

package slmrt

import goruntime "runtime"

func cores() int { return goruntime.NumCPU() }
