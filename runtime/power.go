package slmrt

import (
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// What Linux and Android tell of energy and heat, read from sysfs. Everything
// here is optional: a machine that tells nothing gives nothing.

// Energy is what the machine used while tokens were computed.
type Energy struct {
	Source   string  `json:"source"` // rapl, or battery
	Joules   float64 `json:"joules"`
	PerToken float64 `json:"joules_per_token"`
}

// reading is a counter of energy, or the power of the moment.
type reading struct {
	source string
	joules float64 // since some time, for a counter
	wraps  float64 // where a counter starts again, 0: unknown
	watts  float64 // for a battery
	at     time.Time
}

// readEnergy reads RAPL's package counters, or else the battery's power.
func readEnergy(sys fs.FS) *reading {
	r := &reading{source: "rapl", at: time.Now()}
	found := false
	zones, _ := fs.Glob(sys, "class/powercap/intel-rapl:*")
	for _, z := range zones {
		if strings.Count(path.Base(z), ":") != 1 {
			continue // a part of a package
		}
		if uj, ok := readNumber(sys, path.Join(z, "energy_uj")); ok {
			wraps, _ := readNumber(sys, path.Join(z, "max_energy_range_uj"))
			r.joules, r.wraps, found = r.joules+uj/1e6, r.wraps+wraps/1e6, true
		}
	}
	if found {
		return r
	}
	r.source = "battery"
	supplies, _ := fs.Glob(sys, "class/power_supply/*")
	for _, s := range supplies {
		if kind, _ := fs.ReadFile(sys, path.Join(s, "type")); strings.TrimSpace(string(kind)) != "Battery" {
			continue
		}
		if uw, ok := readNumber(sys, path.Join(s, "power_now")); ok {
			r.watts, found = r.watts+abs(uw)/1e6, true
			continue
		}
		ua, ok := readNumber(sys, path.Join(s, "current_now"))
		uv, also := readNumber(sys, path.Join(s, "voltage_now"))
		if ok && also {
			r.watts, found = r.watts+abs(ua)*uv/1e12, true
		}
	}
	if !found {
		return nil
	}
	return r
}

// since returns the energy from start to r: the counter's difference, or the
// battery's mean power times the time. nil where one of them is missing.
func (r *reading) since(start *reading) *Energy {
	if r == nil || start == nil || r.source != start.source {
		return nil
	}
	if r.source == "battery" {
		return &Energy{Source: r.source, Joules: (r.watts + start.watts) / 2 * r.at.Sub(start.at).Seconds()}
	}
	j := r.joules - start.joules
	if j < 0 {
		j += r.wraps
	}
	return &Energy{Source: r.source, Joules: j}
}

// Temperature is that of one sensor before and after a bench, in degrees
// Celsius.
type Temperature struct {
	Zone   string  `json:"zone"`
	Before float64 `json:"before"`
	After  float64 `json:"after"`
}

// temperatures reads all thermal zones.
func temperatures(sys fs.FS) []Temperature {
	zones, _ := fs.Glob(sys, "class/thermal/thermal_zone*")
	var out []Temperature
	for _, z := range zones {
		if milli, ok := readNumber(sys, path.Join(z, "temp")); ok {
			name, _ := fs.ReadFile(sys, path.Join(z, "type"))
			out = append(out, Temperature{Zone: path.Base(z) + " " + strings.TrimSpace(string(name)), After: milli / 1e3})
		}
	}
	return out
}

// since fills in what the same zones said before.
func since(after, before []Temperature) []Temperature {
	for i, t := range after {
		if j := slices.IndexFunc(before, func(b Temperature) bool { return b.Zone == t.Zone }); j >= 0 {
			after[i].Before = before[j].After
		}
	}
	return after
}

func readNumber(sys fs.FS, name string) (float64, bool) {
	b, err := fs.ReadFile(sys, name)
	if err != nil {
		return 0, false
	}
	x, err := strconv.ParseFloat(strings.TrimSpace(string(b)), 64)
	return x, err == nil
}

func abs(x float64) float64 { return max(x, -x) }
