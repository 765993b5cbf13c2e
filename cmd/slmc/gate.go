package main

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"

	"github.com/urfave/cli/v2"

	"slmc/internal/pipeline"
)

// gate is a bound on a measured figure.
type gate struct {
	text, name, op string
	bound          float64
}

var gateForm = regexp.MustCompile(`^\s*(\w+)\s*(<=|>=|<|>)\s*([0-9.eE+-]+)\s*$`)

// gateFigures are what a gate may bound; a figure that was not measured is nil.
var gateFigures = map[string]func(pipeline.Figures) *float64{
	"nll":       func(t pipeline.Figures) *float64 { return &t.NLL },
	"ppl":       func(t pipeline.Figures) *float64 { return &t.PPL },
	"kl":        func(t pipeline.Figures) *float64 { return t.KLMean },
	"kl_mean":   func(t pipeline.Figures) *float64 { return t.KLMean },
	"kl_p99":    func(t pipeline.Figures) *float64 { return t.KLP99 },
	"same_top1": func(t pipeline.Figures) *float64 { return t.SameTop1 },

	"exact_match": func(t pipeline.Figures) *float64 { return t.ExactMatch },
}

func parseGates(exprs []string) ([]gate, error) {
	var out []gate
	for _, e := range exprs {
		m := gateForm.FindStringSubmatch(e)
		if m == nil || gateFigures[m[1]] == nil {
			return nil, usageError(fmt.Sprintf("gate %q: want FIGURE<NUMBER, of nll, ppl, kl, kl_p99, same_top1, exact_match", e))
		}
		bound, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			return nil, usageError(fmt.Sprintf("gate %q: %v", e, err))
		}
		out = append(out, gate{e, m[1], m[2], bound})
	}
	return out, nil
}

// checkMeasured reports a gate on a figure that eval would not measure.
func checkMeasured(gates []gate, teacher string, task bool) error {
	for _, g := range gates {
		exact, free := g.name == "exact_match", gateFigures[g.name](pipeline.Figures{}) != nil
		switch {
		case task && !exact:
			return usageError(fmt.Sprintf("gate %q: --task measures exact_match only", g.text))
		case !task && exact:
			return usageError(fmt.Sprintf("gate %q needs --task", g.text))
		case !exact && !free && teacher == "":
			return usageError(fmt.Sprintf("gate %q needs --teacher", g.text))
		}
	}
	return nil
}

// checkGates reports every gate that the figures do not keep.
func checkGates(gates []gate, t pipeline.Figures) error {
	var errs []error
	for _, g := range gates {
		v := gateFigures[g.name](t)
		if v == nil {
			errs = append(errs, fmt.Errorf("%w %q: %s was not measured: it wants rows that have answers", pipeline.ErrGate, g.text, g.name))
			continue
		}
		ok := false
		switch g.op {
		case "<":
			ok = *v < g.bound
		case "<=":
			ok = *v <= g.bound
		case ">":
			ok = *v > g.bound
		case ">=":
			ok = *v >= g.bound
		}
		if !ok {
			errs = append(errs, fmt.Errorf("%w %q: %s is %g", pipeline.ErrGate, g.text, g.name, *v))
		}
	}
	return errors.Join(errs...)
}

// acceptance is what --gate demands of a build; nil without one.
func acceptance(c *cli.Context) (*pipeline.Acceptance, error) {
	gates, err := parseGates(c.StringSlice("gate"))
	if err != nil {
		return nil, err
	}
	if len(gates) == 0 {
		if c.IsSet("gate-file") {
			return nil, usageError("--gate-file is measured for a --gate, and there is none")
		}
		return nil, nil
	}
	file := c.String("gate-file")
	if file == "" {
		file = c.String("calibrate")
	}
	if file == "" {
		return nil, usageError("--gate wants examples to measure on; give --gate-file FILE")
	}
	answers := slices.ContainsFunc(gates, func(g gate) bool { return g.name == "exact_match" })
	return &pipeline.Acceptance{File: file, Fields: fieldsOf(c, pipeline.Fields{}), Answers: answers, Judge: func(f pipeline.Figures) error { return checkGates(gates, f) }}, nil
}
