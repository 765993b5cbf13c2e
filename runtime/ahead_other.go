//go:build !linux

package slmrt

import "slmc/formats/bundle"

func readAhead(string, *bundle.Manifest) {}
