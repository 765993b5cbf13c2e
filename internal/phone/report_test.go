package phone

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"slmc/formats"
	slmrt "slmc/runtime"
)

// The matrix judges each part of the contract, and its energy is MobileLLM's
// own example: 350 million parameters are 0.035 J a token, 40 hours at 10 tokens a
// second.
func TestMatrix(t *testing.T) {
	b := Subject{Name: "<b>.slmb", Digest: strings.Repeat("d", 64), Bytes: 370e6, Parameters: 350e6, BPW: 8.5, LogitsDigest: "l", Golden: 8}
	other := Subject{Name: "a.slmb", Digest: strings.Repeat("e", 64), Parameters: 1e9}
	good, bad := Device{ID: "1", Model: "Good"}, Device{ID: "2", Model: "Bad"}
	bench := func(rss int64, d *Drain) *Bench {
		return &Bench{BenchResult: slmrt.BenchResult{DecodeTokS: 10, PeakRSS: rss, Predicted: 400e6}, Battery: d}
	}
	m := NewMatrix([]Result{
		{Version: 1, Device: good, Bundle: b, Verify: &Verification{OK: true, Digest: b.Digest, LogitsDigest: "l"}},
		{Version: 1, Device: good, Bundle: b, Bench: bench(410e6, &Drain{Joules: 100, JPerTok: 0.07, Resolved: true})},
		{Version: 1, Device: bad, Bundle: b, Verify: &Verification{Digest: b.Digest, LogitsDigest: "x", Error: "prompt 0, position 7, block 2"}, Bench: bench(500e6, &Drain{Powered: true})},
		{Version: 1, Device: bad, Bundle: other, Bench: bench(1, nil)},
	})
	if len(m.Bundles) != 2 || len(m.Devices) != 2 || len(m.Cells) != 4 || m.Bundles[0].Name != b.Name {
		t.Fatalf("%+v", m)
	}
	find := func(b Subject, d Device) Cell {
		for _, c := range m.Cells {
			if c.Bundle == b.Digest && c.Device == d.ID {
				return c
			}
		}
		t.Fatalf("no cell of %s on %s", b.Name, d.Name())
		return Cell{}
	}
	c := find(b, good)
	if c.Contract != Kept || c.Digests != Kept || c.Logits != Kept || c.Memory != Kept || c.Why != "" {
		t.Errorf("good: %+v", c)
	}
	if !near(c.ArithmeticJ, 0.035) || !near(c.ArithmeticHours, 39.68) || !near(c.MeasuredJ, 0.07) || !near(c.MeasuredHours, 19.84) {
		t.Errorf("energy: %+v", c)
	}
	c = find(b, bad)
	if c.Contract != Broken || c.Digests != Kept || c.Logits != Broken || c.Memory != Broken || !strings.Contains(c.Why, "block 2") || c.MeasuredJ != 0 || !strings.Contains(c.EnergyNote, "cable") {
		t.Errorf("bad: %+v", c)
	}
	// slmrt's own measurement counts where the battery tells less, and no cable charges it.
	own := bench(1, nil)
	own.Energy = &slmrt.Energy{Source: "battery", PerToken: 0.05}
	x := NewMatrix([]Result{{Version: 1, Device: good, Bundle: b, Bench: own}}).Cells[0]
	if !near(x.MeasuredJ, 0.05) || !strings.Contains(x.EnergyNote, "battery") {
		t.Errorf("own energy: %+v", x)
	}
	own.Battery = &Drain{Powered: true}
	if x = NewMatrix([]Result{{Version: 1, Device: good, Bundle: b, Bench: own}}).Cells[0]; x.MeasuredJ != 0 {
		t.Errorf("on a cable: %+v", x)
	}
	if c = find(other, good); c.Contract != Untried || !strings.Contains(c.Why, "not verified") {
		t.Errorf("untried: %+v", c)
	}
	var page bytes.Buffer
	if err := m.HTML(&page); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"&lt;b&gt;.slmb", "contract kept", "contract broken", "contract untried", "0.035 / 0.07", "39.7 / 19.8", "block 2"} {
		if !strings.Contains(page.String(), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for _, bad := range []string{"<b>.slmb", "http://", "https://", "<script"} {
		if strings.Contains(page.String(), bad) {
			t.Errorf("the page holds %q", bad)
		}
	}
}

func TestParseBattery(t *testing.T) {
	const text = "Current Battery Service state:\n  AC powered: false\n  USB powered: true\n  Charge counter: 3123000\n  level: 55\n  voltage: 4123\n  temperature: 312\n  technology: Li-ion\n"
	b := parseBattery(text)
	if !b.known || !b.powered || b.percent != 55 || b.microAh != 3123000 || !near(b.volts, 4.123) || !near(b.celsius, 31.2) {
		t.Errorf("%+v", b)
	}
	if b := parseBattery("dumpsys: not found"); b.known || b.powered {
		t.Errorf("%+v", b)
	}
	x, y := battery{hasCharge: true, microAh: 1000, volts: 4}, battery{hasCharge: true, microAh: 900, volts: 4}
	if !near(joules(x, y), 1.44) || joules(y, x) != 0 {
		t.Errorf("%g J", joules(x, y))
	}
	y.powered = true
	if joules(x, y) != 0 {
		t.Error("energy was measured on a cable")
	}
}

// What is no result is refused by its kind, and nothing panics.
func FuzzResult(f *testing.F) {
	f.Add([]byte(`{"slmc_phone":1,"device":{"id":"1"},"bundle":{"digest":"d"},"verify":{"ok":true},"bench":{"decode_tok_s":1,"battery":{},"energy":{"joules_per_token":1}}}`))
	f.Add([]byte(`{"slmc_phone":2}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parseResult("r.json", data)
		if err != nil {
			if !errors.Is(err, formats.ErrCorrupt) && !errors.Is(err, formats.ErrVersion) {
				t.Fatalf("error without a kind: %v", err)
			}
			return
		}
		if err := NewMatrix([]Result{r}).HTML(&bytes.Buffer{}); err != nil {
			t.Fatal(err)
		}
		freeBytes(string(data))
		parseBattery(string(data))
		devices(string(data))
	})
}
