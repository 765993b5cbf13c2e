package slmrt

import (
	"fmt"
	"os"
	goruntime "runtime"
	"strconv"
	"strings"
)

// DefaultThreads is the number of threads unless a session asks for another:
// the physical cores that this process may run on, since two threads of a core
// share what the kernels are bound by, and of a big.LITTLE system those that
// have at least half of the largest core's capacity; no more than GOMAXPROCS,
// which a container's CPU quota lowers.
func DefaultThreads() int {
	return max(1, min(goruntime.GOMAXPROCS(0), cores()))
}

// ParseThreads reads a number of threads: 1 or more, or "auto", which is 0 and
// DefaultThreads.
func ParseThreads(s string) (int, error) {
	if s == "auto" {
		return 0, nil
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 0 || n > MaxThreads {
		return 0, fmt.Errorf("%q threads, want 1 to %d, or auto", s, MaxThreads)
	}
	return n, nil
}

// MaxThreads is more than any machine gains from.
const MaxThreads = 1024

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
