package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"

	"github.com/urfave/cli/v2"

	"slmc/formats"
	"slmc/formats/bundle"
	"slmc/internal/audit"
	"slmc/internal/pipeline"
	slmrt "slmc/runtime"
)

func auditCommand() *cli.Command {
	return command(&cli.Command{
		Name:  "audit",
		Usage: "say what a server's log tells: outcomes, drift, and whether the certificate holds",
		Description: "LOG is what serve --log wrote. With --bundle the scores are compared with the certificate's\n" +
			"(population stability index), and audited queries (serve --audit-rate) with its bound, by a test that\n" +
			"may be looked at at any time. Exits 5 when the scores drifted or the bound is refuted.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "bundle", Usage: "the `BUNDLE` that answered"},
			&cli.Float64Flag{Name: "bound", DefaultText: "the bundle's", Usage: "the promise: a loss of at most `X`"},
			&cli.Float64Flag{Name: "alpha", Value: 0.01, Usage: "raise a false alarm with probability `A` at most, over all time"},
			&cli.StringFlag{Name: "verdicts", Usage: "rows {\"id\", \"loss\"} in `FILE` say which answers that differ were worse"},
			&cli.StringFlag{Name: "open", Usage: "write the answers that differ and wait for a verdict to `FILE` (JSONL)"},
			jsonFlag(),
		},
		Action: runAudit,
	}, "slmc audit decisions.jsonl --bundle assistant.slmb", "LOG")
}

func runAudit(c *cli.Context) error {
	o := audit.Options{Bound: c.Float64("bound"), Alpha: c.Float64("alpha")}
	if !(o.Alpha > 0 && o.Alpha < 1) || !(o.Bound >= 0 && o.Bound < 1) {
		return usageError("--alpha must lie between 0 and 1, --bound from 0 to below 1")
	}
	if path := c.String("bundle"); path != "" {
		if err := routerOf(path, &o); err != nil {
			return err
		}
	}
	if path := c.String("verdicts"); path != "" {
		var err error
		if o.Verdicts, err = withFile(path, audit.ReadVerdicts); err != nil {
			return err
		}
	}
	s, err := withFile(c.Args().First(), func(r io.Reader) (audit.Summary, error) { return audit.Summarize(r, o) })
	if err != nil {
		return err
	}
	if path := c.String("open"); path != "" {
		if err := writeOpen(c.Args().First(), path, o.Verdicts); err != nil {
			return err
		}
	}
	if c.Bool("json") {
		err = printJSON(c, s)
	} else {
		err = printSummary(c.App.Writer, s)
	}
	return errors.Join(err, alarms(s))
}

// routerOf adds the router, row and promise of a bundle.
func routerOf(path string, o *audit.Options) (err error) {
	b, err := bundle.Open(path, bundle.Options{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.Close()) }()
	m, err := slmrt.FromBundle(b)
	if err != nil {
		return err
	}
	if o.Router = m.Router(); o.Router == nil {
		return usageError(filepath.Base(path) + " has no router")
	}
	t := o.Router.Table()
	if o.Bound == 0 {
		o.Bound = t.Bound
	}
	o.Row, err = t.Pick(t.Checkpoint, o.Bound)
	return err
}

// withFile calls f with an open file and names it in errors.
func withFile[T any](path string, f func(io.Reader) (T, error)) (out T, err error) {
	in, err := os.Open(path)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, in.Close()) }()
	if out, err = f(in); err != nil {
		err = fmt.Errorf("%s: %w", filepath.Base(path), err)
	}
	return out, err
}

// alarms is an error of the kind that gates have, one for each alarm.
func alarms(s audit.Summary) error {
	var errs []error
	for _, d := range s.Drift {
		if d.Alarm {
			errs = append(errs, fmt.Errorf("%w: the %s scores drifted: index %.3f of %d, alarm at %g", pipeline.ErrGate, d.At, d.PSI, d.N, audit.PSIAlarm))
		}
	}
	if a := s.Audit; a != nil && a.Alarm {
		errs = append(errs, fmt.Errorf("%w: the bound of %g on the loss is refuted at level %g: %d losses in %d audited queries", pipeline.ErrGate, a.Bound, a.Alpha, a.Losses, a.N))
	}
	return errors.Join(errs...)
}

func printSummary(w io.Writer, s audit.Summary) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) {
		fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...))
	}
	row("answers", "%d", s.Answers)
	if s.Answers > 0 {
		row("from, to", "%s, %s", s.From.Format("2006-01-02 15:04:05"), s.To.Format("2006-01-02 15:04:05"))
	}
	if s.Bad.Lines > 0 {
		row("unreadable lines", "%d, first %s", s.Bad.Lines, s.Bad.First)
	}
	for _, k := range slices.Sorted(maps.Keys(s.Outcomes)) {
		row("auto: "+string(k), "%d", s.Outcomes[k])
	}
	for _, k := range slices.Sorted(maps.Keys(s.Reasons)) {
		row("  by "+string(k), "%d", s.Reasons[k])
	}
	row("handed off", "%.1f %% of auto", 100*s.DeferralRate)
	if s.Certified > 0 {
		row("  where certified", "%.1f %% of %d", 100*s.CertifiedRate, s.Certified)
	}
	for _, k := range slices.Sorted(maps.Keys(s.RemoteErrors)) {
		row("large model: "+k, "%d", s.RemoteErrors[k])
	}
	row("tokens here, there", "%d, %d", s.Tokens, s.RemoteTokens)
	row("median time", "%.1f ms", s.MedianMS)
	for _, d := range s.Drift {
		row("drift of "+d.At+" scores", "%.3f of %d (watch from %g, alarm from %g)", d.PSI, d.N, audit.PSIWatch, audit.PSIAlarm)
	}
	if a := s.Audit; a != nil {
		row("audited", "%d: %d losses, %d open", a.N, a.Losses, a.Open)
		row("loss", "%.4f to %.4f, promised %.4f", a.Interval[0], a.Interval[1], a.Bound)
		row("evidence against it", "ln e = %.2f, alarm at %.2f; %.2f if the large model is right wherever they differ", a.EValue, -math.Log(a.Alpha), a.EValueOpen)
	}
	return t.Flush()
}

// openRow is an answer that waits for a verdict.
type openRow struct {
	ID    string  `json:"id"`
	Query string  `json:"query,omitempty"`
	Small *string `json:"small,omitempty"`
	Large *string `json:"large,omitempty"`
}

// writeOpen lists the audited answers that differ and have no verdict.
func writeOpen(log, path string, verdicts map[string]bool) error {
	rows, err := withFile(log, func(r io.Reader) ([]openRow, error) {
		text := map[string]string{}
		var out []openRow
		_, err := audit.Read(r, func(e audit.Entry) error {
			if e.Kind == audit.KindAnswer && e.Sampled && e.Text != nil {
				text[e.ID] = e.Text.Query
			}
			if _, judged := verdicts[e.ID]; e.Kind != audit.KindAudit || judged || e.Agree == nil || *e.Agree {
				return nil
			}
			row := openRow{ID: e.ID, Query: text[e.ID]}
			if e.Text != nil {
				row.Small, row.Large = e.Text.Small, e.Text.Large
			}
			out = append(out, row)
			return nil
		})
		return out, err
	})
	if err != nil {
		return err
	}
	return writeRows(path, rows)
}

// writeRows writes JSONL, for its owner alone: rows have text of users.
func writeRows[T any](path string, rows []T) error {
	return formats.ReplaceFile(path, 0o600, func(f *os.File) error {
		w := bufio.NewWriter(f)
		enc := json.NewEncoder(w)
		enc.SetEscapeHTML(false)
		for _, r := range rows {
			if err := enc.Encode(r); err != nil {
				return err
			}
		}
		return w.Flush()
	})
}
