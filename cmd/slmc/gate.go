package main

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"

	"slmc/internal/eval"
	"slmc/internal/pipeline"
)

// gate is a bound on a measured figure.
type gate struct {
	text, name, op string
	bound          float64
}

var gateForm = regexp.MustCompile(`^\s*(\w+)\s*(<=|>=|<|>)\s*([0-9.eE+-]+)\s*$`)

// gateFigures are what a gate may bound; a figure that was not measured is nil.
var gateFigures = map[string]func(eval.Text) *float64{
	"nll":       func(t eval.Text) *float64 { return &t.NLL },
	"ppl":       func(t eval.Text) *float64 { return &t.PPL },
	"kl":        func(t eval.Text) *float64 { return t.KLMean },
	"kl_mean":   func(t eval.Text) *float64 { return t.KLMean },
	"kl_p99":    func(t eval.Text) *float64 { return t.KLP99 },
	"same_top1": func(t eval.Text) *float64 { return t.SameTop1 },
}

func parseGates(exprs []string) ([]gate, error) {
	var out []gate
	for _, e := range exprs {
		m := gateForm.FindStringSubmatch(e)
		if m == nil || gateFigures[m[1]] == nil {
			return nil, usageError(fmt.Sprintf("gate %q: want FIGURE<NUMBER, of nll, ppl, kl, kl_p99, same_top1", e))
		}
		bound, err := strconv.ParseFloat(m[3], 64)
		if err != nil {
			return nil, usageError(fmt.Sprintf("gate %q: %v", e, err))
		}
		out = append(out, gate{e, m[1], m[2], bound})
	}
	return out, nil
}

// checkTeacher reports a gate on a figure that only a teacher gives.
func checkTeacher(gates []gate, teacher string) error {
	for _, g := range gates {
		if teacher == "" && gateFigures[g.name](eval.Text{}) == nil {
			return usageError(fmt.Sprintf("gate %q needs --teacher", g.text))
		}
	}
	return nil
}

// checkGates reports every gate that the figures do not keep.
func checkGates(gates []gate, t eval.Text) error {
	var errs []error
	for _, g := range gates {
		v := gateFigures[g.name](t)
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
