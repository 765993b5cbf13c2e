package slmrt

import (
	goruntime "runtime"
	"testing"
)

func TestPhysicalCores(t *testing.T) {
	cpu := func(n, siblings, capacity string) map[string]string {
		out := map[string]string{"devices/system/cpu/cpu" + n + "/topology/thread_siblings_list": siblings}
		if capacity != "" {
			out["devices/system/cpu/cpu"+n+"/cpu_capacity"] = capacity
		}
		return out
	}
	for _, c := range []struct {
		name string
		cpus []map[string]string
		use  []int
		want int
	}{
		{"two threads a core", []map[string]string{cpu("0", "0,2", ""), cpu("1", "1,3", ""), cpu("2", "0,2", ""), cpu("3", "1,3", "")}, []int{0, 1, 2, 3}, 2},
		{"one thread a core", []map[string]string{cpu("0", "0", ""), cpu("1", "1", "")}, []int{0, 1}, 2},
		{"big.LITTLE", []map[string]string{cpu("0", "0", "300"), cpu("1", "1", "300"), cpu("2", "2", "800"), cpu("3", "3", "1024")}, []int{0, 1, 2, 3}, 2},
		{"bound to the small cores", []map[string]string{cpu("0", "0", "300"), cpu("1", "1", "300"), cpu("2", "2", "800"), cpu("3", "3", "1024")}, []int{0, 1}, 2},
		{"bound to one core's two threads", []map[string]string{cpu("0", "0,2", ""), cpu("1", "1,3", ""), cpu("2", "0,2", ""), cpu("3", "1,3", "")}, []int{0, 2}, 1},
		{"bound to a thread of each core", []map[string]string{cpu("0", "0,2", ""), cpu("1", "1,3", ""), cpu("2", "0,2", ""), cpu("3", "1,3", "")}, []int{2, 3}, 2},
		{"a processor that is off", []map[string]string{cpu("0", "0", ""), {"devices/system/cpu/cpu1/online": "0"}}, []int{0}, 1},
		{"a system that tells nothing", nil, []int{0, 1, 2, 5, 6, 7}, 6},
	} {
		files := map[string]string{}
		for _, f := range c.cpus {
			for k, v := range f {
				files[k] = v
			}
		}
		if got := physicalCores(sysfs(files), c.use); got != c.want {
			t.Errorf("%s: %d cores, want %d", c.name, got, c.want)
		}
	}
}

func TestCores(t *testing.T) {
	if n := cores(); n < 1 || n > goruntime.NumCPU() {
		t.Errorf("%d cores of %d processors", n, goruntime.NumCPU())
	}
}

func TestParseThreads(t *testing.T) {
	for s, want := range map[string]int{"auto": 0, "0": 0, "1": 1, "1024": 1024} {
		if n, err := ParseThreads(s); err != nil || n != want {
			t.Errorf("%q: %d, %v; want %d", s, n, err, want)
		}
	}
	for _, s := range []string{"", "-1", "1025", "all", "2.5", "99999999999999999999"} {
		if n, err := ParseThreads(s); err == nil {
			t.Errorf("%q: %d", s, n)
		}
	}
}
