package slmrt

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"slmc/formats/bundle"
	"slmc/model"
)

func TestWeightSpans(t *testing.T) {
	m := &bundle.Manifest{
		Sections: []bundle.Section{{Name: bundle.SectionWeights, Offset: 1000}},
		Weights:  []bundle.Stored{{Offset: 0, Bytes: 100}, {Offset: 128, Bytes: 50}, {Offset: 192, Bytes: 64}, {Offset: 256, Bytes: 10}, {Offset: 640, Bytes: 7}},
		Graph: model.Graph{Weights: []model.Weight{{Role: model.RoleEmbed}, {Role: model.RoleHead}, {Role: model.RoleNorm}, {Role: model.RoleAttnQ}, {Role: model.RoleDown}},
			Head: model.Linear{W: 1}},
	}
	want := []span{{1192, 74}, {1640, 7}, {1128, 50}}
	if got := weightSpans(m); !slices.Equal(got, want) {
		t.Errorf("own head: %v, want %v", got, want)
	}
	m.Graph.Head.W, m.Graph.Weights[1].Role = 0, model.RoleAttnK
	want = []span{{1128, 138}, {1640, 7}, {1000, 100}}
	if got := weightSpans(m); !slices.Equal(got, want) {
		t.Errorf("head tied to the embedding: %v, want %v", got, want)
	}
}

func TestReadsAhead(t *testing.T) {
	sys := t.TempDir()
	for _, dir := range []string{"dev/block", "devices/sda/sda1", "devices/sda/queue"} {
		if err := os.MkdirAll(filepath.Join(sys, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(sys, "devices/sda/queue/read_ahead_kb"), []byte("128\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"8:0": "sda", "8:1": "sda/sda1"} {
		if err := os.Symlink("../../devices/"+target, filepath.Join(sys, "dev/block", name)); err != nil {
			t.Fatal(err)
		}
	}
	for minor, want := range []int{128 << 10, 128 << 10, 0} {
		if got := readsAhead(sys, unix.Mkdev(8, uint32(minor))); got != want {
			t.Errorf("device 8:%d is read ahead by %d bytes, want %d", minor, got, want)
		}
	}
}

// What will be needed comes into memory without being read.
func TestWillNeed(t *testing.T) {
	const size = 4 << 20
	path := filepath.Join(t.TempDir(), "weights")
	if err := os.WriteFile(path, make([]byte, size), 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	mem, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Munmap(mem); err != nil {
			t.Error(err)
		}
	}()
	if err := forget(path); err != nil {
		t.Fatal(err)
	}
	if resident(t, mem) > 0 {
		t.Skip("the file system of the temporary folder keeps its files in memory")
	}
	if err := willNeed(f, []span{{0, 1 << 20}, {1<<20 + 4096, size - 1<<20 - 4096}}); err != nil {
		t.Fatal(err)
	}
	pages := size / unix.Getpagesize()
	for deadline := time.Now().Add(10 * time.Second); resident(t, mem) < pages-1; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d of %d pages are in memory", resident(t, mem), pages)
		}
	}
}

// resident counts the pages of mem that are in memory.
func resident(t *testing.T, mem []byte) int {
	t.Helper()
	in := make([]byte, len(mem)/unix.Getpagesize())
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&mem[0])), uintptr(len(mem)), uintptr(unsafe.Pointer(&in[0])))
	if errno != 0 {
		t.Fatal(errno)
	}
	n := 0
	for _, b := range in {
		n += int(b & 1)
	}
	return n
}
