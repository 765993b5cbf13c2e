package slmrt

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	goruntime "runtime"
	"strings"

	"golang.org/x/sys/unix"
)

func cores() int {
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(0, &set); err != nil {
		return goruntime.NumCPU()
	}
	var cpus []int
	for i := range 64 * len(set) {
		if set.IsSet(i) {
			cpus = append(cpus, i)
		}
	}
	return physicalCores(os.DirFS("/sys"), cpus)
}

// physicalCores counts the cores that these processors are threads of, by what
// sysfs tells; one that it does not tell of is a core.
func physicalCores(sys fs.FS, cpus []int) int {
	folder := func(cpu int) string { return fmt.Sprintf("devices/system/cpu/cpu%d", cpu) }
	most := 0.0
	for _, cpu := range cpus {
		capacity, _ := readNumber(sys, path.Join(folder(cpu), "cpu_capacity"))
		most = max(most, capacity)
	}
	seen := map[string]bool{}
	for _, cpu := range cpus {
		if capacity, _ := readNumber(sys, path.Join(folder(cpu), "cpu_capacity")); 2*capacity < most {
			continue
		}
		siblings, err := fs.ReadFile(sys, path.Join(folder(cpu), "topology/thread_siblings_list"))
		if err != nil {
			siblings = []byte(folder(cpu))
		}
		seen[strings.TrimSpace(string(siblings))] = true
	}
	return len(seen)
}
