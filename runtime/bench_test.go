package slmrt

import (
	"encoding/csv"
	"encoding/json"
	"strings"
	"testing"
	"testing/fstest"
	"time"
)

func sysfs(files map[string]string) fstest.MapFS {
	out := fstest.MapFS{}
	for name, text := range files {
		out[name] = &fstest.MapFile{Data: []byte(text + "\n")}
	}
	return out
}

func TestEnergy(t *testing.T) {
	rapl := func(uj string) fstest.MapFS {
		return sysfs(map[string]string{
			"class/powercap/intel-rapl:0/energy_uj": uj, "class/powercap/intel-rapl:0/max_energy_range_uj": "10000000",
			"class/powercap/intel-rapl:0:0/energy_uj": "77", "class/power_supply/BAT/type": "Battery", "class/power_supply/BAT/power_now": "5",
		})
	}
	if e := readEnergy(rapl("3500000")).since(readEnergy(rapl("1000000"))); e == nil || e.Source != "rapl" || e.Joules != 2.5 {
		t.Errorf("from 1 J to 3.5 J: %+v", e)
	}
	if e := readEnergy(rapl("500000")).since(readEnergy(rapl("9000000"))); e == nil || e.Joules != 1.5 {
		t.Errorf("a counter that wraps at 10 J, from 9 J to 0.5 J: %+v", e)
	}
	// Android: microamperes, negative while discharging, and microvolts.
	phone := sysfs(map[string]string{
		"class/power_supply/battery/type": "Battery", "class/power_supply/battery/current_now": "-500000",
		"class/power_supply/battery/voltage_now": "4000000", "class/power_supply/usb/type": "USB", "class/power_supply/usb/current_now": "1",
	})
	start, end := readEnergy(phone), readEnergy(phone)
	end.at = start.at.Add(3 * time.Second)
	if e := end.since(start); e == nil || e.Source != "battery" || e.Joules != 6 {
		t.Errorf("2 W for 3 s: %+v", e)
	}
	if e := readEnergy(sysfs(nil)).since(readEnergy(sysfs(nil))); e != nil {
		t.Errorf("a system that tells nothing: %+v", e)
	}
}

func TestTemperatures(t *testing.T) {
	at := func(temp string) []Temperature {
		return temperatures(sysfs(map[string]string{"class/thermal/thermal_zone0/temp": temp, "class/thermal/thermal_zone0/type": "cpu"}))
	}
	got := since(at("45500"), at("40000"))
	if len(got) != 1 || got[0] != (Temperature{"thermal_zone0 cpu", 40, 45.5}) {
		t.Errorf("got %+v", got)
	}
}

func TestBenchFormats(t *testing.T) {
	r := BenchResult{PrefillTokS: 100, DecodeTokS: 50, Repetitions: 5, Kernel: "scalar", System: "a|b, c", ColdTTFTms: 3,
		Energy: &Energy{"rapl", 3, 0.25}, Thermal: []Temperature{{"zone", 30, 31}}}
	for _, f := range BenchFormats {
		text, err := r.Format(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"100", "50", "0.25", "31"} {
			if !strings.Contains(text, want) {
				t.Errorf("%s lacks %s:\n%s", f, want, text)
			}
		}
		switch f {
		case "json":
			var back BenchResult
			if err := json.Unmarshal([]byte(text), &back); err != nil || back.DecodeTokS != 50 {
				t.Errorf("json: %v, %+v", err, back)
			}
		case "csv":
			if rows, err := csv.NewReader(strings.NewReader(text)).ReadAll(); err != nil || len(rows) < 10 {
				t.Errorf("csv: %d rows, %v", len(rows), err)
			}
		}
	}
	if _, err := r.Format("xml"); err == nil {
		t.Error("xml: no error")
	}
}

func TestSpread(t *testing.T) {
	got := spreadOf([]float64{4, 2, 6})
	if want := (Spread{4, 2, 2, 6}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}
