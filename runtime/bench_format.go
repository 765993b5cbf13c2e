package slmrt

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// BenchFormats are the forms that a result is printed in.
var BenchFormats = []string{"text", "md", "json", "csv"}

// line is one figure of a result.
type line struct {
	name, value, note string
}

// Format prints the result as one of BenchFormats.
func (r BenchResult) Format(format string) (string, error) {
	switch format {
	case "json":
		b, err := json.Marshal(r)
		return string(b) + "\n", err
	case "md":
		return markdown(r.lines()), nil
	case "csv":
		return commas(r.lines())
	case "", "text":
		return aligned(r.lines()), nil
	}
	return "", fmt.Errorf("format %q is unknown; have %s", format, strings.Join(BenchFormats, ", "))
}

func (r BenchResult) lines() []line {
	number := func(x float64, digits int) string { return strconv.FormatFloat(x, 'f', digits, 64) }
	spread := func(s Spread) string {
		return fmt.Sprintf("deviation %.1f, %.1f to %.1f, %d repetitions", s.Deviation, s.Min, s.Max, r.Repetitions)
	}
	out := []line{
		{"prefill tok/s", number(r.PrefillTokS, 1), fmt.Sprintf("%d tokens; %s", r.PromptTokens, spread(r.Prefill))},
		{"decode tok/s", number(r.DecodeTokS, 1), fmt.Sprintf("%d tokens; %s", r.DecodeTokens, spread(r.Decode))},
		{"decode ms p50", number(r.DecodeP50ms, 3), ""},
		{"decode ms p95", number(r.DecodeP95ms, 3), ""},
		{"load ms", number(r.LoadMs, 1), "header and manifest checked, file in memory"},
		{"session ms", number(r.InitMs, 1), ""},
		{"first token ms", number(r.TTFTms, 1), "load, session and a prompt of one token"},
	}
	if r.ColdTTFTms > 0 {
		out = append(out, line{"cold load ms", number(r.ColdLoadMs, 1), "the file was read from the disk"},
			line{"cold first token ms", number(r.ColdTTFTms, 1), ""})
	}
	out = append(out,
		line{"peak RSS MB", number(float64(r.PeakRSS)/1e6, 1), fmt.Sprintf("the memory contract says %.1f", float64(r.Predicted)/1e6)},
		line{"MB a token", number(float64(r.BytesPerToken)/1e6, 2), fmt.Sprintf("of weights, and %.2f of cache", float64(r.KVBytes)/1e6)},
		line{"GOP a token", number(float64(r.OpsPerToken)/1e9, 3), "8-bit multiplications and additions of a prompt token"},
		line{"read GB/s", number(r.ReadGBs, 1), fmt.Sprintf("of the same weights by plain loads; decode reaches %.0f %%", 100*r.DecodeShare)},
		line{"int8 GOP/s", number(r.Int8GOPs, 0), fmt.Sprintf("from registers; prefill reaches %.0f %%", 100*r.PrefillShare)},
	)
	if e := r.Energy; e != nil {
		out = append(out, line{"J a token", number(e.PerToken, 4), "prompt and decode together, from " + e.Source})
	}
	for _, t := range r.Thermal {
		out = append(out, line{"degrees C " + t.Zone, number(t.After, 1), fmt.Sprintf("%.1f before", t.Before)})
	}
	return append(out, line{"kernel", r.Kernel, fmt.Sprintf("%d threads, cache %s, %s", r.Threads, r.KV, r.System)})
}

func markdown(lines []line) string {
	var b strings.Builder
	b.WriteString("| figure | value | |\n|---|---|---|\n")
	for _, l := range lines {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", l.name, l.value, strings.ReplaceAll(l.note, "|", "\\|"))
	}
	return b.String()
}

func commas(lines []line) (string, error) {
	var b strings.Builder
	w := csv.NewWriter(&b)
	rows := [][]string{{"figure", "value", "note"}}
	for _, l := range lines {
		rows = append(rows, []string{l.name, l.value, l.note})
	}
	err := w.WriteAll(rows)
	return b.String(), err
}

func aligned(lines []line) string {
	name := slices.MaxFunc(lines, func(a, b line) int { return len(a.name) - len(b.name) })
	value := slices.MaxFunc(lines, func(a, b line) int { return len(a.value) - len(b.value) })
	var b strings.Builder
	for _, l := range lines {
		fmt.Fprintln(&b, strings.TrimRight(fmt.Sprintf("%-*s  %*s  %s", len(name.name), l.name, len(value.value), l.value, l.note), " "))
	}
	return b.String()
}
