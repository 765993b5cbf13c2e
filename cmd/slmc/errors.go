package main

import (
	"errors"

	"github.com/urfave/cli/v2"

	"slmc/formats"
	"slmc/internal/audit"
	"slmc/internal/deferral"
	"slmc/internal/eval"
	"slmc/internal/exec"
	"slmc/internal/phone"
	"slmc/internal/pipeline"
	"slmc/internal/serve"
	"slmc/kvshare"
	"slmc/quant"
	routertrain "slmc/router_train"
	slmrt "slmc/runtime"
	"slmc/tokenizer"
	"slmc/tokenizer/jinja"
)

// The exit codes, as the README lists them.
const (
	exitFailed      = 1 // I/O or cancelled
	exitUsage       = 2
	exitUnsupported = 3
	exitIntegrity   = 4
	exitQuality     = 5
	exitMemory      = 6
	exitVersion     = 7
)

// usageError is a mistake in how slmc was called.
type usageError string

func (e usageError) Error() string { return string(e) }

// exitCodes maps the kinds of errors to exit codes; the first that matches
// counts.
var exitCodes = []struct {
	kind error
	code int
}{
	{formats.ErrVersion, exitVersion},
	{slmrt.ErrMemory, exitMemory},
	{pipeline.ErrGate, exitQuality},
	{deferral.ErrInfeasible, exitQuality},
	{formats.ErrCorrupt, exitIntegrity},
	{quant.ErrNotFinite, exitIntegrity},
	{exec.ErrNotFinite, exitIntegrity},
	{tokenizer.ErrCorrupt, exitIntegrity},
	{formats.ErrUnsupported, exitUnsupported},
	{tokenizer.ErrUnsupported, exitUnsupported},
	{jinja.ErrUnsupported, exitUnsupported},
	{jinja.ErrSyntax, exitUnsupported},
	{slmrt.ErrNoTemplate, exitUnsupported},
	{pipeline.ErrUsage, exitUsage},
	{routertrain.ErrLabels, exitUsage},
	{routertrain.ErrNothing, exitUsage},
	{slmrt.ErrPolicy, exitUsage},
	{serve.ErrConfig, exitUsage},
	{audit.ErrNoText, exitUsage},
	{slmrt.ErrContext, exitUsage},
	{slmrt.ErrToken, exitUsage},
	{phone.ErrChoose, exitUsage},
	{jinja.ErrRaised, exitUsage}, // the template refuses these messages
	{eval.ErrEmpty, exitUsage},
	{kvshare.ErrPlan, exitUsage},
}

func exitCode(err error) int {
	var u usageError
	var c cli.ExitCoder // "slmc help NAME" of an unknown name
	if errors.As(err, &u) || errors.As(err, &c) {
		return exitUsage
	}
	// What slmrt said on a phone, in the same codes.
	if remote := (*phone.RemoteError)(nil); errors.As(err, &remote) && remote.Code > exitFailed && remote.Code <= exitVersion {
		return remote.Code
	}
	for _, e := range exitCodes {
		if errors.Is(err, e.kind) {
			return e.code
		}
	}
	return exitFailed
}
