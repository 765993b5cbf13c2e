package phone

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strconv"
	"strings"
)

// describe fills in Info. What a device does not tell stays empty.
func (p *Phone) describe(ctx context.Context) error {
	out, _, err := p.shell(ctx, strings.Join([]string{
		"for k in ro.product.manufacturer ro.product.model ro.soc.model ro.build.version.release ro.product.cpu.abi; do echo \"$k=$(getprop $k 2>/dev/null)\"; done",
		"echo \"machine=$(uname -m)\"",
		"echo \"cores=$(grep -c ^processor /proc/cpuinfo)\"",
		"echo \"memory=$(grep MemTotal /proc/meminfo)\"",
	}, "; "))
	if err != nil {
		return err
	}
	said := map[string]string{}
	for line := range strings.Lines(out) {
		k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
		said[k] = strings.TrimSpace(v)
	}
	d := Device{
		Manufacturer: said["ro.product.manufacturer"], Model: said["ro.product.model"], SoC: said["ro.soc.model"],
		Android: said["ro.build.version.release"], ABI: said["ro.product.cpu.abi"],
	}
	if d.ABI == "" {
		d.ABI = said["machine"]
	}
	d.Cores, _ = strconv.Atoi(said["cores"]) // 0: it does not tell
	if f := strings.Fields(said["memory"]); len(f) > 1 {
		kb, _ := strconv.ParseInt(f[1], 10, 64)
		d.MemoryBytes = kb << 10
	}
	// A serial number is its owner's; reports travel.
	sum := sha256.Sum256([]byte(p.o.Serial))
	d.ID = fmt.Sprintf("%x", sum[:4])
	p.Info = d
	return nil
}

// battery is what "dumpsys battery" tells, read before and after a bench.
type battery struct {
	known     bool
	powered   bool    // by a charger or the USB cable
	microAh   float64 // left in it
	volts     float64
	percent   int
	celsius   float64
	hasCharge bool
}

// battery asks for the state of the battery; unknown on devices without one.
func (p *Phone) battery(ctx context.Context) (battery, error) {
	out, code, err := p.shell(ctx, "dumpsys battery 2>/dev/null")
	if err != nil || code != 0 {
		return battery{}, err
	}
	return parseBattery(out), nil
}

func parseBattery(out string) (b battery) {
	for line := range strings.Lines(out) {
		k, v, ok := strings.Cut(strings.TrimSpace(line), ":")
		if !ok {
			continue
		}
		v = strings.TrimSpace(v)
		n, err := strconv.ParseFloat(v, 64)
		switch k = strings.ToLower(k); {
		case strings.HasSuffix(k, " powered"):
			b.powered = b.powered || v == "true"
		case err != nil:
		case k == "level":
			b.known, b.percent = true, int(n)
		case k == "voltage":
			b.volts = n / 1e3
			if n > 1e5 {
				b.volts = n / 1e6 // some report microvolts
			}
		case k == "temperature":
			b.celsius = n / 10
		case k == "charge counter":
			b.hasCharge, b.microAh = n > 0, n
		}
	}
	return b
}

// joules is the energy that left the battery between two readings; 0 when it
// was being charged or does not tell.
func joules(before, after battery) float64 {
	used := before.microAh - after.microAh
	if before.powered || after.powered || !before.hasCharge || !after.hasCharge || used <= 0 {
		return 0
	}
	return used * 1e-6 * 3600 * (before.volts + after.volts) / 2
}
