package phone

import (
	"cmp"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"slmc/formats"
)

// The arithmetic of MobileLLM (arXiv 2402.14905, section 1): a token costs 0.1 J
// for each billion parameters, and a full phone battery holds about 50 kJ.
const (
	joulesPerBillion = 0.1
	batteryJoules    = 50e3
)

// overhead is what a process may take beside the file and what its session was
// said to take: the program itself, its stacks and tables.
const overhead = 16 << 20

// Matrix is a report: every bundle on every device that results speak of.
type Matrix struct {
	Bundles []Subject `json:"bundles"`
	Devices []Device  `json:"devices"`
	Cells   []Cell    `json:"cells"` // by bundle, then device
}

// Verdict is whether a part of the contract was kept.
type Verdict string

// The verdicts.
const (
	Kept    Verdict = "kept"
	Broken  Verdict = "broken"
	Untried Verdict = "untried"
)

// Cell is one bundle on one device.
type Cell struct {
	Bundle   string  `json:"bundle"` // digest
	Device   string  `json:"device"` // ID
	Contract Verdict `json:"contract"`
	Digests  Verdict `json:"digests"`
	Logits   Verdict `json:"logits"`
	Memory   Verdict `json:"memory"`
	Why      string  `json:"why,omitempty"` // of what is broken, or not tried

	PredictedBytes int64   `json:"predicted_bytes,omitempty"`
	PeakRSS        int64   `json:"peak_rss_bytes,omitempty"`
	PrefillTokS    float64 `json:"prefill_tok_s,omitempty"`
	DecodeTokS     float64 `json:"decode_tok_s,omitempty"`
	TTFTms         float64 `json:"ttft_ms,omitempty"`
	Kernel         string  `json:"kernel,omitempty"`
	Threads        int     `json:"threads,omitempty"`
	// By MobileLLM's arithmetic, and as measured; hours of decoding without a
	// pause from a full battery of 50 kJ at the measured speed.
	ArithmeticJ     float64 `json:"arithmetic_joules_per_token"`
	ArithmeticHours float64 `json:"arithmetic_hours,omitempty"`
	MeasuredJ       float64 `json:"measured_joules_per_token,omitempty"`
	MeasuredHours   float64 `json:"measured_hours,omitempty"`
	EnergyNote      string  `json:"energy_note,omitempty"`
}

// ReadResult reads a file that verify or bench wrote.
func ReadResult(path string) (Result, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Result{}, err
	}
	return parseResult(filepath.Base(path), data)
}

func parseResult(name string, data []byte) (r Result, err error) {
	if err := json.Unmarshal(data, &r); err != nil {
		return r, &formats.Error{File: name, Offset: -1, Kind: formats.ErrCorrupt, Msg: "no result of slmc phone", Err: err}
	}
	switch {
	case r.Version == 0:
		return r, formats.Corrupt(name, "", -1, "no result of slmc phone: the field slmc_phone is missing")
	case r.Version != ResultVersion:
		return r, &formats.Error{File: name, Offset: -1, Kind: formats.ErrVersion, Msg: fmt.Sprintf("result of version %d, this slmc reads %d", r.Version, ResultVersion)}
	case r.Bundle.Digest == "" || r.Device.ID == "":
		return r, formats.Corrupt(name, "", -1, "the result names no bundle or no device")
	}
	return r, nil
}

// NewMatrix joins results: a later one of the same bundle and device replaces
// what it measured too.
func NewMatrix(results []Result) *Matrix {
	m := &Matrix{}
	joined := map[[2]string]Result{}
	for _, r := range results {
		m.Bundles, m.Devices = addBundle(m.Bundles, r.Bundle), addDevice(m.Devices, r.Device)
		key := [2]string{r.Bundle.Digest, r.Device.ID}
		all := joined[key]
		if r.Verify == nil {
			r.Verify = all.Verify
		}
		if r.Bench == nil {
			r.Bench = all.Bench
		}
		joined[key] = r
	}
	slices.SortStableFunc(m.Bundles, func(a, b Subject) int { return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Digest, b.Digest)) })
	slices.SortStableFunc(m.Devices, func(a, b Device) int { return cmp.Or(cmp.Compare(a.Name(), b.Name()), cmp.Compare(a.ID, b.ID)) })
	for _, b := range m.Bundles {
		for _, d := range m.Devices {
			r, ok := joined[[2]string{b.Digest, d.ID}]
			if !ok {
				r = Result{Bundle: b, Device: d}
			}
			m.Cells = append(m.Cells, cell(r))
		}
	}
	return m
}

func addBundle(list []Subject, b Subject) []Subject {
	if i := slices.IndexFunc(list, func(x Subject) bool { return x.Digest == b.Digest }); i >= 0 {
		list[i] = b
		return list
	}
	return append(list, b)
}

func addDevice(list []Device, d Device) []Device {
	if i := slices.IndexFunc(list, func(x Device) bool { return x.ID == d.ID }); i >= 0 {
		list[i] = d
		return list
	}
	return append(list, d)
}

// cell judges one result.
func cell(r Result) Cell {
	c := Cell{Bundle: r.Bundle.Digest, Device: r.Device.ID, Digests: Untried, Logits: Untried, Memory: Untried}
	var why []string
	if v := r.Verify; v != nil {
		c.Digests = verdict(v.Digest == r.Bundle.Digest && (v.OK || v.LogitsDigest != ""))
		if r.Bundle.Golden > 0 {
			c.Logits = verdict(v.OK && v.LogitsDigest == r.Bundle.LogitsDigest)
		} else {
			why = append(why, "the bundle holds no golden vectors")
		}
		if v.Error != "" {
			why = append(why, v.Error)
		}
	} else {
		why = append(why, "not verified")
	}
	if b := r.Bench; b != nil {
		c.PredictedBytes, c.PeakRSS = b.Predicted, b.PeakRSS
		if b.PeakRSS > 0 && b.Predicted > 0 {
			c.Memory = verdict(b.PeakRSS <= b.Predicted+overhead)
			if c.Memory == Broken {
				why = append(why, fmt.Sprintf("the process took %d bytes, its contract says %d and %d for the program", b.PeakRSS, b.Predicted, overhead))
			}
		}
		c.PrefillTokS, c.DecodeTokS, c.TTFTms, c.Kernel, c.Threads = b.PrefillTokS, b.DecodeTokS, b.TTFTms, b.Kernel, b.Threads
	} else {
		why = append(why, "not timed")
	}
	c.Contract = contract(c.Digests, c.Logits, c.Memory)
	c.Why = strings.Join(why, "; ")
	c.energy(r)
	return c
}

func verdict(kept bool) Verdict {
	if kept {
		return Kept
	}
	return Broken
}

// contract is broken by one part, and kept only when all were tried.
func contract(parts ...Verdict) Verdict {
	switch {
	case slices.Contains(parts, Broken):
		return Broken
	case slices.Contains(parts, Untried):
		return Untried
	}
	return Kept
}

// energy sets the arithmetic beside what was measured.
func (c *Cell) energy(r Result) {
	c.ArithmeticJ = joulesPerBillion * float64(r.Bundle.Parameters) / 1e9
	hours := func(joules float64) float64 {
		if joules <= 0 || c.DecodeTokS <= 0 {
			return 0
		}
		return batteryJoules / (joules * c.DecodeTokS) / 3600
	}
	c.ArithmeticHours = hours(c.ArithmeticJ)
	switch b := r.Bench; {
	case b == nil:
	case b.Battery != nil && b.Battery.Powered:
		c.EnergyNote = "it was charged by a cable during the bench: use adb over Wi-Fi"
	case b.Energy != nil && b.Energy.PerToken > 0 && (b.Battery == nil || !b.Battery.Resolved):
		c.MeasuredJ, c.EnergyNote = b.Energy.PerToken, "by slmrt bench, source "+b.Energy.Source
		c.MeasuredHours = hours(c.MeasuredJ)
	case b.Battery == nil:
		c.EnergyNote = "the device tells nothing of its energy"
	case b.Battery.Joules == 0:
		c.EnergyNote = "the battery's counter did not move: repeat the bench more often"
	default:
		c.MeasuredJ = b.Battery.JPerTok
		c.MeasuredHours = hours(c.MeasuredJ)
		c.EnergyNote = "all of the device, screen included; prompt and decoded tokens alike"
		if !b.Battery.Resolved {
			c.EnergyNote += "; coarse: the counter moved by a few of its steps only"
		}
	}
}

//go:embed report.html
var reportHTML string

// HTML writes the matrix as one page that needs nothing else.
func (m *Matrix) HTML(w io.Writer) error {
	t, err := template.New("report").Funcs(template.FuncMap{
		"mb":    func(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) },
		"short": func(s string) string { return s[:min(12, len(s))] },
		"row":   m.row,
		"digits": func(x float64) string {
			if x == 0 {
				return "–"
			}
			return fmt.Sprintf("%.3g", x)
		},
	}).Parse(reportHTML)
	if err != nil {
		return fmt.Errorf("report: %w", err)
	}
	return t.Execute(w, m)
}

// placed is a cell with its device.
type placed struct {
	Cell
	On Device
}

// row are the cells of a bundle.
func (m *Matrix) row(b Subject) (out []placed) {
	for _, c := range m.Cells {
		if c.Bundle == b.Digest {
			i := slices.IndexFunc(m.Devices, func(d Device) bool { return d.ID == c.Device })
			out = append(out, placed{c, m.Devices[i]})
		}
	}
	return out
}
