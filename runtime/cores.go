package slmrt

import (
	"io/fs"
	"os"
	"path"
	goruntime "runtime"
	"strings"
)

// DefaultThreads is the number of threads unless a session asks for another:
// the physical cores that this process may run on, since two threads of a core
// share what the kernels are bound by, and of a big.LITTLE system those that
// have at least half of the largest core's capacity.
func DefaultThreads() int {
	return max(1, min(goruntime.GOMAXPROCS(0), physicalCores(os.DirFS("/sys"), goruntime.NumCPU())))
}

// physicalCores counts the cores in sysfs, or returns cpus where it tells
// nothing or fewer processors may be used than it lists.
func physicalCores(sys fs.FS, cpus int) int {
	dirs, _ := fs.Glob(sys, "devices/system/cpu/cpu[0-9]*")
	if len(dirs) == 0 || len(dirs) != cpus {
		return cpus
	}
	most := 0.0
	capacity := map[string]float64{}
	for _, d := range dirs {
		capacity[d], _ = readNumber(sys, path.Join(d, "cpu_capacity"))
		most = max(most, capacity[d])
	}
	cores := map[string]bool{}
	for _, d := range dirs {
		if 2*capacity[d] < most {
			continue
		}
		siblings, err := fs.ReadFile(sys, path.Join(d, "topology/thread_siblings_list"))
		if err != nil {
			siblings = []byte(d)
		}
		cores[strings.TrimSpace(string(siblings))] = true
	}
	return len(cores)
}

// processor is the name of the CPU, where /proc tells it.
func processor() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown CPU"
	}
	for line := range strings.Lines(string(b)) {
		name, value, ok := strings.Cut(line, ":")
		switch strings.TrimSpace(name) {
		case "model name", "Hardware":
			if ok {
				return strings.TrimSpace(value)
			}
		}
	}
	return "unknown CPU"
}
